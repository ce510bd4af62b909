"""AdaBelief."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from optex_core.backends.base import Rule
from optex_core.optimizers._adam_base import AdamBase
from optex_core.optimizers.base import OPTIMIZERS


def adabelief_rule(xp: Any) -> Any:
    def step(x, g, m, s, b1, c1, b2, c2, rate, root, eps):  # type: ignore[no-untyped-def]
        m = b1 * m + c1 * g
        s = b2 * s + c2 * (g - m) * (g - m) + eps
        return x - rate * m / (xp.sqrt(s) / root + eps), m, s

    return step


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class AdaBelief(AdamBase):
    """Adam that divides by how far gradients are from their running mean, not by how large they
    are.

    m <- b1 m + (1 - b1) g;  s <- b2 s + (1 - b2) (g - m)^2 + eps;  x <- x - rate m^ / (sqrt(s^) +
    eps), with m^ = m / (1 - b1^t), s^ = s / (1 - b2^t).

    Parameters
    ----------
    learning_rate : float or schedule, default 1e-3
        Positive. In units of x.
    b1, b2 : float, default 0.9, 0.999
        Decay rates of the two moments, in [0, 1).
    eps : float, default 1e-16
        Added to s in every step and outside the root.

    References
    ----------
    Zhuang et al., AdaBelief optimizer: adapting stepsizes by the belief in observed gradients,
    NeurIPS 2020, arXiv 2010.07468, algorithm 2. The default of eps is that of the authors' own
    code.
    """

    name: ClassVar[str] = "adabelief"
    slot_names = ("m", "s")
    eps: float = 1e-16

    @property
    def rule(self) -> Rule:
        return adabelief_rule
