"""Adagrad."""

from __future__ import annotations

from dataclasses import dataclass, field

from optex_core._validation import NONNEGATIVE_FINITE
from optex_core.optimizers.base import OPTIMIZERS, ElementwiseOptimizer
from optex_core.optimizers.schedules import LearningRate


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class Adagrad(ElementwiseOptimizer):
    """A rate per coordinate that falls with the gradients seen so far.

    s <- s + g^2;  x <- x - rate g / (sqrt(s) + eps).

    Parameters
    ----------
    initial_accumulator : float, default 0
        What s holds at first, in units of the squared gradient.

    References
    ----------
    Duchi, Hazan, Singer, Adaptive subgradient methods for online learning and stochastic
    optimization, JMLR 12, 2011, figure 1 (diagonal form). Defaults and the place of eps are
    PyTorch's; its ``lr_decay`` is a schedule here.
    """

    name = "adagrad"
    slot_names = ("sum",)
    learning_rate: LearningRate = 1e-2
    initial_accumulator: float = field(default=0.0, metadata=NONNEGATIVE_FINITE)
    eps: float = field(default=1e-10, metadata=NONNEGATIVE_FINITE)

    @staticmethod
    def rule(xp):
        def step(x, g, s, rate, eps):
            s = s + g * g
            return x - rate * g / (xp.sqrt(s) + eps), s

        return step

    @property
    def initial_slot_value(self) -> float:
        return self.initial_accumulator

    def scalars(self, t: int, rate: float, host_scalars: tuple[float, ...]) -> tuple[float, ...]:
        return rate, self.eps
