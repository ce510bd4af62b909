"""The state of an optimizer with a matrix for each axis, before the first step and as counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optex_core.backends.base import Backend
from optex_core.errors import ArgumentError
from optex_core.optimizers._kronecker.cost_estimate import estimate_cost
from optex_core.optimizers.schedules import initial_state
from optex_core.types import Array

if TYPE_CHECKING:
    from optex_core.optimizers._kronecker.base import KroneckerOptimizer


@dataclass(frozen=True, slots=True)
class KroneckerState:
    """The state, jobs in flight included: arrays and integers."""

    t: int  # steps taken: schedules and bias corrections of the moments count these
    seen: int  # trusted steps: statistics, intervals, delays and the start count these
    updates: int  # of the statistics
    slots: tuple[Array, ...]  # (d,): the moments
    schedule: tuple[float, ...]
    statistics: Array  # (packed_entries,): a lower triangle for each factor, one after the other
    #: For each stack, for each preconditioned axis: roots or bases, (tiles, n, n).
    matrices: tuple[tuple[Array, ...], ...]
    versions: tuple[int, ...]  # for each factor the trusted step of its root's statistics, or 0
    born: Array  # (factors,), int64: the update that was the first with a gradient, or 0
    traces: Array  # (factors,), float64: of the mean statistics in the last job of each, or 0
    pending: tuple[Array | None, ...]  # jobs in flight: that of trusted step s at s % delay
    due: tuple[Array | None, ...]  # int64: the factors of each
    rejected: int = 0  # matrices that missed their residual: the earlier one stayed
    skipped: int = 0  # gradients or Gram matrices that were not finite: left out
    skipped_in_a_row: int = 0  # trusted gradients


def first_state(settings: KroneckerOptimizer, x: Array, backend: Backend) -> KroneckerState:
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
        needed = estimate_cost(settings, layout, np.dtype(x.dtype))
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


def count(settings: KroneckerOptimizer, state: KroneckerState) -> dict[str, object]:
    """The counts that `report` gives."""
    tensors = ["x"] * len(state.versions)
    if settings.shapes is not None:
        layout = settings.layout(sum(math.prod(shape) for _, shape in settings.shapes))
        tensors = [layout.tensors[layout.group_of(f).tensor].label for f in layout.factors]
    ages = [state.seen - version if version else None for version in state.versions]
    oldest = max((age for age in ages if age is not None), default=None)
    return {
        "steps": state.t,
        "trusted": state.seen,
        "updates": state.updates,
        "roots": sum(age is not None for age in ages),
        "pending": sum(job is not None for job in state.pending),
        "oldest": oldest,
        "oldest_tensor": None if oldest is None else tensors[ages.index(oldest)],
        "waiting": list(
            dict.fromkeys(t for t, age in zip(tensors, ages, strict=True) if age is None)
        ),
        "rejected": state.rejected,
        "skipped": state.skipped,
    }
