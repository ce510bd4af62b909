"""What a Shampoo run will take in memory and arithmetic, said before anything is allocated."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optex_core.optimizers.shampoo.blocking import BlockLayout
from optex_core.optimizers.shampoo.grafting import GRAFTS
from optex_core.optimizers.shampoo.root_service import balance_load

if TYPE_CHECKING:
    from optex_core.optimizers.shampoo import Shampoo

#: Flops of a root over n^3: the decomposition (about 9 in LAPACK's count, at a rate so low that it
#: takes the time of 40 n^3 of products), the product that makes the root, and the powers of its
#: residual.
ROOT_FLOPS = 50


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """Memory and work of `Shampoo` for given shapes.

    Attributes
    ----------
    d, factors, tiles : int
        Parameters, matrices whose roots are kept, tiles.
    statistics, roots, moments, jobs : int
        Bytes of the packed statistics, of the roots, of momentum and graft, and of the snapshots in
        flight at most.
    step_flops : int
        Of the products of a step: statistics and preconditioning.
    root_flops : float
        Of the roots, on average for a step; in the time of products.
    batch : float
        How many samples make a dense network's gradient cost as much as the products here: 2 (m +
        n) / 3 of each tile, averaged; below it, it is this optimizer that a step waits for.
    loads : tuple of float
        For each worker its share of the root work of an interval, when factors are assigned by
        cost.
    text : str
        The table.
    """

    d: int
    factors: int
    tiles: int
    statistics: int
    roots: int
    moments: int
    jobs: int
    step_flops: int
    root_flops: float
    batch: float
    loads: tuple[float, ...]
    text: str

    @property
    def bytes(self) -> int:
        """All of the state."""
        return self.statistics + self.roots + self.moments + self.jobs

    def __str__(self) -> str:
        return self.text


def estimate_cost(
    optimizer: Shampoo, layout: BlockLayout, dtype: np.dtype[Any], workers: int, show: bool
) -> CostEstimate:
    """The plan of `optimizer` for `layout`, x of `dtype`; written to standard output if `show`."""
    size = np.dtype(optimizer.packed_dtype or dtype).itemsize
    statistics, roots = layout.packed_entries * size, layout.full_entries * size
    moments = (
        (bool(optimizer.momentum) + GRAFTS[optimizer.graft].slots) * layout.size * dtype.itemsize
    )
    # In every interval each factor is begun once; a job lives for `delay` steps.
    jobs = -(-statistics * optimizer.delay // optimizer.interval)
    products = sum(
        2 * stack.number * int(np.prod(stack.tile)) * stack.tile[axis]
        for stack in layout.stacks
        for axis in stack.axes
    )
    covered = sum(stack.number * int(np.prod(stack.tile)) for stack in layout.stacks)
    cubes = sum(f.item.cost for f in layout.factors)
    root_flops = ROOT_FLOPS * cubes / optimizer.interval
    where = balance_load([f.item.cost for f in layout.factors], workers)
    loads = tuple(
        sum(f.item.cost for f, w in zip(layout.factors, where, strict=True) if w == k)
        / max(cubes, 1)
        for k in range(workers)
    )
    batch = 2 * products / (6 * covered) if covered else 0.0
    tiles = sum(stack.number for stack in layout.stacks)
    values = (
        layout.size,
        len(layout.factors),
        tiles,
        statistics,
        roots,
        moments,
        jobs,
        2 * products,
        root_flops,
        batch,
        loads,
    )
    plan = CostEstimate(*values, text=_text(layout, *values))
    if show:
        sys.stdout.write(plan.text + "\n")
    return plan


def _text(
    layout: BlockLayout, d: int, factors: int, tiles: int, statistics: int, roots: int, moments: int, jobs: int, flops: int, per_step: float,
    batch: float, loads: tuple[float, ...],
) -> str:  # fmt: skip
    rows = [("tensor", "shape", "taken as", "tiles", "preconditioned")]
    by_tensor: dict[int, list[tuple[int, str]]] = {}
    for stack in layout.stacks:
        for region in stack.regions:
            sides = (
                " and ".join(f"{stack.tile[a]} x {stack.tile[a]}" for a in stack.axes)
                + f", p = {stack.p}"
            )
            by_tensor.setdefault(region.tensor, []).append((region.number, sides))
    for i, tensor in enumerate(layout.tensors):
        found = by_tensor.get(i, [])
        what = (
            "; ".join(f"{n} of {sides}" if len(found) > 1 else sides for n, sides in found)
            or "no: the graft alone"
        )
        rows.append(
            (
                tensor.name,
                _shape(tensor.shape),
                _shape(layout.shapes[i]),
                str(sum(n for n, _ in found) or "-"),
                what,
            )
        )
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    table = "\n".join(
        "  ".join((*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4])).rstrip()
        for row in rows
    )
    total = statistics + roots + moments + jobs
    return "\n".join((
        table,
        "",
        f"{d:,} parameters, {tiles:,} tiles, {factors:,} roots every {layout.interval} "
            f"trusted steps",
        f"memory  {_amount(total)}: statistics {_amount(statistics)}, roots "
            f"{_amount(roots)}, momentum and graft {_amount(moments)}, "
        f"jobs in flight {_amount(jobs)}",
        f"work    {flops:.3g} flops of products a step, and roots that take as long as "
            f"{per_step:.3g}",
        f"        a dense network's gradient costs as much as the products from "
            f"{batch:.0f} samples on; with fewer, these take longer",
        f"workers {', '.join(f'{load:.0%}' for load in loads)} of the roots, assigned by cost",
    ))  # fmt: skip


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "number"


def _amount(number: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number} B"
