"""The engine's state as records of arrays and numbers: what a checkpoint dumps."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optex_core.engine.records import IterationRecord
from optex_core.model.likelihood import Hyperparameters
from optex_core.strategies.base import EngineView, Observation, Proposal
from optex_core.types import Array, Candidate

#: Bytes from which on a prediction is let go as soon as its gradient is told; smaller ones are
#: judged together when the round closes.
EAGER_RELEASE_BYTES = 1 << 20


@dataclass(slots=True)
class RoundState:
    """The round under way: its plan, its candidates and what has been told of them.

    It takes the predictions out of the plan and lets large ones go when their gradients have been
    told: kept to the end they were as much memory as the gradients themselves (N - 1 of 24 vectors
    beside the history with Adam and N = 5).
    """

    plan: Proposal
    candidates: list[Candidate]
    told: list[Observation | None]
    done: list[bool]
    seconds: float = math.nan
    evaluations: int = 0
    # gradients told or on their way when the round was opened: what its size was cut by
    opened: int = 0
    closing: bool = False
    recorded: bool = False  # its rows are in the history
    predictions: list[Any] = field(init=False)
    misses: dict[int, float] = field(default_factory=dict)  # |mean - gradient| / |gradient| by slot

    def __post_init__(self) -> None:
        plan = self.plan
        self.predictions, self.plan = (
            list(plan.predictions),
            Proposal(plan.points, (), plan.predicted_steps, plan.cache),
        )

    def settle(
        self,
        slot: int,
        told: Observation | None,
        seconds: float | None,
        view: Callable[[], EngineView],
    ) -> None:
        """One evaluation is done."""
        self.told[slot], self.done[slot] = told, True
        self.evaluations += 1
        if seconds is not None:
            self.seconds = max(seconds, 0.0 if math.isnan(self.seconds) else self.seconds)
        if (
            slot < len(self.predictions)
            and getattr(self.predictions[slot], "nbytes", 0) >= EAGER_RELEASE_BYTES
        ):  # coefficients have no bytes, and wait too
            self._judge(slot, view())

    def release_gradients(
        self, believed: Sequence[Observation | None], slots: Collection[int]
    ) -> list[Observation | None]:
        """What is believed without the gradients of other slots than `slots`, which are rows of the
        history now.

        Three of 17 vectors that a round with Adam and N = 5 has beside the history when theta_{t+1}
        is made.
        """
        whole, self.told = self.told, _without(self.told, slots)
        return list(self.told) if believed is whole else _without(believed, slots)

    def prediction_error(self, view: EngineView, alone: bool) -> float:
        """The mean of |mean - gradient| / |gradient| over the slots where it is known, of the first
        alone if asked; nan where it is nowhere.
        """
        slots = range(min(1, len(self.predictions)) if alone else len(self.predictions))
        for slot in slots:
            self._judge(slot, view)
        errors = [
            self.misses[slot] for slot in slots if not math.isnan(self.misses.get(slot, math.nan))
        ]
        return sum(errors) / len(errors) if errors else math.nan

    def _judge(self, slot: int, view: EngineView) -> None:
        mean, told = self.predictions[slot], self.told[slot]
        if mean is None or told is None:
            return
        if told.squared_norm > 0.0:
            self.misses[slot] = view.prediction_error(mean, told.gradient) / math.sqrt(
                told.squared_norm
            )
        self.predictions[slot] = None


def _without(
    told: Sequence[Observation | None], slots: Collection[int]
) -> list[Observation | None]:
    """`told` without the gradients of other slots than `slots`."""
    return [
        t if t is None or i in slots else Observation(None, t.squared_norm, t.value)
        for i, t in enumerate(told)
    ]


@dataclass(slots=True)
class State:
    """The run's state: arrays and numbers only, so that a checkpoint is a dump of it."""

    x: Array
    optimizer: Any
    memory: Any
    hyper: Hyperparameters = field(default_factory=Hyperparameters)
    fitted: int = -1  # History.total at the last fit
    nit: int = 0
    slot: int = 0  # within an iteration of more than one ask
    origin: Array | None = None  # theta_t, while x is within such an iteration
    nsteps: int = 0
    nfev: int = 0
    njev: int = 0
    failures: int = 0
    value: float = math.nan
    gradient: Array | None = None
    previous: float = math.nan
    arrived: bool = False
    best: float = math.inf
    best_x: Array | None = None
    closing: bool = False
    finished: bool = False
    deterministic: bool = True
    reasons: dict[str, Any] = field(default_factory=dict)


def merge_rows(rows: Sequence[IterationRecord]) -> IterationRecord:
    """One row for an iteration of several asks: values of the first, sums of the counts; the step's
    length is the caller's to add.
    """
    if len(rows) == 1:
        return rows[0]
    seconds = [r.slowest for r in rows]
    return replace(
        rows[0],
        evaluations=sum(r.evaluations for r in rows),
        accepted=sum(r.accepted for r in rows),
        slowest=sum(seconds),
    )
