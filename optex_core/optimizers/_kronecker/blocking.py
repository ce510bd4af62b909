"""Blocks of a flat vector: tensors cut into tiles, equal tiles stacked, and each factor given its
step of an interval.

Everything here follows from the settings and the shapes alone; it is computed once and kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import DTypeLike

from optex_core.backends._memory import Scratch
from optex_core.optimizers._kronecker.matrix_jobs import MatrixTask, balance_load
from optex_core.optimizers.parameter_blocks import Block, merge_small_axes
from optex_core.types import Array

SIDES = ("both", "left", "right", "none")


@dataclass(frozen=True, slots=True)
class BlockRules:
    """The rules of one tensor, as in `KroneckerOptimizer`."""

    block_size: int
    max_axis: int
    merge: str
    sides: str
    vectors: bool
    #: p of the roots; None: 2k, k the number of axes; 0: eigenbases
    exponent: float | None = 0.0


@dataclass(frozen=True)
class BlockGroup:
    """Equal tiles of one tensor, in a stack."""

    tensor: int  # its index
    entries: slice  # of the tensor in the flat vector
    shape: tuple[int, ...]  # its merged shape
    cut: tuple[slice, ...]  # the part of it that these tiles cover
    counts: tuple[int, ...]  # tiles along each axis
    tile: tuple[int, ...]  # their shape
    first: int  # the first of these tiles in the stack

    @cached_property
    def number(self) -> int:
        """The number of tiles."""
        return math.prod(self.counts)

    @cached_property
    def _split(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shape (count, size, count, size, ...), and the order of its axes in `view`."""
        k = len(self.tile)
        shape = tuple(n for pair in zip(self.counts, self.tile, strict=True) for n in pair)
        return shape, (*range(0, 2 * k, 2), *range(1, 2 * k, 2))

    def view(self, x: Array) -> Array:
        """The tiles in the flat vector `x`: a view of shape (*counts, *tile)."""
        shape, order = self._split
        return x[self.entries].reshape(self.shape)[self.cut].reshape(shape).transpose(order)

    def of(self, stack: Array) -> Array:
        """The same tiles in their stack."""
        return stack[self.first : self.first + self.number].reshape(self.counts + self.tile)


@dataclass(frozen=True)
class BlockBatch:
    """All tiles of one shape and one treatment."""

    tile: tuple[int, ...]  # their shape
    axes: tuple[int, ...]  # the preconditioned ones
    p: float  # as in `MatrixTask`
    groups: tuple[BlockGroup, ...]
    number: int  # of tiles

    @cached_property
    def _contiguous(self) -> bool:
        """True for whole rows of one tensor."""
        return len(self.groups) == 1 and self.groups[0].shape[1:] == self.tile[1:]

    def gather(self, scratch: Scratch, name: str, x: Array, dtype: DTypeLike) -> Array:
        """The tiles of `x`, shape (number, *tile), to be read: a view, or copied to scratch."""
        if self._contiguous and x.dtype == dtype:
            return self.groups[0].view(x).reshape(-1, *self.tile)
        stack = scratch.empty(name, (self.number, *self.tile), dtype)
        for group in self.groups:
            group.of(stack)[...] = group.view(x)
        return stack

    def scatter(self, stack: Array, x: Array) -> None:
        """Write the tiles back into the flat vector `x`."""
        for group in self.groups:
            group.view(x)[...] = group.of(stack)


@dataclass(frozen=True, slots=True)
class PreconditionerFactor:
    """One statistic, and the matrix that is made of it: a root or an eigenbasis."""

    index: int
    stack: int
    place: int  # which of the preconditioned axes
    tile: int
    task: MatrixTask
    phase: int  # the matrix is computed when step % interval == phase
    packed: slice  # its triangle in the packed statistics


