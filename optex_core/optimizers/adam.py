"""Adam and its variants, each the rule of Adam with one change."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from optex_core._validation import NONNEGATIVE_FINITE, POSITIVE, UNIT_INTERVAL
from optex_core.optimizers.base import OPTIMIZERS, ElementwiseOptimizer
from optex_core.optimizers.schedules import LearningRate


@dataclass(frozen=True, slots=True)
class AdamBase(ElementwiseOptimizer):
    """Base of the optimizers with two moments; a subclass gives its rule, and `scalars` where the
    rule takes others.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  m^ = m / (1 - b1^t), v^ = v / (1 - b2^t).
    """

    slot_names = ("m", "v")
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
    slot_names = ("m", "v", "top")  # type: ignore[assignment]

    @staticmethod
    def rule(xp):
        def step(x, g, m, v, top, b1, c1, b2, c2, rate, root, eps):
            m = b1 * m + c1 * g
            v = b2 * v + c2 * g * g
            top = xp.maximum(top, v)
            return x - rate * m / (xp.sqrt(top) / root + eps), m, v, top

        return step


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
