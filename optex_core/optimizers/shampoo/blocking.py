"""Blocks of a flat vector: tensors cut into tiles, equal tiles stacked, and each factor given its
step of an interval.

Everything here follows from the settings and the shapes alone; it is computed once and kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from optex_core.backends._scratch import Scratch
from optex_core.errors import ArgumentError
from optex_core.optimizers.parameter_blocks import Block, merge_small_axes
from optex_core.optimizers.shampoo.root_service import RootTask, balance_load
from optex_core.types import Array

SIDES = ("both", "left", "right", "none")


@dataclass(frozen=True, slots=True)
class BlockRules:
    """The rules of one tensor, as in `ShampooSettings`."""

    block_size: int
    max_axis: int
    merge: str
    sides: str
    exponent: int | None
    vectors: bool


@dataclass(frozen=True, slots=True)
class BlockGroup:
    """Equal tiles of one tensor, in a stack."""

    tensor: int  # its index
    start: int  # its first entry
    shape: tuple[int, ...]  # its merged shape
    cut: tuple[slice, ...]  # the part of it that these tiles cover
    counts: tuple[int, ...]  # tiles along each axis
    tile: tuple[int, ...]  # their shape
    first: int  # the first of these tiles in the stack

    @property
    def number(self) -> int:
        """The number of tiles."""
        return math.prod(self.counts)

    @property
    def first_entry(self) -> int:
        """The first entry of the first tile in the flat vector."""
        steps = [math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        return self.start + sum(c.start * step for c, step in zip(self.cut, steps, strict=True))

    def view(self, x: Array) -> Array:
        """The tiles in the flat vector `x`: a view of shape (*counts, *tile)."""
        part = x[self.start : self.start + math.prod(self.shape)].reshape(self.shape)[self.cut]
        k = len(self.tile)
        part = part.reshape([n for pair in zip(self.counts, self.tile, strict=True) for n in pair])
        return part.transpose(*range(0, 2 * k, 2), *range(1, 2 * k, 2))

    def of(self, stack: Array) -> Array:
        """The same tiles in their stack."""
        return stack[self.first : self.first + self.number].reshape(*self.counts, *self.tile)


@dataclass(frozen=True, slots=True)
class BlockBatch:
    """All tiles of one shape and one treatment."""

    tile: tuple[int, ...]  # their shape
    axes: tuple[int, ...]  # the preconditioned ones
    p: int  # the root is A^(-1/p)
    groups: tuple[BlockGroup, ...]
    span: slice | None  # the tiles in the flat vector, where they are contiguous

    @property
    def number(self) -> int:
        """The number of tiles."""
        return sum(group.number for group in self.groups)

    def gather(self, scratch: Scratch, name: str, x: Array, dtype: Any) -> Array:
        """The tiles of the flat vector `x`, shape (number, *tile), in `dtype`, to be read: a view,
        or copied to the scratch called `name`.
        """
        view = self.view(x)
        if view is not None and view.dtype == dtype:
            return view
        stack = scratch.empty(name, (self.number, *self.tile), dtype)
        for group in self.groups:
            group.of(stack)[...] = group.view(x)
        return stack

    def view(self, x: Array) -> Array | None:
        """The tiles as a part of the flat vector `x`; None where they are not contiguous."""
        return None if self.span is None else x[self.span].reshape(self.number, *self.tile)

    def scatter(self, stack: Array, x: Array) -> None:
        """Write the tiles back into the flat vector `x`."""
        for group in self.groups:
            group.view(x)[...] = group.of(stack)


@dataclass(frozen=True, slots=True)
class PreconditionerFactor:
    """One matrix whose root is kept."""

    index: int
    stack: int
    place: int  # which of the preconditioned axes
    tile: int
    task: RootTask
    phase: int  # the root is computed when step % interval == phase


@dataclass(frozen=True, slots=True, eq=False)
class BlockLayout:
    """The whole cut."""

    tensors: tuple[Block, ...]
    shapes: tuple[tuple[int, ...], ...]  # of the tensors, merged
    stacks: tuple[BlockBatch, ...]
    factors: tuple[PreconditionerFactor, ...]  # in the order of stacks, axes, tiles
    active: tuple[int, ...]  # the tensors that are preconditioned
    interval: int
    phases: dict[int, tuple[PreconditionerFactor, ...]]

    @property
    def size(self) -> int:
        """d."""
        return sum(t.size for t in self.tensors)

    @property
    def packed_entries(self) -> int:
        """Entries of all statistics, packed."""
        return sum(f.task.packed_size for f in self.factors)

    @property
    def full_entries(self) -> int:
        """Entries of all roots."""
        return sum(f.task.n**2 for f in self.factors)

    def group_of(self, factor: PreconditionerFactor) -> BlockGroup:
        """The group that holds the tile of `factor`."""
        groups = self.stacks[factor.stack].groups
        return next(g for g in groups if g.first <= factor.tile < g.first + g.number)

    def roots_due(self, step: int, start: int, delay: int) -> tuple[PreconditionerFactor, ...]:
        """The factors whose roots are submitted at `step` = 1, 2, ... of the trusted steps.

        Each has its step in every interval. The first interval ends at max(1, start - delay), so
        that the first roots are there at `start`; what has had no turn by then is submitted at that
        step.
        """
        last = max(1, start - delay)
        first = max(1, last - self.interval + 1)
        if step < first:
            return ()
        if step == last:
            had = {t % self.interval for t in range(first, last)}
            return tuple(f for f in self.factors if f.phase not in had)
        return self.phases.get(step % self.interval, ())


def make_layout(
    tensors: tuple[Block, ...], rules: tuple[BlockRules, ...], interval: int, spread: bool
) -> BlockLayout:
    """Cut `tensors`, each by its `rules`, and give every factor its step of the `interval` (all the
    same one unless `spread`).
    """
    groups: dict[tuple[tuple[int, ...], tuple[int, ...], int], list[BlockGroup]] = {}
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
            known.append(BlockGroup(index, tensor.start, shape, cut, counts, tile, first))
    stacks = tuple(
        BlockBatch(tile, axes, p, tuple(found), _contiguous_span(found))
        for (tile, axes, p), found in groups.items()
    )
    places = [
        (s, place, k, RootTask(stack.tile[axis], stack.p))
        for s, stack in enumerate(stacks)
        for place, axis in enumerate(stack.axes)
        for k in range(stack.number)
    ]
    bins = min(interval, len(places)) if spread else 1
    # few factors: evenly apart
    phases = [k * interval // bins for k in balance_load([task.cost for *_, task in places], bins)]
    factors = tuple(
        PreconditionerFactor(i, *place, phase)
        for i, (place, phase) in enumerate(zip(places, phases, strict=True))
    )
    by_phase = {phase: tuple(f for f in factors if f.phase == phase) for phase in phases}
    return BlockLayout(tensors, tuple(shapes), stacks, factors, tuple(active), interval, by_phase)


def _contiguous_span(groups: Sequence[BlockGroup]) -> slice | None:
    """One slice for all tiles, or None."""
    start = end = groups[0].first_entry
    for group in groups:
        if group.first_entry != end or group.tile[1:] != group.shape[1:]:
            return None
        end += group.number * math.prod(group.tile)
    return slice(start, end)


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
    """(cut, counts, tile): whole tiles, and what is left over at the end of each axis, in every
    combination; nothing is padded.
    """
    choices = []
    for n, size in zip(shape, sizes, strict=True):
        whole = n // size
        parts = [(slice(0, whole * size), whole, size)] if whole else []
        if n % size:
            parts.append((slice(whole * size, n), 1, n % size))
        choices.append(parts)
    return [tuple(zip(*parts, strict=True)) for parts in product(*choices)]


def check_size(tensors: tuple[Block, ...], d: int) -> None:
    """Refuse shapes that do not add up to d."""
    total = sum(t.size for t in tensors)
    if total != d:
        many = ", ".join([*(f"{t.name} {t.shape}" for t in tensors[:6]), "..."][: len(tensors)])
        raise ArgumentError(
            f"shapes must cover the vector exactly: they have {total} entries in all "
            f"({many}), x has {d}"
        )
