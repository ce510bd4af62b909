"""Advantage actor-critic: settings, one update, the burst of a worker, `train_policy`."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from actor_critic.cartpole import make_cart_poles
from actor_critic.network import PolicyNetwork
from optex_core.async_sgd import BurstContext, LoopReport, Master, Push, run


@dataclass(frozen=True, slots=True)
class ActorCritic:
    """Settings of the n-step advantage actor-critic with RMSProp (Mnih et al. 2016, algorithm S3).

    An update plays `steps` steps in `envs` environments and takes the gradient of the loss::

        R_t = 1 + discount R_{t+1}; 1 + discount V(s_{t+1}) at the last step and where an episode
        is cut at step 500; 1 where the pole falls.    A_t = R_t - V(s_t)
        g <- g min(1, clip/|g|),  m <- decay m + (1 - decay) g^2
        theta <- theta - rate_t g / (sqrt(m) + epsilon)

    with a rate that falls linearly to zero at the last of all `updates`. The parameters of a run
    are (theta, m): all workers share the mean squares m, as Mnih et al. found best.
    """

    network: PolicyNetwork = field(default_factory=PolicyNetwork)
    envs: int = 8
    steps: int = 8
    rate: float = 2e-3
    updates: int = 6000
    discount: float = 0.99
    decay: float = 0.99
    epsilon: float = 1e-5
    clip: float = 0.5
    library: str | None = None  # of the environments, see `make_cart_poles`

    def __post_init__(self) -> None:
        for name in ("envs", "steps", "updates", "rate", "epsilon", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)!r}")

    def start(self, rng: int = 0) -> np.ndarray:
        """(theta, 0), shape (2 network.d,)."""
        theta = self.network.start(rng)
        return np.concatenate([theta, np.zeros_like(theta)])

    def rate_at(self, t: int) -> float:
        """The rate of update number t = 0, 1, ...; zero from the last on."""
        return self.rate * max(0.0, 1.0 - t / self.updates)

    def act(self, layers: Any, states: np.ndarray, random: Any = None) -> np.ndarray:
        """The most probable actions; with `random`, a Generator, actions drawn from the policy."""
        logits, _ = self.network.forward(layers, states)
        if random is not None:  # the largest of logits + Gumbel noise is a draw from their softmax
            logits = logits - np.log(random.standard_exponential(logits.shape))
        return np.argmax(logits, axis=1)

    def gradient(self, theta: np.ndarray, poles: Any, random: Any) -> tuple[np.ndarray, list[int]]:
        """Play on with the policy `theta`; the clipped gradient, and lengths of ended episodes."""
        n, T = len(poles.ages), self.steps
        layers = self.network.unpack(theta)
        states, after = np.empty((T, n, 4)), np.empty((T, n, 4))
        actions = np.empty((T, n), np.int64)
        fell, ended = np.empty((T, n), bool), np.empty((T, n), bool)
        lengths: list[int] = []
        for t in range(T):
            states[t] = poles.states
            actions[t] = self.act(layers, poles.states, random)
            result = poles.step(actions[t])
            after[t], fell[t], ended[t] = result.states, result.failed, result.ended
            lengths += result.lengths[ended[t]].tolist()
        states, after = states.reshape(-1, 4), after.reshape(-1, 4)
        _, values = self.network.forward(layers, np.concatenate([states, after]))
        now, then = values.reshape(2, T, n)
        returns, following = np.empty((T, n)), then[-1]
        for t in reversed(range(T)):
            following = np.where(fell[t], 0.0, np.where(ended[t], then[t], following))
            following = returns[t] = 1.0 + self.discount * following
        R, A = returns.ravel(), (returns - now).ravel()
        _, g = self.network.loss(theta, states, actions.ravel(), R, A)
        return g * min(1.0, self.clip / max(float(np.linalg.norm(g)), 1e-300)), lengths

    def score(self, v: np.ndarray, episodes: int, rng: int = 0, greedy: bool = True) -> np.ndarray:
        """Lengths of new episodes, with the most probable or with drawn actions."""
        random = None if greedy else np.random.default_rng(rng)
        layers = self.network.unpack(v[: self.network.d])
        poles, lengths = make_cart_poles(episodes, rng, self.library), np.zeros(episodes, int)
        while not lengths.all():
            result = poles.step(self.act(layers, poles.states, random))
            first = result.ended & (lengths == 0)
            lengths[first] = result.lengths[first]
        return lengths


class ActorBurst:
    """B updates on a local copy of (theta, m); `spawn` gives each worker its games.

    The push is affine: theta <- theta - (sum of steps), m <- decay^B m + (B squared gradients). The
    shared mean squares stay positive, however stale a push is. Each core has games and random
    numbers of its own and reads theta without a lock; theta, m and the sums then move under a lock:
    20 us beside a millisecond of playing. NumPy on such small arrays holds the GIL, so the cores of
    one worker gain no time here.
    """

    def __init__(self, settings: ActorCritic, *, inner_steps: int = 1, cores: int = 1) -> None:
        if not 1 <= cores <= inner_steps:
            raise ValueError(f"cores must be from 1 to inner_steps={inner_steps}, got {cores}")
        self.settings, self.inner_steps, self.cores = settings, inner_steps, cores
        self.random: list[np.random.Generator] = []
        self.poles: list[Any] = []

    def spawn(self, worker: int, seed: int) -> ActorBurst:
        """The burst of one worker, its games begun with `seed`."""
        s, burst = self.settings, copy(self)
        burst.random = [np.random.default_rng([seed, core]) for core in range(self.cores)]
        seeds = [int(random.integers(2**31)) for random in burst.random]
        burst.poles = [make_cart_poles(s.envs, seed, s.library) for seed in seeds]
        return burst

    def __call__(self, v: np.ndarray, ctx: BurstContext) -> Push:
        """Play B updates from v = (theta, m)."""
        s, B, cores = self.settings, self.inner_steps, self.cores
        d = s.network.d
        theta, squares = v[:d].copy(), v[d:].copy()
        moved, gained = np.zeros(d), np.zeros(d)
        lengths: list[int] = []
        numbers, lock = itertools.count(), threading.Lock()

        def work(core: int) -> None:
            while (j := next(numbers)) < B:
                # Another core may write to theta meanwhile, which mixes two sets of parameters.
                g, ended = s.gradient(theta.copy(), self.poles[core], self.random[core])
                with lock:
                    for mean in (squares, gained):
                        mean *= s.decay
                        mean += (1.0 - s.decay) * g * g
                    step = s.rate_at(ctx.part * B + j) * g / (np.sqrt(squares) + s.epsilon)
                    np.subtract(theta, step, out=theta)
                    np.add(moved, step, out=moved)
                    lengths.extend(ended)

        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(work, range(cores)))
        a = np.concatenate([np.ones(d), np.full(d, s.decay**B)])
        mean_length = float(np.mean(lengths)) if lengths else 0.0
        report = {"episodes": float(len(lengths)), "length": mean_length}
        return Push.affine(a, np.concatenate([-moved, gained]), gradients=B, report=report)


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """The result of `train_policy`: (theta, m) in `x`, the run's `report` and `master`."""

    settings: ActorCritic
    x: np.ndarray
    report: LoopReport
    master: Master

    def score(self, episodes: int = 100, rng: int = 0, greedy: bool = True) -> float:
        """Mean length of new episodes, at most 500; 475 over 100 counts as solved."""
        return float(self.settings.score(self.x, episodes, rng, greedy).mean())


