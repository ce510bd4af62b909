"""Distributed Shampoo."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from optex_core._validation import integer
from optex_core.backends import for_array
from optex_core.backends.base import Backend
from optex_core.backends.blas_threads import blas_single_threaded
from optex_core.errors import ArgumentError
from optex_core.optimizers.base import OPTIMIZERS
from optex_core.optimizers.parameter_blocks import blocks_from_shapes
from optex_core.optimizers.schedules import initial_state, rate_at
from optex_core.optimizers.shampoo.cost_estimate import CostEstimate, estimate_cost
from optex_core.optimizers.shampoo.grafting import GRAFTS
from optex_core.optimizers.shampoo.settings import ShampooSettings
from optex_core.optimizers.shampoo.step import preconditioned_step
from optex_core.optimizers.shampoo.update_schedule import ShampooState, update_statistics
from optex_core.types import Array

logger = logging.getLogger("optex_core")


class _PlanDescriptor:
    """``Shampoo.plan(shapes)`` with the default settings, ``optimizer.plan()`` with its own."""

    def __get__(
        self, optimizer: Shampoo | None, kind: type[Shampoo]
    ) -> Callable[..., CostEstimate]:
        def plan(
            shapes: Any = None, *, dtype: Any = np.float64, workers: int = 1, show: bool = True
        ) -> CostEstimate:
            """Memory and work for these shapes, before anything is allocated: written to standard
            output (unless ``show=False``) and returned.
            """
            settings, count = optimizer or kind(), integer("workers", workers, low=1)
            tensors = settings.tensors() if shapes is None else blocks_from_shapes(shapes)
            return estimate_cost(settings, settings.cut(tensors), np.dtype(dtype), count, show)

        return plan


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class Shampoo(ShampooSettings):
    """Shampoo: gradients of matrices multiplied from each side by inverse roots of their own
    statistics; blocked, grafted, pipelined.

    For each tile G (a tensor block, cut where it is longer than `block_size`) and each axis i of k
    preconditioned ones, at *trusted* steps:

    H_i <- b2 H_i + (1 - b2) Gram_i(G) (b2 = 1: the sum);
    P_i = (H_i / (1 - b2^u) + ridge lambda_max I)^(-1/p), p = 2k, after u updates.

    At every step, with h the gradient or its running mean:
    D = h x_1 P_1 ... x_k P_k;  w = D |graft(h)| / |D|;  x <- (1 - rate decay) x - rate w,
    or with momentum after: v <- momentum v + w;  x <- (1 - rate decay) x - rate v.

    Roots are started every `interval` trusted steps from the statistics of that step, each factor
    at its own step of the interval, and used from exactly `delay` trusted steps later on. With
    ``roots=optex_core.RootPool(...)`` they are computed elsewhere meanwhile, with the same bits.
    Predicted gradients (``trusted=False``) use the roots as they are.

    Notes
    -----
    A gradient that is not finite is left out whole: x and the state stay, `report` counts it. A
    root whose true residual |X^p A - I| exceeds 1e-3 is not published, the earlier one stays, and
    `report` counts it. Intended differences from the paper: it takes whichever root is ready; here
    the delay is exact. It pays where gradients are costly against 4 m n (m + n) flops per m x n
    tile, and for matrices; not for vectors without structure.

    References
    ----------
    Gupta, Koren, Singer, Shampoo: preconditioned stochastic tensor optimization, ICML 2018, arXiv
    1802.09568, algorithms 1 and 2; Anil, Gupta, Koren, Regan, Singer, Scalable second order
    optimization for deep learning, arXiv 2002.09018; Shi et al., A distributed data-parallel
    PyTorch implementation of the Distributed Shampoo optimizer, arXiv 2309.06497. "Google's" is
    google-research/precondition, "Meta's" facebookresearch/optimizers, "Lingvo" tensorflow/lingvo.

    Examples
    --------
    >>> import numpy as np
    >>> import optex_core as ox
    >>> target = np.outer([1.0, 100.0], [1.0, 10.0, 100.0])
    >>> optimizer = ox.Shampoo(0.5, shapes={"w": (2, 3)}, start=1, interval=1)
    >>> x = np.zeros(6)
    >>> state = optimizer.init(x)
    >>> for _ in range(20):
    ...     x, state = optimizer.step(x, x - target.ravel(), state)
    >>> optimizer.report(state)["roots"]
    2
    """

    name: ClassVar[str] = "shampoo"
    plan: ClassVar[Any] = _PlanDescriptor()

    def init(self, x: Array, *, backend: Backend | None = None) -> ShampooState:
        backend = backend or for_array(x)
        layout, dtype = self.layout(len(x)), self.state_dtype(x)
        slots = bool(self.momentum) + GRAFTS[self.graft].slots
        try:
            statistics, roots = [], []
            for stack in layout.stacks:
                sizes = [stack.tile[axis] for axis in stack.axes]
                statistics.append(
                    tuple(backend.zeros((stack.number, n * (n + 1) // 2), dtype) for n in sizes)
                )
                roots.append(tuple(backend.zeros((stack.number, n, n), dtype) for n in sizes))
            vectors = tuple(backend.zeros(len(x), x.dtype) for _ in range(slots))
        except (MemoryError, ValueError) as error:
            # ValueError: NumPy's, for sizes beyond any address
            needed = estimate_cost(self, layout, np.dtype(x.dtype), 1, False)
            raise ArgumentError(
                f"the state takes {needed.bytes / 1e9:.3g} GB, more than there is; "
                f"pass a smaller block_size, sides='left', or vectors=False, "
                "and see optimizer.plan()"
            ) from error
        return ShampooState(
            t=0,
            seen=0,
            updates=0,
            slots=vectors,
            schedule=initial_state(self.learning_rate),
            statistics=tuple(statistics),
            roots=tuple(roots),
            versions=(0,) * len(layout.factors),
            pending=(None,) * self.delay,
        )

    def step(
        self,
        x: Array,
        g: Array,
        state: ShampooState,
        *,
        value: float = math.nan,
        trusted: bool = True,
        backend: Backend | None = None,
    ) -> tuple[Array, ShampooState]:
        backend = backend or for_array(x)
        work = self.workspace(x, backend)
        if g.dtype != x.dtype:
            g = backend.copy_in(g, x.dtype)
        with blas_single_threaded(len(x)):
            finite = backend.all_finite(g)
        if not finite:
            logger.warning(
                "Shampoo: a gradient that is not finite was left out at step %d; x, "
                "statistics and roots stay as they were",
                state.t,
            )
            return backend.copy_in(x, x.dtype), replace(state, skipped=state.skipped + 1)
        rate, schedule = rate_at(self.learning_rate, state.t, state.schedule, value)
        with blas_single_threaded(work.layout.packed_entries), backend.ignore_fp_warnings():
            if trusted and work.layout.factors:
                state = update_statistics(work, g, state)
            x, slots = preconditioned_step(work, x, g, state, rate)
        return x, replace(state, t=state.t + 1, slots=slots, schedule=schedule)

    def report(self, state: ShampooState) -> dict[str, Any]:
        """Counts of a run, and the age of its roots in trusted steps.

        Keys: steps, trusted, updates (of the statistics), roots (those in use), pending (jobs in
        flight), oldest (age of the oldest root in use, None without any), rejected, skipped.
        """
        ages = [state.seen - version for version in state.versions if version]
        return {
            "steps": state.t,
            "trusted": state.seen,
            "updates": state.updates,
            "roots": len(ages),
            "pending": sum(job is not None for job in state.pending),
            "oldest": max(ages, default=None),
            "rejected": state.rejected,
            "skipped": state.skipped,
        }
