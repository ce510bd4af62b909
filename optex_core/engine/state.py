"""State of a run as records of arrays and numbers, and the candidates of its open round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from optex_core._validation import short_repr
from optex_core.errors import ProtocolError
from optex_core.model.likelihood import Hyperparameters
from optex_core.model.subspace import Vector
from optex_core.strategies.base import Observation, Observations, Proposal, Strategy
from optex_core.types import Array, Candidate

if TYPE_CHECKING:
    from optex_core.strategies.rollout import PredictionSpace


@dataclass(frozen=True, slots=True)
class FailedEvaluation:
    """One evaluation that gave no usable gradient."""

    id: int
    iteration: int
    slot: int
    seed: int
    x: Array  # shape (d,): where
    message: str  # one sentence
    error: BaseException | None = None  # None if the numbers were not finite
    traceback: str = ""  # as text, "" if there was none
    attempt: int = 0
    value: float = math.nan  # where it is known although the gradient failed


def candidate_seed(run: int, iteration: int, slot: int) -> int:
    """The seed of a candidate: 32 bits, which every generator and program takes, of
    SeedSequence(run, spawn_key=(iteration, slot)).
    """
    return int(np.random.SeedSequence(run, spawn_key=(iteration, slot)).generate_state(1)[0])


@dataclass(slots=True)
class RoundState:
    """The open round: its proposal, its candidates and what has been observed."""

    #: Without its predictions, which are freed one by one: kept to the end they take as much memory
    #: as the gradients (N - 1 of 24 vectors beside the history with Adam and N = 5).
    proposal: Proposal
    candidates: list[Candidate]
    #: Gradients told or pending when the round was opened, which `max_evals` cut it by.
    evaluations_at_open: int = 0
    is_final: bool = False  # its one candidate is theta_t, evaluated for the result
    #: The value and gradient of theta_t were known; none of the candidates is theta_t.
    iterate_evaluated: bool = False
    observations: list[Observation | None] = field(init=False)
    done: list[bool] = field(init=False)
    seconds: float = math.nan  # the slowest evaluation
    evaluations: int = 0
    recorded: bool = False  # its rows are in the history
    predictions: list[Vector | None] = field(init=False)
    #: |mean - gradient| / |gradient| by slot.
    relative_errors: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        proposal = self.proposal
        self.predictions = list(proposal.predictions)
        self.proposal = replace(proposal, predictions=())
        self.observations = [None] * len(proposal.points)
        self.done = [False] * len(self.candidates)

    @property
    def pending(self) -> list[Candidate]:
        """The candidates that have not been told."""
        return [c for c, done in zip(self.candidates, self.done, strict=True) if not done]

    @property
    def recorded_points(self) -> Sequence[Array]:
        """The points that enter the history."""
        points = self.proposal.points
        return points[: len(points) - self.proposal.unrecorded]

    def filter_observations(self, strategy: Strategy) -> Observations:
        """What the strategy takes as data, and what was observed for it alone."""
        if self.proposal.keep_outliers:
            return self.observations
        if not self.proposal.unrecorded:
            return strategy.filter_observations(self.observations)
        end = len(self.recorded_points)
        return [*strategy.filter_observations(self.observations[:end]), *self.observations[end:]]

    def observe(
        self, slot: int, observed: Observation | None, seconds: float | None, space: PredictionSpace
    ) -> None:
        """Take one evaluation."""
        self.observations[slot], self.done[slot] = observed, True
        self.evaluations += 1
        if seconds is not None:
            self.seconds = seconds if math.isnan(self.seconds) else max(seconds, self.seconds)
        # Coefficients wait for those of the gradient, which are known when it is a row.
        if slot < len(self.predictions) and hasattr(self.predictions[slot], "nbytes"):
            self._compare(slot, space)

    def release_gradients(self, kept: Observations, selected: int | None) -> Observations:
        """Drop the gradients of all slots but `selected` (None: of none), which are rows now: 3 of
        17 vectors that a round with Adam and N = 5 has beside the history.
        """
        if selected is None:
            return kept
        all_kept = kept is self.observations
        self.observations = _without_gradients(self.observations, selected)
        return list(self.observations) if all_kept else _without_gradients(kept, selected)

    def prediction_error(self, space: PredictionSpace, alone: bool) -> float:
        """Mean of |mean - gradient| / |gradient| over the predicted slots, or of the first `alone`;
        nan where nothing was predicted.
        """
        slots = range(min(1, len(self.predictions)) if alone else len(self.predictions))
        for slot in slots:
            self._compare(slot, space)
        found = [self.relative_errors.get(slot, math.nan) for slot in slots]
        errors = [error for error in found if not math.isnan(error)]
        return sum(errors) / len(errors) if errors else math.nan

    def _compare(self, slot: int, space: PredictionSpace) -> None:
        mean, observed = self.predictions[slot], self.observations[slot]
        if mean is None or observed is None:
            return
        if observed.squared_norm > 0.0:
            error = space.prediction_error(mean, observed.gradient)
            self.relative_errors[slot] = error / math.sqrt(observed.squared_norm)
        self.predictions[slot] = None


def _without_gradients(observations: Observations, selected: int) -> list[Observation | None]:
    """`observations` without the gradients of other slots than `selected`."""
    return [
        one if one is None or i == selected else Observation(None, one.squared_norm, one.value)  # type: ignore[arg-type]
        for i, one in enumerate(observations)
    ]


@dataclass(slots=True)
class EngineState:
    """The state of a run: arrays and numbers only, so that a checkpoint is a dump of it."""

    x: Array  # shape (d,): theta_t
    optimizer_state: object
    strategy_state: object
    hyperparameters: Hyperparameters = field(default_factory=Hyperparameters)  # of the last fit
    fitted_rows: int = -1  # `History.total` at the last fit
    nit: int = 0
    #: Slot of the first candidate of the next ask: above 0 within an iteration of several asks.
    first_slot: int = 0
    iteration_start: Array | None = None  # theta_t, while `x` is within such an iteration
    nsteps: int = 0
    nfev: int = 0
    njev: int = 0
    failures: int = 0
    #: At theta_t, if `value_known`.
    value: float = math.nan
    gradient: Array | None = None
    previous_value: float = math.nan  # at theta_{t-1}
    value_known: bool = False
    #: They were known before the round was opened: theta_t is a point of an earlier round.
    iterate_evaluated: bool = False
    #: The lowest value told, and its point.
    best_value: float = math.inf
    best_x: Array | None = None
    #: The gradient there, for strategies that may return that point.
    best_gradient: Array | None = None
    ends_at_iterate: bool = False  # the run ends when theta_t has been evaluated
    finished: bool = False
    deterministic: bool = True
    #: Criteria that fired, with their values.
    reasons: dict[str, float] = field(default_factory=dict)


def find_candidate(
    id: object, r: RoundState | None, late: Mapping[int, Candidate], first: int
) -> tuple[Candidate, int | None]:  # noqa: A002
    """The candidate called `id` and its place in the open round `r`, None for one of the `late`;
    ids below `first`, that of theta_t, are of earlier rounds.
    """
    if isinstance(id, (bool, np.bool_)) or not isinstance(id, (int, np.integer)):
        raise ProtocolError(
            f"id must be the integer Candidate.id, got {short_repr(id)}; nothing was changed"
        )
    i = -1 if r is None else int(id) - r.candidates[0].id  # numbered one after the other
    asked = r is not None and 0 <= i < len(r.candidates)
    if r is not None and asked and not r.done[i]:
        return r.candidates[i], i
    if id in late:
        return late[int(id)], None
    if asked or 0 <= id < first:
        raise ProtocolError(
            f"the candidate with id {id} has been told already, or was never asked; "
            f"nothing was changed"
        )
    ids = [] if r is None else [str(c.id) for c in r.pending]
    pending = ", ".join(ids) or "none; call ask() first"
    raise ProtocolError(
        f"no candidate has the id {short_repr(id)}; pending: {pending}; nothing was changed"
    )
