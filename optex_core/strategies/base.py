"""What a strategy is: which points to evaluate in a round, and where to go with what came back.
Pure decisions over records.

A round is: ``plan`` (predict, no user code) -> the engine has the points evaluated -> the new rows
enter the history -> ``advance``. The strategy's own memory is a small frozen record of numbers and
arrays, so that a checkpoint can hold it; settings are the strategy's fields.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from optex_core._registry import Registry
from optex_core._validation import short_repr
from optex_core.backends.base import Backend, FusedSteps, PredictedStep
from optex_core.errors import ArgumentTypeError
from optex_core.model.estimator import Posterior
from optex_core.optimizers.base import UnrolledSteps
from optex_core.types import Array

STRATEGIES: Registry[type[Strategy]] = Registry("strategy", "optex_core.strategies")


def _as_it_is(x: Array) -> Array:
    return x


def _one_by_one(*_given: Any) -> None:
    return None


@dataclass(frozen=True, slots=True)
class EngineView:
    """What a strategy sees of the run; nothing in it may be written.

    Attributes
    ----------
    parallelism : int
        N, the most points of a round.
    x : array, shape (d,)
        theta_t.
    state : object
        The optimizer's state at theta_t.
    step : callable
        ``step(x, g, state, value=nan, trusted=True) -> (x, state)``: the optimizer (FO-OPT).
    posterior : callable
        ``posterior() -> Posterior or None``: the estimator fitted to the history as it is now; None
        while it is empty.
    backend : Backend
    scale : array, shape (d,), or None
        Units of the parameters.
    project : callable
        A point moved into the bounds; the point itself without any.
    overhead : float
        Our own time over the gradients' time in the last round, where the driver has told it; else
        0.
    fused_steps : callable
        As `BoundOptimizer.fused_steps`: predicted steps in fewer calls, or None.
    expect : callable
        ``prefetch_distances(x)`` before `posterior`: steps will be predicted from the array `x`.
        What the fit reads of the rows then serves both.
    """

    parallelism: int
    x: Array
    state: Any
    step: Callable[..., tuple[Array, Any]]
    posterior: Callable[[], Posterior | None]
    backend: Backend
    scale: Array | None = None
    project: Callable[[Array], Array] = _as_it_is
    overhead: float = 0.0
    fused_steps: Callable[..., tuple[FusedSteps, UnrolledSteps] | None] = _one_by_one
    prefetch_distances: Callable[[Array], None] = _one_by_one

    # Predicted points, gradients and states may live as arrays or as coefficients (affine.py). A
    # strategy takes them from `rollout_start`, hands them to `rollout`, `step`, `posterior().mean`,
    # `squared_norm` and `distance`, and has `materialize` make arrays of what it puts into its plan
    # or its advance.

    def rollout_start(self) -> tuple[Any, Any]:
        """theta_t and the optimizer's state there, as what a prediction starts from; called in
        `plan`, before anything is predicted.
        """
        return self.x, self.state

    def lift(self, x: Any, state: Any) -> tuple[Any, Any]:
        """The same for a point and state that a step with a true gradient has led to."""
        return x, state

    def is_finite(self, x: Any) -> bool:
        """True if every entry of the point is a finite number."""
        return self.backend.all_finite(x)

    def materialize(
        self, points: Sequence[Any], states: Sequence[Any] = ()
    ) -> tuple[list[Array], list[Any]]:
        """Points and states as arrays; those of a plan while it is made or in
        `filter_observations`, before the round's rows push others out of the history.
        """
        return list(points), list(states)

    def average(self, gradients: Sequence[Array]) -> Array:
        """The mean of told gradients."""
        return self.backend.mean(gradients)

    def prediction_error(self, mean: Any, gradient: Array) -> float:
        """|mean - gradient|; nan where it can no longer be known."""
        return math.sqrt(self.backend.squared_distance(mean, gradient))

    def squared_norm(self, g: Array) -> float:
        """|scale g|^2: a gradient in the units of the estimator's noise."""
        scaled = g if self.scale is None else g * self.scale
        return self.backend.dot(scaled, scaled)

    def distance(self, a: Array, b: Array) -> float:
        """|(a - b) / scale|."""
        return math.sqrt(self.backend.squared_distance(a, b, self.scale))

    def rollout(
        self,
        posterior: Posterior,
        x: Any,
        state: Any,
        steps: int,
        reference_path: Sequence[Any] = (),
    ) -> Rollout:
        """What takes at most `steps` predicted steps from a point and state, as `rollout_start` and
        `lift` gave them, along the path `reference_path`.
        """
        chain = self.fused_steps(posterior, x, state, steps, not reference_path)
        return (
            PlainRollout(self, posterior, x, state, reference_path)
            if chain is None
            else FusedRollout(self, posterior, x, state, reference_path, *chain)
        )


