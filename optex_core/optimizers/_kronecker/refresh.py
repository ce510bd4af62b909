"""Updates of statistics and of the matrices made of them: statistics at their steps, jobs submitted
at theirs, and each root or basis installed exactly `delay` trusted steps later.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from optex_core.errors import EvaluationError
from optex_core.optimizers._kronecker.blocking import PreconditionerFactor
from optex_core.optimizers._kronecker.matrix_jobs import MatrixJob, solve_job
from optex_core.optimizers._kronecker.statistics import accumulate_statistics, traces
from optex_core.types import Array

if TYPE_CHECKING:
    from optex_core.optimizers._kronecker.base import KroneckerState, Workspace

logger = logging.getLogger("optex_core")

#: A statistic whose mean trace has grown by more than this factor since its last job gets a new
#: job at once. A root from a trace ten times too small makes the step of its tile three times too
#: long. Digits as a product of rank 12, whose gradients grow from a small start,
#: ended 3 times lower with 3 additional jobs (33 before). With 3 and 30 the ends were equal.
GROWN = 10.0


def leave_out(work: Workspace, g: Array, state: KroneckerState, trusted: bool) -> KroneckerState:
    """The state after a gradient that is not finite; an error after `max_skipped` in a row."""
    finite = work.backend.to_host(work.backend.xp.isfinite(g))
    where = next(t for t in work.layout.tensors if not finite[t.slice].all())
    kind, row = type(work.settings).__name__, state.skipped_in_a_row + trusted
    limit = work.settings.max_skipped
    if trusted and limit is not None and row >= limit:
        raise EvaluationError(
            f"{kind}: {row} gradients in a row were not finite, the last in {where.label}; "
            "x is as it was before them: lower the learning rate or look at the gradient there "
            "(max_skipped=None goes on for ever)"
        )
    said = "%s: a gradient that is not finite, in %s, was left out at step %d; all else stays"
    logger.warning(said, kind, where.label, state.t)
    return replace(state, skipped=state.skipped + 1, skipped_in_a_row=row)


def update_statistics(work: Workspace, g: Array, state: KroneckerState) -> KroneckerState:
    """The state after one more true gradient: statistics, jobs sent, matrices set."""
    s, backend, seen, updates = work.settings, work.backend, state.seen + 1, state.updates
    packed, skipped = state.statistics, state.skipped
    if (seen - 1) % s.statistics_interval == 0:
        packed, updates = accumulate_statistics(work, g, packed), updates + 1
    found = traces(backend, work.layout, packed)
    if not np.isfinite(found).all():
        skipped += _put_back(work, packed, state.statistics, found)
        found = traces(backend, work.layout, packed)
    born, held = backend.to_host(state.born), backend.to_host(state.traces).copy()
    born = np.where((born == 0) & (found > 0.0), updates, born)
    # The sums of the weights of the gradients in each statistic, from its first one on.
    decay, ages = s.statistics_decay, np.where(born > 0, updates + 1 - born, 1)
    weights = ages.astype(np.float64) if decay == 1.0 else 1.0 - decay**ages
    mean = found / weights
    ready = (born > 0) & (updates - born >= s.gradients - 1) & (mean > 0.0)
    due = _due(work, seen, mean > GROWN * held, ready)
    held[[f.index for f in due]] = mean[[f.index for f in due]]
    job = _pack(work, state, packed, due, weights) if due else None
    state = replace(
        state,
        seen=seen,
        updates=updates,
        statistics=packed,
        skipped=skipped,
        skipped_in_a_row=0,
        born=born,
        traces=held,
    )
    if s.delay:
        return _pipeline(work, state, job, due)
    return state if job is None else _install(work, state, job, due, seen)


def _put_back(work: Workspace, packed: Array, old: Array, found: np.ndarray) -> int:
    """Put tiles whose squares overflow back to the statistics `old`; how many there are."""
    factors = work.layout.factors
    bad = {(factors[i].stack, factors[i].tile): i for i in np.flatnonzero(~np.isfinite(found))}
    for factor in factors:
        if (factor.stack, factor.tile) in bad:
            packed[factor.packed] = old[factor.packed]
    names = [work.layout.label(factors[i]) for i in bad.values()]
    where = "; ".join(names if len(names) <= 4 else [*names[:3], "..."])
    said = "%s: the squares of a gradient overflow in %d tiles (%s); their statistics stay"
    logger.warning(said, type(work.settings).__name__, len(bad), where)
    return len(bad)


def _due(
    work: Workspace, seen: int, grown: np.ndarray, ready: np.ndarray
) -> list[PreconditionerFactor]:
    """The factors that get a job at trusted step `seen`: those whose turn it is, and from the first
    step on that all have had one, those without a job yet and those that have outgrown their last.

    A factor that has not seen `gradients` gradients has no matrix.
    """
    s, layout = work.settings, work.layout
    due = {f.index for f in layout.turn(seen, s.start, s.delay)}
    if seen >= max(1, s.start - s.delay):
        due.update(np.flatnonzero(grown).tolist())
    return [layout.factors[i] for i in sorted(due) if ready[i]]


def _pack(
    work: Workspace,
    state: KroneckerState,
    packed: Array,
    due: Sequence[PreconditionerFactor],
    weights: np.ndarray,
) -> Array:
    """The job of the factors that are due: their statistics, and the bases that they step from."""
    s, xp = work.settings, work.backend.xp
    parts = []
    for f in due:
        scale = 1.0 / weights[f.index] if s.divides_by_weight else 1.0
        parts.append(packed[f.packed] * work.dtype.type(scale))
        if not f.task.p:
            basis = state.matrices[f.stack][f.place][f.tile].ravel()
            steps = s.iterates and state.versions[f.index]
            parts.append(basis if steps else xp.zeros_like(basis))
    job = xp.concatenate(parts)
    return job if s.roots is None else work.backend.to_host(job)


def _pipeline(
    work: Workspace, state: KroneckerState, job: Array | None, due: Sequence[PreconditionerFactor]
) -> KroneckerState:
    """The state with one more job in flight, and the matrices of `delay` trusted steps ago."""
    s, seen = work.settings, state.seen
    slot, pending, kept = seen % s.delay, list(state.pending), list(state.due)
    if s.roots is not None:  # a file gives all arrays back where x is
        pending = [None if one is None else work.backend.to_host(one) for one in pending]
    finished, whose = pending[slot], kept[slot]
    pending[slot] = job
    kept[slot] = None if job is None else np.array([f.index for f in due])
    if s.roots is not None:
        # All of them, oldest first: a resumed run, or another state of the same run, submits anew.
        for age in range(s.delay - 1, -1, -1):
            one, factors = (many[(seen - age) % s.delay] for many in (pending, kept))
            if one is not None:
                s.roots.submit(_job(work, one, _factors(work, factors)))
    state = replace(state, pending=tuple(pending), due=tuple(kept))
    if finished is None:
        return state
    return _install(work, state, finished, _factors(work, whose), seen - s.delay)


def _factors(work: Workspace, indices: Array | None) -> list[PreconditionerFactor]:
    assert indices is not None
    return [work.layout.factors[i] for i in work.backend.to_host(indices).tolist()]


def _job(work: Workspace, packed: Array, due: Sequence[PreconditionerFactor]) -> MatrixJob:
    s, items = work.settings, tuple(f.task for f in due)
    solver = s.solver_of(work.backend.xp is not np)
    return MatrixJob(packed, items, s.ridge_in(work.dtype), solver=solver)


def _install(
    work: Workspace,
    state: KroneckerState,
    packed: Array,
    due: Sequence[PreconditionerFactor],
    submitted: int,
) -> KroneckerState:
    """The state with the matrices of the job that was submitted at trusted step `submitted`."""
    s, job = work.settings, _job(work, packed, due)
    versions, rejected = list(state.versions), state.rejected
    matrices = [list(of) for of in state.matrices]
    copied = set()
    for f, root in zip(due, s.roots.result(job) if s.roots else solve_job(job), strict=True):
        matrix = None if root.matrix is None else root.matrix.astype(work.dtype)
        if matrix is None or not abs(matrix).max() < math.inf:  # a root may not fit into float32
            rejected += 1
            said = (
                "%s: a matrix of size %d for %s missed its residual (%.3g); the earlier one stays"
            )
            named = type(s).__name__, f.task.n, work.layout.label(f)
            logger.warning(said, *named, root.residual)
            continue
        if (f.stack, f.place) not in copied:
            copied.add((f.stack, f.place))
            matrices[f.stack][f.place] = matrices[f.stack][f.place].copy()
        matrices[f.stack][f.place][f.tile] = work.backend.xp.asarray(matrix)
        versions[f.index] = submitted
    return replace(
        state, matrices=tuple(map(tuple, matrices)), versions=tuple(versions), rejected=rejected
    )
