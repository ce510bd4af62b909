"""Compiled kernels that compare several new rows with all rows, for one reading of the rows.

Notes
-----
New rows are turned into float64 once for a tile of columns. Two or three pairs are summed in one
loop: one pair alone waits for its sums (an FMA takes four cycles), more run out of registers.
`pair_products` (d = 1e6, 50 rows, 5 new ones, float32, two cores with AVX2): 42 ms, 57 one by one.
"""

from __future__ import annotations

import numpy as np

from optex_core.backends.numba._jit import jit, jit_generated, jit_internal

#: Bytes of new rows in float64 that stay in the L2 cache beside what streams through it, and the
#: longest tile of columns.
L2_BYTES, TILE = 262_144, 4_096


def _pair_sums(count):
    """D, E, M of `count` new rows from `a` on with one row, in one loop."""
    source = ["def pair_sums(x, g, X, G, a, size, sums):"]
    for i in range(count):
        source += [f"    x{i}, g{i}, d{i}, e{i}, m{i} = X[a + {i}], G[a + {i}], 0.0, 0.0, 0.0"]
    source += ["    for k in range(size):"]
    source += ["        at, there = np.float64(x[k]), np.float64(g[k])"]
    for i in range(count):
        source += [f"        dx, dg = x{i}[k] - at, g{i}[k] - there"]
        source += [f"        d{i} += dx * dx; e{i} += dg * dg; m{i} += dg * dx"]
    for i in range(count):
        source += [f"    sums[0, {i}], sums[1, {i}], sums[2, {i}] = d{i}, e{i}, m{i}"]
    return jit_generated("pair_sums", source)


_two_pairs, _three_pairs = _pair_sums(2), _pair_sums(3)


@jit_internal
def _scaled_pair(x, g, X, G, a, over, times, size, sums):
    x0, g0 = X[a], G[a]
    distance, change, mixed = 0.0, 0.0, 0.0
    for k in range(size):
        dx, dg = x0[k] - np.float64(x[k]), g0[k] - np.float64(g[k])
        mixed += dg * dx
        dx *= over[k]
        dg *= times[k]
        distance += dx * dx
        change += dg * dg
    sums[0, 0], sums[1, 0], sums[2, 0] = distance, change, mixed


@jit
def pair_products(X, G, new, scale, width, partial, low, high):
    """D, E, M, in `partial[j, 0]`, `[j, 1]`, `[j, 2]`, of the rows `new` with every row."""
    n, d = X.shape
    m = new.size
    tile = TILE
    while tile > 512 and 16 * m * tile > L2_BYTES:
        tile //= 2
    # one more: a single new row takes the place of two
    new_x, new_g = np.empty((m + 1, tile)), np.empty((m + 1, tile))
    over, times, found = np.empty(tile), np.empty(tile), np.empty((3, 3))
    for k in range(tile):
        new_x[m, k], new_g[m, k] = 0.0, 0.0
    for j in range(low, high):
        sums = partial[j]
        for a in range(m):
            for i in range(n):
                sums[0, a, i], sums[1, a, i], sums[2, a, i] = 0.0, 0.0, 0.0
        for begin in range(j * width, min((j + 1) * width, d), tile):
            size = min(begin + tile, (j + 1) * width, d) - begin
            for a in range(m):
                x, g, to_x, to_g = X[new[a]], G[new[a]], new_x[a], new_g[a]
                for k in range(size):
                    to_x[k] = x[begin + k]
                    to_g[k] = g[begin + k]
            if scale is not None:
                for k in range(size):
                    times[k] = scale[begin + k]
                    over[k] = 1.0 / times[k]
            for i in range(n):
                x, g = X[i, begin : begin + size], G[i, begin : begin + size]
                left = m
                while left:
                    # not counted up from 0: with a literal, what is called is compiled twice, 1.2 s
                    # of a first run
                    a = m - left
                    if scale is not None:
                        taken = 1
                        _scaled_pair(x, g, new_x, new_g, a, over, times, size, found)
                    elif left == 3 or left > 4:
                        taken = 3
                        _three_pairs(x, g, new_x, new_g, a, size, found)
                    else:
                        taken = min(2, left)
                        _two_pairs(x, g, new_x, new_g, a, size, found)
                    for b in range(taken):
                        sums[0, a + b, i] += found[0, b]
                        sums[1, a + b, i] += found[1, b]
                        sums[2, a + b, i] += found[2, b]
                    left -= taken


