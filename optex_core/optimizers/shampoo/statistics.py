"""The products of Shampoo: what a gradient adds to the statistics of a stack of tiles, and a stack
contracted with its roots.
"""

from __future__ import annotations

import numpy as np

from optex_core.backends._scratch import Scratch
from optex_core.optimizers.shampoo.blocking import BlockBatch
from optex_core.optimizers.shampoo.root_service import tril_indices
from optex_core.types import Array

#: Entries of Gram matrices computed at a time, so that they are still in the cache when they are
#: packed and added (256 KiB to 1 MiB).
CHUNK = 131_072


def accumulate_statistics(
    scratch: Scratch, stack: BlockBatch, g: Array, old: tuple[Array, ...], keep: float, share: float
) -> tuple[tuple[Array, ...], int]:
    """keep H + share Gram for each preconditioned axis of each tile; H packed, shape (number, n (n
    + 1) / 2).

    Where a Gram matrix overflows, that tile's statistics stay what they were (on all axes); the
    number of such tiles comes second.
    """
    xp, dtype = scratch.xp, old[0].dtype
    tiles = stack.gather(scratch, "tiles", g, dtype)
    new, bad = [], xp.zeros(len(tiles), bool)
    for axis, H in zip(stack.axes, old, strict=True):
        n = stack.tile[axis]
        rows = xp.moveaxis(tiles, axis + 1, 1).reshape(len(tiles), n, -1)
        out = xp.empty_like(H)
        step = max(1, CHUNK // n**2)
        where = xp.asarray(tril_indices(n))
        for i in range(0, len(tiles), step):
            part = rows[i : i + step]
            gram = scratch.empty("gram", (len(part), n, n), dtype)
            # NumPy sees that it is symmetric, and computes half of it
            xp.matmul(part, part.swapaxes(-1, -2), out=gram)
            gram = gram.reshape(len(part), n * n)
            packed = scratch.empty("packed", (len(part), n * (n + 1) // 2), dtype)
            if xp is np:
                # "clip": the default makes NumPy copy through a buffer
                np.take(gram, where, axis=1, out=packed, mode="clip")
            else:
                packed[...] = gram[:, where]
            if share != 1.0:
                packed *= dtype.type(share)
            new_part = out[i : i + step]
            if keep == 1.0:
                xp.add(H[i : i + step], packed, out=new_part)
            else:
                xp.multiply(H[i : i + step], dtype.type(keep), out=new_part)
                new_part += packed
        diagonal = (np.arange(n) + 1) * (np.arange(n) + 2) // 2 - 1
        bad |= ~xp.isfinite(out[:, xp.asarray(diagonal)]).all(1)
        new.append(out)
    failed = int(bad.sum())
    if failed:
        new = [xp.where(bad[:, None], H, out) for H, out in zip(old, new, strict=True)]
    return tuple(new), failed


def apply_preconditioners(
    scratch: Scratch,
    stack: BlockBatch,
    tiles: Array,
    roots: tuple[Array, ...],
    out: Array | None = None,
) -> Array:
    """The tiles multiplied along each preconditioned axis by its root, shape (number, *tile); in
    `out` if that is given, else in scratch.
    """
    xp = scratch.xp
    last = len(stack.axes) - 1
    for i, (axis, P) in enumerate(zip(stack.axes, roots, strict=True)):
        if len(stack.tile) == 2:
            into = (
                out
                if i == last and out is not None
                else scratch.empty(f"product {axis}", tiles.shape, tiles.dtype)
            )
            tiles = xp.matmul(P, tiles, out=into) if axis == 0 else xp.matmul(tiles, P, out=into)
            continue
        first = xp.moveaxis(tiles, axis + 1, 1)
        product = (P @ first.reshape(len(tiles), stack.tile[axis], -1)).reshape(first.shape)
        tiles = xp.moveaxis(product, 1, axis + 1)
    if out is not None and tiles is not out:
        out[...] = tiles
        return out
    return tiles
