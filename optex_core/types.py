"""Protocols and records that all layers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import FrozenInstanceError, dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, final, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

#: Step number (0, 1, 2, ...) -> learning rate.
Schedule: TypeAlias = Callable[[int], float]

#: One coordinate and the number it is set to: a shifted point of a finite difference.
Perturbation: TypeAlias = tuple[int, complex]

#: The unshifted point of a finite difference.
UNPERTURBED: Perturbation = (-1, 0j)


_Method: TypeAlias = Callable[..., Any]


class Array(Protocol):  # noqa: PLW1641  (arrays have no hash)
    """A vector (d,) or a matrix of rows: numpy.ndarray, or cupy.ndarray on the GPU.

    What both have and this package uses; `backends` alone knows which it is.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def flags(self) -> Any: ...
    @property
    def ndim(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def T(self) -> Any: ...
    @property
    def astype(self) -> _Method: ...
    @property
    def copy(self) -> _Method: ...
    @property
    def reshape(self) -> _Method: ...
    @property
    def swapaxes(self) -> _Method: ...
    @property
    def view(self) -> _Method: ...
    @property
    def fill(self) -> _Method: ...
    @property
    def sum(self) -> _Method: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __getitem__(self, key: Any, /) -> Any: ...
    def __setitem__(self, key: Any, value: Any, /) -> None: ...
    def __array__(self) -> np.ndarray: ...
    def __float__(self) -> float: ...
    def __neg__(self) -> Any: ...
    def __abs__(self) -> Any: ...
    def __invert__(self) -> Any: ...
    def __add__(self, other: Any, /) -> Any: ...
    def __radd__(self, other: Any, /) -> Any: ...
    def __sub__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...
    def __rmul__(self, other: Any, /) -> Any: ...
    def __truediv__(self, other: Any, /) -> Any: ...
    def __matmul__(self, other: Any, /) -> Any: ...
    def __lt__(self, other: Any, /) -> Any: ...
    def __le__(self, other: Any, /) -> Any: ...
    def __ge__(self, other: Any, /) -> Any: ...
    def __eq__(self, other: object, /) -> Any: ...
    def __ne__(self, other: object, /) -> Any: ...


@runtime_checkable
class FirstOrderOptimizer(Protocol):
    """Optimizer as the engine calls it; any object with these two methods.

    Both methods are pure: they return new arrays and leave their arguments unchanged. ``step`` may
    also declare the keywords ``trusted`` (True where the gradient was evaluated, or averaged from
    evaluations there and nearby; False where it was predicted) and ``value`` (the value at `x`, nan
    if unknown).
    """

    def init(self, x: Array) -> Any:
        """Return the state before the first step; `x` has shape (d,)."""

    def step(self, x: Array, g: Array, state: Any) -> tuple[Array, Any]:
        """Return the next parameters, shape (d,), and the next state."""


@final
class Candidate:
    """One point whose gradient the engine asks for.

    Attributes
    ----------
    id : int
        Names the evaluation in ``tell``; grows with iteration and slot.
    x : array, shape (d,)
        The point, read-only.
    seed : int
        For stochastic gradients: a function of run seed, iteration and slot alone. Given as a call,
        it is drawn when it is read: 12 us that most functions have no use for.
    iteration : int
        Number of completed iterations.
    slot : int
        Index within the iteration. Slot 0 is theta_t itself; where its value and gradient are known
        from an earlier iteration, the slots are 1 to parallelism. The baselines
        `target` and `data_parallel` use the others for the next steps, and for theta_t again.
    """

    __slots__ = ("_seed", "id", "iteration", "slot", "x")
    id: int
    x: Array
    iteration: int
    slot: int
    _seed: int | Callable[[], int]

    def __init__(
        self,
        id: int,  # noqa: A002  (the public name)
        x: Array,
        seed: int | Callable[[], int],
        iteration: int,
        slot: int,
    ) -> None:
        put = object.__setattr__  # five fields: a frozen dataclass does the same
        put(self, "id", id)
        put(self, "x", x)
        put(self, "_seed", seed)
        put(self, "iteration", iteration)
        put(self, "slot", slot)

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"cannot assign to {name!r}: a candidate is what was asked for")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete {name!r}: a candidate is what was asked for")

    def __reduce__(self) -> tuple[object, ...]:
        return Candidate, (self.id, self.x, self.seed, self.iteration, self.slot)

    @property
    def seed(self) -> int:
        return self._seed() if callable(self._seed) else self._seed

    def __repr__(self) -> str:
        named = f"id={self.id}, seed={self.seed}, iteration={self.iteration}, slot={self.slot}"
        return f"Candidate({named}, x={self.x!r})"