def _distance_sums(count):
    """Squared distances of `count` new rows from `a` on to three rows, in one loop."""
    source = ["def distance_sums(x, y, z, new, a, size, sums):"]
    for i in range(count):
        source += [f"    n{i}, x{i}, y{i}, z{i} = new[a + {i}], 0.0, 0.0, 0.0"]
    source += ["    for k in range(size):"]
    source += ["        p, q, r = np.float64(x[k]), np.float64(y[k]), np.float64(z[k])"]
    for i in range(count):
        source += [f"        at = n{i}[k]", "        u, v, w = at - p, at - q, at - r"]
        source += [f"        x{i} += u * u", f"        y{i} += v * v", f"        z{i} += w * w"]
    for i in range(count):
        source += [f"    sums[{i}, 0], sums[{i}, 1], sums[{i}, 2] = x{i}, y{i}, z{i}"]
    return jit_generated("distance_sums", source)


_six_distances, _nine_distances = _distance_sums(2), _distance_sums(3)


@jit_internal
def _scaled_distances(x, y, z, new, a, factor, size, sums):
    """Three rows against one new one."""
    n0 = new[a]
    x0, y0, z0 = 0.0, 0.0, 0.0
    for k in range(size):
        at, times = n0[k], factor[k]
        u, v = (at - np.float64(x[k])) * times, (at - np.float64(y[k])) * times
        w = (at - np.float64(z[k])) * times
        x0 += u * u
        y0 += v * v
        z0 += w * w
    sums[0, 0], sums[0, 1], sums[0, 2] = x0, y0, z0


@jit
def row_pair_distances(rows, new, scale, inverse, width, partial, low, high):
    """`partial[j]`: squared distances of the rows `new` to all; `inverse`: times the scale."""
    n, d = rows.shape
    m = new.size
    tile = TILE
    while tile > 512 and 8 * m * tile > L2_BYTES:
        tile //= 2
    held, factor, found = np.empty((m + 1, tile)), np.empty(tile), np.empty((3, 3))
    for k in range(tile):
        held[m, k] = 0.0
    for j in range(low, high):
        sums = partial[j]
        for a in range(m):
            for i in range(n):
                sums[a, i] = 0.0
        for begin in range(j * width, min((j + 1) * width, d), tile):
            size = min(begin + tile, (j + 1) * width, d) - begin
            for a in range(m):
                row, to = rows[new[a]], held[a]
                for k in range(size):
                    to[k] = row[begin + k]
            if scale is not None:
                for k in range(size):
                    factor[k] = scale[begin + k]
                    if not inverse:
                        factor[k] = 1.0 / factor[k]
            for i in range(0, n, 3):
                count = min(3, n - i)
                x, z = rows[i, begin : begin + size], rows[i + count - 1, begin : begin + size]
                y = rows[i + count // 2, begin : begin + size]
                left = m
                while left:
                    a = m - left
                    if scale is not None:
                        taken = 1
                        _scaled_distances(x, y, z, held, a, factor, size, found)
                    elif left == 3 or left > 4:
                        taken = 3
                        _nine_distances(x, y, z, held, a, size, found)
                    else:
                        taken = min(2, left)
                        _six_distances(x, y, z, held, a, size, found)
                    for b in range(taken):
                        for c in range(count):
                            sums[a + b, i + c] += found[b, c]
                    left -= taken
