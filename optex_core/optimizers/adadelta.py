"""Adadelta."""

from __future__ import annotations

from dataclasses import dataclass, field

from optex_core._validation import POSITIVE, UNIT_INTERVAL
from optex_core.optimizers.base import OPTIMIZERS, ElementwiseOptimizer
from optex_core.optimizers.schedules import LearningRate


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class Adadelta(ElementwiseOptimizer):
    """Steps in the units of x without a learning rate of that unit.

    s <- rho s + (1 - rho) g^2;  delta = sqrt(u + eps) / sqrt(s + eps) g;
    u <- rho u + (1 - rho) delta^2;  x <- x - rate delta.

    Parameters
    ----------
    learning_rate : float or schedule, default 1
        Positive, a pure number.
    eps : float, default 1e-6
        Positive, inside both roots; it sets the size of the first steps.

    References
    ----------
    Zeiler, ADADELTA: an adaptive learning rate method, arXiv 1212.5701, algorithm 1. Defaults are
    PyTorch's.
    """

    name = "adadelta"
    slot_names = ("squares", "steps")
    learning_rate: LearningRate = 1.0
    rho: float = field(default=0.9, metadata=UNIT_INTERVAL)
    eps: float = field(default=1e-6, metadata=POSITIVE)

    @staticmethod
    def rule(xp):
        def step(x, g, s, u, rate, rho, rest, eps):
            s = rho * s + rest * g * g
            delta = xp.sqrt(u + eps) / xp.sqrt(s + eps) * g
            u = rho * u + rest * delta * delta
            return x - rate * delta, s, u

        return step

    def scalars(self, t: int, rate: float, host_scalars: tuple[float, ...]) -> tuple[float, ...]:
        return rate, self.rho, 1 - self.rho, self.eps
