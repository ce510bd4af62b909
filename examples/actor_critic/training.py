"""Advantage actor-critic: settings, one update, the burst of a worker, `train_policy`."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from actor_critic.environments import Environments, make_environments
from actor_critic.network import PolicyNetwork
from optex_core.async_sgd import BurstContext, LoopReport, Master, Push, run


@dataclass(frozen=True, slots=True)
class ActorCritic:
    """Settings of the n-step advantage actor-critic with RMSProp (Mnih et al. 2016, algorithm S3).

    A step plays `horizon` moves in `envs` environments and takes the gradient of the loss::

        r_t = (1 - discount) reward_t,    R_t = r_t + discount R_{t+1};    A_t = R_t - V(s_t)
        r_t + discount V(s_{t+1}) at the last move and where an episode is cut off; r_t where it
        terminates
        g <- g min(1, clip/|g|),  m <- decay m + (1 - decay) g^2
        theta <- theta - rate_t g / (sqrt(m) + epsilon)

    with a rate and an entropy bonus that fall linearly to zero at the last of all `steps`. Values
    are means of rewards, of the same order in all environments. The parameters of a run are (theta,
    m): all workers share the mean squares m, as Mnih et al. found best.

    Notes
    -----
    On seeds that are not reported, CartPole, actions drawn from the policy: 500 of 500 moves; 477
    to 497 with a constant entropy bonus; 485 to 500 with sums of rewards in place of means, with
    which Acrobot learns nothing, since errors of values near -100 fill the clipped gradient. Eight
    workers with twice the rate failed on 1 of 3 seeds.
    """

    env: str | Callable[..., Any] = "CartPole-v1"  # see `make_environments`
    network: PolicyNetwork | None = None  # None: of the sizes of `env`
    envs: int = 8
    horizon: int = 8
    rate: float = 1e-3
    steps: int = 6000
    discount: float = 0.99
    decay: float = 0.99
    epsilon: float = 1e-5
    clip: float = 0.5

    def __post_init__(self) -> None:
        for name in ("envs", "horizon", "steps", "rate", "epsilon", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)!r}")
        if not 0.0 <= self.discount < 1.0:
            raise ValueError(f"discount must be at least 0 and below 1, got {self.discount!r}")
        one = make_environments(self.env, 1, 0)
        network = self.network or PolicyNetwork(inputs=one.inputs, actions=one.actions)
        if (network.inputs, network.actions) != (one.inputs, one.actions):
            raise ValueError(
                f"network must have inputs={one.inputs} and actions={one.actions}, those of env, "
                f"it has {network.inputs} and {network.actions}"
            )
        object.__setattr__(self, "network", network)

    def start(self, rng: int = 0) -> np.ndarray:
        """(theta, 0), shape (2 network.d,)."""
        theta = self.network.start(rng)
        return np.concatenate([theta, np.zeros_like(theta)])

    def rate_at(self, t: int) -> float:
        """The rate of step number t = 0, 1, ...; zero from the last on."""
        return self.rate * self.left_at(t)

    def left_at(self, t: int) -> float:
        """The part of the steps that is left at step number t."""
        return max(0.0, 1.0 - t / self.steps)

    def act(self, layers: Any, states: np.ndarray, random: Any = None) -> np.ndarray:
        """The most probable actions; with `random`, a Generator, actions drawn from the policy."""
        logits, _ = self.network.forward(layers, states)
        if random is not None:  # the largest of logits + Gumbel noise is a draw from their softmax
            logits = logits - np.log(random.standard_exponential(logits.shape))
        return np.argmax(logits, axis=1)

    def gradient(
        self, theta: np.ndarray, envs: Environments, random: Any, t: int = 0
    ) -> tuple[np.ndarray, list[float]]:
        """Play on with the policy `theta`; the clipped gradient of step number t, and returns of
        ended episodes.
        """
        (n, inputs), T = envs.states.shape, self.horizon
        layers = self.network.unpack(theta)
        states, after = np.empty((T, n, inputs)), np.empty((T, n, inputs))
        actions, rewards = np.empty((T, n), np.int64), np.empty((T, n))
        terminated, ended = np.empty((T, n), bool), np.empty((T, n), bool)
        scores: list[float] = []
        for k in range(T):
            states[k] = envs.states
            actions[k] = self.act(layers, envs.states, random)
            result = envs.step(actions[k])
            after[k], rewards[k] = result.states, (1.0 - self.discount) * result.rewards
            terminated[k], ended[k] = result.terminated, result.ended
            scores += result.returns[ended[k]].tolist()
        states, after = states.reshape(-1, inputs), after.reshape(-1, inputs)
        _, values = self.network.forward(layers, np.concatenate([states, after]))
        now, then = values.reshape(2, T, n)
        returns, following = np.empty((T, n)), then[-1]
        for k in reversed(range(T)):
            following = np.where(terminated[k], 0.0, np.where(ended[k], then[k], following))
            following = returns[k] = rewards[k] + self.discount * following
        R, A = returns.ravel(), (returns - now).ravel()
        bonus = self.network.entropy * self.left_at(t)
        _, g = self.network.loss(theta, states, actions.ravel(), R, A, bonus)
        return g * min(1.0, self.clip / max(float(np.linalg.norm(g)), 1e-300)), scores

    def score(self, v: np.ndarray, episodes: int, rng: int = 0, greedy: bool = True) -> np.ndarray:
        """Returns of new episodes, with the most probable or with drawn actions."""
        random = None if greedy else np.random.default_rng(rng)
        layers = self.network.unpack(v[: self.network.d])
        envs = make_environments(self.env, episodes, rng)
        returns, playing = np.zeros(episodes), np.ones(episodes, bool)
        while playing.any():
            result = envs.step(self.act(layers, envs.states, random))
            first = result.ended & playing
            returns[first] = result.returns[first]
            playing &= ~first
        return returns


class ActorBurst:
    """B steps on a local copy of (theta, m); `spawn` gives each worker its games.

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
        self.games: list[Environments] = []

    def spawn(self, worker: int, seed: int) -> ActorBurst:
        """The burst of one worker, its games begun with `seed`."""
        s, burst = self.settings, copy(self)
        burst.random = [np.random.default_rng([seed, core]) for core in range(self.cores)]
        seeds = [int(random.integers(2**31)) for random in burst.random]
        burst.games = [make_environments(s.env, s.envs, seed) for seed in seeds]
        return burst

    def __call__(self, v: np.ndarray, ctx: BurstContext) -> Push:
        """Play B steps from v = (theta, m)."""
        s, B, cores = self.settings, self.inner_steps, self.cores
        d = s.network.d
        theta, squares = v[:d].copy(), v[d:].copy()
        moved, gained = np.zeros(d), np.zeros(d)
        scores: list[float] = []
        numbers, lock = itertools.count(), threading.Lock()

        def work(core: int) -> None:
            while (j := next(numbers)) < B:
                # Another core may write to theta meanwhile, which mixes two sets of parameters.
                t = ctx.part * B + j
                g, ended = s.gradient(theta.copy(), self.games[core], self.random[core], t)
                with lock:
                    for mean in (squares, gained):
                        mean *= s.decay
                        mean += (1.0 - s.decay) * g * g
                    step = s.rate_at(t) * g / (np.sqrt(squares) + s.epsilon)
                    np.subtract(theta, step, out=theta)
                    np.add(moved, step, out=moved)
                    scores.extend(ended)

        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(work, range(cores)))
        a = np.concatenate([np.ones(d), np.full(d, s.decay**B)])
        mean = float(np.mean(scores)) if scores else 0.0
        report = {"episodes": float(len(scores)), "return": mean}
        return Push.affine(a, np.concatenate([-moved, gained]), gradients=B, report=report)


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """The result of `train_policy`: (theta, m) in `x`, the run's `report` and `master`."""

    settings: ActorCritic
    x: np.ndarray
    report: LoopReport
    master: Master

    def score(self, episodes: int = 100, rng: int = 0, greedy: bool = True) -> float:
        """Mean return of new episodes. CartPole-v1 gives at most 500; 475 over 100 solve it."""
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
    """Advantage actor-critic, asynchronously on two levels.

    ``parallelism=1`` is the serial algorithm, bit for bit.

    Parameters
    ----------
    settings : ActorCritic, optional
    parallelism, cores, inner_steps : int, default 4, 1, 1
        N workers with games of their own, threads in each, B steps between a pull and a push.
    rng : int, default 0
        Seed of the network's start and of all games.
    log, max_delay, on_late
        As for `async_sgd.Master`.
    master : Master, optional
        Continues an earlier run: `Policy.master`, ``Master.load(path)`` or ``Master.resume(path)``.
        ``settings.steps`` counts from its beginning; workers begin new games.
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
    updates = -(-settings.steps // inner_steps)
    with threadpool_limits(1, "blas"):  # threads of BLAS only cost on arrays of this size
        report = run(
            master, burst, parallelism=parallelism, maxiter=updates, callback=callback, **options
        )
    return Policy(settings, master.x, report, master)
