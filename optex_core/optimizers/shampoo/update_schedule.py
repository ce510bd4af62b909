"""Updates of statistics and roots: statistics at their steps, roots submitted at theirs, and each
root installed exactly `delay` trusted steps later.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

import numpy as np

from optex_core.optimizers.shampoo.blocking import PreconditionerFactor
from optex_core.optimizers.shampoo.matrix_roots import smallest_ridge
from optex_core.optimizers.shampoo.root_service import InlineRootService, RootJob, RootResult
from optex_core.optimizers.shampoo.settings import Workspace
from optex_core.optimizers.shampoo.statistics import accumulate_statistics
from optex_core.types import Array

logger = logging.getLogger("optex_core")
_INLINE = InlineRootService()


@dataclass(frozen=True, slots=True)
class ShampooState:
    """The state of `Shampoo`: arrays and integers, jobs in flight included."""

    t: int  # steps taken: schedules and bias corrections of the moments count these
    seen: int  # trusted steps: statistics, intervals, delays and the start count these
    updates: int  # of the statistics
    slots: tuple[Array, ...]  # (d,): mean or velocity, then the accumulator of the graft, if any
    schedule: tuple[float, ...]
    #: For each stack, for each preconditioned axis: lower triangles, (tiles, n (n + 1) / 2).
    statistics: tuple[tuple[Array, ...], ...]
    roots: tuple[tuple[Array, ...], ...]  # in the same order, (tiles, n, n)
    versions: tuple[int, ...]  # for each factor the trusted step of its root's statistics, or 0
    pending: tuple[Array | None, ...]  # jobs in flight: that of trusted step s at s % delay
    rejected: int = 0  # roots that missed their residual: the earlier root stayed
    skipped: int = 0  # gradients or Gram matrices that were not finite: left out


def update_statistics(work: Workspace, g: Array, state: ShampooState) -> ShampooState:
    """The state after one more true gradient: statistics, jobs submitted, roots installed."""
    s, seen = work.settings, state.seen + 1
    if (seen - 1) % s.statistics_interval == 0:
        share = 1.0 if s.b2 == 1.0 else 1.0 - s.b2
        found, failed = [], 0
        for stack, old in zip(work.layout.stacks, state.statistics, strict=True):
            new, bad = accumulate_statistics(work.scratch, stack, g, old, s.b2, share)
            found.append(new)
            failed += bad
        if failed:
            logger.warning(
                "Shampoo: the squares of a gradient overflow in %d tiles; their statistics stay as "
                "they were",
                failed,
            )
        updates, skipped = state.updates + 1, state.skipped + failed
        state = replace(state, statistics=tuple(found), updates=updates, skipped=skipped)
    state = replace(state, seen=seen)
    submitted = _pack_statistics(work, state)
    if not s.delay:
        return state if submitted is None else _install_roots(work, state, submitted, seen)
    slot, pending = seen % s.delay, list(state.pending)
    if s.roots is not None:  # a file gives all arrays back where x is
        pending = [None if job is None else work.backend.to_host(job) for job in pending]
    finished, pending[slot] = pending[slot], submitted
    if s.roots is not None:
        # All of them, oldest first: a resumed run, or another state of the same run, submits anew.
        for age in range(s.delay - 1, -1, -1):
            job = pending[(seen - age) % s.delay]
            if job is not None:
                s.roots.submit(_job(work, job, seen - age))
    state = replace(state, pending=tuple(pending))
    return state if finished is None else _install_roots(work, state, finished, seen - s.delay)


def _pack_statistics(work: Workspace, state: ShampooState) -> Array | None:
    """The statistics of the factors that are due, their bias corrected, one after the other; None
    where nothing is due.
    """
    s, backend = work.settings, work.backend
    due = work.layout.roots_due(state.seen, s.start, s.delay)
    if not due:
        return None
    packed = backend.xp.concatenate([state.statistics[f.stack][f.place][f.tile] for f in due])
    if s.bias_correction and s.b2 < 1.0:
        packed *= work.dtype.type(1.0 / (1.0 - s.b2**state.updates))
    return packed if s.roots is None else backend.to_host(packed)


def _job(work: Workspace, packed: Array, submitted: int) -> RootJob:
    s, solver = work.settings, work.settings.solver
    due = work.layout.roots_due(submitted, s.start, s.delay)
    if solver == "auto":
        solver = "newton" if s.roots is None and work.backend.xp is not np else "eigh"
    ridge = smallest_ridge(s.ridge, work.dtype)
    return RootJob(packed, tuple(f.task for f in due), ridge, solver=solver)


def _install_roots(
    work: Workspace, state: ShampooState, packed: Array, submitted: int
) -> ShampooState:
    """The state with the roots of the job that was submitted at trusted step `submitted`."""
    s = work.settings
    solved = (s.roots or _INLINE).result(_job(work, packed, submitted))
    versions, rejected = list(state.versions), 0
    fresh: dict[tuple[int, int], list[tuple[PreconditionerFactor, Array]]] = {}
    due = work.layout.roots_due(submitted, s.start, s.delay)
    for factor, root in zip(due, solved, strict=True):
        matrix = _cast(root, work.dtype)
        if matrix is None:
            rejected += 1
            logger.warning(
                "Shampoo: a root of size %d missed its residual (%.3g); the earlier one stays",
                factor.task.n,
                root.residual,
            )
            continue
        fresh.setdefault((factor.stack, factor.place), []).append((factor, matrix))
        versions[factor.index] = submitted
    roots = [list(of) for of in state.roots]
    for (stack, place), pairs in fresh.items():
        whole = roots[stack][place].copy()
        for factor, matrix in pairs:
            whole[factor.tile] = work.backend.xp.asarray(matrix)
        roots[stack][place] = whole
    return replace(
        state,
        roots=tuple(map(tuple, roots)),
        versions=tuple(versions),
        rejected=state.rejected + rejected,
    )


def _cast(root: RootResult, dtype: np.dtype[np.floating]) -> Array | None:
    """The root in the state's precision; None if there is none, or if it does not fit."""
    if root.matrix is None:
        return None
    matrix = root.matrix.astype(dtype)
    return matrix if bool(abs(matrix).max() < math.inf) else None
