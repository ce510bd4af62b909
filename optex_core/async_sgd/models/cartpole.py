"""The cart-pole of Barto, Sutton and Anderson (1983): many poles at once, in plain NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from optex_core._validation import integer
from optex_core.errors import ArgumentError

#: m/s^2, kg, kg, m (half of the pole's length), N, s: the values of the paper without its friction,
#: as in CartPole-v1.
GRAVITY, CART, POLE, HALF, FORCE, STEP = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
#: An episode fails outside of these: metres from the middle, radians from upright.
FAR, TILTED = 2.4, 12.0 * math.pi / 180.0
#: Steps after which an episode ends in any case, and the mean length over 100 episodes that counts
#: as solved (CartPole-v1).
LIMIT, SOLVED = 500, 475.0
#: The start is drawn evenly from [-0.05, 0.05] in each coordinate.
START = 0.05


def accelerate(states: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """One explicit Euler step of 0.02 s.

    With x, x', theta, theta' the position, velocity, angle and angular velocity, F = +-10 N, M the
    mass of both and l half the pole's length (Barto, Sutton, Anderson 1983, appendix, without
    friction)::

        s = (F + m l theta'^2 sin theta) / M
        theta'' = (g sin theta - s cos theta) / (l (4/3 - m cos^2 theta / M))
        x'' = s - m l theta'' cos theta / M

    Parameters
    ----------
    states : array, shape (n, 4), float64
        x [m], x' [m/s], theta [rad], theta' [rad/s].
    actions : array, shape (n,), int
        0 pushes to the left, 1 to the right.

    Returns
    -------
    array, shape (n, 4), float64
    """
    x, v, angle, spin = states.T
    mass, moment = CART + POLE, POLE * HALF
    sine, cosine = np.sin(angle), np.cos(angle)
    push = (FORCE * (2.0 * actions - 1.0) + moment * spin**2 * sine) / mass
    turning = (GRAVITY * sine - push * cosine) / (HALF * (4.0 / 3.0 - POLE * cosine**2 / mass))
    moving = push - moment * turning * cosine / mass
    return np.stack(
        [x + STEP * v, v + STEP * moving, angle + STEP * spin, spin + STEP * turning], axis=1
    )


def failed(states: np.ndarray) -> np.ndarray:
    """Whether the cart has left its track or the pole has fallen, shape (n,)."""
    return (np.abs(states[:, 0]) > FAR) | (np.abs(states[:, 2]) > TILTED)


@dataclass(frozen=True, slots=True, eq=False)
class Poles:
    """n cart-poles under way: all that the environment has to remember, as arrays.

    Attributes
    ----------
    states : array, shape (n, 4), float64
    ages : array, shape (n,), int64
        Steps since the episode began.
    """

    states: np.ndarray
    ages: np.ndarray

    @classmethod
    def fresh(cls, n: int, random: np.random.Generator) -> Poles:
        """n episodes at their beginning."""
        return cls(
            random.uniform(-START, START, (integer("n", n, low=1), 4)), np.zeros(n, np.int64)
        )

    def step(self, actions: np.ndarray, random: np.random.Generator) -> tuple[Poles, Outcome]:
        """Apply an action to each; episodes that ended begin anew, at states drawn from `random`.

        Raises
        ------
        ArgumentError
            If an action is neither 0 nor 1, or their number is wrong.
        """
        actions = np.asarray(actions)
        if actions.shape != self.ages.shape or not ((actions == 0) | (actions == 1)).all():
            raise ArgumentError(
                f"actions must be {len(self.ages)} numbers, each 0 (left) or 1 "
                f"(right); got {actions!r}"
            )
        states, ages = accelerate(self.states, actions), self.ages + 1
        fell = failed(states)
        ended = fell | (ages >= LIMIT)
        outcome = Outcome(states, fell, ended, ages)
        if ended.any():
            states, ages = states.copy(), np.where(ended, 0, ages)
            states[ended] = random.uniform(-START, START, (int(ended.sum()), 4))
        return replace(self, states=states, ages=ages), outcome


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a step led to; the reward is 1 for every step, also the last.

    Attributes
    ----------
    states : array, shape (n, 4)
        Before episodes that ended began anew.
    failed : array of bool, shape (n,)
        Nothing can be gained any more.
    ended : array of bool, shape (n,)
        Failed, or 500 steps old: the latter says nothing about what the state is worth.
    lengths : array of int64, shape (n,)
        Steps of the episode so far.
    """

    states: np.ndarray
    failed: np.ndarray
    ended: np.ndarray
    lengths: np.ndarray
