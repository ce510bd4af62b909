"""Lion."""

from __future__ import annotations

from dataclasses import dataclass, field

from optex_core._validation import NONNEGATIVE_FINITE, UNIT_INTERVAL
from optex_core.optimizers.base import OPTIMIZERS, ElementwiseOptimizer
from optex_core.optimizers.schedules import LearningRate


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class Lion(ElementwiseOptimizer):
    """Steps of one size, in the direction of the sign of an interpolated momentum.

    x <- (1 - rate decay) x - rate sign(b1 m + (1 - b1) g);  m <- b2 m + (1 - b2) g.

    Parameters
    ----------
    b1, b2 : float, default 0.9, 0.99
        Share of the momentum in the direction, and decay rate of the momentum, in [0, 1).

    References
    ----------
    Chen et al., Symbolic discovery of optimization algorithms, NeurIPS 2023, arXiv 2302.06675,
    algorithm 2. The default rate is that of the authors' own code; about a third to a tenth of a
    rate for `AdamW` is their advice.
    """

    name = "lion"
    slot_names = ("m",)
    learning_rate: LearningRate = 1e-4
    b1: float = field(default=0.9, metadata=UNIT_INTERVAL)
    b2: float = field(default=0.99, metadata=UNIT_INTERVAL)
    decay: float = field(default=0.0, metadata=NONNEGATIVE_FINITE)

    @staticmethod
    def rule(xp):
        def step(x, g, m, b1, c1, b2, c2, rate, keep):
            return keep * x - rate * xp.sign(b1 * m + c1 * g), b2 * m + c2 * g

        return step

    def scalars(self, t: int, rate: float, host_scalars: tuple[float, ...]) -> tuple[float, ...]:
        b1, b2 = self.b1, self.b2
        return b1, 1 - b1, b2, 1 - b2, rate, 1 - rate * self.decay
