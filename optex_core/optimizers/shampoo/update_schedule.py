"""What Shampoo learns from true gradients: statistics at their steps, roots begun at theirs, and
each used exactly `delay` trusted steps later.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from optex_core.backends.base import Backend
from optex_core.optimizers.shampoo.blocking import BlockLayout, PreconditionerFactor
from optex_core.optimizers.shampoo.matrix_roots import smallest_ridge
from optex_core.optimizers.shampoo.root_service import InlineRootService, RootJob, RootResult
from optex_core.optimizers.shampoo.statistics import accumulate_statistics
from optex_core.types import Array

if TYPE_CHECKING:
    from optex_core.optimizers.shampoo import Shampoo

logger = logging.getLogger("optex_core")
_INLINE = InlineRootService()


@dataclass(frozen=True, slots=True)
class ShampooState:
    """The state of `Shampoo`: arrays and integers, jobs in flight included.

    Attributes
    ----------
    t : int
        Steps taken; schedules and the bias corrections of the moments count these.
    seen : int
        Trusted steps; statistics, intervals, delays and the start count these.
    updates : int
        Updates of the statistics.
    slots : tuple of arrays, each of shape (d,)
        Running mean or velocity (with momentum), then the accumulator of the graft (if it has one).
    schedule : tuple of float
        The state of a stateful schedule.
    statistics : tuple of tuple of arrays
        For each stack of equal tiles, for each preconditioned axis: lower triangles, shape (tiles,
        n (n + 1) / 2).
    roots : tuple of tuple of arrays
        In the same order, shape (tiles, n, n).
    versions : tuple of int
        For each factor the trusted step whose statistics its root was made from, 0 as long as it
        has none.
    pending : tuple of (array or None)
        Jobs in flight: what was begun at trusted step s stands at s % delay.
    rejected, skipped : int
        Roots that missed their residual (the earlier root stayed), and gradients or Gram matrices
        that were not finite (left out).
    """

    t: int
    seen: int
    updates: int
    slots: tuple[Array, ...]
    schedule: tuple[float, ...]
    statistics: tuple[tuple[Array, ...], ...]
    roots: tuple[tuple[Array, ...], ...]
    versions: tuple[int, ...]
    pending: tuple[Array | None, ...]
    rejected: int = 0
    skipped: int = 0


def update_statistics(
    s: Shampoo,
    backend: Backend,
    layout: BlockLayout,
    dtype: np.dtype[Any],
    g: Array,
    state: ShampooState,
) -> ShampooState:
    """The state after one more true gradient: statistics, jobs begun, roots published."""
    seen = state.seen + 1
    if (seen - 1) % s.statistics_interval == 0:
        share = 1.0 if s.b2 == 1.0 else 1.0 - s.b2
        found, failed = [], 0
        for stack, old in zip(layout.stacks, state.statistics, strict=True):
            new, bad = accumulate_statistics(s._scratch_of(backend), stack, g, old, s.b2, share)
            found.append(new)
            failed += bad
        if failed:
            logger.warning(
                "Shampoo: the squares of a gradient overflow in %d tiles; their "
                "statistics stay as they were",
                failed,
            )
        state = replace(
            state,
            statistics=tuple(found),
            updates=state.updates + 1,
            skipped=state.skipped + failed,
        )
    state = replace(state, seen=seen)
    begun = _pack_statistics(s, backend, layout, dtype, state)
    if not s.delay:
        return state if begun is None else _install_roots(s, backend, layout, state, begun, seen)
    slot, pending = seen % s.delay, list(state.pending)
    if s.roots is not None:  # a file gives all arrays back where x is
        pending = [None if job is None else backend.to_host(job) for job in pending]
    finished = pending[slot]
    pending[slot] = begun
    if s.roots is not None:
        # All of them, oldest first: those of a resumed run, or of another state of the same run,
        # are begun anew.
        for age in (*range(s.delay - 1, -1, -1),):
            job = pending[(seen - age) % s.delay]
            if job is not None:
                s.roots.submit(_job(s, backend, layout, dtype, job, seen - age))
    state = replace(state, pending=tuple(pending))
    return (
        state
        if finished is None
        else _install_roots(s, backend, layout, state, finished, seen - s.delay)
    )


def _pack_statistics(
    s: Shampoo, backend: Backend, layout: BlockLayout, dtype: np.dtype[Any], state: ShampooState
) -> Array | None:
    """The statistics of the factors that are due, their bias corrected, one after the other; None
    where nothing is due.
    """
    due = layout.roots_due(state.seen, s.start, s.delay)
    if not due:
        return None
    packed = backend.xp.concatenate([state.statistics[f.stack][f.place][f.tile] for f in due])
    if s.bias_correction and s.b2 < 1.0:
        packed *= dtype.type(1.0 / (1.0 - s.b2**state.updates))
    return packed if s.roots is None else backend.to_host(packed)


def _job(
    s: Shampoo,
    backend: Backend,
    layout: BlockLayout,
    dtype: np.dtype[Any],
    packed: Array,
    begun: int,
) -> RootJob:
    due = layout.roots_due(begun, s.start, s.delay)
    on_device = s.roots is None and backend.xp is not np
    solver = ("newton" if on_device else "eigh") if s.solver == "auto" else s.solver
    return RootJob(
        packed, tuple(f.item for f in due), smallest_ridge(s.ridge, dtype), solver=solver
    )


def _install_roots(
    s: Shampoo,
    backend: Backend,
    layout: BlockLayout,
    state: ShampooState,
    packed: Array,
    begun: int,
) -> ShampooState:
    """The state with the roots of the job that was begun at trusted step `begun`."""
    due = layout.roots_due(begun, s.start, s.delay)
    dtype = packed.dtype
    solved = (s.roots or _INLINE).result(_job(s, backend, layout, dtype, packed, begun))
    versions, rejected = list(state.versions), 0
    fresh: dict[tuple[int, int], list[tuple[PreconditionerFactor, Any]]] = {}
    for factor, root in zip(due, solved, strict=True):
        matrix = _cast(root, dtype)
        if matrix is None:
            rejected += 1
            logger.warning(
                "Shampoo: a root of size %d missed its residual (%.3g); the earlier one stays",
                factor.item.n,
                root.residual,
            )
            continue
        fresh.setdefault((factor.stack, factor.place), []).append((factor, matrix))
        versions[factor.index] = begun
    roots = [list(of) for of in state.roots]
    for (stack, place), pairs in fresh.items():
        whole = roots[stack][place].copy()
        for factor, matrix in pairs:
            whole[factor.tile] = backend.xp.asarray(matrix)
        roots[stack][place] = whole
    return replace(
        state,
        roots=tuple(map(tuple, roots)),
        versions=tuple(versions),
        rejected=state.rejected + rejected,
    )


def _cast(root: RootResult, dtype: np.dtype[Any]) -> Array | None:
    """The root in the state's precision; None if there is none, or if it does not fit."""
    if root.matrix is None:
        return None
    matrix = root.matrix.astype(dtype)
    return matrix if bool(abs(matrix).max() < math.inf) else None
