"""The course of a step: statistics of g, then the move of the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TypeAlias

from optex_core.backends import for_array
from optex_core.backends.base import Backend
from optex_core.backends.blas_threads import (
    MAX_DOT_UNTHREADED,
    MAX_GEMM_UNTHREADED,
    blas_single_threaded,
)
from optex_core.optimizers._kronecker.refresh import leave_out, update_statistics
from optex_core.optimizers._kronecker.settings import KroneckerSettings, Workspace
from optex_core.optimizers._kronecker.state import KroneckerState
from optex_core.optimizers.schedules import rate_at
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


def small_products(work: Workspace, d: int) -> AbstractContextManager[None]:
    """A context in which BLAS uses one thread; nothing where no product is large enough for a
    second one.
    """
    if work.layout.largest_product <= MAX_GEMM_UNTHREADED and d <= MAX_DOT_UNTHREADED:
        return _NOTHING
    return blas_single_threaded(max(d, work.layout.packed_entries))
