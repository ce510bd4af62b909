"""Compiled kernels of coefficients (span.py): products of many differences of rows, and many sums of rows, each in one pass over the rows.

They follow the rules of `_numba_kernels`. Vectors that lie apart come as addresses: a stack of twelve took 10 ms of a round at d = 1e6.
24 ms for five sums at d = 1e6, T0 = 50 in float32 on two cores, of which 11 are the making of the results.

Products of the 113 differences of a round with its 11 new ones (d = 1e6, T0 = 50, N = 5, Nesterov, float32, two cores with AVX2 at 3.1 GHz, minima of
one run): 64 ms in one pass, of which 29 are the multiplications at their peak of two vector FMA a cycle; 67, 71 with tiles of 1,024, 4,096 columns,
69 with steps of 256; 75 with differences taken row by row, as the memory answers one stream slowly; 118 that way in nine calls, for points and
gradients apart. Prefetch instructions for the next four rows, at once or spread between products, gained nothing.
"""

from __future__ import annotations

import numpy as np

from optex_core.backends._compiled import carray, compiled, pointer
from optex_core.backends._numba_kernels import COLUMNS

#: Columns that are summed at a time; the longest tile of columns that are turned into differences at a time; and the most bytes of differences that
#: stay in the L2 cache beside what streams through it.
STEP, TILE, HELD = 512, 2_048, 262_144
#: From one vector of differences to the next, in numbers: a cache line more than a tile, so that they do not meet in the same lines of the cache.
ROW = TILE + 8
#: Sums that one pass of `blend` makes, and the columns that it handles at a time: what is taken from all of them stays in the L2 cache, in float64.
OUTPUTS, WIDTH = 8, 1_024


@compiled
def _columns_at(address, begin, like, nothing):  # type: ignore[no-untyped-def]
    """Columns of a vector of the dtype of `like` from `begin` on; of zeros for address 0."""
    return carray(pointer(address + begin * like.itemsize if address else nothing), (TILE,), like.dtype)


@compiled
def _four_differences(out, pairs, begin, size, like, nothing):  # type: ignore[no-untyped-def]
    """Columns of four vectors minus four others, by their addresses, in float64: four streams from memory are read faster than one."""
    a0, b0 = _columns_at(pairs[0, 0], begin, like, nothing), _columns_at(pairs[0, 1], begin, like, nothing)
    a1, b1 = _columns_at(pairs[1, 0], begin, like, nothing), _columns_at(pairs[1, 1], begin, like, nothing)
    a2, b2 = _columns_at(pairs[2, 0], begin, like, nothing), _columns_at(pairs[2, 1], begin, like, nothing)
    a3, b3 = _columns_at(pairs[3, 0], begin, like, nothing), _columns_at(pairs[3, 1], begin, like, nothing)
    for k in range(size):
        out[k] = np.float64(a0[k]) - np.float64(b0[k])
        out[k + ROW] = np.float64(a1[k]) - np.float64(b1[k])
        out[k + 2 * ROW] = np.float64(a2[k]) - np.float64(b2[k])
        out[k + 3 * ROW] = np.float64(a3[k]) - np.float64(b3[k])


@compiled
def _twelve_products(left, right, s0, s1, s2, s3):  # type: ignore[no-untyped-def]
    """Four vectors by three over STEP columns, added to the first three of each of `s0` to `s3`: twelve sums in registers for seven loads."""
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


@compiled
def difference_products(a, b, like, nothing, d, width, partial, low, high):  # type: ignore[no-untyped-def]
    """`partial[block]`: products of the differences `a` with the differences `b`, pairs of addresses, by fours and by threes.

    Every product is the sum of STEP columns at a time, in order: what else is asked for changes none of its bits. `nothing` is the address of a tile
    of zeros; pairs of zeros fill up `a` to fours and `b` to twelves.
    """
    q = partial.shape[2]
    tile = TILE
    while tile > STEP and 8 * q * tile > HELD:
        tile //= 2
    right, left = np.zeros(len(b) * ROW), np.zeros(4 * ROW)
    for block in range(low, high):
        sums = partial[block]
        sums[:] = 0.0
        for begin in range(block * width, min((block + 1) * width, d), tile):
            size = min(begin + tile, (block + 1) * width, d) - begin
            if size < tile:  # the last columns: sums run over whole steps
                right[:] = 0.0
                left[:] = 0.0
            for j in range(0, q, 4):
                _four_differences(right[j * ROW :], b[j:], begin, size, like, nothing)
            for i in range(0, len(a), 4):
                _four_differences(left, a[i:], begin, size, like, nothing)
                for k in range(0, size, STEP):
                    for j in range(0, q, 3):
                        _twelve_products(left[k:], right[j * ROW + k :], sums[i, j:], sums[i + 1, j:], sums[i + 2, j:], sums[i + 3, j:])


@compiled
def blend(X, P, G, Q, anchor, extras, A, o0, o1, o2, o3, o4, o5, o6, o7, low, high):  # type: ignore[no-untyped-def]
    """Four rows at a time: one load and one store of a sum for four products."""
    d, count = G.shape[1], len(A)
    sums, hand = np.empty((OUTPUTS, WIDTH)), np.zeros((4, WIDTH))
    for begin in range(low * COLUMNS, min(high * COLUMNS, d), WIDTH):
        size = min(begin + WIDTH, high * COLUMNS, d) - begin
        for j in range(count):
            out = sums[j]
            for k in range(size):
                out[k] = 0.0
            for e in range(A.shape[1]):
                weight, extra = A[j, e], carray(pointer(extras[e]), (begin + size,), G.dtype)[begin:]
                for k in range(size):
                    out[k] += weight * np.float64(extra[k])
        for side in range(2):
            rows, weights = (G, Q) if side == 0 else (X, P)
            n = weights.shape[1]
            base = rows[anchor, begin : begin + size]
            for i in range(0, n, 4):
                group = min(4, n - i)
                for m in range(group):
                    to, row = hand[m], rows[i + m, begin : begin + size]
                    for k in range(size):
                        to[k] = np.float64(row[k]) - np.float64(base[k])
                r0, r1, r2, r3 = hand[0], hand[1], hand[2], hand[3]
                for j in range(count):
                    out = sums[j]
                    if group == 4:
                        w0, w1, w2, w3 = weights[j, i], weights[j, i + 1], weights[j, i + 2], weights[j, i + 3]
                        for k in range(size):
                            out[k] += (w0 * r0[k] + w1 * r1[k]) + (w2 * r2[k] + w3 * r3[k])
                    else:  # what is left in the hand may not be finite
                        for m in range(group):
                            weight, row = weights[j, i + m], hand[m]
                            for k in range(size):
                                out[k] += weight * row[k]
        for j in range(count):
            to = (o0, o1, o2, o3, o4, o5, o6, o7)[j][begin : begin + size]
            out = sums[j]
            for k in range(size):
                to[k] = out[k]
