"""Adam."""

from __future__ import annotations

from dataclasses import dataclass

from optex_core.optimizers._adam_base import AdamBase
from optex_core.optimizers.base import OPTIMIZERS


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class Adam(AdamBase):
    """Adaptive moment estimation.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;
    x <- x - rate m^ / (sqrt(v^) + eps), with m^ = m / (1 - b1^t), v^ = v / (1 - b2^t).

    References
    ----------
    Kingma, Ba, Adam: a method for stochastic optimization, ICLR 2015, arXiv 1412.6980, algorithm 1.
    Defaults and the place of eps are PyTorch's.

    Examples
    --------
    >>> import numpy as np
    >>> from optex_core.optimizers.adam import Adam
    >>> optimizer, x = Adam(0.5, eps=0.0), np.array([4.0, -8.0])
    >>> x, state = optimizer.step(x, np.array([1e-3, 1e3]), optimizer.init(x))
    >>> x.round(12).tolist()  # the first step has the length of the rate, whatever the gradient's
    [3.5, -8.5]
    """

    name = "adam"

    @staticmethod
    def rule(xp):
        def step(x, g, m, v, b1, c1, b2, c2, rate, root, eps):
            m = b1 * m + c1 * g
            v = b2 * v + c2 * g * g
            return x - rate * m / (xp.sqrt(v) / root + eps), m, v

        return step
