"""Cart-poles, many at once in one array operation: the same as gymnasium's CartPole-v1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: m/s^2, kg, kg, m (half of the pole's length), N, s: the values of CartPole-v1.
GRAVITY, CART, POLE, HALF, FORCE, STEP = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
#: An episode fails outside of these: metres from the middle, radians from upright.
X_LIMIT, ANGLE_LIMIT = 2.4, 12.0 * math.pi / 180.0
#: Steps after which an episode ends in any case; the mean over 100 episodes that counts as solved.
LIMIT, SOLVED = 500, 475.0


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """One step of n environments.

    Attributes
    ----------
    states : array, shape (n, inputs)
        Before episodes that ended begin anew.
    rewards : array, shape (n,)
    terminated, ended : array of bool, shape (n,)
        The episode came to its end, after which nothing is gained; that, or it was cut off by a
        limit of time, which says nothing about the value of its state.
    lengths, returns : array, shape (n,)
        Steps and rewards of the episode so far.
    """

    states: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    ended: np.ndarray
    lengths: np.ndarray
    returns: np.ndarray


def accelerate(states: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """One explicit Euler step of 0.02 s (Barto, Sutton, Anderson 1983, without friction)::

        s = (F + m l theta'^2 sin theta) / M
        theta'' = (g sin theta - s cos theta) / (l (4/3 - m cos^2 theta / M))
        x'' = s - m l theta'' cos theta / M

    with F = +-10 N, M the mass of both and l half of the pole's length. A state is x [m], x' [m/s],
    theta [rad], theta' [rad/s]; action 0 pushes to the left, 1 to the right.
    """
    x, v, angle, spin = states.T
    mass, moment = CART + POLE, POLE * HALF
    sine, cosine = np.sin(angle), np.cos(angle)
    push = (FORCE * (2.0 * actions - 1.0) + moment * spin**2 * sine) / mass
    turn = (GRAVITY * sine - push * cosine) / (HALF * (4.0 / 3.0 - POLE * cosine**2 / mass))
    move = push - moment * turn * cosine / mass
    rows = x + STEP * v, v + STEP * move, angle + STEP * spin, spin + STEP * turn
    return np.stack(rows, axis=1)


def failed(states: np.ndarray) -> np.ndarray:
    """True where the cart has left its track or the pole has fallen, shape (n,)."""
    return (np.abs(states[:, 0]) > X_LIMIT) | (np.abs(states[:, 2]) > ANGLE_LIMIT)


class NumpyCartPoles:
    """n environments in one array operation; the reward is 1 for every step, also the last.

    Attributes
    ----------
    states, ages : array, shape (n, 4) and (n,)
        The present states, and steps since the episodes began.
    """

    vectorized = True
    inputs, actions = 4, 2

    def __init__(self, n: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.states, self.ages = self._start(n), np.zeros(n, np.int64)

    def _start(self, n: int) -> np.ndarray:
        return self._random.uniform(-0.05, 0.05, (n, 4))

    def step(self, actions: np.ndarray) -> StepResult:
        """Push each cart; episodes that end begin anew."""
        states, ages = accelerate(self.states, actions), self.ages + 1
        fell = failed(states)
        ended = fell | (ages >= LIMIT)
        result = StepResult(states, np.ones(len(ages)), fell, ended, ages, ages.astype(float))
        self.states, self.ages = states.copy(), np.where(result.ended, 0, ages)
        self.states[result.ended] = self._start(int(result.ended.sum()))
        return result
