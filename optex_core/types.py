"""The words that all layers share: protocols and small records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

#: A flat vector or a matrix of rows: numpy.ndarray, or cupy.ndarray on the GPU. Its library is
#: known to `backends` alone.
Array: TypeAlias = Any

#: step number (0, 1, 2, ...) -> learning rate
Schedule: TypeAlias = Callable[[int], float]


@runtime_checkable
class FirstOrderOptimizer(Protocol):
    """What the engine needs of an optimizer; a user's own object may be anything that has it.

    Both methods are pure: they return new arrays and leave what they were given as it was. ``step``
    may also declare the keywords ``trusted`` (True where the gradient was evaluated, or averaged
    from what was evaluated there and nearby; False where it was predicted) and ``value`` (the value
    at `x`, nan if unknown).
    """

    def init(self, x: Array) -> Any:
        """Return the state before the first step; `x` has shape (d,)."""
        ...

    def step(self, x: Array, g: Array, state: Any) -> tuple[Array, Any]:
        """Return the next parameters, shape (d,), and the next state."""
        ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """One point whose gradient the engine asks for.

    Attributes
    ----------
    id : int
        Names the evaluation in ``tell``; equal to ``iteration * parallelism + slot``.
    x : array, shape (d,)
        The point, read-only.
    seed : int
        For stochastic gradients: the same for the same run seed, iteration and slot, whatever
        executes it.
    iteration : int
        Rounds advanced before this one.
    slot : int
        Place in the round, 0 to parallelism - 1; slot 0 is theta_t itself (the baselines `target`
        and `data_parallel` fill the others with the steps that follow, and with theta_t again).
    """

    id: int
    x: Array
    seed: int
    iteration: int
    slot: int


@dataclass(frozen=True, slots=True)
class Context:
    """What a callable with a parameter ``ctx`` is told about its evaluation.

    Attributes
    ----------
    id, seed, iteration, slot : int
        As in `Candidate`.
    attempt : int
        0, or how often this point was tried before.
    workdir : str or None
        A folder of its own for this evaluation, where an adapter makes one.
    deadline : float or None
        Seconds this evaluation may take, None without a limit.
    """

    id: int
    seed: int
    iteration: int
    slot: int
    attempt: int = 0
    workdir: str | None = None
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class StencilCandidate(Candidate):
    """One call of an evaluation that is spread over several tasks.

    Attributes
    ----------
    id : int
        Of this call; the other fields of `Candidate` are those of the evaluation.
    parent_id : int
        The evaluation's id.
    perturbation : tuple of (int, number), or None
        The coordinate that is set to another number for this call; None: the point itself.
    """

    parent_id: int
    perturbation: tuple[int, complex] | None


@dataclass(frozen=True, slots=True)
class StencilContext(Context):
    """The context of a `StencilCandidate`, with its `perturbation`; user code is given it as any
    other.
    """

    perturbation: tuple[int, complex] | None = None


class DifferenceScheme(Protocol):
    """An evaluation as several calls at points that differ from x in one coordinate each; the first
    call is at x itself.
    """

    @property
    def perturbations(self) -> Sequence[tuple[int, complex]]:
        """The other calls."""
        ...

    def refined(self, values: Sequence[complex]) -> DifferenceScheme | None:
        """Other calls that are needed in place of these, given the values of all of them, that at x
        first; None where they suffice.
        """
        ...

    def assemble(self, values: Sequence[complex]) -> tuple[float, Array]:
        """Value and gradient from the values of all calls, that at x first."""
        ...


@dataclass(slots=True)
class CallCounts:
    """How often user code was called during one evaluation; filled while it runs, so that a call
    that raises is counted too.

    Attributes
    ----------
    nfev : int
        Calls that compute a value (rows, for a vectorized callable).
    njev : int
        Gradients begun.
    value : float or None
        The value, once it is known: it is worth telling even where the gradient then fails.
    """

    nfev: int = 0
    njev: int = 0
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one point gave.

    Attributes
    ----------
    value : float or None
        None where only gradients are computed.
    gradient : array, shape (d,)
        A copy, in the dtype of x0; not checked for nan.
    nfev, njev : int
        Calls made for it, as in `CallCounts`.
    seconds : float
        Time it took; an equal share of it per row of a vectorized call.
    """

    value: float | None
    gradient: Array
    nfev: int
    njev: int
    seconds: float


@runtime_checkable
class ObjectiveProtocol(Protocol):
    """What runs evaluations needs of an objective: one picklable object that turns a point into a
    value and a gradient.
    """

    @property
    def name(self) -> str:
        """Named in error messages."""
        ...

    @property
    def vectorized(self) -> bool:
        """True where `evaluate_batch` takes all points in one call."""
        ...

    def evaluate(self, x: Array, context: Context, counts: CallCounts | None = None) -> Evaluation:
        """Evaluate the point `x`, shape (d,); whatever user code raises passes through, and
        `counts` says how far it got.
        """
        ...

    def evaluate_batch(
        self, xs: Sequence[Array], contexts: Sequence[Context], counts: CallCounts | None = None
    ) -> list[Evaluation]:
        """Evaluate n points, each of shape (d,), in one call of the user's code."""
        ...
