"""Adam with Nesterov's momentum."""

from __future__ import annotations

from dataclasses import dataclass, field

from optex_core._validation import NONNEGATIVE_FINITE
from optex_core.optimizers._adam_base import AdamBase
from optex_core.optimizers.base import OPTIMIZERS
from optex_core.optimizers.schedules import LearningRate


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class NAdam(AdamBase):
    """Adam that takes the momentum step of the next iteration ahead.

    mu_t = b1 (1 - 0.96^(t momentum_decay) / 2), p_t = mu_1 ... mu_t; with the moments of `Adam`
    x <- x - rate ((1 - mu_t) / (1 - p_t) g + mu_{t+1} / (1 - p_{t+1}) m) / (sqrt(v^) + eps).

    Parameters
    ----------
    momentum_decay : float, default 4e-3
        Zero or more: how fast the warm-up of the momentum ends.

    References
    ----------
    Dozat, Incorporating Nesterov momentum into Adam, ICLR workshop 2016, algorithm 2 (with the
    momentum schedule of its report). Defaults are PyTorch's.
    """

    name = "nadam"
    learning_rate: LearningRate = 2e-3
    momentum_decay: float = field(default=4e-3, metadata=NONNEGATIVE_FINITE)

    @staticmethod
    def rule(xp):
        def step(x, g, m, v, b1, c1, b2, c2, now, ahead, root, eps):
            m = b1 * m + c1 * g
            v = b2 * v + c2 * g * g
            return x - (now * g + ahead * m) / (xp.sqrt(v) / root + eps), m, v

        return step

    def init_host_scalars(self) -> tuple[float, ...]:
        return (1.0,)

    def next_host_scalars(self, t: int, host_scalars: tuple[float, ...]) -> tuple[float, ...]:
        return (host_scalars[0] * self._momentum(t),)

    def _momentum(self, t: int) -> float:
        return self.b1 * (1 - 0.96 ** (t * self.momentum_decay) / 2)

    def scalars(self, t: int, rate: float, host_scalars: tuple[float, ...]) -> tuple[float, ...]:
        product, next_ = host_scalars[0], self._momentum(t + 1)
        now = rate * (1 - self._momentum(t)) / (1 - product)
        ahead = rate * next_ / (1 - product * next_)
        return *self.decay_weights, now, ahead, self.sqrt_bias_correction(t), self.eps
