"""Optimizer wrappers: gradient clipping, decoupled weight decay, box constraints, best iterate.

The optimizer inside may be a built-in one, another wrapper, or any object with ``init(x)`` and
``step(x, g, state)``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Unpack

import numpy as np

from optex_core._validation import POSITIVE, check_fields, reals, short_repr, unit_interval
from optex_core.backends import for_array, is_cupy
from optex_core.backends.base import Backend
from optex_core.backends.types import Rule
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.optimizers._on_backend import OptimizerOnBackend, bind_optimizer
from optex_core.optimizers.base import (
    WRAPPERS,
    Optimizer,
    StepOptions,
    UnrolledSteps,
    get_optimizer,
)
from optex_core.optimizers.schedules import (
    LearningRate,
    StatefulSchedule,
    check_rate,
    initial_state,
    rate_at,
)
from optex_core.types import Array, FirstOrderOptimizer


def _library(x: Array, options: StepOptions) -> Backend:
    return options.get("backend") or for_array(x)


def scale_rule(xp):
    return lambda g, factor: (factor * g,)


@lru_cache(maxsize=64)
def with_decoupled_decay(rule: Rule) -> Rule:
    """`rule` from x + share x, with the share as its last scalar."""

    def decayed(xp: object) -> Callable[..., tuple[object, ...]]:
        inner = rule(xp)
        return lambda x, *rest: inner(rest[-1] * x + x, *rest[:-1])

    return decayed


@dataclass(frozen=True, slots=True)
class OptimizerWrapper(Optimizer):
    """Base of the wrappers.

    Parameters
    ----------
    optimizer : str or optimizer
        The optimizer inside.
    """

    optimizer: FirstOrderOptimizer

    def __post_init__(self) -> None:
        object.__setattr__(self, "optimizer", get_optimizer(self.optimizer))
        check_fields(self)

    def _bind(self, backend: Backend | None = None) -> OptimizerOnBackend:
        return bind_optimizer(self.optimizer, backend)

    def _step(
        self, x: Array, g: Array, state: object, options: StepOptions
    ) -> tuple[Array, object]:
        """The step of the optimizer inside."""
        value, trusted = options.get("value", math.nan), options.get("trusted", True)
        bound = self._bind(options.get("backend"))
        return bound.step(x, g, state, value=value, trusted=trusted)

    def init(self, x: Array, *, backend: Backend | None = None) -> object:
        return self._bind(backend).init(x)


class _GradientClip(OptimizerWrapper):
    """Base of the wrappers that change the gradient."""

    __slots__ = ()

    @abstractmethod
    def _clipped(self, g: Array, library: Backend) -> Array:
        """The gradient that the optimizer inside gets."""

    def step(
        self, x: Array, g: Array, state: object, **options: Unpack[StepOptions]
    ) -> tuple[Array, object]:
        g = self._clipped(g, _library(x, options))
        return self._step(x, g, state, options)


@WRAPPERS.register
@dataclass(frozen=True, slots=True)
class ClipByNorm(_GradientClip):
    """Shorten long gradients: g <- g min(1, max_norm / |g|), with the Euclidean norm.

    A shorter gradient passes unchanged, bit for bit, and so does one that is not finite, for the
    caller to notice.

    Parameters
    ----------
    max_norm : float
        Positive, in units of the gradient.

    References
    ----------
    Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks, ICML 2013,
    arXiv 1211.5063, algorithm 1.
    """

    name = "clip_by_norm"
    max_norm: float = field(metadata=POSITIVE)

    def _clipped(self, g: Array, library: Backend) -> Array:
        squares, factor = library.dot(g, g), 1.0
        if math.isinf(squares) and math.isfinite(top := library.max_abs(g)):
            # The squares of a gradient of 1e200 overflow, and it is long ones that are clipped.
            (g,) = library.apply(scale_rule, (g,), (1.0 / top,))
            squares, factor = library.dot(g, g), top
        norm = math.sqrt(squares) if math.isfinite(squares) else 0.0
        if norm * factor > self.max_norm:
            (g,) = library.apply(scale_rule, (g,), (self.max_norm / norm,))
        return g


@WRAPPERS.register
@dataclass(frozen=True, slots=True)
class ClipByValue(_GradientClip):
    """Limit every coordinate of the gradient: g <- min(max(g, -max_value), max_value).

    Parameters
    ----------
    max_value : float
        Positive, in units of the gradient.
    """

    name = "clip_by_value"
    max_value: float = field(metadata=POSITIVE)

    def _clipped(self, g: Array, library: Backend) -> Array:
        return library.clip(g, -self.max_value, self.max_value)


@dataclass(frozen=True, slots=True)
class DecayState:
    """The state of `WeightDecay`."""

    t: int  # steps taken
    inner: object  # of the optimizer inside
    schedule: tuple[float, ...] = ()  # of a stateful schedule


def _check_decay(name: str, decay: LearningRate) -> None:
    if callable(decay) or isinstance(decay, StatefulSchedule):
        check_rate(name, decay)
    else:
        unit_interval(name, decay)


@WRAPPERS.register
@dataclass(frozen=True, slots=True)
class WeightDecay(OptimizerWrapper):
    """Decoupled weight decay: x <- (1 - decay) x, then the step, with the gradient from before the
    decay.

    Unlike the `decay` of `AdamW` and `Lion`, it is not multiplied by the learning rate:
    ``AdamW(rate, decay=c)`` is ``WeightDecay(Adam(rate), rate * c)``.

    Parameters
    ----------
    decay : float or schedule
        Share of x that goes in every step: in [0, 1), or a schedule ``t -> decay``.

    References
    ----------
    Loshchilov, Hutter, Decoupled weight decay regularization, ICLR 2019, arXiv 1711.05101,
    algorithms 1 and 2.
    """

    name = "weight_decay"
    decay: LearningRate = field(metadata={"check": _check_decay})

    @property
    def affine(self) -> bool:
        """That of the optimizer inside: the decay is affine."""
        return self._bind().affine

    def unroll(self, state: DecayState, steps: int) -> UnrolledSteps | None:
        found = self._bind().unroll(state.inner, steps)
        if found is None or type(self).step is not WeightDecay.step:  # more than a rule
            return None
        start, schedule, scalars, records = state.t, state.schedule, [], []
        for t, own in enumerate(found.scalars, start):
            decay, schedule = rate_at(self.decay, t, schedule)
            scalars.append((*own, -decay))
            records.append(schedule)

        inner_after = found.state_after

        def state_after(j: int, slots: tuple[Array, ...]) -> DecayState:
            return DecayState(start + j, inner_after(j, slots), records[j - 1])

        return UnrolledSteps(with_decoupled_decay(found.rule), found.slots, scalars, state_after)

    def init(self, x: Array, *, backend: Backend | None = None) -> DecayState:
        return DecayState(0, self._bind(backend).init(x), initial_state(self.decay))

    def step(
        self, x: Array, g: Array, state: DecayState, **options: Unpack[StepOptions]
    ) -> tuple[Array, DecayState]:
        value = options.get("value", math.nan)
        decay, schedule = rate_at(self.decay, state.t, state.schedule, value)
        if decay:
            x = _library(x, options).axpy(-decay, x, x)
        x, inner = self._step(x, g, state.inner, options)
        return x, DecayState(state.t + 1, inner, schedule)


@WRAPPERS.register
@dataclass(frozen=True, slots=True, eq=False)  # bounds are arrays, whose == is not a bool
class Projected(OptimizerWrapper):
    """Keep x within bounds: x <- min(max(step(x), low), high). The state inside is that of the
    unbounded step.

    Parameters
    ----------
    low, high : float or array, shape (d,), default -inf, inf
        Bounds in units of x, low <= high; infinite where there is none.

    References
    ----------
    Bertsekas, On the Goldstein-Levitin-Polyak gradient projection method, IEEE Transactions on
    Automatic Control 21, 1976, equation 2.
    """

    name = "projected"
    low: Array | float = -math.inf
    high: Array | float = math.inf

    def __post_init__(self) -> None:
        OptimizerWrapper.__post_init__(self)
        for name in ("low", "high"):
            object.__setattr__(self, name, _bound(name, getattr(self, name)))
        shapes = [b.shape for b in (self.low, self.high) if not isinstance(b, float)]
        if len(set(shapes)) > 1:
            raise ArgumentError(
                f"low and high must have one shape, got {shapes[0]} and {shapes[1]}"
            )
        if not np.all(self.low <= self.high):  # not `low > high`: nan is refused as well
            raise ArgumentError(
                "low must not exceed high, and neither may be nan; look for entries "
                "where not low <= high"
            )

    def init(self, x: Array, *, backend: Backend | None = None) -> object:
        for name in ("low", "high"):
            bound = getattr(self, name)
            if not isinstance(bound, float) and bound.shape != x.shape:
                raise ArgumentError(
                    f"{name} must be a number or have the shape of x, "
                    f"{x.shape}, got shape {bound.shape}"
                )
        return self._bind(backend).init(x)

    def step(
        self, x: Array, g: Array, state: object, **options: Unpack[StepOptions]
    ) -> tuple[Array, object]:
        x, state = self._step(x, g, state, options)
        return _library(x, options).clip(x, self.low, self.high), state


@dataclass(frozen=True, slots=True)
class BestState:
    """The state of `BestSoFar`."""

    inner: object  # of the optimizer inside
    x: Array  # the point and the value to return
    value: float


@WRAPPERS.register
@dataclass(frozen=True, slots=True)
class BestSoFar(OptimizerWrapper):
    """Remember the point of the lowest value. The steps are those of the optimizer inside, bit for
    bit.

    Only steps with a known value and a true gradient count; ``best(state)`` returns the point and
    its value.

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

    name = "best_so_far"
    needs_value = True

    @property
    def affine(self) -> bool:
        """That of the optimizer inside: the steps are its own."""
        return self._bind().affine

    def unroll(self, state: BestState, steps: int) -> UnrolledSteps | None:
        found = self._bind().unroll(state.inner, steps)
        if found is None or type(self).step is not BestSoFar.step:  # more than a rule
            return None
        inner = found

        def state_after(j: int, slots: tuple[Array, ...]) -> BestState:
            return BestState(inner.state_after(j, slots), state.x, state.value)

        return replace(inner, state_after=state_after)

    def init(self, x: Array, *, backend: Backend | None = None) -> BestState:
        kept = (backend or for_array(x)).copy_in(x, x.dtype)
        return BestState(self._bind(backend).init(x), kept, math.inf)

    def step(
        self, x: Array, g: Array, state: BestState, **options: Unpack[StepOptions]
    ) -> tuple[Array, BestState]:
        best, lowest, value = state.x, state.value, options.get("value", math.nan)
        if options.get("trusted", True) and value < lowest:  # never true for nan
            best, lowest = _library(x, options).copy_in(x, x.dtype), float(value)
        x, inner = self._step(x, g, state.inner, options)
        return x, BestState(inner, best, lowest)

    @staticmethod
    def best(state: BestState) -> tuple[Array, float]:
        """The point of the lowest value seen, shape (d,), and that value; the start and inf as long
        as no value was seen.
        """
        return state.x, state.value


def _bound(name: str, value: Any) -> Array | float:
    """A float, or a copy that nobody else holds: float32 if it came so (bounds of the dtype of x
    are not cast in every step), else float64.
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