class Rollout(ABC):
    """Predicted steps, one after the other: the estimated gradient where one is, then the
    optimizer's step with it.
    """

    @property
    @abstractmethod
    def x(self) -> Any:
        """The point where one is."""

    @property
    @abstractmethod
    def state(self) -> Any:
        """The optimizer's state there."""

    @abstractmethod
    def mean(self) -> Any:
        """mu(x)."""

    @abstractmethod
    def mean_and_noise_factor(self) -> tuple[Any, float]:
        """mu(x), and |w|^2 as `Posterior.mean_and_noise_factor` has it."""

    @abstractmethod
    def step(self) -> bool:
        """Take the step; False, and no step, where it would leave the finite numbers."""

    def cache_distances(self) -> None:  # noqa: B027  (nothing to keep is an answer)
        """Have what is known of x kept for the row that it becomes if it is evaluated."""

    @abstractmethod
    def path_length(self, j: int) -> float:
        """|(z_j - z_0) / scale| on the path z_0, z_1, ... that the walk goes along."""

    @abstractmethod
    def distance_to_path(self, j: int) -> float:
        """|(x - z_j) / scale|; nan where that can no longer be known."""


class PlainRollout(Rollout):
    """A walk for any point, posterior and optimizer.

    Parameters
    ----------
    view : View
    posterior : Posterior
    x, state : point and state to begin at
    beside : sequence of points
        The path that the walk goes along.
    """

    def __init__(
        self,
        view: EngineView,
        posterior: Posterior,
        x: Any,
        state: Any,
        reference_path: Sequence[Any] = (),
    ) -> None:
        self._view, self._posterior, self._reference_path = view, posterior, reference_path
        self._x, self._state = x, state
        self._mean: Any = None

    @property
    def x(self) -> Any:
        return self._x

    @property
    def state(self) -> Any:
        return self._state

    def mean(self) -> Any:
        if self._mean is None:
            self._mean = self._posterior.mean(self._x)
        return self._mean

    def mean_and_noise_factor(self) -> tuple[Any, float]:
        self._mean, left = self._posterior.mean_and_noise_factor(self._x)
        return self._mean, left

    def step(self) -> bool:
        x, state = self._view.step(self._x, self.mean(), self._state, trusted=False)
        self._mean = None
        if not self._view.is_finite(x):
            return False
        self._x, self._state = x, state
        return True

    def path_length(self, j: int) -> float:
        return self._view.distance(self._reference_path[j], self._reference_path[0])

    def distance_to_path(self, j: int) -> float:
        return self._view.distance(self._x, self._reference_path[j])


class FusedRollout(PlainRollout):
    """The same with steps that a backend takes in fewer calls, estimate and step in one.

    Parameters
    ----------
    chain : FusedSteps
    ahead : Unrolled
        What its steps compute.
    """

    def __init__(
        self,
        view: EngineView,
        posterior: Posterior,
        x: Any,
        state: Any,
        reference_path: Sequence[Any],
        chain: FusedSteps,
        ahead: UnrolledSteps,
    ) -> None:
        super().__init__(view, posterior, x, state, reference_path)
        self._chain, self._ahead, self._taken = chain, ahead, 0
        self._next: PredictedStep | None = None
        self._known = False
        self._distances: np.ndarray | None = None

    def _look(self, mean: bool) -> PredictedStep | None:
        """The step from here, with its estimate or without."""
        if not self._known and self._taken < len(self._ahead.scalars):
            self._next, self._known = self._chain.next(mean), True
        return self._next

    def mean(self) -> Any:
        found = self._look(True)
        return super().mean() if found is None else found.mean

    def mean_and_noise_factor(self) -> tuple[Any, float]:
        found = self._look(True)
        return (
            super().mean_and_noise_factor() if found is None else (found.mean, found.noise_factor)
        )

    def step(self) -> bool:
        found = self._look(False)
        if found is None:
            return False
        self._taken += 1
        self._x, self._state, self._distances = (
            found.x,
            self._ahead.state_after(self._taken, found.slots),
            found.distances,
        )
        self._known, self._next, self._mean = False, None, None
        return True

    def cache_distances(self) -> None:
        if self._distances is not None:
            self._posterior.history.cache_distances(self._x, self._distances)


