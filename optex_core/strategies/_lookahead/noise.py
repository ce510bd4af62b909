"""Whether evaluations repeat, and the rule that takes the steps where they do not."""

from __future__ import annotations

from optex_core.backends.base import Backend
from optex_core.optimizers.base import Optimizer
from optex_core.optimizers.prodigy import Prodigy
from optex_core.strategies.base import Observation
from optex_core.types import Array

#: Squared relative difference below which two gradients at one point are the same.
SAME = 1e-24
#: Squared noise over |g|^2 from which on averaging takes over at once (a tenth of the gradient).
STRONG = 1e-2


def noisy_rule() -> Optimizer:
    """The parameter-free rule."""
    return Prodigy()


def repeats_exactly(backend: Backend, g: Array, value: float, again: Observation) -> bool:
    """True if a second evaluation at one point gave the same gradient and value."""
    difference = backend.squared_distance(g, again.gradient)
    same_value = abs(again.value - value) <= 1e-12 * max(abs(value), abs(again.value))
    return same_value and difference <= SAME * again.squared_norm


def strong_noise(backend: Backend, g: Array, again: Observation) -> bool:
    """True if the noise of a gradient exceeds a tenth of its length."""
    return backend.squared_distance(g, again.gradient) > 2 * STRONG * again.squared_norm
