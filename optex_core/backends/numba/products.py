"""Compiled kernels of coefficients: products of many differences of rows, and many sums of rows,
each in one pass over the rows.

Notes
-----
Vectors that lie apart come as addresses: a stack of twelve took 10 ms of a round at d = 1e6.
Products of the 113 differences of a round with its 11 new ones (d = 1e6, T0 = 50, N = 5, float32,
two cores with AVX2) take 64 ms in one pass, of which 29 are the multiplications at their peak; 67
and 71 with tiles of 1,024 and 4,096 columns, 75 with differences taken row by row, 118 in nine
calls for points and gradients apart. Four sums over one history (d = 250,000, 50 rows, one thread)
take 5.6 ms where reading it takes 3.4; 8.3 with differences kept, 10.2 row by row. Prefetch
instructions gained nothing.
"""

from __future__ import annotations

import numpy as np

from optex_core.backends.numba._jit import address_to_pointer, carray, jit
from optex_core.backends.numba.kernels import COLUMNS

#: Columns that are summed at a time; the longest tile of columns that is handled at a time; and the
#: most bytes in float64 that stay in the L2 cache beside what streams through it.
STEP, TILE, L2_BYTES = 512, 4_096, 200_000
#: From one vector in float64 to the next, in numbers: a cache line more than a tile, so that they
#: do not meet in the same lines of the cache.
ROW = TILE + 8


@jit
def _tile(vectors):
    """The columns to handle at a time, so that as many vectors in float64 stay in the cache."""
    tile = TILE
    while tile > STEP and 8 * vectors * tile > L2_BYTES:
        tile //= 2
    return tile


@jit
def _columns_at(address, begin, like, nothing):
    """Columns of a vector of the dtype of `like` from `begin` on; of zeros for address 0."""
    return carray(
        address_to_pointer(address + begin * like.itemsize if address else nothing),
        (TILE,),
        like.dtype,
    )


@jit
def _four_differences(out, pairs, begin, size, like, nothing):
    """Columns of four vectors minus four others, by their addresses, in float64: four streams from
    memory are read faster than one.
    """
    a0, b0 = (
        _columns_at(pairs[0, 0], begin, like, nothing),
        _columns_at(pairs[0, 1], begin, like, nothing),
    )
    a1, b1 = (
        _columns_at(pairs[1, 0], begin, like, nothing),
        _columns_at(pairs[1, 1], begin, like, nothing),
    )
    a2, b2 = (
        _columns_at(pairs[2, 0], begin, like, nothing),
        _columns_at(pairs[2, 1], begin, like, nothing),
    )
    a3, b3 = (
        _columns_at(pairs[3, 0], begin, like, nothing),
        _columns_at(pairs[3, 1], begin, like, nothing),
    )
    for k in range(size):
        out[k] = np.float64(a0[k]) - np.float64(b0[k])
        out[k + ROW] = np.float64(a1[k]) - np.float64(b1[k])
        out[k + 2 * ROW] = np.float64(a2[k]) - np.float64(b2[k])
        out[k + 3 * ROW] = np.float64(a3[k]) - np.float64(b3[k])


@jit
def _twelve_products(left, right, s0, s1, s2, s3):
    """Four vectors by three over STEP columns, added to the first three of each of `s0` to `s3`:
    twelve sums in registers for seven loads.
    """
    a0, a1, a2, b0, b1, b2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    c0, c1, c2, d0, d1, d2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(STEP):
        x, y, z = right[k], right[k + ROW], right[k + 2 * ROW]
        v = left[k]
        a0 += v * x
        a1 += v * y
        a2 += v * z
        v = left[k + ROW]
        b0 += v * x
        b1 += v * y
        b2 += v * z
        v = left[k + 2 * ROW]
        c0 += v * x
        c1 += v * y
        c2 += v * z
        v = left[k + 3 * ROW]
        d0 += v * x
        d1 += v * y
        d2 += v * z
    s0[0] += a0
    s0[1] += a1
    s0[2] += a2
    s1[0] += b0
    s1[1] += b1
    s1[2] += b2
    s2[0] += c0
    s2[1] += c1
    s2[2] += c2
    s3[0] += d0
    s3[1] += d1
    s3[2] += d2


