"""AdaBelief."""

from __future__ import annotations

from dataclasses import dataclass, field

from optex_core._validation import NONNEGATIVE_FINITE
from optex_core.optimizers._adam_base import AdamBase
from optex_core.optimizers.base import OPTIMIZERS


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class AdaBelief(AdamBase):
    """Adam that divides by the distance of gradients from their running mean, not by their size.

    m <- b1 m + (1 - b1) g;  s <- b2 s + (1 - b2) (g - m)^2 + eps;
    x <- x - rate m^ / (sqrt(s^) + eps), with m^ = m / (1 - b1^t), s^ = s / (1 - b2^t).

    Parameters
    ----------
    eps : float, default 1e-16
        Added to s in every step and outside the root.

    References
    ----------
    Zhuang et al., AdaBelief optimizer: adapting stepsizes by the belief in observed gradients,
    NeurIPS 2020, arXiv 2010.07468, algorithm 2. The default of eps is that of the authors' own
    code.
    """

    name = "adabelief"
    slot_names = ("m", "s")
    eps: float = field(default=1e-16, metadata=NONNEGATIVE_FINITE)

    @staticmethod
    def rule(xp):
        def step(x, g, m, s, b1, c1, b2, c2, rate, root, eps):
            m = b1 * m + c1 * g
            s = b2 * s + c2 * (g - m) * (g - m) + eps
            return x - rate * m / (xp.sqrt(s) / root + eps), m, s

        return step
