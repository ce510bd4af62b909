"""Learning rates as functions of the optimizer's step number t = 0, 1, 2, ...

Any callable ``t -> rate`` is a schedule. `ReduceOnPlateau` also reads values.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from optex_core._registry import Registry
from optex_core._validation import (
    NONNEGATIVE,
    OPEN_UNIT_INTERVAL,
    POSITIVE,
    UNIT_INTERVAL,
    callable_,
    check_fields,
    checked_by,
    integer,
    positive,
    real,
    short_repr,
)
from optex_core.errors import ArgumentError, ArgumentTypeError

SCHEDULES: Registry[type[Schedule | StatefulSchedule]] = Registry("schedule", __name__)


class Schedule(ABC):
    """A learning rate that depends on the step number alone.

    Parameters
    ----------
    initial : float
        Positive, the rate at t = 0.
    inner : float or callable
        The rate that is changed, a positive number or a schedule ``t -> rate``.
    steps : int
        The length, in steps.
    every : int
        Steps in which the rate falls by the factor.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def __call__(self, t: int) -> float:
        """The rate of step t = 0, 1, ..."""


class StatefulSchedule(ABC):
    """A learning rate that also depends on the values seen so far: frozen settings, and a state of
    floats that the optimizer keeps.

    It is not callable, since it has no rate without its state. Every method is pure.
    """

    name: ClassVar[str]

    @abstractmethod
    def initial(self) -> tuple[float, ...]:
        """The state before the first value."""

    @abstractmethod
    def observe(self, state: tuple[float, ...], value: float) -> tuple[float, ...]:
        """The state after one more value; nan is an unknown value and changes nothing."""

    @abstractmethod
    def rate(self, t: int, state: tuple[float, ...]) -> float:
        """The rate of step t = 0, 1, ... in this state."""


#: What an optimizer accepts as its learning rate.
LearningRate: TypeAlias = float | Callable[[int], float] | StatefulSchedule


def check_rate(name: str, rate: LearningRate) -> None:
    """Refuse what is neither a positive number, nor a callable ``t -> rate``, nor a
    `StatefulSchedule`.
    """
    if isinstance(rate, type):
        raise ArgumentTypeError(
            f"{name} must be a number or a schedule object, got the class "
            f"{rate.__name__}; write {rate.__name__}(...)"
        )
    if isinstance(rate, StatefulSchedule):
        return
    if callable(rate):
        callable_(name, rate, "the number of steps taken")
    else:
        positive(name, rate)


def _check_inner(wrapper: Schedule | StatefulSchedule, inner: LearningRate, advice: str) -> None:
    """Refuse a schedule inside another that needs a state of its own."""
    kind = type(inner).__name__
    if isinstance(inner, StatefulSchedule):
        raise ArgumentTypeError(
            f"{type(wrapper).__name__} cannot wrap {kind}, which needs its own state; "
            f"{advice.format(kind)}"
        )
    check_rate("inner", inner)


def initial_state(rate: LearningRate) -> tuple[float, ...]:
    """The state of `rate` before the first step; empty unless it is a `StatefulSchedule`."""
    return rate.initial() if isinstance(rate, StatefulSchedule) else ()


def rate_at(
    rate: LearningRate, t: int, state: tuple[float, ...] = (), value: float = math.nan
) -> tuple[float, tuple[float, ...]]:
    """The rate of step t = 0, 1, ... and the next state, from the `state` before (at first that of
    `initial_state`) and the value at the present parameters, nan if it is not known.

    ArgumentError or ArgumentTypeError, which name the schedule and t, if it returns no number, or
    one that is negative, nan or infinite.
    """
    if type(rate) is float:  # nearly always, and once per predicted step
        return rate, state
    if isinstance(rate, StatefulSchedule):
        state = rate.observe(state, value)
        result = rate.rate(t, state)
    elif callable(rate):
        result = rate(t)
    else:
        return float(rate), state
    try:
        number = float(result)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(
            f"the schedule {short_repr(rate)} must return a number, got "
            f"{short_repr(result)} at step t = {t}"
        ) from error
    if not 0.0 <= number < math.inf:
        raise ArgumentError(
            f"the schedule {short_repr(rate)} must return a finite rate >= 0, got "
            f"{number!r} at step t = {t}"
        )
    return number, state


