"""Adam with decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from optex_core.backends.base import Rule
from optex_core.optimizers._adam_base import AdamBase
from optex_core.optimizers.base import OPTIMIZERS, nonnegative_finite


def adamw_rule(xp: Any) -> Any:
    def step(x, g, m, v, b1, c1, b2, c2, rate, root, eps, keep):  # type: ignore[no-untyped-def]
        m = b1 * m + c1 * g
        v = b2 * v + c2 * g * g
        return keep * x - rate * m / (xp.sqrt(v) / root + eps), m, v

    return step


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class AdamW(AdamBase):
    """Adam whose weight decay does not pass through the moments.

    x <- (1 - rate decay) x - rate m^ / (sqrt(v^) + eps), with the moments of `Adam`.

    Parameters
    ----------
    learning_rate : float or schedule, default 1e-3
        Positive. In units of x.
    b1, b2 : float, default 0.9, 0.999
        Decay rates of the two moments, in [0, 1).
    eps : float, default 1e-8
        Added outside the root, in units of the gradient; zero makes 0 / 0 where a gradient was
        always zero.
    decay : float, default 1e-2
        Zero or more, multiplied by the rate; 0 is `Adam`.

    References
    ----------
    Loshchilov, Hutter, Decoupled weight decay regularization, ICLR 2019, arXiv 1711.05101,
    algorithm 2. As in PyTorch the decay is multiplied by the whole rate, not by the schedule's
    factor alone.
    """

    name: ClassVar[str] = "adamw"
    decay: float = 1e-2

    def __post_init__(self) -> None:
        # not super(): slots=True makes the class anew, which super() does not see
        AdamBase.__post_init__(self)
        nonnegative_finite("decay", self.decay)

    @property
    def rule(self) -> Rule:
        return adamw_rule

    def scalars(self, t: int, rate: float, host_scalars: tuple[float, ...]) -> tuple[float, ...]:
        return *AdamBase.scalars(self, t, rate, host_scalars), 1 - rate * self.decay
