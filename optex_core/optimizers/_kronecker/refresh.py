"""Updates of statistics and of the matrices made of them: statistics at their steps, jobs submitted
at theirs, and each root or basis installed exactly `delay` trusted steps later.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from optex_core.errors import EvaluationError
from optex_core.optimizers._kronecker.blocking import PreconditionerFactor
from optex_core.optimizers._kronecker.matrix_jobs import (
    InlineMatrixService,
    MatrixJob,
    MatrixResult,
)
from optex_core.optimizers._kronecker.settings import Workspace
from optex_core.optimizers._kronecker.state import KroneckerState
from optex_core.optimizers._kronecker.statistics import accumulate_statistics, traces
from optex_core.types import Array

logger = logging.getLogger("optex_core")
_INLINE = InlineMatrixService()

#: A statistic whose mean trace has grown by more than this since its last job gets one at once, out
#: of its turn: beside a root from a trace 1/10 of today's a tile has three times its share of the
#: tensor. Digits as a product of rank 12, whose gradients grow from a small start, ended 3 times
#: lower for 3 jobs more beside 33; networks had none. At 3 and 30 the ends were equal, at 100 half
#: of the gain was gone.
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
    logger.warning(
        "%s: a gradient that is not finite, in %s, was left out at step %d; x, statistics and "
        "roots stay as they were",
        kind,
        where.label,
        state.t,
    )
    return replace(state, skipped=state.skipped + 1, skipped_in_a_row=row)


def update_statistics(work: Workspace, g: Array, state: KroneckerState) -> KroneckerState:
    """The state after one more true gradient: statistics, jobs sent, matrices set."""
    s, seen, updates = work.settings, state.seen + 1, state.updates
    packed, skipped = state.statistics, state.skipped
    found = None
    if (seen - 1) % s.statistics_interval == 0:
        share = 1.0 if s.statistics_decay == 1.0 else 1.0 - s.statistics_decay
        packed = accumulate_statistics(
            work.backend, work.scratch, work.layout, g, packed, s.statistics_decay, share
        )
        found = traces(work.backend, work.layout, packed)
        if not np.isfinite(found).all():
            packed, failed = _put_back(work, packed, state.statistics, found)
            found, skipped = None, skipped + failed
        updates += 1
    if found is None:
        found = traces(work.backend, work.layout, packed)
    born, held = work.backend.to_host(state.born), work.backend.to_host(state.traces)
    if not born.all():
        born = np.where((born == 0) & (found > 0.0), updates, born)
    weights = _weights(s.statistics_decay, updates, born)
    mean = found / weights
    ready = (born > 0) & (updates - born >= s.gradients - 1)
    due = _due(work, seen, mean, held, ready)
    if due:
        held = held.copy()
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
    if not s.delay:
        return state if job is None else _install(work, state, job, due, seen)
    return _pipeline(work, state, job, due)


def _pipeline(
    work: Workspace,
    state: KroneckerState,
    job: Array | None,
    due: Sequence[PreconditionerFactor],
) -> KroneckerState:
    """The state with one more job in flight, and with the matrices of the job of `delay` trusted
    steps ago.
    """
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


def _weights(decay: float, updates: int, born: np.ndarray) -> np.ndarray:
    """The sums of the weights of the gradients in each statistic, from its first one on."""
    ages = np.where(born > 0, updates + 1 - born, 1)
    weights: np.ndarray = ages.astype(np.float64) if decay == 1.0 else 1.0 - decay**ages
    return weights


def _put_back(work: Workspace, packed: Array, old: Array, found: np.ndarray) -> tuple[Array, int]:
    """The statistics with those of tiles whose squares overflow as they were, on all axes; the
    number of such tiles comes second.
    """
    factors = work.layout.factors
    bad = {
        (factors[i].stack, factors[i].tile): factors[i] for i in np.flatnonzero(~np.isfinite(found))
    }
    for factor in factors:
        if (factor.stack, factor.tile) in bad:
            packed[factor.packed] = old[factor.packed]
    logger.warning(
        "%s: the squares of a gradient overflow in %d tiles (%s); their statistics stay as they "
        "were",
        type(work.settings).__name__,
        len(bad),
        _labels(work, list(bad.values())),
    )
    return packed, len(bad)


def _labels(work: Workspace, factors: Sequence[PreconditionerFactor]) -> str:
    names = [work.layout.label(f) for f in factors[:4]]
    return "; ".join(names if len(factors) <= 4 else [*names[:3], "..."])


def _due(
    work: Workspace, seen: int, mean: np.ndarray, held: np.ndarray, ready: np.ndarray
) -> tuple[PreconditionerFactor, ...]:
    """The factors that get a job at trusted step `seen`: those whose turn it is, and from the first
    step on that all have had one, those without a job yet and those that have outgrown their last.

    A factor that has not seen `gradients` gradients has no matrix.
    """
    s, layout = work.settings, work.layout
    turn = layout.turn(seen, s.start, s.delay)
    if seen >= max(1, s.start - s.delay):
        late = np.flatnonzero(ready & (mean > GROWN * held))
        if late.size:
            indices = sorted({f.index for f in turn} | set(late.tolist()))
            turn = tuple(layout.factors[i] for i in indices)
    return tuple(f for f in turn if ready[f.index] and mean[f.index] > 0.0)


def _pack(
    work: Workspace,
    state: KroneckerState,
    packed: Array,
    due: Sequence[PreconditionerFactor],
    weights: np.ndarray,
) -> Array:
    """The job of the factors that are due: their statistics, one after the other, each with the
    basis that it steps from where there is one.
    """
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


def _factors(work: Workspace, indices: Array | None) -> tuple[PreconditionerFactor, ...]:
    assert indices is not None
    return tuple(work.layout.factors[i] for i in work.backend.to_host(indices).tolist())


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
    s = work.settings
    solved = (s.roots or _INLINE).result(_job(work, packed, due))
    versions, rejected = list(state.versions), 0
    fresh: dict[tuple[int, int], list[tuple[PreconditionerFactor, Array]]] = {}
    for factor, root in zip(due, solved, strict=True):
        matrix = _cast(root, work.dtype)
        if matrix is None:
            rejected += 1
            logger.warning(
                "%s: a matrix of size %d for %s missed its residual (%.3g); the earlier one stays",
                type(s).__name__,
                factor.task.n,
                work.layout.label(factor),
                root.residual,
            )
            continue
        fresh.setdefault((factor.stack, factor.place), []).append((factor, matrix))
        versions[factor.index] = submitted
    matrices = [list(of) for of in state.matrices]
    for (stack, place), pairs in fresh.items():
        whole = matrices[stack][place].copy()
        for factor, matrix in pairs:
            whole[factor.tile] = work.backend.xp.asarray(matrix)
        matrices[stack][place] = whole
    return replace(
        state,
        matrices=tuple(map(tuple, matrices)),
        versions=tuple(versions),
        rejected=state.rejected + rejected,
    )


def _cast(root: MatrixResult, dtype: np.dtype[np.floating]) -> Array | None:
    """The root in the state's precision; None if there is none, or if it does not fit."""
    if root.matrix is None:
        return None
    matrix = root.matrix.astype(dtype)
    return matrix if bool(abs(matrix).max() < math.inf) else None
