"""The state before the first step, the course of a step, and what is reported of a later one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from optex_core.backends import for_array
from optex_core.backends.base import Backend
from optex_core.backends.blas_threads import (
    MAX_DOT_UNTHREADED,
    MAX_GEMM_UNTHREADED,
    blas_single_threaded,
)
from optex_core.errors import ArgumentError
from optex_core.optimizers._kronecker.cost_estimate import estimate_cost
from optex_core.optimizers._kronecker.refresh import KroneckerState, leave_out, update_statistics
from optex_core.optimizers._kronecker.settings import KroneckerSettings, Workspace
from optex_core.optimizers.schedules import initial_state, rate_at
from optex_core.types import Array

_NOTHING = nullcontext()

#: ``move(work, x, g, before, state, rate)``: the next x and the next slots. `before` is the state
#: before the step, `state` has the statistics and the matrices of g.
Move: TypeAlias = Callable[
    [Workspace, Array, Array, KroneckerState, KroneckerState, float],
    tuple[Array, tuple[Array, ...]],
]


def take_step(
    settings: KroneckerSettings,
    move: Move,
    x: Array,
    g: Array,
    state: KroneckerState,
    *,
    value: float,
    trusted: bool,
    backend: Backend | None,
) -> tuple[Array, KroneckerState]:
    """One step: statistics of a trusted g, then `move`; a g that is not finite is left out."""
    backend = backend or for_array(x)
    work = settings.workspace(x, backend)
    if g.dtype != x.dtype:
        g = backend.copy_in(g, x.dtype)
    with small_products(work, len(x)), backend.ignore_fp_warnings():
        if not backend.all_finite(g):
            return backend.copy_in(x, x.dtype), leave_out(work, g, state, trusted)
        rate, schedule = rate_at(settings.learning_rate, state.t, state.schedule, value)
        before = state
        if trusted and work.layout.factors:
            state = update_statistics(work, g, state)
        x, slots = move(work, x, g, before, state, rate)
    return x, replace(state, t=state.t + 1, slots=slots, schedule=schedule)


def first_state(settings: KroneckerSettings, x: Array, backend: Backend) -> KroneckerState:
    """The state before the first step: no gradient seen, zeros for roots, identities for bases."""
    layout, dtype = settings.layout(len(x)), settings.state_dtype(x)
    try:
        statistics = backend.zeros(layout.packed_entries, dtype)
        matrices = []
        for stack in layout.stacks:
            sizes = [stack.tile[axis] for axis in stack.axes]
            found = tuple(backend.zeros((stack.number, n, n), dtype) for n in sizes)
            if not stack.p:
                for bases in found:
                    bases[...] = backend.xp.eye(bases.shape[-1])
            matrices.append(found)
        slots = tuple(backend.zeros(len(x), x.dtype) for _ in range(settings.moments))
    except (MemoryError, ValueError) as error:
        # ValueError: NumPy's, for sizes beyond any address
        needed = estimate_cost(settings, layout, np.dtype(x.dtype), 1, False)
        raise ArgumentError(
            f"the state takes {needed.bytes / 1e9:.3g} GB, more than there is; "
            f"pass a smaller block_size, sides='left', or vectors=False, "
            "and see optimizer.plan()"
        ) from error
    return KroneckerState(
        t=0,
        seen=0,
        updates=0,
        slots=slots,
        schedule=initial_state(settings.learning_rate),
        statistics=statistics,
        matrices=tuple(matrices),
        versions=(0,) * len(layout.factors),
        born=np.zeros(len(layout.factors), np.int64),
        traces=np.zeros(len(layout.factors)),
        pending=(None,) * settings.delay,
        due=(None,) * settings.delay,
    )


def small_products(work: Workspace, d: int) -> AbstractContextManager[None]:
    """A context in which BLAS uses one thread; nothing where no product is large enough for a
    second one.
    """
    if work.layout.largest_product <= MAX_GEMM_UNTHREADED and d <= MAX_DOT_UNTHREADED:
        return _NOTHING
    return blas_single_threaded(max(d, work.layout.packed_entries))


def count(settings: KroneckerSettings, state: KroneckerState) -> dict[str, object]:
    """The counts that `report` gives."""
    ages = [state.seen - version for version in state.versions if version]
    oldest = max(ages, default=None)
    pairs = list(zip(_labels(settings, state), state.versions, strict=True))
    return {
        "steps": state.t,
        "trusted": state.seen,
        "updates": state.updates,
        "roots": len(ages),
        "pending": sum(job is not None for job in state.pending),
        "oldest": oldest,
        "oldest_tensor": next((n for n, v in pairs if v and state.seen - v == oldest), None),
        "waiting": list(dict.fromkeys(name for name, version in pairs if not version)),
        "rejected": state.rejected,
        "skipped": state.skipped,
    }


def _labels(settings: KroneckerSettings, state: KroneckerState) -> list[str]:
    """The tensor of each factor."""
    if settings.shapes is None:
        return ["x"] * len(state.versions)
    layout = settings.layout(sum(t.size for t in settings.tensors()))
    return [layout.tensors[layout.group_of(f).tensor].label for f in layout.factors]
