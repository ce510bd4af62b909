"""Actor-critic by many workers: the burst of one worker with its own games, and `train_policy`,
which runs it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from optex_core._validation import integer, reject_unknown_keywords, short_repr
from optex_core.async_sgd.master import Master
from optex_core.async_sgd.models.actor_critic import ActorCritic
from optex_core.async_sgd.models.cartpole import Poles
from optex_core.async_sgd.models.going_on import make_or_resume_master
from optex_core.async_sgd.records import BurstContext, Push
from optex_core.async_sgd.worker_loop import LoopReport, run
from optex_core.backends.blas_threads import blas_single_threaded
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.types import Array


class ActorBurst:
    """B updates of the actor-critic on a local copy of (theta, m); `spawn` gives each worker its
    games.

    What is pushed is affine: theta <- theta - (sum of steps), and m <- decay^B m + (what B squared
    gradients add), so the mean squares, which all workers share, never leave the positive numbers,
    however late a push is.

    Each core has games and random numbers of its own. It reads the shared theta as it is, without a
    lock; theta, m and the sums then move under a lock: 20 us against a millisecond of playing.
    NumPy on such small arrays holds the interpreter lock, so cores of one worker gain no time here.

    Parameters
    ----------
    settings : ActorCritic
    inner_steps : int
        B.
    cores : int
        At most B.
    """

    def __init__(self, settings: ActorCritic, *, inner_steps: int = 1, cores: int = 1) -> None:
        if not isinstance(settings, ActorCritic):
            raise ArgumentTypeError(f"settings must be an ActorCritic, got {short_repr(settings)}")
        self.settings = settings
        self.inner_steps, self.cores = (
            integer("inner_steps", inner_steps, low=1),
            integer("cores", cores, low=1),
        )
        if self.cores > self.inner_steps:
            raise ArgumentError(
                f"cores must be at most inner_steps, got {cores} and {inner_steps}: "
                f"there would be nothing to do for some"
            )

    def spawn(self, worker: int, seed: int) -> Player:
        """Games of a worker, begun with `seed`."""
        return Player(self, seed)


class Player:
    """An `ActorBurst` of one worker, with the games its cores play; they go on from burst to burst.

    Parameters
    ----------
    burst : ActorBurst
    seed : int
    """

    def __init__(self, burst: ActorBurst, seed: int) -> None:
        self.burst = burst
        self._random = [np.random.default_rng([seed, core]) for core in range(burst.cores)]
        self._poles = [Poles.fresh(burst.settings.envs, random) for random in self._random]

    def __call__(self, v: Array, version: int, seed: int, ctx: BurstContext) -> Push:
        """Play B updates from v = (theta, m)."""
        s, B, cores = self.burst.settings, self.burst.inner_steps, self.burst.cores
        d = s.network.d
        theta, squares = v[:d].copy(), v[d:].copy()
        moved, gained = np.zeros(d), np.zeros(d)
        lengths: list[int] = []
        tickets, lock = itertools.count(), threading.Lock()

        def work(core: int) -> None:
            while (j := next(tickets)) < B:
                # A copy of what is there now; another core may be writing to it, which only mixes
                # two sets of parameters.
                g, self._poles[core], ended = s.gradient(
                    theta.copy(), self._poles[core], self._random[core]
                )
                with lock:
                    for mean in (squares, gained):
                        mean *= s.decay
                        mean += (1.0 - s.decay) * g * g
                    step = s.rate_at(ctx.id * B + j) * g / (np.sqrt(squares) + s.epsilon)
                    np.subtract(theta, step, out=theta)
                    np.add(moved, step, out=moved)
                    lengths.extend(ended)

        with blas_single_threaded(v.size):
            if cores == 1:
                work(0)
            else:
                with ThreadPoolExecutor(cores, thread_name_prefix="optex-core-core") as pool:
                    for done in [pool.submit(work, core) for core in range(cores)]:
                        done.result()
        a = np.concatenate([np.ones(d), np.full(d, s.decay**B)])
        report = {
            "episodes": float(len(lengths)),
            "length": float(np.mean(lengths)) if lengths else 0.0,
        }
        return Push.affine(a, np.concatenate([-moved, gained]), gradients=B, report=report)


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """What `train_policy` left.

    Attributes
    ----------
    settings : ActorCritic
    x : array, shape (2 d,), float64
        (theta, m).
    report : Report
        Of the run: seconds, delays, lost bursts.
    master : Master
        Its ledger has a row for each push.
    curve : array, shape (pushes with finished episodes, 3), float64
        Updates so far, episodes that ended in a push, their mean length.
    """

    settings: ActorCritic
    x: np.ndarray
    report: LoopReport
    master: Master
    curve: np.ndarray

    def score(self, episodes: int = 100, rng: int = 0, *, greedy: bool = True) -> float:
        """Mean length of fresh episodes, at most 500; solved is 475 over 100."""
        return float(self.settings.score(self.x, episodes, rng, greedy=greedy).mean())


@reject_unknown_keywords
def train_policy(
    settings: ActorCritic | None = None,
    *,
    parallelism: int = 4,
    cores: int = 1,
    inner_steps: int = 1,
    workers: Any = None,
    max_delay: int | None = None,
    on_late: str | None = None,
    rng: int = 0,
    log: Any = None,
    master: Master | None = None,
    callback: Callable[[Master, Push, Any], Any] | None = None,
    max_time: float | None = None,
    timeout: float | None = None,
    on_error: str = "raise",
    max_failures: int | None = None,
) -> Policy:
    """Advantage actor-critic on cart-poles, asynchronously on two levels.

    N workers with p cores each play and push; all count towards ``settings.updates``.
    ``parallelism=1`` is the serial algorithm, bit for bit.

    Parameters
    ----------
    settings : ActorCritic, optional
        ``ActorCritic()`` without.
    parallelism : int, default 4
        N, workers, each with games of its own.
    cores : int, default 1
        p, threads in each, at most `inner_steps`.
    inner_steps : int, default 1
        B, updates between a pull and a push.
    workers : None, int, "threads", "processes" or executor, default None
        Where the workers run, see `run`; None: all in this thread in turn, which repeats bit for
        bit where `cores` is 1.
    max_delay : int, optional
        Updates that a push may be late.
    on_late : {"reject", "damp", "wait"}, optional
        What happens to a later one, see `Master`; refused without. With "wait" nothing is lost:
        workers wait for the slowest instead.
    rng : int, default 0
        Seed of the network's start and of all games.
    log : path-like, optional
        Every push is written there before it counts, so that a killed run can go on:
        ``master=Master.resume(path)``.
    master : Master, optional
        Goes on with it: `Policy.master` of an earlier run, ``Master.load(path)``, or
        ``Master.resume(path)``; ``settings.updates`` counts from its beginning. Games are not part
        of it: workers begin new ones.
    callback : callable, optional
        ``callback(master, push, receipt)`` after each push.
    max_time, timeout : float, optional
        Seconds; see `run`.
    on_error : {"raise", "drop"}, default "raise"
        See `run`.
    max_failures : int, optional
        See `run`.

    Returns
    -------
    Policy

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For an argument that cannot work.

    References
    ----------
    Mnih et al., Asynchronous methods for deep reinforcement learning, ICML 2016, algorithm S3.
    Mohamad, Alamri, Bouchachia, arXiv 2210.02882, 2022, for the two levels (HSA2C). Intended
    differences: several games for each core; the affine push of the mean squares; the gradient of a
    push is a sum of steps taken with local mean squares.

    Examples
    --------
    >>> trained = train_policy(ActorCritic(updates=40), parallelism=2, rng=1)
    >>> trained.master.counts["gradients"], 1 <= trained.score(episodes=5) <= 500
    (40, True)
    """
    settings = ActorCritic() if settings is None else settings
    rng = integer("rng", rng, low=0)
    # it has `spawn` in place of being called
    burst: Any = ActorBurst(settings, inner_steps=inner_steps, cores=cores)
    bounds = {"max_delay": max_delay, "on_late": on_late, "log": log}
    master = make_or_resume_master(
        master, "actor-critic", settings.d, lambda: settings.start(rng), rng, bounds
    )
    curve: list[tuple[float, float, float]] = []

    def watch(at: Master, push: Push, receipt: Any) -> Any:
        if push.report["episodes"] and receipt.accepted:
            curve.append(
                (
                    float(at.version * burst.inner_steps),
                    push.report["episodes"],
                    push.report["length"],
                )
            )
        return callback(at, push, receipt) if callback is not None else None

    pushes = -(-settings.updates // burst.inner_steps)
    limits: dict[str, Any] = {
        "max_time": max_time,
        "timeout": timeout,
        "on_error": on_error,
        "max_failures": max_failures,
    }
    report = run(
        master,
        burst,
        parallelism=parallelism,
        workers=workers,
        pushes=pushes,
        callback=watch,
        **limits,
    )
    return Policy(settings, master.x, report, master, np.array(curve).reshape(-1, 3))
