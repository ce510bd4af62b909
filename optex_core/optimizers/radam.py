"""Rectified Adam."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from optex_core._validation import POSITIVE
from optex_core.optimizers._adam_base import AdamBase
from optex_core.optimizers.base import OPTIMIZERS


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class RAdam(AdamBase):
    """Adam that leaves its second moment out until that has a bounded variance.

    With n = 2 / (1 - b2) - 1, n_t = n - 2 t b2^t / (1 - b2^t) and the moments of `Adam`:
    x <- x - rate m^ r sqrt(1 - b2^t) / (sqrt(v) + eps) if n_t > 5, else x <- x - rate m^,
    r^2 = (n_t - 4)(n_t - 2) n / ((n - 4)(n - 2) n_t).

    Parameters
    ----------
    eps : float, default 1e-8
        Positive, added to sqrt(v), which is not corrected for its bias; in units of the gradient.

    References
    ----------
    Liu et al., On the variance of the adaptive learning rate and beyond, ICLR 2020, arXiv
    1908.03265, algorithm 2. Defaults, the bound 5 and the place of eps are PyTorch's.
    """

    name = "radam"
    eps: float = field(default=1e-8, metadata=POSITIVE)

    @staticmethod
    def rule(xp):
        # One of `adaptive` and `plain` is zero: the choice is made on the host, by t alone.
        def step(x, g, m, v, b1, c1, b2, c2, adaptive, plain, eps):
            m = b1 * m + c1 * g
            v = b2 * v + c2 * g * g
            return x - m * (plain + adaptive / (xp.sqrt(v) + eps)), m, v

        return step

    def scalars(self, t: int, rate: float, host_scalars: tuple[float, ...]) -> tuple[float, ...]:
        b1, b2 = self.b1, self.b2
        rate /= 1 - b1**t
        limit = 2 / (1 - b2) - 1
        length = limit - 2 * t * b2**t / (1 - b2**t)
        # Not 4, the paper's bound: the variance is then barely finite. PyTorch takes 5 as well.
        if length <= 5:
            return *self.decay_weights, 0.0, rate, self.eps
        below = (limit - 4) * (limit - 2) * length
        rectified = math.sqrt((length - 4) * (length - 2) * limit / below)
        return *self.decay_weights, rate * rectified * self.sqrt_bias_correction(t), 0.0, self.eps
