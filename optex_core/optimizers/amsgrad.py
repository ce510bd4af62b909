"""AMSGrad."""

from __future__ import annotations

from dataclasses import dataclass

from optex_core.optimizers._adam_base import AdamBase
from optex_core.optimizers.base import OPTIMIZERS


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class AMSGrad(AdamBase):
    """Adam with second moments that never fall.

    m, v as in `Adam`;  top <- max(top, v);  x <- x - rate m^ / (sqrt(top / (1 - b2^t)) + eps).

    References
    ----------
    Reddi, Kale, Kumar, On the convergence of Adam and beyond, ICLR 2018, arXiv 1904.09237,
    algorithm 2. The paper corrects no bias; as in PyTorch both moments are corrected here, after
    the maximum.
    """

    name = "amsgrad"
    slot_names = ("m", "v", "top")

    @staticmethod
    def rule(xp):
        def step(x, g, m, v, top, b1, c1, b2, c2, rate, root, eps):
            m = b1 * m + c1 * g
            v = b2 * v + c2 * g * g
            top = xp.maximum(top, v)
            return x - rate * m / (xp.sqrt(top) / root + eps), m, v, top

        return step