def train_policy(
    settings: ActorCritic | None = None,
    *,
    parallelism: int = 4,
    cores: int = 1,
    inner_steps: int = 1,
    rng: int = 0,
    log: Any = None,
    master: Master | None = None,
    max_delay: int | None = None,
    on_late: str = "reject",
    callback: Callable[[LoopReport], Any] | None = None,
    **options: Any,
) -> Policy:
    """Advantage actor-critic on cart-poles, asynchronously on two levels.

    ``parallelism=1`` is the serial algorithm, bit for bit.

    Parameters
    ----------
    settings : ActorCritic, optional
    parallelism, cores, inner_steps : int, default 4, 1, 1
        N workers with games of their own, threads in each, B updates between a pull and a push.
    rng : int, default 0
        Seed of the network's start and of all games.
    log, max_delay, on_late
        As for `async_sgd.Master`.
    master : Master, optional
        Continues an earlier run: `Policy.master`, ``Master.load(path)`` or ``Master.resume(path)``.
        ``settings.updates`` counts from its beginning; workers begin new games.
    callback, **options
        As for `async_sgd.run`: workers, max_time, timeout, on_error, max_failures.

    References
    ----------
    Mnih et al., ICML 2016, algorithm S3. Mohamad, Alamri, Bouchachia, arXiv 2210.02882, 2022, for
    the two levels (HSA2C). Intended differences: several games for each core; the affine push of
    the mean squares; the push is a sum of steps taken with local mean squares.
    """
    settings = ActorCritic() if settings is None else settings
    burst: Any = ActorBurst(settings, inner_steps=inner_steps, cores=cores)
    if master is None:
        bounds: dict[str, Any] = {"max_delay": max_delay, "on_late": on_late}
        master = Master(settings.start(rng), rng=rng, tag="actor-critic", log=log, **bounds)
    found = master.settings.tag, master.settings.seed, master.x.size
    if found != ("actor-critic", rng, 2 * settings.network.d):
        raise ValueError("master is of another run: give the settings and rng of its run")
    updates = -(-settings.updates // inner_steps)
    with threadpool_limits(1, "blas"):  # threads of BLAS only cost on arrays of this size
        report = run(
            master, burst, parallelism=parallelism, maxiter=updates, callback=callback, **options
        )
    return Policy(settings, master.x, report, master)