@jit
def difference_products(a, b, like, nothing, d, width, partial, low, high):
    """`partial[block]`: products of the differences `a` with the differences `b`, pairs of
    addresses, by fours and by threes.

    Every product is the sum of STEP columns at a time, in order: what else is asked for changes
    none of its bits. `nothing` is the address of a tile of zeros; pairs of zeros fill up `a` to
    fours and `b` to twelves.
    """
    q = partial.shape[2]
    tile = _tile(q)
    right, left = np.empty(len(b) * ROW), np.empty(4 * ROW)
    for block in range(low, high):
        sums = partial[block]
        sums[:] = 0.0
        for begin in range(block * width, min((block + 1) * width, d), tile):
            size = min(begin + tile, (block + 1) * width, d) - begin
            # of the last columns: sums run over whole steps
            for end in range(size, -(-size // STEP) * STEP):
                right[end::ROW] = 0.0
                left[end::ROW] = 0.0
            for j in range(0, q, 4):
                _four_differences(right[j * ROW :], b[j:], begin, size, like, nothing)
            for i in range(0, len(a), 4):
                _four_differences(left, a[i:], begin, size, like, nothing)
                for k in range(0, size, STEP):
                    for j in range(0, q, 3):
                        _twelve_products(
                            left[k:],
                            right[j * ROW + k :],
                            sums[i, j:],
                            sums[i + 1, j:],
                            sums[i + 2, j:],
                            sums[i + 3, j:],
                        )


@jit
def _add_four(sums, rows, base, weights, begin, size, like, nothing):
    """Four weighted rows minus `base`, added to two sums: differences are taken anew for every two,
    which costs less than to keep them.
    """
    r0, r1 = _columns_at(rows[0], begin, like, nothing), _columns_at(rows[1], begin, like, nothing)
    r2, r3 = _columns_at(rows[2], begin, like, nothing), _columns_at(rows[3], begin, like, nothing)
    v0, v1, v2, v3 = weights[0, 0], weights[0, 1], weights[0, 2], weights[0, 3]
    w0, w1, w2, w3 = weights[1, 0], weights[1, 1], weights[1, 2], weights[1, 3]
    for k in range(size):
        b = base[k]
        a0, a1, a2, a3 = r0[k] - b, r1[k] - b, r2[k] - b, r3[k] - b
        sums[k] += (v0 * a0 + v1 * a1) + (v2 * a2 + v3 * a3)
        sums[k + ROW] += (w0 * a0 + w1 * a1) + (w2 * a2 + w3 * a3)


@jit
def weighted_sums(rows, bases, weights, results, like, nothing, d, low, high):
    """`results`: weighted sums of `rows` minus `bases`, all addresses, 0 for nothing; four rows
    have one base, `weights` an even number of sums.
    """
    tile = _tile(len(weights))
    sums, base = np.empty(len(weights) * ROW), np.empty(TILE)
    for begin in range(low * COLUMNS, min(high * COLUMNS, d), tile):
        size = min(begin + tile, high * COLUMNS, d) - begin
        for j in range(len(weights)):
            sums[j * ROW : j * ROW + size] = 0.0
        for i in range(0, len(rows), 4):
            if i == 0 or bases[i] != bases[i - 1]:
                anchor = _columns_at(bases[i], begin, like, nothing)
                for k in range(size):
                    base[k] = anchor[k]
            for j in range(0, len(weights), 2):
                _add_four(
                    sums[j * ROW :], rows[i:], base, weights[j:, i:], begin, size, like, nothing
                )
        for j in range(len(results)):
            to, total = _columns_at(results[j], begin, like, nothing), sums[j * ROW :]
            for k in range(size):
                to[k] = total[k]
