"""The points that are asked for: their names and seeds, and how one is found by its name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from optex_core._validation import short_repr
from optex_core.engine.settings import Settings
from optex_core.engine.state import RoundState
from optex_core.errors import ProtocolError
from optex_core.types import Array, Candidate


class LazySeedCandidate(Candidate):
    """A candidate whose seed is drawn when it is first read: that takes 10 us, and most functions
    have no use for one.
    """

    __slots__ = ("_run",)

    def __getattr__(self, name: str) -> int:
        if name != "seed":
            raise AttributeError(f"a candidate has no attribute {name!r}", name=name, obj=self)
        seed = candidate_seed(self._run, self.iteration, self.slot)
        object.__setattr__(self, "seed", seed)
        return seed


@lru_cache(maxsize=256)
def candidate_seed(run: int, iteration: int, slot: int) -> int:
    """The seed of a candidate; asked for while there is time, it is at hand when eight of them took
    0.4 ms between two rounds (caches were cold).
    """
    # 32 bits, which every generator, file and external program takes: two evaluations that share
    # one differ in their point.
    return int(np.random.SeedSequence(run, spawn_key=(iteration, slot)).generate_state(1)[0])


# The record is frozen, and `object.__setattr__` with a name takes three times as long.
_SET_ID, _SET_X, _SET_ITERATION, _SET_SLOT = (
    vars(Candidate)[name].__set__ for name in ("id", "x", "iteration", "slot")
)
_SET_RUN = vars(LazySeedCandidate)["_run"].__set__


def make_candidate(settings: Settings, iteration: int, slot: int, x: Array) -> Candidate:
    """The candidate at `x`, shape (d,), read-only, with the seed that belongs to (run seed,
    iteration, slot).
    """
    made = LazySeedCandidate.__new__(LazySeedCandidate)
    _SET_ID(made, iteration * settings.parallelism + slot)
    _SET_X(made, x)
    _SET_ITERATION(made, iteration)
    _SET_SLOT(made, slot)
    _SET_RUN(made, settings.seed)
    return made


def find_candidate(
    id: Any, r: RoundState | None, late: Mapping[int, Candidate], first: int
) -> tuple[Candidate, int | None]:  # noqa: A002
    """The candidate called `id` and its place in the open round `r`, None for a late one.

    Parameters
    ----------
    id : int
    r : OpenRound or None
    late : dict of int to Candidate
        Those of closed rounds that may still be told.
    first : int
        The id of theta_t: smaller ones are of earlier rounds.

    Raises
    ------
    ProtocolError
        If `id` is no id, is told already, or was never asked.
    """
    if type(id) is int and r is not None:
        i = id - r.candidates[0].id  # they are numbered one after the other
        if 0 <= i < len(r.done) and not r.done[i]:
            return r.candidates[i], i
    if isinstance(id, (bool, np.bool_)) or not isinstance(id, (int, np.integer)):
        raise ProtocolError(
            f"id must be the integer Candidate.id, got {short_repr(id)}; nothing was changed"
        )
    places = [] if r is None else list(zip(r.candidates, r.done, strict=True))
    for i, (c, done) in enumerate(places):
        if c.id == id and not done:
            return c, i
    if id in late:
        return late[int(id)], None
    if any(c.id == id for c, _ in places) or 0 <= id < first:
        raise ProtocolError(
            f"the candidate with id {id} has been told already, or was never asked; "
            f"nothing was changed"
        )
    pending = (
        "none; call ask() first"
        if r is None
        else ", ".join(str(c.id) for c, done in places if not done)
    )
    raise ProtocolError(
        f"no candidate has the id {short_repr(id)}; pending: {pending}; nothing was changed"
    )
