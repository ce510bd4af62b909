"""The condition of ``on_late="wait"``: which bursts may start and which pushes may be applied so
that none is ever later than D updates. `Master.push` refuses or damps late pushes otherwise.

Open bursts are those pulled and not yet applied. With versions t_1 <= t_2 <= ... of the open ones,
t the master's version and M pushes to an update, applying them oldest first lets burst r (counted
from 0) come at version t + floor(r / M). All delays can be kept at most D if and only if

    t + floor(r / M) - t_r <= D   for every r.

A pull adds a burst with version t at the end, an update takes M bursts away and raises t by one:
both are allowed exactly as long as the condition holds afterwards. It never deadlocks: taking the M
oldest always leaves the condition as it was, and up to M (D + 1) bursts may be open.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LATE_POLICIES = ("reject", "damp", "wait")


def keeps_bound(versions: Iterable[int], version: int, batch: int, max_delay: int) -> bool:
    """True if open bursts from `versions` can all be applied at most `max_delay` updates late."""
    return all(
        version + rank // batch - start <= max_delay for rank, start in enumerate(sorted(versions))
    )


def select_pushes(
    received: Sequence[tuple[int, int]],
    outstanding: Sequence[int],
    version: int,
    batch: int,
    max_delay: int,
) -> list[int] | None:
    """The ids of `batch` received pushes for the next update; None if all have to be held.

    `received` are (id, version) in the order of arrival, which is kept where possible;
    `outstanding` the versions of the bursts that are still computed.
    """
    if len(received) < batch:
        return None
    for order in (list(received), sorted(received, key=lambda r: r[1])):
        taken, rest = order[:batch], order[batch:]
        if keeps_bound(
            [*outstanding, *(start for _, start in rest)], version + 1, batch, max_delay
        ):
            return [number for number, _ in taken]
    return None
