"""The products: what a gradient adds to the statistics, and a stack of tiles contracted with a
matrix for each axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from optex_core.backends._memory import Scratch
from optex_core.backends.base import Backend
from optex_core.optimizers._kronecker.blocking import BlockBatch, BlockLayout
from optex_core.optimizers._kronecker.matrix_jobs import tril_indices
from optex_core.types import Array

if TYPE_CHECKING:
    from optex_core.optimizers._kronecker.base import Workspace

#: Entries of Gram matrices computed at a time, so that they are still in the cache when their
#: triangles are taken (256 KiB to 1 MiB).
CHUNK = 131_072


def accumulate_statistics(work: Workspace, g: Array, old: Array) -> Array:
    """b H + (1 - b) Gram for each factor, b the decay of the statistics (1: the sum); H packed,
    shape (packed_entries,), one lower triangle after the other.
    """
    xp, scratch, decay, end = work.backend.xp, work.scratch, work.settings.statistics_decay, 0
    new = work.backend.empty(old.shape, old.dtype)
    for stack in work.layout.stacks:
        tiles = stack.gather(scratch, "tiles", g, old.dtype)
        for axis in stack.axes:
            n, lower = stack.tile[axis], tril_indices(stack.tile[axis])
            step = max(1, CHUNK // n**2)
            for i in range(0, stack.number, step):
                part = _as_rows(xp, tiles[i : i + step], axis)
                gram = scratch.empty("gram", (len(part), n, n), old.dtype)
                # NumPy sees that it is symmetric, and computes half of it
                xp.matmul(part, part.swapaxes(-1, -2), out=gram)
                begin, end = end, end + len(part) * len(lower)
                into, flat = new[begin:end].reshape(len(part), -1), gram.reshape(len(part), -1)
                if xp is np:  # "clip": the default makes NumPy copy through a buffer
                    flat.take(lower, axis=-1, out=into, mode="clip")
                else:
                    into[...] = flat[:, xp.asarray(lower)]
    if decay != 1.0:
        new *= old.dtype.type(1.0 - decay)
        kept = scratch.empty("kept", old.shape, old.dtype)
        old = xp.multiply(old, old.dtype.type(decay), out=kept)
    new += old
    return new


def traces(backend: Backend, layout: BlockLayout, packed: Array) -> np.ndarray:
    """The traces of all statistics, host float64, shape (factors,)."""
    if not layout.factors:
        return np.empty(0)
    indices, starts = layout.diagonals
    host = backend.to_host(packed[backend.xp.asarray(indices)])
    with np.errstate(all="ignore"):
        return np.add.reduceat(host.astype(np.float64, copy=False), starts)


def contract(scratch: Scratch, stack: BlockBatch, tiles: Array, matrices: Sequence[Array]) -> Array:
    """The tiles T x_1 M_1 ... x_k M_k, each preconditioned axis multiplied by its matrix, shape
    (number, *tile), in scratch or new.
    """
    xp = scratch.xp
    for axis, M in zip(stack.axes, matrices, strict=True):
        if len(stack.tile) == 2:
            out = scratch.empty(f"product {axis}", tiles.shape, tiles.dtype)
            pair = (M, tiles) if axis == 0 else (tiles, M.swapaxes(-1, -2))
            tiles = xp.matmul(*pair, out=out)
        elif len(stack.tile) == 1:
            tiles = xp.matmul(M, tiles[:, :, None])[:, :, 0]
        else:
            first = xp.moveaxis(tiles, axis + 1, 1)
            product = (M @ first.reshape(len(tiles), stack.tile[axis], -1)).reshape(first.shape)
            tiles = xp.moveaxis(product, 1, axis + 1)
    return tiles


def _as_rows(xp: ModuleType, tiles: Array, axis: int) -> Array:
    """The tiles as matrices, shape (number, n, rest), with `axis` for rows."""
    if tiles.ndim == 2:
        return tiles[:, :, None]
    if tiles.ndim == 3:
        return tiles if axis == 0 else tiles.swapaxes(1, 2)
    return xp.moveaxis(tiles, axis + 1, 1).reshape(len(tiles), tiles.shape[axis + 1], -1)