@SCHEDULES.register
@dataclass(frozen=True, slots=True)
class Constant(Schedule):
    """rate(t) = value, which is positive: the same as passing the number.

    Parameters
    ----------
    value : float
    """

    name = "constant"
    value: float = field(metadata=POSITIVE)

    def __call__(self, t: int) -> float:
        return self.value


@SCHEDULES.register
@dataclass(frozen=True, slots=True)
class Exponential(Schedule):
    """rate(t) = initial decay^(t / every): smooth decay, by the factor `decay` every so many steps.

    Parameters
    ----------
    decay : float
        In (0, 1].
    """

    name = "exponential"
    initial: float = field(metadata=POSITIVE)
    decay: float = field(metadata=checked_by(real, low=0.0, high=1.0, open_low=True))
    every: int = field(default=1, metadata=checked_by(integer, low=1))

    def __call__(self, t: int) -> float:
        return self.initial * self.decay ** (t / self.every)


@SCHEDULES.register
@dataclass(frozen=True, slots=True)
class Step(Schedule):
    """rate(t) = initial factor^floor(t / every): constant stretches.

    Parameters
    ----------
    factor : float, default 0.1
        Positive, between one stretch and the next.
    """

    name = "step"
    initial: float = field(metadata=POSITIVE)
    every: int = field(metadata=checked_by(integer, low=1))
    factor: float = field(default=0.1, metadata=POSITIVE)

    def __call__(self, t: int) -> float:
        return float(self.initial * self.factor ** (t // self.every))


@SCHEDULES.register
@dataclass(frozen=True, slots=True)
class Cosine(Schedule):
    """rate(t) = final + (initial - final) (1 + cos(pi t / steps)) / 2 up to t = steps, `final` from
    there on.

    Parameters
    ----------
    final : float, default 0
        At most `initial`.

    References
    ----------
    Loshchilov, Hutter, SGDR: stochastic gradient descent with warm restarts, ICLR 2017, arXiv
    1608.03983, equation 5, one period.
    """

    name = "cosine"
    initial: float = field(metadata=POSITIVE)
    steps: int = field(metadata=checked_by(integer, low=1))
    final: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        real("final", self.final, low=0.0, high=self.initial)

    def __call__(self, t: int) -> float:
        return _half_wave(self.initial, self.final, min(t / self.steps, 1.0))


@SCHEDULES.register
@dataclass(frozen=True, slots=True)
class WarmUp(Schedule):
    """rate(t) = inner(0) (t + 1) / (steps + 1) for t < steps, then inner(t - steps).

    The line starts at t = -1: no step has rate zero, and no gradient is evaluated for nothing.

    Parameters
    ----------
    steps : int
        Length of the warm-up; 0 is none.

    Examples
    --------
    >>> from optex_core.optimizers.schedules import Cosine, WarmUp
    >>> schedule = WarmUp(Cosine(1.0, 2), 3)
    >>> [round(schedule(t), 3) for t in range(7)]
    [0.25, 0.5, 0.75, 1.0, 0.5, 0.0, 0.0]
    """

    name = "warm_up"
    inner: float | Callable[[int], float]
    steps: int = field(metadata=checked_by(integer, low=0))

    def __post_init__(self) -> None:
        _check_inner(self, self.inner, "put the warm-up inside: {}(WarmUp(rate, steps))")
        check_fields(self)

    def __call__(self, t: int) -> float:
        after = max(t - self.steps, 0)
        rate = self.inner(after) if callable(self.inner) else self.inner
        return rate * (t + 1) / (self.steps + 1) if t < self.steps else rate


@SCHEDULES.register
@dataclass(frozen=True, slots=True)
class OneCycle(Schedule):
    """Half a cosine wave up from highest / divisor to `highest`, then half a wave down to highest /
    (divisor final_divisor), held from there on.

    The top is at t = rise steps - 1, the end at t = steps - 1. Momentum is not cycled.

    Parameters
    ----------
    highest : float
        Positive.
    steps : int
        Length of the cycle; `rise` times it must exceed one step.
    rise : float, default 0.3
        Fraction of the cycle that goes up, in (0, 1).
    divisor : float, default 25
        At least 1.
    final_divisor : float, default 1e4
        At least 1.

    References
    ----------
    Smith, Topin, Super-convergence, arXiv 1708.07120, section 2; the cosine form and the defaults
    are PyTorch's.
    """

    name = "one_cycle"
    highest: float = field(metadata=POSITIVE)
    steps: int = field(metadata=checked_by(integer, low=2))
    rise: float = field(default=0.3, metadata=OPEN_UNIT_INTERVAL)
    divisor: float = field(default=25.0, metadata=checked_by(real, low=1.0))
    final_divisor: float = field(default=1e4, metadata=checked_by(real, low=1.0))

    def __post_init__(self) -> None:
        check_fields(self)
        if self.rise * self.steps <= 1:
            raise ArgumentError(
                f"rise * steps must exceed 1, got {self.rise:g} * {self.steps}; raise one of them"
            )

    def __call__(self, t: int) -> float:
        lowest = self.highest / self.divisor
        top, end = self.rise * self.steps - 1, self.steps - 1
        if t <= top:
            return _half_wave(lowest, self.highest, t / top)
        share = min((t - top) / (end - top), 1.0)
        return _half_wave(self.highest, lowest / self.final_divisor, share)


@SCHEDULES.register
@dataclass(frozen=True, slots=True)
class ReduceOnPlateau(StatefulSchedule):
    """rate(t) = max(c inner(t), min(lowest, inner(t))), c multiplied by `factor` after more than
    `patience` values in a row without a new best.

    A value v is a new best if v < best - threshold |best|. Unlike PyTorch's relative rule, best (1
    - threshold), this also works below zero.

    Parameters
    ----------
    inner : float or callable
        The rate that is reduced, such as `WarmUp`: a positive number or a schedule ``t -> rate``.
    factor : float, default 0.1
        In (0, 1).
    patience : int, default 10
        Values without a new best that are allowed.
    threshold : float, default 1e-4
        Relative, in [0, 1).
    cooldown : int, default 0
        Values after a reduction that are not counted.
    lowest : float, default 0
        The rate is not reduced below it.

    Examples
    --------
    >>> from optex_core.optimizers.schedules import ReduceOnPlateau
    >>> schedule = ReduceOnPlateau(0.8, factor=0.5, patience=1)
    >>> state = schedule.initial()
    >>> for value in [3.0, 2.0, 2.0, 2.0]:
    ...     state = schedule.observe(state, value)
    >>> schedule.rate(4, state)
    0.4
    """

    name = "reduce_on_plateau"
    inner: float | Callable[[int], float]
    factor: float = field(default=0.1, metadata=OPEN_UNIT_INTERVAL)
    patience: int = field(default=10, metadata=checked_by(integer, low=0))
    threshold: float = field(default=1e-4, metadata=UNIT_INTERVAL)
    cooldown: int = field(default=0, metadata=checked_by(integer, low=0))
    lowest: float = field(default=0.0, metadata=NONNEGATIVE)

    def __post_init__(self) -> None:
        _check_inner(self, self.inner, "pass a number or a callable")
        check_fields(self)

    def initial(self) -> tuple[float, ...]:
        """(best value, values in a row without a new best, values left in the cooldown,
        reductions).
        """
        return math.inf, 0.0, 0.0, 0.0

    def observe(self, state: tuple[float, ...], value: float) -> tuple[float, ...]:
        if math.isnan(value):
            return state
        best, bad, cooling, reductions = state
        # inf - threshold * inf would be nan.
        limit = best if math.isinf(best) else best - self.threshold * abs(best)
        best, bad = (float(value), 0.0) if value < limit else (best, bad + 1)
        if cooling > 0:
            cooling, bad = cooling - 1, 0.0
        if bad > self.patience:
            return best, 0.0, float(self.cooldown), reductions + 1
        return best, bad, cooling, reductions

    def rate(self, t: int, state: tuple[float, ...]) -> float:
        inner = self.inner(t) if callable(self.inner) else self.inner
        return max(inner * self.factor ** state[3], min(self.lowest, inner))


def _half_wave(start: float, end: float, share: float) -> float:
    """`start` at share 0, `end` at share 1, along half a cosine."""
    return end + (start - end) * (1.0 + math.cos(math.pi * share)) / 2.0
