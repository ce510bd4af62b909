"""Memory and arithmetic of a run, before anything is allocated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optex_core.optimizers._kronecker.blocking import BlockLayout

if TYPE_CHECKING:
    from optex_core.optimizers._kronecker.base import KroneckerOptimizer

#: Flops of a root over n^3: the decomposition (about 9 in LAPACK's count, in the time of 40 n^3 of
#: products), the product that makes the root, and the powers of its residual.
ROOT_FLOPS = 50


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """Memory (bytes) and work (flops) of `Shampoo` or `SOAP` for given shapes."""

    layout: BlockLayout
    statistics: int  # bytes, packed
    roots: int  # bytes, of roots or bases
    moments: int  # bytes of the moments
    jobs: int  # bytes of the snapshots in flight, at most
    step_flops: int  # products of a step: statistics and preconditioning
    root_flops: float  # roots, on average for a step, in the time of products
    #: Samples from which on a dense network's gradient costs as much as the products: 2 (m + n) / 3
    #: of each tile, averaged. With fewer, a step waits for this optimizer.
    batch: float

    @property
    def d(self) -> int:
        """Parameters."""
        return self.layout.size

    @property
    def factors(self) -> int:
        """Matrices whose roots or bases are kept."""
        return len(self.layout.factors)

    @property
    def bytes(self) -> int:
        """All of the state."""
        return self.statistics + self.roots + self.moments + self.jobs

    def __str__(self) -> str:
        layout = self.layout
        kind = "bases" if layout.factors and not layout.factors[0].task.p else "roots"
        rows = [("tensor", "shape", "taken as", "tiles", "preconditioned")]
        for i, tensor in enumerate(layout.tensors):
            found = []
            for stack in layout.stacks:
                sides = " and ".join(f"{stack.tile[a]} x {stack.tile[a]}" for a in stack.axes)
                sides += f", p = {stack.p:g}" if stack.p else ""
                found += [(g.number, sides) for g in stack.groups if g.tensor == i]
            what = "; ".join(f"{n} of {sides}" if len(found) > 1 else sides for n, sides in found)
            alone = "no: the graft alone" if kind == "roots" else "no: Adam alone"
            tiles = str(sum(n for n, _ in found) or "-")
            pair = (tensor.shape, layout.shapes[i])
            shape, taken = (" x ".join(map(str, one)) or "number" for one in pair)
            rows.append((tensor.path, shape, taken, tiles, what or alone))
        widths = [max(len(row[k]) for row in rows) for k in range(4)]
        table = [
            "  ".join((*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4])).rstrip()
            for row in rows
        ]
        number = sum(stack.number for stack in layout.stacks)
        return "\n".join((
            *table,
            "",
            f"{self.d:,} parameters, {number:,} tiles, {self.factors:,} {kind} every "
            f"{layout.interval} trusted steps",
            f"memory  {_amount(self.bytes)}: statistics {_amount(self.statistics)}, {kind} "
            f"{_amount(self.roots)}, moments {_amount(self.moments)}, "
            f"jobs in flight {_amount(self.jobs)}",
            f"work    {self.step_flops:.3g} flops of products a step, and {kind} that take as long "
            f"as {self.root_flops:.3g}",
            "        a dense network's gradient costs as much as the products from "
            f"{self.batch:.0f} samples on; with fewer, these take longer",
        ))  # fmt: skip


def estimate_cost(
    settings: KroneckerOptimizer, layout: BlockLayout, dtype: np.dtype[Any]
) -> CostEstimate:
    """The estimate for `layout` and x of `dtype`."""
    size = np.dtype(settings.packed_dtype or dtype).itemsize
    entries = [stack.number * math.prod(stack.tile) for stack in layout.stacks]
    sides = [sum(stack.tile[axis] for axis in stack.axes) for stack in layout.stacks]
    one = sum(2 * n * side for n, side in zip(entries, sides, strict=True))
    products = (1 + settings.contractions) * one
    costs = [f.task.cost for f in layout.factors]
    in_jobs = sum(f.task.packed_size for f in layout.factors) * size
    return CostEstimate(
        layout,
        statistics=layout.packed_entries * size,
        roots=layout.full_entries * size,
        moments=settings.moments * layout.size * dtype.itemsize,
        # In every interval each factor is submitted once; a job lives for `delay` steps.
        jobs=-(-in_jobs * settings.delay // settings.interval),
        step_flops=products,
        root_flops=ROOT_FLOPS * sum(costs) / settings.interval,
        batch=products / (6 * sum(entries)) if entries else 0.0,
    )


def _amount(number: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number} B"
