"""The products: what a gradient adds to the statistics, and a stack of tiles contracted with a
matrix for each axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from optex_core.backends._scratch import Scratch
from optex_core.backends.base import Backend
from optex_core.optimizers._kronecker.blocking import BlockBatch, BlockLayout, GramChunk
from optex_core.optimizers._kronecker.matrix_jobs import tril_indices
from optex_core.types import Array


def accumulate_statistics(
    backend: Backend,
    scratch: Scratch,
    layout: BlockLayout,
    g: Array,
    old: Array,
    keep: float,
    share: float,
) -> Array:
    """keep H + share Gram for each factor; H packed, shape (packed_entries,), one lower triangle
    after the other.
    """
    xp, dtype, new = scratch.xp, old.dtype, backend.empty(old.shape, old.dtype)
    held, rows = -1, g
    for chunk in layout.chunks:
        gram = scratch.empty("gram", (chunk.size,), dtype)
        for piece in chunk.pieces:
            stack = layout.stacks[piece.stack]
            if piece.stack != held:
                held, rows = piece.stack, stack.gather(scratch, "tiles", g, dtype)
            part = _as_rows(xp, rows[piece.tiles], piece.axis)
            count, n = len(part), piece.n
            out = gram[piece.start : piece.start + count * n * n].reshape(count, n, n)
            # NumPy sees that it is symmetric, and computes half of it
            xp.matmul(part, part.swapaxes(-1, -2), out=out)
        packed = _take(scratch, chunk, gram)
        if share != 1.0:
            packed *= dtype.type(share)
        into = new[chunk.packed]
        if keep == 1.0:
            xp.add(old[chunk.packed], packed, out=into)
        else:
            xp.multiply(old[chunk.packed], dtype.type(keep), out=into)
            into += packed
    return new


def traces(backend: Backend, layout: BlockLayout, packed: Array) -> np.ndarray:
    """The traces of all statistics, host float64, shape (factors,); not finite where one of the
    diagonal is not.
    """
    if not layout.factors:
        return np.empty(0)
    diagonal = packed[backend.xp.asarray(layout.diagonal)]
    host = backend.to_host(diagonal).astype(np.float64, copy=False)
    with np.errstate(all="ignore"):
        return np.add.reduceat(host, layout.diagonal_starts)


def contract(
    scratch: Scratch,
    stack: BlockBatch,
    tiles: Array,
    matrices: Sequence[Array],
    out: Array | None = None,
) -> Array:
    """The tiles T x_1 M_1 ... x_k M_k, each preconditioned axis multiplied by its matrix, shape
    (number, *tile); in `out` if that is given, else in scratch.
    """
    xp = scratch.xp
    last = len(stack.axes) - 1
    for i, (axis, M) in enumerate(zip(stack.axes, matrices, strict=True)):
        if len(stack.tile) == 2:
            into = (
                out
                if i == last and out is not None
                else scratch.empty(f"product {axis}", tiles.shape, tiles.dtype)
            )
            right = M.swapaxes(-1, -2)
            tiles = (
                xp.matmul(M, tiles, out=into) if axis == 0 else xp.matmul(tiles, right, out=into)
            )
            continue
        if len(stack.tile) == 1:
            product = xp.matmul(M, tiles[:, :, None])[:, :, 0]
        else:
            first = xp.moveaxis(tiles, axis + 1, 1)
            product = (M @ first.reshape(len(tiles), stack.tile[axis], -1)).reshape(first.shape)
            product = xp.moveaxis(product, 1, axis + 1)
        tiles = product
    if out is not None and tiles is not out:
        out[...] = tiles
        return out
    return tiles


def _as_rows(xp: ModuleType, tiles: Array, axis: int) -> Array:
    """The tiles as matrices, shape (number, n, rest), with `axis` for rows."""
    if tiles.ndim == 2:
        return tiles[:, :, None]
    if tiles.ndim == 3:
        return tiles if axis == 0 else tiles.swapaxes(1, 2)
    return xp.moveaxis(tiles, axis + 1, 1).reshape(len(tiles), tiles.shape[axis + 1], -1)


def _take(scratch: Scratch, chunk: GramChunk, gram: Array) -> Array:
    """The lower triangles of a chunk, in scratch."""
    xp = scratch.xp
    size = chunk.packed.stop - chunk.packed.start
    packed = scratch.empty("packed", (size,), gram.dtype)
    source, into, where = gram, packed, chunk.where
    if where is None:
        n = chunk.pieces[0].n
        source, where = gram.reshape(-1, n * n), tril_indices(n)
        into = packed.reshape(-1, len(where))
    if xp is np:
        # "clip": the default makes NumPy copy through a buffer
        np.take(source, where, axis=-1, out=into, mode="clip")
    else:
        into[...] = source[..., xp.asarray(where)]
    return packed
