"""Compiled kernels of coefficients: products of many differences of rows, and many sums of rows,
each in one pass over the rows.

Notes
-----
Vectors that lie apart come as addresses: a stack of twelve took 10 ms of a round at d = 1e6.
Products of the 113 differences of a round with its 11 new ones (d = 1e6, T0 = 50, N = 5, float32,
two cores with AVX2) take 64 ms in one pass, 118 in nine calls for points and gradients apart. Four
sums over one history (d = 250,000, 50 rows) take 5.6 ms where reading it takes 3.4.
"""

from __future__ import annotations

import numpy as np

from optex_core.backends.numba._jit import address_to_pointer, carray, jit, jit_generated
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
    start = address + begin * like.itemsize if address else nothing
    return carray(address_to_pointer(start), (TILE,), like.dtype)


def _differences(count):
    """Columns of `count` vectors minus others, by their addresses, in float64."""
    source = ["def differences(out, pairs, begin, size, like, nothing):"]
    for i in range(count):
        source += [f"    a{i} = columns_at(pairs[{i}, 0], begin, like, nothing)"]
        source += [f"    b{i} = columns_at(pairs[{i}, 1], begin, like, nothing)"]
    source += ["    for k in range(size):"]
    for i in range(count):
        source += [f"        out[k + {i * ROW}] = np.float64(a{i}[k]) - np.float64(b{i}[k])"]
    return jit_generated("differences", source, columns_at=_columns_at)


#: Four streams from memory are read faster than one.
_four_differences = _differences(4)


def _product_sums(rows, columns):
    """Products of `rows` by `columns` vectors over STEP columns, kept in registers."""
    sums = [[f"t{i}{j}" for j in range(columns)] for i in range(rows)]
    source = [f"def product_sums(left, right, {', '.join(f's{i}' for i in range(rows))}):"]
    source += [f"    {' = '.join(line)} = 0.0" for line in sums]
    source += [f"    for k in range({STEP}):"]
    source += [f"        y{j} = right[k + {j * ROW}]" for j in range(columns)]
    for i, line in enumerate(sums):
        source += [f"        v = left[k + {i * ROW}]"]
        source += [f"        {total} += v * y{j}" for j, total in enumerate(line)]
    source += [f"    s{i}[{j}] += {t}" for i, line in enumerate(sums) for j, t in enumerate(line)]
    return jit_generated("product_sums", source)


#: Twelve sums for seven loads.
_twelve_products = _product_sums(4, 3)


@jit
def difference_products(a, b, like, nothing, d, width, partial, low, high):
    """`partial[block]`: products of the differences `a` with the differences `b`, pairs of
    addresses, by fours and by threes.

    Every product is the sum of STEP columns at a time, in order: what else is computed changes
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
    """Four weighted rows minus `base`, added to two sums."""
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
