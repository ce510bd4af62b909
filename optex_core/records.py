"""The engine's state as records of arrays and numbers: what a checkpoint dumps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optex_core.events import Round
from optex_core.strategies.base import Plan, Told
from optex_core.tuning import Hyperparameters
from optex_core.types import Array, Candidate


@dataclass(slots=True)
class OpenRound:
    """The round under way: its plan, its candidates and what has been told of them."""

    plan: Plan
    candidates: list[Candidate]
    told: list[Told | None]
    done: list[bool]
    seconds: float = math.nan
    evaluations: int = 0
    opened: int = 0  # gradients told or on their way when the round was opened: what its size was cut by
    closing: bool = False
    recorded: bool = False  # its rows are in the history


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


def merged(rows: Sequence[Round]) -> Round:
    """One row for an iteration of several asks: values of the first, sums of the counts; the step's length is the caller's to add."""
    if len(rows) == 1:
        return rows[0]
    seconds = [r.slowest for r in rows]
    return replace(
        rows[0],
        evaluations=sum(r.evaluations for r in rows),
        accepted=sum(r.accepted for r in rows),
        slowest=sum(seconds),
    )
