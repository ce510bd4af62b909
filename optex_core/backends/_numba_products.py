"""Compiled kernels of coefficients (span.py): products of many differences of rows, and many sums of rows, each in one pass over the rows.

They follow the rules of `_numba_kernels`. Measured on two cores at d = 1e6, 50 rows, float32, CPU time over two: 24 ms for the products with six
vectors in tiles of 1,024 columns (33 and 32 with 256 and 512), 37 for five sums (49 and 45), of which 11 are the making of the results.
"""

from __future__ import annotations

import numpy as np

from optex_core.backends._compiled import compiled
from optex_core.backends._numba_kernels import COLUMNS

#: Columns that are handled at a time: what is taken from all of them stays in the L2 cache, in float64.
TILE = 1_024
#: Sums that one pass of `blend` makes.
OUTPUTS = 8


@compiled
def difference_products(A, a, B, b, width, partial, low, high):  # type: ignore[no-untyped-def]
    """Two rows by three vectors at a time: six sums for five loads."""
    p, q, d = len(a), len(b), A.shape[1]
    wide = (q + 2) // 3 * 3
    right, left = np.zeros((wide, TILE)), np.zeros((2, TILE))
    for block in range(low, high):
        sums = partial[block]
        for i in range(p):
            for j in range(q):
                sums[i, j] = 0.0
        for begin in range(block * width, min((block + 1) * width, d), TILE):
            size = min(begin + TILE, (block + 1) * width, d) - begin
            for j in range(q):
                out, row = right[j], B[b[j, 0], begin : begin + size]
                if b[j, 1] < 0:
                    for k in range(size):
                        out[k] = row[k]
                else:
                    base = B[b[j, 1], begin : begin + size]
                    for k in range(size):
                        out[k] = np.float64(row[k]) - np.float64(base[k])
            for i in range(0, p, 2):
                pair = min(2, p - i)
                for m in range(pair):
                    out, row = left[m], A[a[i + m, 0], begin : begin + size]
                    if a[i + m, 1] < 0:
                        for k in range(size):
                            out[k] = row[k]
                    else:
                        base = A[a[i + m, 1], begin : begin + size]
                        for k in range(size):
                            out[k] = np.float64(row[k]) - np.float64(base[k])
                one, two = left[0], left[pair - 1]
                for j in range(0, q, 3):
                    x, y, z = right[j], right[j + 1], right[j + 2]
                    s0, s1, s2, t0, t1, t2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
                    for k in range(size):
                        s0 += one[k] * x[k]
                        s1 += one[k] * y[k]
                        s2 += one[k] * z[k]
                        t0 += two[k] * x[k]
                        t1 += two[k] * y[k]
                        t2 += two[k] * z[k]
                    sums[i, j] += s0
                    if j + 1 < q:
                        sums[i, j + 1] += s1
                    if j + 2 < q:
                        sums[i, j + 2] += s2
                    if pair == 2:
                        sums[i + 1, j] += t0
                        if j + 1 < q:
                            sums[i + 1, j + 1] += t1
                        if j + 2 < q:
                            sums[i + 1, j + 2] += t2


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
                weight, extra = A[j, e], extras[e, begin : begin + size]
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
