"""AMSGrad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from optex_core.backends.base import Rule
from optex_core.optimizers._adam_base import AdamBase
from optex_core.optimizers.base import OPTIMIZERS


def amsgrad_rule(xp: Any) -> Any:
    def step(x, g, m, v, top, b1, c1, b2, c2, rate, root, eps):  # type: ignore[no-untyped-def]
        m = b1 * m + c1 * g
        v = b2 * v + c2 * g * g
        top = xp.maximum(top, v)
        return x - rate * m / (xp.sqrt(top) / root + eps), m, v, top

    return step


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class AMSGrad(AdamBase):
    """Adam with second moments that never fall.

    m, v as in `Adam`;  top <- max(top, v);  x <- x - rate m^ / (sqrt(top / (1 - b2^t)) + eps).

    Parameters
    ----------
    learning_rate : float or schedule, default 1e-3
        Positive. In units of x.
    b1, b2 : float, default 0.9, 0.999
        Decay rates of the two moments, in [0, 1).
    eps : float, default 1e-8
        Added outside the root, in units of the gradient; zero makes 0 / 0 where a gradient was
        always zero.

    References
    ----------
    Reddi, Kale, Kumar, On the convergence of Adam and beyond, ICLR 2018, arXiv 1904.09237,
    algorithm 2. The paper corrects no bias; as in PyTorch both moments are corrected here, after
    the maximum.
    """

    name: ClassVar[str] = "amsgrad"
    slot_names = ("m", "v", "top")

    @property
    def rule(self) -> Rule:
        return amsgrad_rule
