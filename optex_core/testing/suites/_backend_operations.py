"""Reductions of two vectors and of all rows: the answers of plain float64 formulas within the
classical bound, and where nan and close points go.
"""

from __future__ import annotations

import itertools

import numpy as np

from optex_core.backends.base import Backend
from optex_core.testing import hypothesis_strategies as st
from optex_core.testing.assertions import assert_same_bits
from optex_core.testing.check_suite import require
from optex_core.testing.suites._backend_data import (
    assert_host,
    assert_refuses_rows,
    assert_sums,
    check,
    for_sizes,
    in_float64,
    on_device,
    sample_data,
)

NONFINITE = (np.nan, -np.nan, np.inf, -np.inf)


@check
def vector_products_and_distances(b: Backend) -> None:
    """dot and squared_distance are float64 sums, for float32 vectors too, as Python floats."""

    def body(d: int, dtype: type, seed: int) -> None:
        p = sample_data(d, 1, dtype, seed)
        x, g, scale = on_device(b, p.x, p.g, p.scale)
        wx, wg, ws = in_float64(p.x, p.g, p.scale)
        dot, distance = b.dot(x, g), b.squared_distance(x, g)
        assert_sums(dot, wx * wg, "dot")
        assert_sums(distance, (wx - wg) ** 2, "squared_distance")
        scaled = b.squared_distance(x, g, scale)
        assert_sums(scaled, ((wx - wg) / ws) ** 2, "squared_distance with a scale")
        require(b.squared_distance(x, x) == 0.0, "a vector is away from itself")
        floats = isinstance(dot, float) and isinstance(distance, float)
        require(floats, "dot or squared_distance gives no float")

    for_sizes(body)


@check
def max_abs_is_exact(b: Backend) -> None:
    """max_abs is the largest |x_k|, exactly; finite vectors are finite, also where their squares
    overflow.
    """

    def body(d: int, dtype: type, seed: int) -> None:
        host = sample_data(d, 1, dtype, seed).x
        x, zeros = on_device(b, host, np.zeros(d, dtype))
        require(b.max_abs(x) == np.abs(host).max(), f"max_abs is not {np.abs(host).max()!r}")
        require(b.max_abs(zeros) == 0.0, "max_abs of zeros is not 0")
        require(b.all_finite(x) is True, "all_finite of finite numbers is not True")

    for_sizes(body)
    (huge,) = on_device(b, np.full(10, 1e300))
    finite = b.all_finite(huge) is True and b.max_abs(huge) == 1e300
    require(finite, "entries of 1e300 are finite: only their squares are not")


@check
def nonfinite_entries_are_detected(b: Backend) -> None:
    """One nan or infinity anywhere makes all_finite False and max_abs nan or infinite; nan
    outweighs infinity.
    """

    def body(d: int, dtype: type, seed: int, bad: float, at: float) -> None:
        x = sample_data(d, 1, dtype, seed).x
        x[int(at * (d - 1))] = bad
        (x,) = on_device(b, x)
        require(b.all_finite(x) is False, f"all_finite does not see {bad}")
        top = b.max_abs(x)
        seen = np.isnan(top) if np.isnan(bad) else top == np.inf
        require(seen, f"max_abs of a vector with {bad} is {top}")

    places = st.sampled_from((0.0, 1.0, 0.5, 0.99))
    for_sizes(body, bad=st.sampled_from(NONFINITE), at=places, examples=60)
    (both,) = on_device(b, np.array([np.inf, np.nan, 1.0]))
    require(np.isnan(b.max_abs(both)), "infinity hides a nan from max_abs")


@check
def row_to_point_distances(b: Backend) -> None:
    """squared_distances are float64 sums on the host, with units and without; pairwise_distances of
    several points are bitwise identical to them.
    """

    def body(d: int, dtype: type, seed: int, n: int, scaled: bool) -> None:
        p = sample_data(d, n, dtype, seed)
        scale = p.scale if scaled else None
        wX, wx = in_float64(p.X, p.x)
        X, x, on_scale = on_device(b, p.X, p.x, scale)
        found = b.squared_distances(X, x, on_scale)
        assert_host(found, (n,), "squared_distances")
        terms = ((wX - wx) / np.float64(1.0 if scale is None else scale)) ** 2
        assert_sums(found, terms, "squared_distances")
        points = on_device(b, p.x, p.X[0].copy(), p.x)
        several = b.pairwise_distances(X, points, on_scale)
        assert_host(several, (3, n), "pairwise_distances")
        alone = np.array([b.squared_distances(X, x, on_scale) for x in points])
        assert_same_bits(several, alone, "pairwise_distances differ from squared_distances")

    for_sizes(body, n=st.integers(1, 7), scaled=st.booleans())


