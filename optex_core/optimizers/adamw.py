"""Adam with decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass, field

from optex_core._validation import NONNEGATIVE_FINITE
from optex_core.optimizers._adam_base import AdamBase
from optex_core.optimizers.base import OPTIMIZERS


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class AdamW(AdamBase):
    """Adam whose weight decay does not pass through the moments.

    x <- (1 - rate decay) x - rate m^ / (sqrt(v^) + eps), with the moments of `Adam`.

    References
    ----------
    Loshchilov, Hutter, Decoupled weight decay regularization, ICLR 2019, arXiv 1711.05101,
    algorithm 2. As in PyTorch the decay is multiplied by the whole rate, not by the schedule's
    factor alone.
    """

    name = "adamw"
    decay: float = field(default=1e-2, metadata=NONNEGATIVE_FINITE)

    @staticmethod
    def rule(xp):
        def step(x, g, m, v, b1, c1, b2, c2, rate, root, eps, keep):
            m = b1 * m + c1 * g
            v = b2 * v + c2 * g * g
            return keep * x - rate * m / (xp.sqrt(v) / root + eps), m, v

        return step

    def scalars(self, t: int, rate: float, host_scalars: tuple[float, ...]) -> tuple[float, ...]:
        return *AdamBase.scalars(self, t, rate, host_scalars), 1 - rate * self.decay
