"""CartPole, Acrobot and MountainCar, many at once, with the arithmetic of gymnasium's environments
of these names (v1, v1, v0).

A state is what gymnasium keeps; `observe` makes what an agent sees of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np


class Environment(ABC):
    """The rules of a game; arrays have one row for each of n games.

    Attributes
    ----------
    actions, inputs, limit : int
        Actions, numbers in an observation, steps after which a game is cut.
    """

    actions: ClassVar[int]
    inputs: ClassVar[int]
    limit: ClassVar[int]

    @abstractmethod
    def start(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """States of new games, shape (n, numbers in a state)."""

    @abstractmethod
    def step(
        self, states: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The next states, the rewards, shape (n,), and whether the games are over, shape (n,)."""

    def observe(self, states: np.ndarray) -> np.ndarray:
        """Observations, shape (n, inputs)."""
        return states


class CartPole(Environment):
    """A pole on a cart: 1 for every step until it leans by 12 degrees or the cart is 2.4 m away.

    References
    ----------
    Barto, Sutton, Anderson, Neuronlike adaptive elements that can solve difficult learning control
    problems, IEEE Transactions on Systems, Man, and Cybernetics 13, 1983.
    """

    actions, inputs, limit = 2, 4, 500

    def start(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-0.05, 0.05, (n, 4))

    def step(
        self, states: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, speed, angle, spin = states.T
        force = np.where(actions == 1, 10.0, -10.0)
        sine, cosine = np.sin(angle), np.cos(angle)
        # half of the pole 0.5 m long, 0.1 kg; the cart 1 kg
        push = (force + 0.05 * spin**2 * sine) / 1.1
        turn = (9.8 * sine - cosine * push) / (0.5 * (4.0 / 3.0 - 0.1 * cosine**2 / 1.1))
        move = push - 0.05 * turn * cosine / 1.1
        after = np.stack(
            [x + 0.02 * speed, speed + 0.02 * move, angle + 0.02 * spin, spin + 0.02 * turn], axis=1
        )
        over = (np.abs(after[:, 0]) > 2.4) | (np.abs(after[:, 2]) > 12 * 2 * np.pi / 360)
        return after, np.ones(len(after)), over


class Acrobot(Environment):
    """Two links, torque at the joint between them: -1 for every step until the end is one link
    above the base.

    References
    ----------
    Sutton, Generalization in reinforcement learning: successful examples using sparse coarse
    coding, NIPS 1996; the equations of Sutton and Barto's book.
    """

    actions, inputs, limit = 3, 6, 500

    def start(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-0.1, 0.1, (n, 4))

    def observe(self, states: np.ndarray) -> np.ndarray:
        first, second, spin1, spin2 = states.T
        return np.stack(
            [np.cos(first), np.sin(first), np.cos(second), np.sin(second), spin1, spin2], axis=1
        )

    def step(
        self, states: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        torque, h = actions - 1.0, 0.2
        # Runge and Kutta's fourth order, the torque constant
        k1 = self._slope(states, torque)
        k2 = self._slope(states + 0.5 * h * k1, torque)
        k3 = self._slope(states + 0.5 * h * k2, torque)
        k4 = self._slope(states + h * k3, torque)
        after = states + h / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)
        after[:, :2] = (after[:, :2] + np.pi) % (2 * np.pi) - np.pi
        after[:, 2] = np.clip(after[:, 2], -4 * np.pi, 4 * np.pi)
        after[:, 3] = np.clip(after[:, 3], -9 * np.pi, 9 * np.pi)
        over = -np.cos(after[:, 0]) - np.cos(after[:, 0] + after[:, 1]) > 1.0
        return after, np.where(over, 0.0, -1.0), over

    @staticmethod
    def _slope(states: np.ndarray, torque: np.ndarray) -> np.ndarray:
        """Links of 1 m and 1 kg, centres of mass at 0.5 m, moments of inertia 1."""
        first, second, spin1, spin2 = states.T
        g, cosine, sine = 9.8, np.cos(second), np.sin(second)
        d1 = 0.25 + (1.0 + 0.25 + cosine) + 2.0
        d2 = 0.25 + 0.5 * cosine + 1.0
        phi2 = 0.5 * g * np.cos(first + second - np.pi / 2)
        phi1 = -0.5 * spin2**2 * sine - spin2 * spin1 * sine
        phi1 += 1.5 * g * np.cos(first - np.pi / 2) + phi2
        turn2 = torque + d2 / d1 * phi1 - 0.5 * spin1**2 * sine - phi2
        turn2 /= 0.25 + 1.0 - d2**2 / d1
        turn1 = -(d2 * turn2 + phi1) / d1
        return np.stack([spin1, spin2, turn1, turn2], axis=1)


class MountainCar(Environment):
    """A car too weak for the hill: -1 for every step until it is up there.

    References
    ----------
    Moore, Efficient memory-based learning for robot control, PhD thesis, Cambridge 1990.
    """

    actions, inputs, limit = 3, 2, 200

    def start(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return np.stack([rng.uniform(-0.6, -0.4, n), np.zeros(n)], axis=1)

    def observe(self, states: np.ndarray) -> np.ndarray:
        return states * [1.0, 15.0]  # both numbers of the order of one

    def step(
        self, states: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, speed = states.T
        speed = np.clip(speed + (actions - 1) * 0.001 - 0.0025 * np.cos(3 * x), -0.07, 0.07)
        x = np.clip(x + speed, -1.2, 0.6)
        speed = np.where((x == -1.2) & (speed < 0), 0.0, speed)
        over = (x >= 0.5) & (speed >= 0)
        return np.stack([x, speed], axis=1), np.full(len(x), -1.0), over


class Games:
    """n games of one environment; those that end begin anew.

    Parameters
    ----------
    environment : Environment
    n, seed : int

    Attributes
    ----------
    states, ages : arrays, shapes (n, numbers in a state) and (n,)
    """

    def __init__(self, environment: Environment, n: int, seed: int) -> None:
        self.environment, self._rng = environment, np.random.default_rng(seed)
        self.states, self.ages = environment.start(n, self._rng), np.zeros(n, int)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One step: the states after it (of ended games too), rewards, whether a game is over, and
        whether it is over or cut.
        """
        after, rewards, over = self.environment.step(self.states, actions)
        self.ages += 1
        ended = over | (self.ages >= self.environment.limit)
        self.states = after.copy()
        self.states[ended] = self.environment.start(int(ended.sum()), self._rng)
        self.ages[ended] = 0
        return after, rewards, over, ended
