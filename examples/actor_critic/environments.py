"""Environments with gymnasium's interface, several at once: gymnasium's own, and any other."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np

from actor_critic.cartpole import NumpyCartPoles, StepResult


class Environments(Protocol):
    """n environments; one of their own is written as gymnasium says, and not as this.

    Attributes
    ----------
    inputs, actions : int
        Length of a state, and number of actions.
    states : array, shape (n, inputs)
    """

    inputs: int
    actions: int
    states: np.ndarray

    def step(self, actions: np.ndarray) -> StepResult:
        """One step of each; episodes that end begin anew."""
        ...


class EnvironmentList:
    """n environments from `make`, each with gymnasium's interface::

        state, info = env.reset(seed=seed)
        state, reward, terminated, truncated, info = env.step(action)
        env.action_space.n, env.observation_space

    Actions are discrete. States are arrays, flattened; of gymnasium's spaces any kind.
    """

    def __init__(self, make: Callable[[], Any], n: int, seed: int) -> None:
        self._envs = [make() for _ in range(n)]
        space, observed = self._envs[0].action_space, self._envs[0].observation_space
        if not isinstance(getattr(space, "n", None), (int, np.integer)):
            raise ValueError(
                f"the environment must have discrete actions (action_space.n), it has {space!r:.80}"
            )
        self.actions, self._first = int(space.n), int(getattr(space, "start", 0))
        self._flatten = _flattener(observed)
        starts = [env.reset(seed=seed + i)[0] for i, env in enumerate(self._envs)]
        self.states = np.array([self._flatten(state) for state in starts])
        self.inputs = self.states.shape[1]
        self._lengths, self._returns = np.zeros(n, np.int64), np.zeros(n)

    def step(self, actions: np.ndarray) -> StepResult:
        """One step of each; episodes that end begin anew."""
        taken = actions + self._first
        steps = [env.step(int(a)) for env, a in zip(self._envs, taken, strict=True)]
        states = np.array([self._flatten(step[0]) for step in steps])
        rewards = np.array([step[1] for step in steps], float)
        terminated, cut = (np.array([step[i] for step in steps], bool) for i in (2, 3))
        lengths, returns, ended = self._lengths + 1, self._returns + rewards, terminated | cut
        self.states = states.copy()
        for i in np.flatnonzero(ended):
            self.states[i] = self._flatten(self._envs[i].reset()[0])
        self._lengths, self._returns = np.where(ended, 0, lengths), np.where(ended, 0.0, returns)
        return StepResult(states, rewards, terminated, ended, lengths, returns)


def _flattener(space: Any) -> Callable[[Any], np.ndarray]:
    if importlib.util.find_spec("gymnasium"):
        from gymnasium import spaces

        if isinstance(space, spaces.Space):  # Discrete ones become unit vectors
            return lambda state: np.asarray(spaces.flatten(space, state), float)
    return lambda state: np.asarray(state, float).ravel()


def make_environments(env: str | Callable[..., Any], n: int, seed: int) -> Environments:
    """n environments.

    `env` is a name of gymnasium's; a callable that returns an environment with its interface; or a
    class such as `NumpyCartPoles`, which makes n at once. "CartPole-v1" is `NumpyCartPoles`, the
    same in one array operation; ``partial(gymnasium.make, "CartPole-v1")`` is gymnasium's.
    """
    if env == "CartPole-v1":
        env = NumpyCartPoles
    if getattr(env, "vectorized", False) and callable(env):
        several: Environments = env(n, seed)
        return several
    if isinstance(env, str):
        if importlib.util.find_spec("gymnasium") is None:
            raise ImportError(f"env={env!r} needs gymnasium: python -m pip install gymnasium")
        import gymnasium

        env = partial(gymnasium.make, env)
    return EnvironmentList(env, n, seed)
