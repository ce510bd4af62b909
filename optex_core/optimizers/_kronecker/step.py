"""The course of a step: statistics of g, then the move of the optimizer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar, cast

from optex_core.backends import for_array
from optex_core.backends.base import Backend
from optex_core.backends.blas_threads import (
    MAX_DOT_UNTHREADED,
    MAX_GEMM_UNTHREADED,
    blas_single_threaded,
)
from optex_core.optimizers._kronecker.cost_estimate import PlanDescriptor
from optex_core.optimizers._kronecker.refresh import leave_out, update_statistics
from optex_core.optimizers._kronecker.settings import KroneckerSettings, Workspace
from optex_core.optimizers._kronecker.state import KroneckerState, count, first_state
from optex_core.optimizers.schedules import rate_at
from optex_core.types import Array

_NOTHING = nullcontext()


class KroneckerSteps(ABC):
    """What `Shampoo` and `SOAP` share, beside their `KroneckerSettings`: state, step and report."""

    __slots__ = ()

    plan: ClassVar[Any] = PlanDescriptor()

    @abstractmethod
    def move(
        self,
        work: Workspace,
        x: Array,
        g: Array,
        before: KroneckerState,
        state: KroneckerState,
        rate: float,
    ) -> tuple[Array, tuple[Array, ...]]:
        """The next x and the next slots. `before` is the state before the step, `state` has the
        statistics and the matrices of g.
        """

    def init(self, x: Array, *, backend: Backend | None = None) -> KroneckerState:
        """The state before the first step."""
        return first_state(cast(KroneckerSettings, self), x, backend or for_array(x))

    def step(
        self,
        x: Array,
        g: Array,
        state: KroneckerState,
        *,
        value: float = math.nan,
        trusted: bool = True,
        backend: Backend | None = None,
    ) -> tuple[Array, KroneckerState]:
        """Statistics of a trusted g, then `move`; a g that is not finite is left out."""
        settings, backend = cast(KroneckerSettings, self), backend or for_array(x)
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
            x, slots = self.move(work, x, g, before, state, rate)
        return x, replace(state, t=state.t + 1, slots=slots, schedule=schedule)

    def report(self, state: KroneckerState) -> dict[str, object]:
        """Counts of a run, and the age of its roots (of SOAP: bases) in trusted steps.

        Keys: steps, trusted, updates (of the statistics), roots (those in use), pending (jobs in
        flight), oldest (age of the oldest root in use, None without any) and its tensor, waiting
        (tensors with tiles that step by their graft, or Adam, until their roots are there),
        rejected, skipped.
        """
        return count(cast(KroneckerSettings, self), state)


def small_products(work: Workspace, d: int) -> AbstractContextManager[None]:
    """A context in which BLAS uses one thread; nothing where no product is large enough for a
    second one.
    """
    if work.layout.largest_product <= MAX_GEMM_UNTHREADED and d <= MAX_DOT_UNTHREADED:
        return _NOTHING
    return blas_single_threaded(max(d, work.layout.packed_entries))