@check
def pair_products_of_new_rows(b: Backend) -> None:
    """pair_products gives the three float64 sums of each new row with every row, row_pair_distances
    one square; a row that is not there is an error.
    """

    def body(d: int, dtype: type, seed: int, n: int, scaled: bool) -> None:
        p = sample_data(d, n, dtype, seed)
        scale = p.scale if scaled else None
        X, G, on_scale = on_device(b, p.X, p.G, scale)
        wX, wG = in_float64(p.X, p.G)
        s = np.float64(1.0 if scale is None else scale)
        rng = np.random.default_rng(seed)
        new = [int(r) for r in rng.choice(n, rng.integers(1, n + 1), replace=False)]
        dx, dg = ((rows - rows[new][:, None]) for rows in (wX, wG))
        expected = [
            *(("pair_products", t) for t in ((dx / s) ** 2, (dg * s) ** 2, dg * dx)),
            ("row_pair_distances", (dx / s) ** 2),
            ("row_pair_distances, inverse,", (dg * s) ** 2),
        ]
        found = [
            *b.pair_products(X, G, new, on_scale),
            b.row_pair_distances(X, new, on_scale, False),
            b.row_pair_distances(G, new, on_scale, True),
        ]
        for one, (name, terms) in zip(found, expected, strict=True):
            assert_host(one, (len(new), n), name)
            require(not one[range(len(new)), new].any(), f"{name}: a row differs from itself")
            assert_sums(one, terms, name)

    for_sizes(body, n=st.integers(1, 12), scaled=st.booleans())
    (rows,) = on_device(b, np.ones((3, 5)))
    text = "takes row 3 of 3"
    assert_refuses_rows(f"pair_products {text}", b.pair_products, rows, rows, [0, 3])
    assert_refuses_rows(f"row_pair_distances {text}", b.row_pair_distances, rows, [0, 3])


def _differences(rows: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Rows minus rows by index pairs; -1 is nothing."""
    return np.array([rows[i] - rows[j] if j >= 0 else rows[i] for i, j in pairs.tolist()])


@check
def difference_products_of_rows(b: Backend) -> None:
    """difference_products are float64 sums on the host, reading the rows in the pairs alone; a row
    that is not there is an error.
    """

    def body(d: int, dtype: type, seed: int, n: int, p: int, q: int, same: bool) -> None:
        data, rng = sample_data(d, n + 1, dtype, seed), np.random.default_rng(seed)
        data.X[n] = data.G[n] = np.nan  # in no pair
        draws = [(rng.integers(0, n, m), rng.integers(-1, n, m)) for m in (p, q)]
        left, right = (np.column_stack(one) for one in draws)
        A, B = on_device(b, data.X, data.G)
        wA, wB = in_float64(data.X, data.G)
        if same:
            B, wB, right = A, wA, left
        found = b.difference_products(A, left, B, right)
        assert_host(found, (len(left), len(right)), "difference_products")
        terms = _differences(wA, left)[:, None] * _differences(wB, right)
        # of rows, and of vectors and rows
        for products in (found, b.difference_products([*A[:1], A[1:]], left, [*B], right)):
            assert_sums(products, terms, "difference_products")

    counts = st.integers(1, 7)
    for_sizes(body, n=st.integers(1, 6), p=counts, q=counts, same=st.booleans())
    (rows,) = on_device(b, np.ones((3, 5)))
    for pair in ((0, 3), (3, -1)):
        text = f"difference_products takes the pair {pair} of 3 rows"
        pairs = np.array([[0, 1]]), np.array([pair])
        assert_refuses_rows(text, b.difference_products, rows, pairs[0], rows, pairs[1])


@check
def products_are_batch_invariant(b: Backend) -> None:
    """With `batch_invariant_products`, a product of differences has the same bits alone, beside any
    others and with its factors exchanged.
    """
    left = np.array([*([i + 1, i] for i in range(13)), [5, -1]])
    right = np.array([*([i, 13 - i] for i in range(10)), [2, -1]])
    sizes = (3, 700, 9_000, 70_000) if b.batch_invariant_products else ()
    for d, dtype in itertools.product(sizes, (np.float32, np.float64)):
        data = sample_data(d, 14, dtype, d)
        A, B = on_device(b, data.X, data.G)
        whole = b.difference_products(A, left, B, right)
        exchanged = b.difference_products(B, right, A, left)
        assert_same_bits(exchanged, whole.T, "exchanged factors have other bits")
        places = ((0, 0), (1, 2), (2, 7), (3, 10), (12, 9), (13, 4))
        for (i, j), n in itertools.product(places, (1, 13)):
            part = b.difference_products(A, left[i : i + n], B, right[max(0, j + 1 - n) : j + 1])
            text = f"product {i}, {j}: other bits beside others"
            assert_same_bits(part[0, -1], whole[i, j], text)


@check
def close_points_keep_precision(b: Backend) -> None:
    """Points 1e-4 apart at 1e3: |a|^2 + |b|^2 - 2ab loses every digit there; the entries are exact,
    so the differences must be too.
    """
    rng = np.random.default_rng(1)
    for dtype in (np.float32, np.float64):
        x: np.ndarray = (1e3 + rng.normal(size=20_000)).astype(dtype)
        X = (x + 1e-4 * rng.normal(size=(3, x.size))).astype(dtype)
        terms = (X.astype(np.float64) - x.astype(np.float64)) ** 2
        on_X, on_x, rows = on_device(b, X, x, np.vstack([X, x]))
        assert_sums(b.squared_distances(on_X, on_x), terms, "squared_distances")
        assert_sums(b.squared_distance(on_X[0], on_x), terms[0], "squared_distance")
        for found in b.pair_products(rows, rows, [3]):
            assert_sums(found[0, :3], terms, "pair_products")
        pairs = np.array([[i, 3] for i in range(3)])
        products = b.difference_products(rows, pairs, rows, pairs)
        assert_sums(products.diagonal(), terms, "difference_products")
