"""Compiled kernels: each handles the blocks ``low`` to ``high`` of the columns and reads its rows
once.

Reductions keep one partial sum for each block, and `sum_partials` adds them in order.

Notes
-----
No array expressions and no calls between the files of kernels: a kernel then compiles in 0.2 to 0.4
s for each dtype. Four rows at a time: at d = 1e6 `weighted_sum` reads 31 GB/s, 17 row by row.
"""

from __future__ import annotations

import numpy as np

from optex_core.backends.numba._jit import address_to_pointer, carray, jit, jit_internal

#: Columns that are handled at a time: long enough for the prefetcher to run (a row's part is 32 kB
#: in float32), short enough for the L2 cache.
COLUMNS = 8_192
#: Most blocks that a reduction keeps partial sums for.
BLOCKS = 256


def column_blocks(d: int) -> tuple[int, int]:
    """(width, number) of the blocks in which `d` columns are summed."""
    width = COLUMNS * max(1, -(-d // (COLUMNS * BLOCKS)))
    return width, -(-d // width)


def sum_partials(partial: np.ndarray) -> np.ndarray:
    """The sum over blocks, the first axis, in order."""
    # NumPy adds rows one after the other when it reduces the first axis of a C-contiguous array.
    result: np.ndarray = partial.sum(axis=0) if len(partial) != 1 else partial[0]
    return result


@jit
def dot(a, b, width, partial, low, high):
    for j in range(low, high):
        begin, end = j * width, min((j + 1) * width, a.size)
        left, right = a[begin:end], b[begin:end]
        sums = 0.0
        for k in range(left.size):
            sums += np.float64(left[k]) * np.float64(right[k])
        partial[j] = sums


@jit
def distance(a, b, scale, width, partial, low, high):
    for j in range(low, high):
        begin, end = j * width, min((j + 1) * width, a.size)
        left, right = a[begin:end], b[begin:end]
        sums = 0.0
        if scale is not None:
            over = scale[begin:end]
            for k in range(left.size):
                step = (np.float64(left[k]) - np.float64(right[k])) / np.float64(over[k])
                sums += step * step
        else:
            for k in range(left.size):
                step = np.float64(left[k]) - np.float64(right[k])
                sums += step * step
        partial[j] = sums


@jit_internal
def tile_distances(rows, at, factor, begin, size, sums):
    """sums_i += sum_k ((rows_ik - at_k) factor_k)^2 over `size` columns from `begin`; no factor is
    a factor of one.

    Four rows at a time: four streams from memory are read faster than one.
    """
    n, end, i = len(rows), begin + size, 0
    if factor is None:
        while i + 4 <= n:
            r0, r1 = rows[i, begin:end], rows[i + 1, begin:end]
            r2, r3 = rows[i + 2, begin:end], rows[i + 3, begin:end]
            s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
            for k in range(size):
                p = at[k]
                d0, d1 = np.float64(r0[k]) - p, np.float64(r1[k]) - p
                d2, d3 = np.float64(r2[k]) - p, np.float64(r3[k]) - p
                s0 += d0 * d0
                s1 += d1 * d1
                s2 += d2 * d2
                s3 += d3 * d3
            sums[i] += s0
            sums[i + 1] += s1
            sums[i + 2] += s2
            sums[i + 3] += s3
            i += 4
    while i < n:
        row = rows[i, begin:end]
        s0 = 0.0
        if factor is not None:
            for k in range(size):
                step = (np.float64(row[k]) - at[k]) * factor[k]
                s0 += step * step
        else:
            for k in range(size):
                step = np.float64(row[k]) - at[k]
                s0 += step * step
        sums[i] += s0
        i += 1


@jit
def squared_distances(rows, points, scale, width, partial, low, high):
    """`partial[j]`: of every point, by its address, to every row."""
    n, d = rows.shape
    tile, item = min(COLUMNS, d), rows.itemsize
    at, factor = np.empty((len(points), tile)), np.empty(tile)
    for j in range(low, high):
        sums = partial[j]
        sums[:] = 0.0
        for begin in range(j * width, min((j + 1) * width, d), COLUMNS):
            size = min(begin + COLUMNS, d) - begin
            for a in range(len(points)):
                x = carray(address_to_pointer(points[a] + begin * item), (size,), rows.dtype)
                to = at[a]
                for k in range(size):
                    to[k] = x[k]
            if scale is not None:
                for k in range(size):
                    factor[k] = 1.0 / np.float64(scale[begin + k])
            for i in range(0, n, 4):  # four rows come from memory once for all points
                for a in range(len(points)):
                    if scale is not None:
                        tile_distances(rows[i : i + 4], at[a], factor, begin, size, sums[a, i:])
                    else:
                        tile_distances(rows[i : i + 4], at[a], None, begin, size, sums[a, i:])


@jit_internal
def tile_weighted_sum(rows, weights, anchor, begin, size, base, sums):
    """base = rows[anchor], or zeros; sums = sum_i w_i (rows_i - base) over `size` columns."""
    n = len(rows)
    for k in range(size):
        sums[k] = 0.0
        base[k] = 0.0
    if anchor >= 0:
        for k in range(size):
            base[k] = rows[anchor, begin + k]
    end, i = begin + size, 0
    # four rows at a time: the sums in the L2 cache are loaded and stored a quarter as often
    while i + 4 <= n:
        r0, r1 = rows[i, begin:end], rows[i + 1, begin:end]
        r2, r3 = rows[i + 2, begin:end], rows[i + 3, begin:end]
        w0, w1, w2, w3 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        for k in range(size):
            b = base[k]
            sums[k] += (w0 * (r0[k] - b) + w1 * (r1[k] - b)) + (w2 * (r2[k] - b) + w3 * (r3[k] - b))
        i += 4
    while i < n:
        r0, w0 = rows[i, begin:end], weights[i]
        for k in range(size):
            sums[k] += w0 * (r0[k] - base[k])
        i += 1


@jit
def weighted_sum(rows, weights, anchor, out, low, high):
    d = rows.shape[1]
    base, sums = np.empty(COLUMNS), np.empty(COLUMNS)
    for begin in range(low * COLUMNS, min(high * COLUMNS, d), COLUMNS):
        size = min(begin + COLUMNS, d) - begin
        tile_weighted_sum(rows, weights, anchor, begin, size, base, sums)
        part = out[begin : begin + size]
        for k in range(size):
            part[k] = base[k] + sums[k]


@jit
def predict(X, G, weights, anchor, x, curvature, scale, out, low, high):
    d = G.shape[1]
    base, sums, lever = np.empty(COLUMNS), np.empty(COLUMNS), np.empty(COLUMNS)
    for begin in range(low * COLUMNS, min(high * COLUMNS, d), COLUMNS):
        end = min(begin + COLUMNS, d)
        size = end - begin
        tile_weighted_sum(X, weights, anchor, begin, size, base, sums)
        at = x[begin:end]
        for k in range(size):
            lever[k] = curvature * ((np.float64(at[k]) - base[k]) - sums[k])
        if scale is not None:
            for k in range(size):
                factor = 1.0 / np.float64(scale[begin + k])
                lever[k] *= factor * factor
        tile_weighted_sum(G, weights, anchor, begin, size, base, sums)
        part = out[begin:end]
        for k in range(size):
            part[k] = (base[k] + sums[k]) + lever[k]
