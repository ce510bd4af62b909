"""The interface of a strategy: which points an iteration evaluates, and where it ends.

A strategy is a frozen record of settings with two pure functions. The engine calls ``plan``, has
the proposed points evaluated, appends what was observed to the history, and calls ``advance``,
which returns theta_{t+1}.

For example, `Corrected` proposes the N points of a predicted path, takes one step with the true
gradient at theta_t, and N - 1 steps with the estimate refitted to the N new gradients. `Paper` is
Algorithm 1 of arXiv 2402.11427; `testing.reference.optex` has both as plain loops.

A strategy sees the run through an `EngineView` (rollout.py): ``view.x`` and ``view.state``
(theta_t), ``view.step`` (the optimizer), ``view.posterior()`` (the gradient estimate, fitted to all
observations), and ``view.rollout`` and ``view.predict`` (optimizer steps with estimated gradients).

Add a strategy
--------------
One new file in this folder. It is found by its `name` and as an attribute of
``optex_core.strategies``; ``optex_core.testing.check_strategy("halfway")`` checks it::

    from dataclasses import dataclass
    from typing import ClassVar

    from optex_core.strategies.base import STRATEGIES, Proposal, Strategy, Update


    @STRATEGIES.register
    @dataclass(frozen=True, slots=True)
    class Halfway(Strategy):
        '''Steps with the refitted estimate along the first half of the predicted path.'''

        name: ClassVar[str] = "halfway"

        def plan(self, view, strategy_state):
            path = view.predict(view.parallelism - 1)
            return Proposal.along(path)

        def advance(self, view, strategy_state, proposal, observations):
            usable = self.usable(observations)
            first = usable[0]
            x, state = view.step(view.x, first.gradient, view.state, value=first.value)
            rollout = view.rollout(len(usable) // 2, x, state)
            rollout.run()
            return Update(rollout.x, rollout.state, strategy_state, 1 + rollout.taken)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, ClassVar

from optex_core._registry import Registry
from optex_core._validation import short_repr
from optex_core.errors import ArgumentTypeError
from optex_core.model.subspace import Vector
from optex_core.strategies.rollout import EngineView, Path
from optex_core.types import Array

STRATEGIES: Registry[type[Strategy]] = Registry("strategy", "optex_core.strategies")


@dataclass(frozen=True, slots=True)
class Proposal:
    """The points of an iteration."""

    #: Each of shape (d,), in slot order; the first is theta_t, unless that was evaluated before
    #: (`Strategy.reuses_observations`).
    points: Sequence[Array]
    #: mu at the points where it was predicted, for the report.
    predictions: Sequence[Vector | None] = ()
    predicted_steps: int = 1  # optimizer steps, including the first
    path: Path | None = None  # the predicted points, evaluated or not
    #: The last so many points are evaluated for `advance` alone: they do not enter the history and
    #: are not given to `Strategy.filter_observations` and `select`.
    unrecorded: int = 0
    #: Anything else that `advance` needs. Never saved: an interrupted iteration is planned again.
    cache: Any = None
    #: True: `Strategy.filter_observations` is not asked. Of gradients that do not repeat, one may
    #: be many times longer than another at the same point.
    keep_outliers: bool = False

    @classmethod
    def along(cls, path: Path, at: Sequence[int] | None = None) -> Proposal:
        """The points of a predicted path at the indices `at` (default: all of them)."""
        points, predictions = path.evaluate(range(len(path)) if at is None else at)
        return cls(points, predictions, len(path), path)

    def state(self, slot: int) -> object:
        """The optimizer's state at the predicted point of the slot that `Strategy.select` named."""
        assert self.path is not None
        return self.path.states[self.path.at[slot]]


@dataclass(frozen=True, slots=True)
class Observation:
    """One usable evaluation; None stands in its place where there is none."""

    gradient: Array  # shape (d,)
    squared_norm: float  # |gradient|^2
    value: float = math.nan  # where there is none


