"""Optimizers: frozen settings, pure functions of (x, g, state), and one elementwise rule.

The rule is written once. NumPy applies it to arrays, Numba compiles it into a parallel loop, CuPy
fuses it into one kernel. It uses arithmetic, comparisons and functions of `xp`. It does not branch
on data, sum over entries or keep anything between calls, and contains no float literals (they would
turn float32 loops into float64 ones, at half the speed): constants are scalars, computed on the
host.

Adding an optimizer is one new file in this folder. It is then reachable by name and as
``optex_core.optimizers.Yogi``, runs on every backend and is checked by
``optex_core.testing.check_optimizer``. State with bias correction looks like this::

    \"\"\"Yogi.\"\"\"

    from dataclasses import dataclass

    from optex_core.optimizers.base import OPTIMIZERS, ElementwiseOptimizer
    from optex_core.optimizers.schedules import LearningRate


    @OPTIMIZERS.register
    @dataclass(frozen=True, slots=True)
    class Yogi(ElementwiseOptimizer):
        \"\"\"Adam whose second moment moves by steps of bounded size.\"\"\"

        name = "yogi"
        slot_names = ("m", "v")
        learning_rate: LearningRate = 1e-2
        b1: float = 0.9
        b2: float = 0.999
        eps: float = 1e-3

        @staticmethod
        def rule(xp):
            def step(x, g, m, v, b1, c1, c2, rate, root, eps):
                m = b1 * m + c1 * g
                v = v - c2 * xp.sign(v - g * g) * g * g
                return x - rate * m / (xp.sqrt(v) / root + eps), m, v

            return step

        def scalars(self, t, rate, host_scalars):
            b1, b2 = self.b1, self.b2
            corrected, root = rate / (1 - b1**t), (1 - b2**t) ** 0.5
            return b1, 1 - b1, 1 - b2, corrected, root, self.eps
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

from optex_core._registry import Registry
from optex_core._validation import check_fields, short_repr
from optex_core.backends import for_array
from optex_core.backends._codegen_check import check_signature
from optex_core.backends.base import Backend
from optex_core.backends.types import Rule
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.optimizers.schedules import LearningRate, check_rate, initial_state, rate_at
from optex_core.types import Array, FirstOrderOptimizer

OPTIMIZERS: Registry[type[Optimizer]] = Registry("optimizer", "optex_core.optimizers")
#: Optimizers around another one, their field `optimizer`: they cannot be made from a name alone.
WRAPPERS: Registry[type[Optimizer]] = Registry("wrapper", "optex_core.optimizers")


@dataclass(frozen=True, slots=True)
class ElementwiseState:
    """The state of an elementwise optimizer."""

    t: int  # steps taken
    slots: tuple[Array, ...] = ()  # each of shape (d,), in the order of `slot_names`
    host_scalars: tuple[float, ...] = ()  # scalars that change with the steps
    schedule: tuple[float, ...] = ()  # the state of a stateful schedule


@dataclass(frozen=True, slots=True)
class UnrolledSteps:
    """Steps with predicted gradients: what they compute is known before any of them is taken."""

    rule: Rule
    slots: tuple[Array, ...]  # before the first step, in the order of the rule
    scalars: Sequence[tuple[float, ...]]  # the rule's, step by step
    #: ``state_after(j, slots)``: the state after j >= 1 steps, with its vectors. Holds no vector.
    state_after: Callable[[int, tuple[Array, ...]], object]


class StepOptions(TypedDict, total=False):
    """The keywords of `Optimizer.step`, for those that pass them on."""

    value: float
    trusted: bool
    backend: Backend | None


class Optimizer(ABC):
    """Base of the built-in optimizers and of the wrappers: pure ``init`` and ``step``."""

    name: ClassVar[str]
    #: True if the optimizer is pointless without values: gradient-only oracles are refused.
    needs_value: ClassVar[bool] = False

    @property
    def affine(self) -> bool:
        """True if the new x and state vectors are sums of x, g and the old state vectors, times
        numbers that depend on t alone.

        Such steps stay in the span of a few vectors and can be taken on coefficients.
        """
        return False

    def unroll(self, state: Any, steps: int) -> UnrolledSteps | None:
        """The next `steps` steps from `state`, each ``step(x, g, state, trusted=False)``; None for
        an optimizer that is no elementwise rule.
        """
        return None

    @abstractmethod
    def init(self, x: Array, *, backend: Backend | None = None) -> object:
        """The state before the first step."""

    @abstractmethod
    def step(
        self,
        x: Array,
        g: Array,
        state: Any,
        *,
        value: float = math.nan,
        trusted: bool = True,
        backend: Backend | None = None,
    ) -> tuple[Array, object]:
        """The next parameters and the next state; the arguments are not changed.

        Parameters
        ----------
        x, g : arrays, shape (d,)
        state : object
        value : float
            The value at `x` where it is known; schedules may read it.
        trusted : bool
            `g` was observed (evaluated, or averaged from evaluations); False: it was predicted by
            the model. It says nothing of trust regions.
        backend : Backend, optional
            Runs the arithmetic; by default the library of `x`.
        """


class ElementwiseOptimizer(Optimizer):
    """An optimizer whose step is one elementwise rule; subclasses are frozen dataclasses.

    A subclass gives `slot_names`, `rule` and `scalars`; where it needs them also
    `init_host_scalars` with `next_host_scalars`, or `initial_slot_value`.

    Parameters
    ----------
    learning_rate : float or schedule
        Positive. In units of x.
    momentum : float
        The share of the last step that is kept, in [0, 1).
    rho, alpha : float
        Decay rate of the averages, in [0, 1).
    b1 : float
        Decay rate of the first moment, in [0, 1).
    b2 : float
        Decay rate of the second moment, in [0, 1).
    eps : float
        Added outside the root, in units of the gradient; zero makes 0 / 0 where a gradient was
        always zero.
    decay : float
        Decoupled weight decay: zero or more, multiplied by the rate.
    """

    learning_rate: LearningRate

    def __post_init__(self) -> None:
        check_rate("learning_rate", self.learning_rate)
        check_fields(self)

    @property
    @abstractmethod
    def slot_names(self) -> tuple[str, ...]:
        """Names of the state vectors, each of shape (d,); they may depend on the settings."""

    @property
    def initial_slot_value(self) -> float:
        """The entries of every state vector before the first step."""
        return 0.0

    @property
    @abstractmethod
    def rule(self) -> Rule:
        """A static method, or a function at module level: ``rule(xp) -> step``, with ``step(x, g,
        *slots, *scalars) -> (x, *slots)``.
        """

    @abstractmethod
    def scalars(self, t: int, rate: float, host_scalars: tuple[float, ...]) -> tuple[float, ...]:
        """The rule's scalars in step t = 1, 2, ..., as papers count; `rate` is the schedule's."""

    def init_host_scalars(self) -> tuple[float, ...]:
        """Host scalars before the first step."""
        return ()

    def next_host_scalars(self, t: int, host_scalars: tuple[float, ...]) -> tuple[float, ...]:
        """Host scalars of step t (one-based), from those of the step before."""
        return host_scalars

    def unroll(self, state: ElementwiseState, steps: int) -> UnrolledSteps | None:
        if type(self).step is not ElementwiseOptimizer.step:  # more than its rule
            return None
        start, host_scalars, schedule = state.t, state.host_scalars, state.schedule
        t, scalars, records = start, [], []
        for _ in range(steps):
            rate, schedule = rate_at(self.learning_rate, t, schedule)
            t += 1
            host_scalars = self.next_host_scalars(t, host_scalars)
            scalars.append(self.scalars(t, rate, host_scalars))
            records.append((host_scalars, schedule))

        def state_after(j: int, slots: tuple[Array, ...]) -> ElementwiseState:
            return ElementwiseState(start + j, slots, *records[j - 1])

        return UnrolledSteps(self.rule, state.slots, scalars, state_after)

    def init(self, x: Array, *, backend: Backend | None = None) -> ElementwiseState:
        """The state before the first step.

        Raises
        ------
        ArgumentError
            If `rule` does not fit `slot_names` and `scalars`, or breaks the contract of rules.
        """
        backend, host_scalars = backend or for_array(x), self.init_host_scalars()
        if type(self).step is ElementwiseOptimizer.step:
            count = len(self.scalars(1, 1.0, self.next_host_scalars(1, host_scalars)))
            check_signature(self.rule, type(self).__name__, tuple(self.slot_names), count)
        slots = []
        for _ in self.slot_names:
            slot = backend.zeros(len(x), x.dtype)
            if self.initial_slot_value:
                slot += self.initial_slot_value
            slots.append(slot)
        return ElementwiseState(0, tuple(slots), host_scalars, initial_state(self.learning_rate))

    def step(
        self,
        x: Array,
        g: Array,
        state: ElementwiseState,
        *,
        value: float = math.nan,
        trusted: bool = True,
        backend: Backend | None = None,
    ) -> tuple[Array, ElementwiseState]:
        backend, t = backend or for_array(x), state.t + 1
        rate, schedule = rate_at(self.learning_rate, state.t, state.schedule, value)
        host_scalars = self.next_host_scalars(t, state.host_scalars)
        if g.dtype != x.dtype:  # a float64 gradient would turn float32 parameters into float64
            g = backend.copy_in(g, x.dtype)
        scalars = self.scalars(t, rate, host_scalars)
        x, *slots = backend.apply(self.rule, (x, g, *state.slots), scalars)
        return x, ElementwiseState(t, tuple(slots), host_scalars, schedule)


def get_optimizer(optimizer: str | FirstOrderOptimizer) -> FirstOrderOptimizer:
    """An optimizer from its registered name, or any object with ``init(x)`` and
    ``step(x, g, state)``.
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
            f"optimizer must be an object, got the class {optimizer.__name__}; "
            f"write {optimizer.__name__}(...)"
        )
    if not isinstance(optimizer, FirstOrderOptimizer):
        raise ArgumentTypeError(
            f"optimizer must be a name or an object with init(x) and step(x, g, state), got "
            f"{short_repr(optimizer)}"
        )
    return optimizer
