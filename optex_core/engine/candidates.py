"""Candidates: the points that are asked for, their ids and seeds, and those that failed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from optex_core._validation import short_repr
from optex_core.engine.settings import Settings
from optex_core.engine.state import RoundState
from optex_core.errors import ProtocolError
from optex_core.types import Array, Candidate


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
    """The seed of a candidate: SeedSequence(run, spawn_key=(iteration, slot)), 32 bits of it.

    Every generator, file and external program takes 32 bits, and two evaluations that share a seed
    differ in their point.
    """
    return int(np.random.SeedSequence(run, spawn_key=(iteration, slot)).generate_state(1)[0])


def first_id(settings: Settings, iteration: int) -> int:
    """The id of slot 0 in an iteration."""
    slots = settings.parallelism + (1 if settings.strategy.reuses_observations else 0)
    return iteration * slots


def find_candidate(
    id: object, r: RoundState | None, late: Mapping[int, Candidate], first: int
) -> tuple[Candidate, int | None]:  # noqa: A002
    """The candidate called `id` and its place in the open round `r`, None for one of the `late`.

    `first` is the id of theta_t: smaller ones are of earlier rounds. ProtocolError if `id` is no
    id, is told already, or was never asked.
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
