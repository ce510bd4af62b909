"""Base of Adam and its variants: two running means of the gradient and their bias corrections."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from optex_core._validation import NONNEGATIVE_FINITE, UNIT_INTERVAL
from optex_core.optimizers.base import ElementwiseOptimizer
from optex_core.optimizers.schedules import LearningRate


@dataclass(frozen=True, slots=True)
class AdamBase(ElementwiseOptimizer):
    """Base of the optimizers with two moments; a subclass gives its rule, and `scalars` where the
    rule takes others.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  m^ = m / (1 - b1^t), v^ = v / (1 - b2^t).
    """

    slot_names: ClassVar[tuple[str, ...]] = ("m", "v")
    learning_rate: LearningRate = 1e-3
    b1: float = field(default=0.9, metadata=UNIT_INTERVAL)
    b2: float = field(default=0.999, metadata=UNIT_INTERVAL)
    eps: float = field(default=1e-8, metadata=NONNEGATIVE_FINITE)

    @property
    def decay_weights(self) -> tuple[float, float, float, float]:
        """b1, 1 - b1, b2, 1 - b2: the shares of the old moments and of the new gradient."""
        return self.b1, 1 - self.b1, self.b2, 1 - self.b2

    def sqrt_bias_correction(self, t: int) -> float:
        """sqrt(1 - b2^t), by which sqrt(v) is divided for sqrt(v^)."""
        return math.sqrt(1 - self.b2**t)

    def scalars(self, t: int, rate: float, host_scalars: tuple[float, ...]) -> tuple[float, ...]:
        """b1, 1 - b1, b2, 1 - b2, rate / (1 - b1^t), sqrt(1 - b2^t), eps: those of `Adam`."""
        corrected, root = rate / (1 - self.b1**t), self.sqrt_bias_correction(t)
        return *self.decay_weights, corrected, root, self.eps