@dataclass(frozen=True, eq=False)
class BlockLayout:
    """The whole cut."""

    tensors: tuple[Block, ...]
    shapes: tuple[tuple[int, ...], ...]  # of the tensors, merged
    stacks: tuple[BlockBatch, ...]
    factors: tuple[PreconditionerFactor, ...]  # in the order of stacks, axes, tiles
    active: tuple[int, ...]  # the tensors that are preconditioned
    interval: int
    spread: bool
    phases: dict[int, tuple[PreconditionerFactor, ...]]
    largest_product: int  # m n k of the largest product of matrices

    @property
    def size(self) -> int:
        """d."""
        return sum(t.size for t in self.tensors)

    @cached_property
    def diagonals(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of all diagonals in the packed statistics, and where each factor's begins."""
        sizes = [f.task.n for f in self.factors]
        rows = [np.arange(n) for n in sizes]
        starts = [f.packed.start for f in self.factors]
        indices = [a + (i + 1) * (i + 2) // 2 - 1 for a, i in zip(starts, rows, strict=True)]
        return np.concatenate(indices), np.cumsum([0, *sizes[:-1]])

    @property
    def packed_entries(self) -> int:
        """Entries of all statistics, packed."""
        return self.factors[-1].packed.stop if self.factors else 0

    @property
    def full_entries(self) -> int:
        """Entries of all roots or bases."""
        return sum(f.task.n**2 for f in self.factors)

    def group_of(self, factor: PreconditionerFactor) -> BlockGroup:
        """The group that holds the tile of `factor`."""
        groups = self.stacks[factor.stack].groups
        return next(g for g in groups if g.first <= factor.tile < g.first + g.number)

    def label(self, factor: PreconditionerFactor) -> str:
        """Which part and side of which tensor: "w (300, 100)[128:256, 0:100], side 0"."""
        group = self.group_of(factor)
        label = self.tensors[group.tensor].label
        places = np.unravel_index(factor.tile - group.first, group.counts)
        starts = [
            c.start + int(i) * n for c, i, n in zip(group.cut, places, group.tile, strict=True)
        ]
        part = ", ".join(f"{a}:{a + n}" for a, n in zip(starts, group.tile, strict=True))
        cut = "" if group.tile == group.shape else f"[{part}]"
        return f"{label}{cut}, side {self.stacks[factor.stack].axes[factor.place]}"

    def turn(self, step: int, start: int, delay: int) -> tuple[PreconditionerFactor, ...]:
        """The factors whose turn is `step` = 1, 2, ... of the trusted steps.

        From max(1, start - delay) on each has one in every interval, at its phase. With `spread`
        the interval that ends there counts already, so that all are there at `start` and no step
        begins them all.
        """
        last = max(1, start - delay)
        first = max(1, last - self.interval + 1) if self.spread else last
        return self.phases.get(step % self.interval, ()) if step >= first else ()


def make_layout(
    tensors: tuple[Block, ...], rules: tuple[BlockRules, ...], interval: int, spread: bool
) -> BlockLayout:
    """Cut `tensors` by their `rules`, and give every factor its step of the `interval`."""
    groups: dict[tuple[tuple[int, ...], tuple[int, ...], float], list[BlockGroup]] = {}
    shapes, active = [], []
    for index, (tensor, rule) in enumerate(zip(tensors, rules, strict=True)):
        shape = merge_small_axes(tensor.shape, rule.block_size, rule.merge)
        axes = _axes(shape, rule)
        shapes.append(shape)
        if not axes:
            continue
        active.append(index)
        sizes = [rule.block_size if a in axes else n for a, n in enumerate(shape)]
        for cut, counts, tile in _split_into_tiles(shape, sizes):
            # One row or column that is left over is a vector, as it would be if it stood alone.
            long = tuple(a for a in axes if tile[a] > 1) or axes[:1]
            p = 2 * len(long) if rule.exponent is None else rule.exponent
            known = groups.setdefault((tile, long, p), [])
            first = known[-1].first + known[-1].number if known else 0
            known.append(BlockGroup(index, tensor.slice, shape, cut, counts, tile, first))
    stacks = tuple(
        BlockBatch(tile, axes, p, tuple(found), sum(g.number for g in found))
        for (tile, axes, p), found in groups.items()
    )
    places = [
        (s, place, k, MatrixTask(stack.tile[axis], stack.p))
        for s, stack in enumerate(stacks)
        for place, axis in enumerate(stack.axes)
        for k in range(stack.number)
    ]
    bins = min(interval, len(places)) if spread else 1
    # few factors: evenly apart
    phases = [k * interval // bins for k in balance_load([task.cost for *_, task in places], bins)]
    ends = np.cumsum([0, *(task.triangle_size for *_, task in places)]).tolist()
    factors = tuple(
        PreconditionerFactor(i, *place, phase, slice(*ends[i : i + 2]))
        for i, (place, phase) in enumerate(zip(places, phases, strict=True))
    )
    by_phase = {phase: tuple(f for f in factors if f.phase == phase) for phase in phases}
    return BlockLayout(
        tensors=tensors,
        shapes=tuple(shapes),
        stacks=stacks,
        factors=factors,
        active=tuple(active),
        interval=interval,
        spread=spread,
        phases=by_phase,
        largest_product=max(
            (math.prod(s.tile) * s.tile[axis] for s in stacks for axis in s.axes), default=0
        ),
    )


def _axes(shape: tuple[int, ...], rule: BlockRules) -> tuple[int, ...]:
    """The axes of a merged shape that are preconditioned."""
    if rule.sides == "none" or shape == (1,) or (len(shape) == 1 and not rule.vectors):
        return ()
    last = len(shape) - 1
    sides = {
        "both": range(last + 1),
        "left": range(last) if last else range(1),
        "right": range(last, last + 1),
    }[rule.sides]
    return tuple(a for a in sides if shape[a] <= rule.max_axis)


def _split_into_tiles(
    shape: tuple[int, ...], sizes: Sequence[int]
) -> list[tuple[tuple[slice, ...], tuple[int, ...], tuple[int, ...]]]:
    """(cut, counts, tile): whole tiles and what is left over, in every combination."""
    choices = []
    for n, size in zip(shape, sizes, strict=True):
        whole = n // size
        parts = [(slice(0, whole * size), whole, size)] if whole else []
        if n % size:
            parts.append((slice(whole * size, n), 1, n % size))
        choices.append(parts)
    return [tuple(zip(*parts, strict=True)) for parts in product(*choices)]
