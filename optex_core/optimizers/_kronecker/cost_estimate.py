"""Memory and arithmetic of a run, before anything is allocated."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from optex_core._validation import integer
from optex_core.optimizers._kronecker.blocking import BlockLayout
from optex_core.optimizers._kronecker.matrix_jobs import balance_load
from optex_core.optimizers._kronecker.settings import KroneckerSettings
from optex_core.optimizers.parameter_blocks import blocks_from_shapes

#: Flops of a root over n^3: the decomposition (about 9 in LAPACK's count, in the time of 40 n^3 of
#: products), the product that makes the root, and the powers of its residual.
ROOT_FLOPS = 50


class PlanDescriptor:
    """``Shampoo.plan(shapes)`` with the default settings, ``optimizer.plan()`` with its own."""

    def __get__(
        self, optimizer: KroneckerSettings | None, kind: type[KroneckerSettings]
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


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """Memory (bytes) and work (flops) of `Shampoo` or `SOAP` for given shapes."""

    d: int
    factors: int  # matrices whose roots or bases are kept
    tiles: int
    statistics: int  # bytes, packed
    roots: int  # bytes, of roots or bases
    moments: int  # bytes of the moments
    jobs: int  # bytes of the snapshots in flight, at most
    step_flops: int  # products of a step: statistics and preconditioning
    root_flops: float  # roots, on average for a step, in the time of products
    #: Samples from which on a dense network's gradient costs as much as the products: 2 (m + n) / 3
    #: of each tile, averaged. With fewer, a step waits for this optimizer.
    batch: float
    loads: tuple[float, ...]  # share of each worker in the root work, assigned by cost
    text: str  # the table

    @property
    def bytes(self) -> int:
        """All of the state."""
        return self.statistics + self.roots + self.moments + self.jobs

    def __str__(self) -> str:
        return self.text


def estimate_cost(
    settings: KroneckerSettings,
    layout: BlockLayout,
    dtype: np.dtype[np.floating],
    workers: int,
    show: bool,
) -> CostEstimate:
    """The estimate for `layout` and x of `dtype`; written to standard output if `show`."""
    size = np.dtype(settings.packed_dtype or dtype).itemsize
    statistics, roots = layout.packed_entries * size, layout.full_entries * size
    entries = [stack.number * math.prod(stack.tile) for stack in layout.stacks]
    sides = [sum(stack.tile[axis] for axis in stack.axes) for stack in layout.stacks]
    one = sum(2 * n * side for n, side in zip(entries, sides, strict=True))
    products = (1 + settings.contractions) * one
    costs = [f.task.cost for f in layout.factors]
    in_jobs = sum(f.task.packed_size for f in layout.factors) * size
    where, total = balance_load(costs, workers), max(sum(costs), 1)
    shares = [sum(c for c, w in zip(costs, where, strict=True) if w == k) for k in range(workers)]
    estimate = CostEstimate(
        d=layout.size,
        factors=len(layout.factors),
        tiles=sum(stack.number for stack in layout.stacks),
        statistics=statistics,
        roots=roots,
        moments=settings.moments * layout.size * dtype.itemsize,
        # In every interval each factor is submitted once; a job lives for `delay` steps.
        jobs=-(-in_jobs * settings.delay // settings.interval),
        step_flops=products,
        root_flops=ROOT_FLOPS * sum(costs) / settings.interval,
        batch=products / (6 * sum(entries)) if entries else 0.0,
        loads=tuple(share / total for share in shares),
        text="",
    )
    estimate = replace(estimate, text=_text(layout, estimate))
    if show:
        sys.stdout.write(estimate.text + "\n")
    return estimate


def _text(layout: BlockLayout, e: CostEstimate) -> str:
    kind = "bases" if layout.factors and not layout.factors[0].task.p else "roots"
    alone = "no: the graft alone" if kind == "roots" else "no: Adam alone"
    rows = [("tensor", "shape", "taken as", "tiles", "preconditioned")]
    by_tensor: dict[int, list[tuple[int, str]]] = {}
    for stack in layout.stacks:
        for group in stack.groups:
            sides = " and ".join(f"{stack.tile[a]} x {stack.tile[a]}" for a in stack.axes)
            pair = group.number, f"{sides}, p = {stack.p:g}" if stack.p else sides
            by_tensor.setdefault(group.tensor, []).append(pair)
    for i, tensor in enumerate(layout.tensors):
        found = by_tensor.get(i, [])
        what = "; ".join(f"{n} of {sides}" if len(found) > 1 else sides for n, sides in found)
        tiles = str(sum(n for n, _ in found) or "-")
        shapes = _shape(tensor.shape), _shape(layout.shapes[i])
        rows.append((tensor.path, *shapes, tiles, what or alone))
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    table = [
        "  ".join((*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4])).rstrip()
        for row in rows
    ]
    return "\n".join((
        *table,
        "",
        f"{e.d:,} parameters, {e.tiles:,} tiles, {e.factors:,} {kind} every {layout.interval} "
        "trusted steps",
        f"memory  {_amount(e.bytes)}: statistics {_amount(e.statistics)}, {kind} "
        f"{_amount(e.roots)}, moments {_amount(e.moments)}, "
        f"jobs in flight {_amount(e.jobs)}",
        f"work    {e.step_flops:.3g} flops of products a step, and {kind} that take as long as "
        f"{e.root_flops:.3g}",
        f"        a dense network's gradient costs as much as the products from {e.batch:.0f} "
        "samples on; with fewer, these take longer",
        f"workers {', '.join(f'{load:.0%}' for load in e.loads)} of the {kind}, assigned by cost",
    ))  # fmt: skip


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "number"


def _amount(number: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number} B"
