"""Stochastic gradient descent, with momentum and Nesterov's form."""

from __future__ import annotations

from dataclasses import dataclass, field

from optex_core._validation import BOOLEAN, UNIT_INTERVAL
from optex_core.backends.types import Rule
from optex_core.errors import ArgumentError
from optex_core.optimizers.base import OPTIMIZERS, ElementwiseOptimizer
from optex_core.optimizers.schedules import LearningRate


def sgd_rule(xp):
    return lambda x, g, rate: (x - rate * g,)


def sgd_momentum_rule(xp):
    def step(x, g, v, rate, momentum):
        v = momentum * v + g
        return x - rate * v, v

    return step


def sgd_nesterov_rule(xp):
    def step(x, g, v, rate, momentum):
        v = momentum * v + g
        return x - rate * (g + momentum * v), v

    return step


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class SGD(ElementwiseOptimizer):
    """Gradient descent with optional momentum.

    v <- momentum v + g;  x <- x - rate v, or with Nesterov's form x <- x - rate (g + momentum v).
    Without momentum there is no v: x <- x - rate g.

    Parameters
    ----------
    learning_rate : float or schedule
        Positive. No default: it depends on the curvature (1/L for an L-smooth function).
    nesterov : bool, default False
        Needs momentum > 0.

    References
    ----------
    Polyak, Some methods of speeding up the convergence of iteration methods, 1964; Sutskever et
    al., On the importance of initialization and momentum in deep learning, ICML 2013. The form of
    the momentum is PyTorch's.

    Examples
    --------
    >>> import numpy as np
    >>> from optex_core.optimizers.sgd import SGD
    >>> optimizer, x = SGD(0.25, momentum=0.5), np.array([4.0, -8.0])
    >>> state = optimizer.init(x)
    >>> for _ in range(2):
    ...     x, state = optimizer.step(x, x, state)  # the gradient of |x|^2 / 2 is x
    >>> x.tolist()
    [1.75, -3.5]
    """

    name = "sgd"
    affine = True
    learning_rate: LearningRate
    momentum: float = field(default=0.0, metadata=UNIT_INTERVAL)
    nesterov: bool = field(default=False, metadata=BOOLEAN)

    def __post_init__(self) -> None:
        ElementwiseOptimizer.__post_init__(self)
        if self.nesterov and not self.momentum:
            raise ArgumentError(
                "nesterov=True needs momentum > 0, got momentum=0; pass momentum=0.9 "
                "or leave nesterov out"
            )

    @property
    def slot_names(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    @property
    def rule(self) -> Rule:
        if not self.momentum:
            return sgd_rule
        return sgd_nesterov_rule if self.nesterov else sgd_momentum_rule

    def scalars(self, t: int, rate: float, host_scalars: tuple[float, ...]) -> tuple[float, ...]:
        return (rate, self.momentum) if self.momentum else (rate,)
