"""What an optimizer is: frozen settings, pure functions of (x, g, state), and one elementwise rule
run by every backend.

The rule is written once, for NumPy arrays, for scalars inside a compiled loop, and for fused GPU
kernels alike. It may use arithmetic, comparisons and the ufuncs of `xp`; it must not branch on data
and must not contain float literals (Numba would promote float32 to float64: 110 ms instead of 48 at
d = 5e6), so derived constants are computed on the host and passed in as scalars.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from optex_core._registry import Registry
from optex_core._validation import real, short_repr
from optex_core.backends import for_array
from optex_core.backends.base import Backend, Rule
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.optimizers.schedules import LearningRate, initial_state, rate_at
from optex_core.types import Array, FirstOrderOptimizer

OPTIMIZERS: Registry[type[Optimizer]] = Registry("optimizer", "optex_core.optimizers")
#: Optimizers around another one, which is their field `optimizer`; apart, because they cannot be
#: made from a name alone.
WRAPPERS: Registry[type[Optimizer]] = Registry("wrapper", "optex_core.optimizers")


@dataclass(frozen=True, slots=True)
class ElementwiseState:
    """The state of an elementwise optimizer.

    Attributes
    ----------
    t : int
        Steps taken.
    slots : tuple of arrays, each of shape (d,)
        In the order of the property `slot_names`.
    numbers : tuple of float
        Host scalars that change with the steps.
    schedule : tuple of float
        The state of a stateful schedule, empty for the others.
    """

    t: int
    slots: tuple[Array, ...] = ()
    host_scalars: tuple[float, ...] = ()
    schedule: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class UnrolledSteps:
    """Steps to come with gradients that are estimates: what they compute is known before any of
    them is taken.

    Attributes
    ----------
    rule : Rule
        As `ElementwiseOptimizer.rule`.
    slots : tuple of arrays
        The state vectors before the first of them, in the order of the rule.
    scalars : sequence of tuples of float
        The rule's scalars, step by step.
    state_after : callable
        ``state_after(j, slots)``: the state after j >= 1 of them, with its vectors.
    """

    rule: Rule
    slots: tuple[Array, ...]
    scalars: Sequence[tuple[float, ...]]
    state_after: Callable[[int, tuple[Array, ...]], Any]


class Optimizer(ABC):
    """Base of the built-in optimizers and of the wrappers around optimizers: pure ``init`` and
    ``step``.

    ``step(x, g, state, *, value=nan, trusted=True, donate=False, backend=None)``: `value` is the
    value at x where known (schedules may read it), `trusted` tells whether g is a true gradient,
    `backend` runs the arithmetic (by default the library of x). With ``donate=True`` the caller
    gives x and state away: what is returned may stand in their memory, with the same bits, and they
    hold anything afterwards. g is never written. Elementwise rules overwrite all of them, or none
    where x or a state vector is read-only, not contiguous, or shares memory with another or with g
    (and never on a GPU); `Shampoo` and users' objects return new arrays.
    """

    name: ClassVar[str]
    #: True if the optimizer is pointless without values, so that gradient-only oracles are refused.
    needs_value: ClassVar[bool] = False

    @property
    def affine(self) -> bool:
        """True if the step is affine: new x and state vectors are sums of x, g and the old state
        vectors, times numbers that depend on t alone.

        Such steps stay in the span of a few vectors, so that several can be taken on coefficients
        alone.
        """
        return False

    def unroll(self, state: Any, steps: int) -> UnrolledSteps | None:
        """The next `steps` steps from `state`, ``step(x, g, state, trusted=False)`` each time; None
        for an optimizer that is no elementwise rule.
        """
        return None

    @abstractmethod
    def init(self, x: Array, *, backend: Backend | None = None) -> Any:
        """The state before the first step."""

    @abstractmethod
    def step(
        self,
        x: Array,
        g: Array,
        state: Any,
        *,
        value: float = float("nan"),
        trusted: bool = True,
        donate: bool = False,
        backend: Backend | None = None,
    ) -> tuple[Array, Any]:
        """The next parameters and the next state; nothing given is changed, unless it is donated."""


class ElementwiseOptimizer(Optimizer):
    """An optimizer whose step is one elementwise rule; a subclass is a frozen dataclass with
    `learning_rate` first.

    A subclass gives `slot_names`, `rule` and `scalars`; where it needs them also
    `init_host_scalars` with `next_host_scalars`, or `initial_slot_value`.
    """

    learning_rate: LearningRate

    @property
    @abstractmethod
    def slot_names(self) -> tuple[str, ...]:
        """Names of the state vectors, each of shape (d,); which there are may depend on the
        settings.
        """

    @property
    def initial_slot_value(self) -> float:
        """What every state vector holds before the first step."""
        return 0.0

    @property
    @abstractmethod
    def rule(self) -> Rule:
        """A module-level factory ``rule(xp) -> step(x, g, *slots, *scalars) -> (x, *slots)``; the
        same object for the same formula.
        """

    @abstractmethod
    def scalars(self, t: int, rate: float, host_scalars: tuple[float, ...]) -> tuple[float, ...]:
        """Host floats of step t = 1, 2, ... (one-based, as papers count), in the order of the rule;
        `rate` is the learning rate.
        """

    def init_host_scalars(self) -> tuple[float, ...]:
        """Host scalars before the first step."""
        return ()

    def next_host_scalars(self, t: int, host_scalars: tuple[float, ...]) -> tuple[float, ...]:
        """Host scalars used by step t (one-based), from those of the step before."""
        return host_scalars

    def unroll(self, state: ElementwiseState, steps: int) -> UnrolledSteps | None:
        if type(self).step is not ElementwiseOptimizer.step:  # more than its rule
            return None
        t, host_scalars, schedule = state.t, state.host_scalars, state.schedule
        scalars, records = [], []
        for _ in range(steps):
            rate, schedule = rate_at(self.learning_rate, t, schedule)
            t += 1
            host_scalars = self.next_host_scalars(t, host_scalars)
            scalars.append(self.scalars(t, rate, host_scalars))
            records.append((host_scalars, schedule))
        return UnrolledSteps(
            self.rule,
            state.slots,
            scalars,
            lambda j, slots: ElementwiseState(state.t + j, slots, *records[j - 1]),
        )

    def init(self, x: Array, *, backend: Backend | None = None) -> ElementwiseState:
        backend = backend or for_array(x)
        slots = []
        for _ in self.slot_names:
            slot = backend.zeros(len(x), x.dtype)
            if self.initial_slot_value:
                slot += self.initial_slot_value
            slots.append(slot)
        return ElementwiseState(
            0, tuple(slots), self.init_host_scalars(), initial_state(self.learning_rate)
        )

    def step(
        self,
        x: Array,
        g: Array,
        state: ElementwiseState,
        *,
        value: float = float("nan"),
        trusted: bool = True,
        donate: bool = False,
        backend: Backend | None = None,
    ) -> tuple[Array, ElementwiseState]:
        backend = backend or for_array(x)
        after, scalars = self._next(state, value)
        if g.dtype != x.dtype:  # a float64 gradient would turn float32 parameters into float64
            g = backend.copy_in(g, x.dtype)
        over = {"into": (0, *range(2, 2 + len(state.slots)))} if donate else {}
        x, *slots = backend.apply(self.rule, (x, g, *state.slots), scalars, **over)
        return x, ElementwiseState(after.t, tuple(slots), after.host_scalars, after.schedule)

    def _next(
        self, state: ElementwiseState, value: float
    ) -> tuple[ElementwiseState, tuple[float, ...]]:
        rate, schedule = rate_at(self.learning_rate, state.t, state.schedule, value)
        t = state.t + 1
        host_scalars = self.next_host_scalars(t, state.host_scalars)
        return ElementwiseState(t, (), host_scalars, schedule), self.scalars(t, rate, host_scalars)


def nonnegative_finite(name: str, value: Any) -> float:
    """A finite number that is zero or more."""
    return real(name, value, low=0.0, high=math.inf, open_high=True)


def get_optimizer(optimizer: str | FirstOrderOptimizer) -> FirstOrderOptimizer:
    """An optimizer from its registered name, or any object with ``init(x)`` and ``step(x, g,
    state)``.
    """
    if isinstance(optimizer, str):
        kind = OPTIMIZERS[optimizer]
        try:
            return kind()
        except TypeError as error:
            raise ArgumentError(
                f"optimizer {optimizer!r} has no default learning rate; pass the "
                f"object with one, such as optex_core.{kind.__name__}(0.1)"
            ) from error
    if isinstance(optimizer, type):
        raise ArgumentTypeError(
            f"optimizer must be an object, got the class {optimizer.__name__}; write "
            f"{optimizer.__name__}(...)"
        )
    if not isinstance(optimizer, FirstOrderOptimizer):
        raise ArgumentTypeError(
            f"optimizer must be a name or an object with init(x) and step(x, g, "
            f"state), got {short_repr(optimizer)}"
        )
    return optimizer