@dataclass(frozen=True, slots=True)
class Proposal:
    """The points of a round.

    Attributes
    ----------
    points : sequence of arrays, each of shape (d,)
        What is evaluated, in slot order; point 0 is theta_t.
    predictions : sequence of (array or None)
        mu at the points, where it was predicted: for the report, which lets each go when its
        gradient is there. A strategy that tests trust with them keeps them in `cache`.
    predicted_steps : int
        Optimizer steps predicted, including the first.
    cache : object
        Anything `advance` needs again; never saved: an interrupted round is planned anew, with the
        same bits.
    """

    points: Sequence[Array]
    predictions: Sequence[Array | None] = ()
    predicted_steps: int = 1
    cache: Any = None


@dataclass(frozen=True, slots=True)
class Observation:
    """One usable evaluation; None stands in its place when there is none.

    Attributes
    ----------
    gradient : array, shape (d,)
        None in `Strategy.advance` where `Strategy.required_gradients` does not ask for it.
    square : float
        |gradient|^2, as `Backend.dot` gives it: one pass tells whether the gradient is finite, how
        far the prediction missed it and what to believe.
    value : float
        nan where there is none.
    """

    gradient: Array
    squared_norm: float
    value: float = math.nan


@dataclass(frozen=True, slots=True)
class Update:
    """Where the round ends.

    Attributes
    ----------
    x : array, shape (d,)
        theta_{t+1}.
    state : object
        The optimizer's state there.
    memory : object
        The strategy's memory for the next round.
    steps : int
        Optimizer steps taken: what schedules and `nsteps` count.
    complete : bool
        False: the iteration goes on with another ask (the baseline `target`).
    timed : bool
        True if a measured time changed the outcome: the run is then not deterministic.
    note : str
        What is out of the ordinary, for the trace.
    observation : Observation or None
        Value and gradient at `x` where it is a point of this round: it is not evaluated again.
        With ``complete=False`` it is theta_t, whose evaluation this round was.
    stalled : bool
        No lower value can be found: the run ends at `x`.
    """

    x: Array
    state: Any
    strategy_state: Any
    steps: int = 1
    complete: bool = True
    depends_on_timing: bool = False
    note: str = ""
    observation: Observation | None = None
    stalled: bool = False


@dataclass(frozen=True, slots=True)
class NoState:
    """The memory of a strategy that remembers nothing."""


