"""Optimizers around an optimizer: clipped gradients, decoupled decay, bounds, the best point so
far.

The one inside may be a built-in optimizer, another wrapper, or any object with ``init(x)`` and
``step(x, g, state)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from optex_core._validation import positive, reals, short_repr, unit_interval
from optex_core.backends import for_array, is_cupy
from optex_core.backends.base import Backend, Rule
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.optimizers._bound import bind_optimizer
from optex_core.optimizers.base import WRAPPERS, Optimizer, UnrolledSteps, get_optimizer
from optex_core.optimizers.schedules import (
    LearningRate,
    StatefulSchedule,
    check_rate,
    initial_state,
    rate_at,
)
from optex_core.types import Array, FirstOrderOptimizer


def scale_rule(xp: Any) -> Any:
    def step(g, factor):  # type: ignore[no-untyped-def]
        return (factor * g,)

    return step


@lru_cache(maxsize=64)
def with_decoupled_decay(rule: Rule) -> Rule:
    """`rule` from x + share x, with the share as its last scalar."""

    def of(xp: Any) -> Any:
        inner = rule(xp)

        def step(x, *rest):  # type: ignore[no-untyped-def]
            return inner(rest[-1] * x + x, *rest[:-1])

        return step

    return of


@WRAPPERS.register
@dataclass(frozen=True, slots=True)
class ClipByNorm(Optimizer):
    """Shorten long gradients: g <- g min(1, max_norm / |g|), with the Euclidean norm. A shorter
    gradient passes unchanged, bit for bit.

    A gradient that is not finite passes unchanged too, for the caller to notice.

    Parameters
    ----------
    optimizer : str or optimizer
        What takes the step.
    max_norm : float
        Positive, in units of the gradient.

    References
    ----------
    Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks, ICML 2013,
    arXiv 1211.5063, algorithm 1.
    """

    name: ClassVar[str] = "clip_by_norm"
    optimizer: FirstOrderOptimizer
    max_norm: float

    def __post_init__(self) -> None:
        _resolve_inner(self)
        positive("max_norm", self.max_norm)

    def init(self, x: Array, *, backend: Backend | None = None) -> Any:
        return bind_optimizer(self.optimizer, backend).init(x)

    def step(
        self,
        x: Array,
        g: Array,
        state: Any,
        *,
        value: float = math.nan,
        trusted: bool = True,
        donate: bool = False,
        backend: Backend | None = None,
    ) -> tuple[Array, Any]:
        library = backend or for_array(x)
        squares, factor = library.dot(g, g), 1.0
        if math.isinf(squares) and math.isfinite(top := library.max_abs(g)):
            # The squares of a gradient of 1e200 overflow, and it is the long ones that have to be
            # clipped.
            (g,) = library.apply(scale_rule, (g,), (1.0 / top,))
            squares, factor = library.dot(g, g), top
        norm = math.sqrt(squares) if math.isfinite(squares) else 0.0
        if norm * factor > self.max_norm:
            donate = donate and _do_not_overlap(x, g)
            (g,) = library.apply(scale_rule, (g,), (self.max_norm / norm,))
        return bind_optimizer(self.optimizer, backend).step(
            x, g, state, value=value, trusted=trusted, donate=donate
        )


@WRAPPERS.register
@dataclass(frozen=True, slots=True)
class ClipByValue(Optimizer):
    """Limit every coordinate of the gradient: g <- min(max(g, -max_value), max_value).

    Parameters
    ----------
    optimizer : str or optimizer
        What takes the step.
    max_value : float
        Positive, in units of the gradient.
    """

    name: ClassVar[str] = "clip_by_value"
    optimizer: FirstOrderOptimizer
    max_value: float

    def __post_init__(self) -> None:
        _resolve_inner(self)
        positive("max_value", self.max_value)

    def init(self, x: Array, *, backend: Backend | None = None) -> Any:
        return bind_optimizer(self.optimizer, backend).init(x)

    def step(
        self,
        x: Array,
        g: Array,
        state: Any,
        *,
        value: float = math.nan,
        trusted: bool = True,
        donate: bool = False,
        backend: Backend | None = None,
    ) -> tuple[Array, Any]:
        donate = donate and _do_not_overlap(x, g)
        g = (backend or for_array(x)).clip(g, -self.max_value, self.max_value)
        return bind_optimizer(self.optimizer, backend).step(
            x, g, state, value=value, trusted=trusted, donate=donate
        )


@dataclass(frozen=True, slots=True)
class DecayState:
    """The state of `WeightDecay`: steps taken, the state inside, and that of a stateful schedule."""

    t: int
    inner: Any
    schedule: tuple[float, ...] = ()


@WRAPPERS.register
@dataclass(frozen=True, slots=True)
class WeightDecay(Optimizer):
    """Decoupled weight decay: x <- (1 - decay) x, then the step, with the gradient from before the
    decay.

    Unlike the `decay` of `AdamW` and `Lion`, it is not multiplied by the learning rate, which only
    the optimizer inside knows: ``AdamW(rate, decay=c)`` is ``WeightDecay(Adam(rate), rate * c)``.

    Parameters
    ----------
    optimizer : str or optimizer
        What takes the step.
    decay : float or schedule
        Share of x that goes in every step: in [0, 1), or a schedule ``t -> decay``.

    References
    ----------
    Loshchilov, Hutter, Decoupled weight decay regularization, ICLR 2019, arXiv 1711.05101,
    algorithms 1 and 2.
    """

    name: ClassVar[str] = "weight_decay"
    optimizer: FirstOrderOptimizer
    decay: LearningRate

    def __post_init__(self) -> None:
        _resolve_inner(self)
        if callable(self.decay) or isinstance(self.decay, StatefulSchedule):
            check_rate(self.decay, "decay")
        else:
            unit_interval("decay", self.decay)

    @property
    def affine(self) -> bool:
        """That of the optimizer inside: the decay is affine."""
        return bind_optimizer(self.optimizer).affine

    def unroll(self, state: DecayState, steps: int) -> UnrolledSteps | None:
        inner = (
            bind_optimizer(self.optimizer).unroll(state.inner, steps)
            if type(self).step is WeightDecay.step
            else None
        )
        if inner is None:  # there, or in a step of somebody's own, is more than a rule
            return None
        schedule, shares, records = state.schedule, [], []
        for t in range(state.t, state.t + steps):
            decay, schedule = rate_at(self.decay, t, schedule)
            shares.append(decay)
            records.append(schedule)
        scalars = [(*own, -decay) for own, decay in zip(inner.scalars, shares, strict=True)]
        return UnrolledSteps(
            with_decoupled_decay(inner.rule),
            inner.slots,
            scalars,
            lambda j, slots: DecayState(state.t + j, inner.state_after(j, slots), records[j - 1]),
        )

    def init(self, x: Array, *, backend: Backend | None = None) -> DecayState:
        return DecayState(
            0, bind_optimizer(self.optimizer, backend).init(x), initial_state(self.decay)
        )

    def step(
        self,
        x: Array,
        g: Array,
        state: DecayState,
        *,
        value: float = math.nan,
        trusted: bool = True,
        donate: bool = False,
        backend: Backend | None = None,
    ) -> tuple[Array, DecayState]:
        decay, schedule = rate_at(self.decay, state.t, state.schedule, value)
        if decay:
            x = (backend or for_array(x)).axpy(-decay, x, x)
        x, inner = bind_optimizer(self.optimizer, backend).step(
            x, g, state.inner, value=value, trusted=trusted, donate=donate
        )
        return x, DecayState(state.t + 1, inner, schedule)


@WRAPPERS.register
@dataclass(frozen=True, slots=True, eq=False)  # bounds are arrays, whose == is not a bool
class Projected(Optimizer):
    """Keep x within bounds: x <- min(max(step(x), low), high). The state inside is that of the
    unbounded step.

    Parameters
    ----------
    optimizer : str or optimizer
        What takes the step.
    low, high : float or array, shape (d,), default -inf, inf
        Bounds in units of x, low <= high; infinite where there is none.

    References
    ----------
    Bertsekas, On the Goldstein-Levitin-Polyak gradient projection method, IEEE Transactions on
    Automatic Control 21, 1976, equation 2.
    """

    name: ClassVar[str] = "projected"
    optimizer: FirstOrderOptimizer
    low: Array | float = -math.inf
    high: Array | float = math.inf

    def __post_init__(self) -> None:
        _resolve_inner(self)
        for name in ("low", "high"):
            object.__setattr__(self, name, _bound(name, getattr(self, name)))
        shapes = [bound.shape for bound in (self.low, self.high) if not isinstance(bound, float)]
        if len(set(shapes)) > 1:
            raise ArgumentError(
                f"low and high must have one shape, got {shapes[0]} and {shapes[1]}"
            )
        ordered: Any = self.low <= self.high  # not `low > high`: nan in a bound is refused as well
        if not (ordered if isinstance(ordered, bool) else ordered.all()):
            raise ArgumentError(
                "low must not exceed high, and neither may be nan; look for entries "
                "where not low <= high"
            )

    def init(self, x: Array, *, backend: Backend | None = None) -> Any:
        for name in ("low", "high"):
            bound = getattr(self, name)
            if not isinstance(bound, float) and bound.shape != x.shape:
                raise ArgumentError(
                    f"{name} must be a number or have the shape of x, {x.shape}, got "
                    f"shape {bound.shape}"
                )
        return bind_optimizer(self.optimizer, backend).init(x)

    def step(
        self,
        x: Array,
        g: Array,
        state: Any,
        *,
        value: float = math.nan,
        trusted: bool = True,
        donate: bool = False,
        backend: Backend | None = None,
    ) -> tuple[Array, Any]:
        x, state = bind_optimizer(self.optimizer, backend).step(
            x, g, state, value=value, trusted=trusted, donate=donate
        )
        return (backend or for_array(x)).clip(x, self.low, self.high), state


@dataclass(frozen=True, slots=True)
class BestState:
    """The state of `BestSoFar`: the state inside, and the point and value to return."""

    inner: Any
    x: Array
    value: float


@WRAPPERS.register
@dataclass(frozen=True, slots=True)
class BestSoFar(Optimizer):
    """Remember the point of the lowest value: the steps are those of the optimizer inside, bit for
    bit.

    Only steps with a known value and a true gradient count; ``best(state)`` returns the point and
    its value.

    Parameters
    ----------
    optimizer : str or optimizer
        What takes the step.

    Examples
    --------
    >>> import numpy as np
    >>> from optex_core.optimizers.sgd import SGD
    >>> from optex_core.optimizers.wrappers import BestSoFar
    >>> optimizer, x = BestSoFar(SGD(2.5)), np.array([1.0])
    >>> state = optimizer.init(x)
    >>> for _ in range(3):  # the rate is too high for |x|^2 / 2: x = 1, -1.5, 2.25
    ...     x, state = optimizer.step(x, x, state, value=float(x @ x) / 2)
    >>> optimizer.best(state)
    (array([1.]), 0.5)
    """

    name: ClassVar[str] = "best_so_far"
    needs_value: ClassVar[bool] = True
    optimizer: FirstOrderOptimizer

    def __post_init__(self) -> None:
        _resolve_inner(self)

    @property
    def affine(self) -> bool:
        """That of the optimizer inside: the steps are its own."""
        return bind_optimizer(self.optimizer).affine

    def unroll(self, state: BestState, steps: int) -> UnrolledSteps | None:
        inner = (
            bind_optimizer(self.optimizer).unroll(state.inner, steps)
            if type(self).step is BestSoFar.step
            else None
        )
        return (
            None
            if inner is None
            else replace(
                inner,
                state_after=lambda j, slots: BestState(
                    inner.state_after(j, slots), state.x, state.value
                ),
            )
        )

    def init(self, x: Array, *, backend: Backend | None = None) -> BestState:
        return BestState(
            bind_optimizer(self.optimizer, backend).init(x),
            (backend or for_array(x)).copy_in(x, x.dtype),
            math.inf,
        )

    def step(
        self,
        x: Array,
        g: Array,
        state: BestState,
        *,
        value: float = math.nan,
        trusted: bool = True,
        donate: bool = False,
        backend: Backend | None = None,
    ) -> tuple[Array, BestState]:
        best, lowest = state.x, state.value
        if trusted and value < lowest:  # never true for nan
            # before the step, which may be allowed to overwrite x
            best, lowest = (backend or for_array(x)).copy_in(x, x.dtype), float(value)
        x, inner = bind_optimizer(self.optimizer, backend).step(
            x, g, state.inner, value=value, trusted=trusted, donate=donate
        )
        return x, BestState(inner, best, lowest)

    @staticmethod
    def best(state: BestState) -> tuple[Array, float]:
        """The point of the lowest value seen, shape (d,), and that value; the start and inf as long
        as no value was seen.
        """
        return state.x, state.value


def _resolve_inner(wrapper: Any) -> None:
    """Turn a name into the optimizer, and refuse what is none."""
    object.__setattr__(wrapper, "optimizer", get_optimizer(wrapper.optimizer))


def _do_not_overlap(x: Array, g: Array) -> bool:
    """True if x may be overwritten for all that g is: the inner optimizer, which leaves alone what
    shares memory with its gradient, gets another.
    """
    return not is_cupy(x) and not np.may_share_memory(x, g)


def _bound(name: str, value: Any) -> Array | float:
    """A float, or a copy that nobody else holds: float32 if that is what came (bounds of the dtype
    of x are not cast in every step), else float64.
    """
    dtype = np.float32 if getattr(value, "dtype", None) == np.float32 else np.float64
    if is_cupy(value):
        return value.astype(dtype)
    try:
        array = reals(value).astype(dtype)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(
            f"{name} must be a number or an array of numbers, got {short_repr(value)}"
        ) from error
    if array.ndim == 0:
        return float(array)
    array.flags.writeable = False
    return array