@dataclass(frozen=True, slots=True)
class Context:
    """Identity of an evaluation, passed to a callable that has a parameter ``ctx``.

    Attributes
    ----------
    id, seed, iteration, slot : int
        As in `Candidate`.
    attempt : int
        Number of earlier attempts at this point.
    workdir : str or None
        Work directory of this evaluation, where an adapter makes one.
    deadline : float or None
        Seconds this evaluation may take; None: no limit.
    """

    id: int
    seed: int
    iteration: int
    slot: int
    attempt: int = 0
    workdir: str | None = None
    deadline: float | None = None


#: Of a call that no run makes.
OUTSIDE_A_RUN = Context(id=0, seed=0, iteration=0, slot=0)


@dataclass(frozen=True, slots=True)
class Task:
    """One call to be made: a candidate, or one point of its finite difference."""

    id: int  # that of the candidate, unless this is one call of several
    candidate: Candidate
    attempt: int = 0  # number of earlier attempts
    #: Seconds the evaluation may take; told to user code, enforced by whoever waits.
    deadline: float | None = None
    perturbation: Perturbation | None = None  # the shift of this call; None for a whole evaluation

    @property
    def key(self) -> tuple[int, int]:
        """(id, attempt): unique among pending tasks."""
        return self.id, self.attempt

    @property
    def context(self) -> Context:
        """Context of the evaluation; equal for all calls of one finite difference."""
        c = self.candidate
        return Context(c.id, c.seed, c.iteration, c.slot, self.attempt, None, self.deadline)


class DifferenceScheme(Protocol):
    """Finite difference as separate calls: at x, and at points that differ in one coordinate."""

    @property
    def perturbations(self) -> Sequence[Perturbation]:
        """The shifted points."""

    def refined(self, values: Sequence[complex]) -> DifferenceScheme | None:
        """Shifted points to be used in place of these, given all values so far, that at x first;
        None where these suffice.
        """

    def assemble(self, values: Sequence[complex]) -> tuple[float, Array]:
        """Value and gradient from the values at x and at the shifted points, in that order."""


@dataclass(slots=True)
class CallCounts:
    """Calls of user code during one evaluation, counted before each call, so that a call that
    raises is counted too.
    """

    nfev: int = 0  # calls that compute a value (rows, for a vectorized callable)
    njev: int = 0  # gradients begun
    #: The value, as soon as it is known: it is reported even if the gradient then fails.
    value: float | None = None


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Result of one evaluation: from the objective, through a worker, to the driver."""

    #: None where only gradients are computed, or where it failed before a value was known.
    value: float | None
    #: shape (d,): a copy, in the dtype of x0, not checked for nan; None where it failed.
    gradient: Array | None
    #: Calls made, as in `CallCounts`, those before a failure included.
    nfev: int = 0
    njev: int = 0
    seconds: float = 0.0  # duration; an equal share per row of a vectorized call
    #: What user code raised. An `ObjectiveError`, or anything that is no Exception, ends the run.
    error: BaseException | None = None
    traceback: str = ""  # of `error`, as text: tracebacks do not travel between processes
    task: Task | None = None  # added by the evaluator; None within a worker

    @property
    def candidate(self) -> Candidate:
        """Candidate that was evaluated."""
        assert self.task is not None
        return self.task.candidate

    @property
    def attempt(self) -> int:
        """Number of earlier attempts."""
        assert self.task is not None
        return self.task.attempt


@runtime_checkable
class ObjectiveProtocol(Protocol):
    """Objective as evaluators call it: one picklable object."""

    @property
    def name(self) -> str:
        """Name in error messages."""

    @property
    def vectorized(self) -> bool:
        """True where `evaluate_batch` takes all points in one call."""

    def evaluate(
        self, x: Array, context: Context, counts: CallCounts | None = None
    ) -> EvaluationResult:
        """Evaluate the point `x`, shape (d,). Exceptions of user code propagate; `counts` then
        holds the calls made.
        """

    def evaluate_batch(
        self, xs: Sequence[Array], contexts: Sequence[Context], counts: CallCounts | None = None
    ) -> list[EvaluationResult]:
        """Evaluate n points, each of shape (d,), in one call of user code."""
