"""Compiled kernels of coefficients (span.py): products of many differences of rows, and many sums of rows, each in one pass over the rows.

They follow the rules of `_numba_kernels`. Vectors that lie apart come as addresses: a stack of twelve took 10 ms of a round at d = 1e6, more than a
tenth of it. Measured on two cores with AVX2 at 2.45 GHz (d = 1e6, 50 rows, float32, minima): 38 ms for the products with eleven vectors (41 two rows
by three vectors at a time; 42 and 46 with tiles of 512 and 256 columns, three by three rows one to three more); of the 38, some 15 are the
multiplications at their peak and 7 the differences. 24 ms for five sums, of which 11 are the making of the results.
"""

from __future__ import annotations

import numpy as np

from optex_core.backends._compiled import carray, compiled, pointer
from optex_core.backends._numba_kernels import COLUMNS

#: Columns that are handled at a time: what is taken from all of them stays in the L2 cache, in float64.
TILE = 1_024
#: Sums that one pass of `blend` makes.
OUTPUTS = 8


@compiled
def _difference(out, pair, begin, size, like):  # type: ignore[no-untyped-def]
    """Columns of one vector minus another, by their addresses, in float64; address 0 is nothing. Vectors have the dtype of `like`."""
    row = carray(pointer(pair[0]), (begin + size,), like.dtype)[begin:]
    if pair[1] == 0:
        for k in range(size):
            out[k] = row[k]
    else:
        base = carray(pointer(pair[1]), (begin + size,), like.dtype)[begin:]
        for k in range(size):
            out[k] = np.float64(row[k]) - np.float64(base[k])


@compiled
def _twelve_products(left, right, j, size, found):  # type: ignore[no-untyped-def]
    """Four vectors by three: twelve sums for seven loads."""
    l0, l1, l2, l3, r0, r1, r2 = left[0], left[1], left[2], left[3], right[j], right[j + 1], right[j + 2]
    a0, a1, a2, b0, b1, b2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    c0, c1, c2, d0, d1, d2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(size):
        x, y, z = r0[k], r1[k], r2[k]
        v = l0[k]
        a0 += v * x
        a1 += v * y
        a2 += v * z
        v = l1[k]
        b0 += v * x
        b1 += v * y
        b2 += v * z
        v = l2[k]
        c0 += v * x
        c1 += v * y
        c2 += v * z
        v = l3[k]
        d0 += v * x
        d1 += v * y
        d2 += v * z
    found[0, 0], found[0, 1], found[0, 2] = a0, a1, a2
    found[1, 0], found[1, 1], found[1, 2] = b0, b1, b2
    found[2, 0], found[2, 1], found[2, 2] = c0, c1, c2
    found[3, 0], found[3, 1], found[3, 2] = d0, d1, d2


@compiled
def difference_products(a, b, like, d, width, partial, low, high):  # type: ignore[no-untyped-def]
    """Products of the differences `a` with the differences `b`, pairs of addresses."""
    p, q = len(a), len(b)
    right, left, found = np.zeros(((q + 2) // 3 * 3, TILE)), np.zeros((4, TILE)), np.zeros((4, 3))
    for block in range(low, high):
        sums = partial[block]
        sums[:] = 0.0
        for begin in range(block * width, min((block + 1) * width, d), TILE):
            size = min(begin + TILE, (block + 1) * width, d) - begin
            for j in range(q):
                _difference(right[j], b[j], begin, size, like)
            for i in range(0, p, 4):
                rows = min(4, p - i)
                for m in range(rows):
                    _difference(left[m], a[i + m], begin, size, like)
                for j in range(0, q, 3):
                    _twelve_products(left, right, j, size, found)
                    for m in range(rows):
                        for e in range(min(3, q - j)):
                            sums[i + m, j + e] += found[m, e]


@compiled
def blend(X, P, G, Q, anchor, extras, A, o0, o1, o2, o3, o4, o5, o6, o7, low, high):  # type: ignore[no-untyped-def]
    """Four rows at a time: one load and one store of a sum for four products."""
    d, count = G.shape[1], len(A)
    sums, hand = np.empty((OUTPUTS, TILE)), np.zeros((4, TILE))
    for begin in range(low * COLUMNS, min(high * COLUMNS, d), TILE):
        size = min(begin + TILE, high * COLUMNS, d) - begin
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
