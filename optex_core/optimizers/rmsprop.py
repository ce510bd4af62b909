"""RMSprop, with momentum and the centered form."""

from __future__ import annotations

from dataclasses import dataclass, field

from optex_core._validation import BOOLEAN, NONNEGATIVE_FINITE, UNIT_INTERVAL
from optex_core.backends.types import Rule
from optex_core.optimizers.base import OPTIMIZERS, ElementwiseOptimizer
from optex_core.optimizers.schedules import LearningRate


def rmsprop_rule(xp):
    def step(x, g, s, rate, alpha, rest, eps):
        s = alpha * s + rest * g * g
        return x - rate * g / (xp.sqrt(s) + eps), s

    return step


def rmsprop_momentum_rule(xp):
    def step(x, g, s, v, rate, alpha, rest, eps, momentum):
        s = alpha * s + rest * g * g
        v = momentum * v + g / (xp.sqrt(s) + eps)
        return x - rate * v, s, v

    return step


# The variance s - m^2 is never negative in exact arithmetic; rounding may take it below zero by
# some ulps of s, where a root would be nan.
def rmsprop_centered_rule(xp):
    def step(x, g, s, m, rate, alpha, rest, eps):
        s = alpha * s + rest * g * g
        m = alpha * m + rest * g
        return x - rate * g / (xp.sqrt(xp.abs(s - m * m)) + eps), s, m

    return step


def rmsprop_centered_momentum_rule(xp):
    def step(x, g, s, m, v, rate, alpha, rest, eps, momentum):
        s = alpha * s + rest * g * g
        m = alpha * m + rest * g
        v = momentum * v + g / (xp.sqrt(xp.abs(s - m * m)) + eps)
        return x - rate * v, s, m, v

    return step


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class RMSprop(ElementwiseOptimizer):
    """The gradient over the root of the running mean of its square.

    s <- alpha s + (1 - alpha) g^2;  n = g / (sqrt(s) + eps);  x <- x - rate n,
    or with momentum v <- momentum v + n;  x <- x - rate v.
    Centered: m <- alpha m + (1 - alpha) g, and s - m^2 (the variance) stands under the root.

    Parameters
    ----------
    centered : bool, default False
        Divide by the standard deviation instead of the root mean square. A gradient that is
        constant over many steps is then divided by rounding errors or eps.

    References
    ----------
    Tieleman, Hinton, Lecture 6.5, Neural networks for machine learning, 2012; centered: Graves,
    arXiv 1308.0850, equations 38 to 41. Form and defaults are PyTorch's.
    """

    name = "rmsprop"
    learning_rate: LearningRate = 1e-2
    alpha: float = field(default=0.99, metadata=UNIT_INTERVAL)
    eps: float = field(default=1e-8, metadata=NONNEGATIVE_FINITE)
    momentum: float = field(default=0.0, metadata=UNIT_INTERVAL)
    centered: bool = field(default=False, metadata=BOOLEAN)

    @property
    def slot_names(self) -> tuple[str, ...]:
        mean, velocity = ("mean",) * self.centered, ("velocity",) * bool(self.momentum)
        return ("squares", *mean, *velocity)

    @property
    def rule(self) -> Rule:
        if self.centered:
            return rmsprop_centered_momentum_rule if self.momentum else rmsprop_centered_rule
        return rmsprop_momentum_rule if self.momentum else rmsprop_rule

    def scalars(self, t: int, rate: float, host_scalars: tuple[float, ...]) -> tuple[float, ...]:
        always = rate, self.alpha, 1 - self.alpha, self.eps
        return (*always, self.momentum) if self.momentum else always