@dataclass(frozen=True, slots=True)
class Strategy(ABC):
    """Base of all strategies: frozen settings and two pure functions.

    Class attributes declare what it needs, and are checked at the door.
    """

    name: ClassVar[str]
    #: Rows are kept and the estimator is fitted.
    uses_history: ClassVar[bool] = True
    #: The value and gradient of theta_t are means over the round, not those of slot 0.
    averages_gradients: ClassVar[bool] = False
    #: theta_t may be a point of an earlier round: it is then not evaluated again, and the points of
    #: a round have the slots 1, 2, ...
    reuses_observations: ClassVar[bool] = False
    #: Gradients that are far longer than that of theta_t are left out by `filter_observations`.
    rejects_outliers: ClassVar[bool] = False
    #: The prior mean taken when the estimator's settings name none.
    mean: ClassVar[str] = "constant"

    @property
    def needs_values(self) -> bool:
        """True if values decide: a gradient-only oracle is then refused."""
        return False

    def init(self, view: EngineView) -> Any:
        """The memory before the first round."""
        return NoState()

    def filter_observations(
        self, view: EngineView, proposal: Proposal, observations: Sequence[Observation | None]
    ) -> Sequence[Observation | None]:
        """What of a round is taken as data: only this enters the history and reaches `advance`.
        Slot 0 must stay.
        """
        return observations

    def required_gradients(
        self, view: EngineView, observations: Sequence[Observation | None]
    ) -> Collection[int]:
        """Slots whose gradients `advance` reads: of the others it is told the size and value alone,
        as their memory is let go once they are rows.
        """
        return range(len(observations))

    @abstractmethod
    def plan(self, view: EngineView, strategy_state: Any) -> Proposal:
        """Choose the points of this round."""

    @abstractmethod
    def advance(
        self,
        view: EngineView,
        strategy_state: Any,
        proposal: Proposal,
        observations: Sequence[Observation | None],
    ) -> Update:
        """Choose theta_{t+1}; `observations` is in the order of ``proposal.points``, its first
        entry is usable always. The new rows are in the history.
        """


def rollout_path(
    view: EngineView, posterior: Posterior, steps: int
) -> tuple[list[Any], list[Any], list[Any]]:
    """Predict `steps` - 1 optimizer steps from theta_t with the estimated gradient.

    Returns
    -------
    points : z_0 = theta_t, ..., z_{m-1}, m <= steps; shorter where a step left the finite numbers
    states : the optimizer's state at each; None where it was an array that is neither the first nor
    the last: at d = 1e7 with Adam the others take as
        much as nine points, and the same steps give them again with the same bits
    means : mu(z_0), ..., mu(z_{m-2}), for `means_at`; None in place of those at points of a long
    window that are not evaluated

    All three as `EngineView.materialize` takes them. A point that is to be evaluated elsewhere is a
    new array: one of these may be read-only, since its distances to the rows of the history are
    known.
    """
    x, state = view.rollout_start() if steps > 1 else (view.x, view.state)
    points, states, means = [x], [state], []
    rollout = view.rollout(posterior, x, state, steps - 1)
    wanted = equally_spaced(steps, view.parallelism)
    while len(points) < steps:
        mean = rollout.mean() if len(points) - 1 in wanted else None
        if not rollout.step():
            break
        if len(states) > 1 and states[0] is view.state:
            states[-1] = None
        if len(points) in wanted:
            rollout.cache_distances()
        means.append(mean)
        points.append(rollout.x)
        states.append(rollout.state)
    return points, states, means


def means_at(
    posterior: Posterior, path: Sequence[Any], means: Sequence[Any], at: Sequence[int]
) -> list[Any]:
    """mu at the points `at` of a path, None beyond `means`; one that was not kept, since the path
    became shorter than planned, is made again.

    With all means of its window kept `verified` with Adam held 60 vectors beside the history where
    2 N + S + 8 are allowed, 45.
    """
    return [
        None if i >= len(means) else posterior.mean(path[i]) if means[i] is None else means[i]
        for i in at
    ]


def usable_prefix(observations: Sequence[Observation | None]) -> int:
    """How many evaluations are usable before the first that is not."""
    for i, one in enumerate(observations):
        if one is None:
            return i
    return len(observations)


def equally_spaced(length: int, count: int) -> list[int]:
    """At most `count` different indices out of ``range(length)``, equally spaced, 0 and the last
    included (only 0 for one).
    """
    return list(_spread(length, count))


@lru_cache(maxsize=1024)
def _spread(length: int, count: int) -> tuple[int, ...]:
    return tuple(sorted({int(i) for i in np.round(np.linspace(0, length - 1, min(count, length)))}))


def get_strategy(strategy: str | Strategy) -> Strategy:
    """A strategy from its registered name, or the object itself."""
    if isinstance(strategy, str):
        return STRATEGIES[strategy]()
    if isinstance(strategy, type) or not isinstance(strategy, Strategy):
        raise ArgumentTypeError(
            f"strategy must be a name or an object such as "
            f"optex_core.strategies.Paper(), got {short_repr(strategy)}"
        )
    return strategy