#: Observations in the order of ``proposal.points``; None where an evaluation failed.
Observations = Sequence[Observation | None]


@dataclass(frozen=True, slots=True)
class Update:
    """Where the iteration ends."""

    x: Array  # theta_{t+1}, shape (d,)
    state: object  # the optimizer's state there
    strategy_state: object  # the strategy's own state for the next iteration
    steps: int = 1  # optimizer steps taken: what schedules and `nsteps` count
    complete: bool = True  # False: the iteration goes on with another proposal
    depends_on_timing: bool = False  # a measured time changed the outcome
    note: str = ""  # what is out of the ordinary, for the trace
    #: At `x` where it is a point of this iteration: it is not evaluated again. With
    #: ``complete=False`` it is theta_t, whose evaluation this proposal was.
    observation: Observation | None = None
    stalled: bool = False  # no lower value can be found: the run ends at `x`


@dataclass(frozen=True, slots=True)
class NoState:
    """The state of a strategy that has none."""


@dataclass(frozen=True, slots=True)
class Strategy(ABC):
    """Base of all strategies: frozen settings and two pure functions.

    The strategy's own state is a small frozen record of numbers and arrays, so that a saved run can
    hold it. Class attributes declare what a strategy needs; the engine checks them.
    """

    name: ClassVar[str]
    #: The history is kept and the estimator is fitted.
    uses_history: ClassVar[bool] = True
    #: theta_t may be a point of an earlier iteration: it is not evaluated again, and the proposed
    #: points have the slots 1, 2, ...
    reuses_observations: ClassVar[bool] = False
    #: False: the strategy takes the steps of `LBFGS` alone.
    any_optimizer: ClassVar[bool] = True
    #: `filter_observations` leaves out gradients far longer than that of theta_t.
    rejects_outliers: ClassVar[bool] = False
    #: The prior mean that is taken when the estimator's settings name none.
    prior_mean: ClassVar[str] = "constant"

    @property
    def needs_values(self) -> bool:
        """True if values decide: a gradient-only oracle is then refused."""
        return False

    def init(self, view: EngineView) -> object:
        """The strategy's state before the first iteration."""
        return NoState()

    def averages_gradients(self, strategy_state: Any) -> bool:
        """True if value and gradient of theta_t are means over the points of the iteration that are
        there, not those of slot 0.
        """
        return False

    def returns_best(self, strategy_state: Any) -> bool:
        """True if a run that ends in this state returns its best evaluated point, not its last."""
        return False

    @abstractmethod
    def plan(self, view: EngineView, strategy_state: Any) -> Proposal:
        """Choose the points of this iteration."""

    def filter_observations(self, observations: Observations) -> Observations:
        """Replace by None what is not taken as data; slot 0 must stay.

        Only what is left enters the history and reaches `select` and `advance`.
        """
        return observations

    def select(self, observations: Observations) -> int | None:
        """The one slot whose gradient `advance` reads; None if it reads all of them.

        The gradients of other slots reach `advance` as None, since they are released as soon as
        they are in the history; `Proposal.state` has the optimizer's state at this slot.
        """
        return None

    @abstractmethod
    def advance(
        self, view: EngineView, strategy_state: Any, proposal: Proposal, observations: Observations
    ) -> Update:
        """Choose theta_{t+1}. Slot 0 has an observation always; all are in the history."""

    @staticmethod
    def usable(observations: Observations) -> list[Observation]:
        """The observations before the first that is missing."""
        return list(takewhile(lambda one: one is not None, observations))  # type: ignore[arg-type]


def get_strategy(strategy: str | Strategy) -> Strategy:
    """A strategy from its registered name, or the object itself."""
    if isinstance(strategy, str):
        return STRATEGIES[strategy]()
    if isinstance(strategy, type) or not isinstance(strategy, Strategy):
        raise ArgumentTypeError(
            "strategy must be a name or an object such as optex_core.strategies.Paper(),"
            f" got {short_repr(strategy)}"
        )
    return strategy
