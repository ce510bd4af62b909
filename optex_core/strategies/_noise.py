"""Noise of evaluations: how it is noticed, and what `auto` and `lookahead` keep of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optex_core.backends.base import Backend
from optex_core.optimizers.base import Optimizer
from optex_core.optimizers.prodigy import Prodigy
from optex_core.strategies.base import Observation, Observations
from optex_core.types import Array

#: Not known; a repeated evaluation was the same; it was not.
UNKNOWN, EXACT, NOISY = 0, 1, 2
KNOWN_STATUSES = (UNKNOWN, EXACT, NOISY)
#: Squared relative difference below which two gradients at one point are the same.
SAME = 1e-24
#: Squared noise over |g|^2 from which on `lookahead` averages at once (a tenth of the gradient).
STRONG = 1e-2


def detect_noise(backend: Backend, at: Sequence[int], observations: Observations) -> int:
    """EXACT or NOISY if theta_t, index 0 of `at`, was evaluated more than once; else UNKNOWN."""
    repeats = [one for i, one in zip(at, observations, strict=False) if i == 0 and one is not None]
    if len(repeats) < 2:
        return UNKNOWN
    g = repeats[0].gradient
    return EXACT if all(same_gradient(backend, g, one) for one in repeats[1:]) else NOISY


def repeats_exactly(backend: Backend, g: Array, value: float, again: Observation) -> bool:
    """True if a second evaluation at one point gave the same gradient and value."""
    same_value = abs(again.value - value) <= 1e-12 * max(abs(value), abs(again.value))
    return same_value and same_gradient(backend, g, again)


def same_gradient(backend: Backend, g: Array, again: Observation) -> bool:
    """True if two gradients at one point are equal, and finite when squared."""
    difference = backend.squared_distance(g, again.gradient)
    return difference <= SAME * again.squared_norm < math.inf


def strong_noise(backend: Backend, g: Array, again: Observation) -> bool:
    """True if the noise of a gradient exceeds a tenth of its length."""
    return backend.squared_distance(g, again.gradient) > 2 * STRONG * again.squared_norm


def noisy_rule() -> Optimizer:
    """The parameter-free rule that takes the steps of `lookahead` where evaluations are noisy."""
    return Prodigy()
