"""Reductions of two vectors and of all rows: the answers of plain float64 formulas within the
classical bound, and where nan and close points go.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from optex_core._validation import short_repr
from optex_core.testing.assertions import assert_same_bits
from optex_core.testing.check_suite import CheckFailed, require
from optex_core.testing.suites._backend_subject import SUITE, Subject
from optex_core.testing.suites._vectors import (
    assert_sums,
    draw_one,
    for_sizes,
    in_float64,
    ints,
    of_pairs,
    on_device,
    some_data,
)

BAD = (np.nan, -np.nan, np.inf, -np.inf)


@SUITE.check()
def vector_products_and_distances(s: Subject) -> None:
    """dot and squared_distance are float64 sums, for float32 vectors too, and return Python floats."""
    b = s.backend

    def body(d: int, dtype: Any, seed: int) -> None:
        p = some_data(d, 1, dtype, seed)
        x, g, scale = on_device(b, p.x, p.g, p.scale)
        wx, wg, ws = in_float64(p.x, p.g, p.scale)
        assert_sums(b.dot(x, g), wx * wg, "dot")
        assert_sums(b.squared_distance(x, g), (wx - wg) ** 2, "squared_distance")
        assert_sums(
            b.squared_distance(x, g, scale), ((wx - wg) / ws) ** 2, "squared_distance with a scale"
        )
        require(b.squared_distance(x, x) == 0.0, "a vector is away from itself")
        require(
            isinstance(b.dot(x, g), float) and isinstance(b.squared_distance(x, g), float),
            "dot or squared_distance gives no float",
        )

    for_sizes(body)


@SUITE.check()
def max_abs_is_exact(s: Subject) -> None:
    """max_abs is the largest |x_k|, exactly; finite vectors are finite, also where their squares
    overflow.
    """
    b = s.backend

    def body(d: int, dtype: Any, seed: int) -> None:
        p = some_data(d, 1, dtype, seed)
        require(
            b.max_abs(*on_device(b, p.x)) == np.abs(p.x).max(),
            f"max_abs is not {np.abs(p.x).max()!r}",
        )
        require(b.max_abs(*on_device(b, np.zeros(d, dtype))) == 0.0, "max_abs of zeros is not 0")
        require(
            b.all_finite(*on_device(b, p.x)) is True, "all_finite of finite numbers is not True"
        )

    for_sizes(body)
    (huge,) = on_device(b, np.full(10, 1e300))
    require(
        b.all_finite(huge) is True and b.max_abs(huge) == 1e300,
        "entries of 1e300 are finite: only their squares are not",
    )


@SUITE.check()
def nonfinite_entries_are_detected(s: Subject) -> None:
    """One nan or infinity anywhere makes all_finite False and max_abs nan or infinite; nan
    outweighs infinity.
    """
    b = s.backend

    def body(d: int, dtype: Any, seed: int, bad: float, at: float) -> None:
        x = some_data(d, 1, dtype, seed).x
        x[int(at * (d - 1))] = bad
        (on,) = on_device(b, x)
        require(b.all_finite(on) is False, f"all_finite does not see {bad}")
        top = b.max_abs(on)
        require(
            np.isnan(top) if np.isnan(bad) else top == np.inf,
            f"max_abs of a vector with {bad} is {top}",
        )

    for_sizes(body, bad=draw_one(*BAD), at=draw_one(0.0, 1.0, 0.5, 0.99), examples=60)
    (both,) = on_device(b, np.array([np.inf, np.nan, 1.0]))
    require(np.isnan(b.max_abs(both)), "infinity hides a nan from max_abs")


@SUITE.check()
def row_to_point_distances(s: Subject) -> None:
    """squared_distances are float64 sums on the host, with units and without; pairwise_distances
    several points are theirs, bit for bit.
    """
    b = s.backend

    def body(d: int, dtype: Any, seed: int, n: int, scaled: bool) -> None:
        p = some_data(d, n, dtype, seed)
        scale = p.scale if scaled else None
        wX, wx = in_float64(p.X, p.x)
        ws: Any = 1.0 if scale is None else scale.astype(np.float64)
        found = b.squared_distances(*on_device(b, p.X, p.x, scale))
        require(
            isinstance(found, np.ndarray) and found.shape == (n,) and found.dtype == np.float64,
            f"squared_distances gave {short_repr(found)}, not {n} float64 of the host",
        )
        assert_sums(found, ((wX - wx) / ws) ** 2, "squared_distances")
        X, on_scale = on_device(b, p.X, scale)
        points = on_device(b, p.x, p.X[0].copy(), p.x)
        several = b.pairwise_distances(X, points, on_scale)
        require(
            isinstance(several, np.ndarray)
            and several.shape == (3, n)
            and several.dtype == np.float64,
            f"pairwise_distances gave {short_repr(several)}, not 3 x {n} float64 of the host",
        )
        alone = np.array([b.squared_distances(X, x, on_scale) for x in points])
        require(
            np.array_equal(several, alone),
            "pairwise_distances gives a point other distances than squared_distances does",
        )

    for_sizes(body, n=ints(1, 7), scaled=draw_one(False, True))


@SUITE.check()
def pair_products_of_new_rows(s: Subject) -> None:
    """pair_products gives the three float64 sums of each new row with every row, row_pair_distances
    one square; a row that is not there is an error.
    """
    b = s.backend

    def body(d: int, dtype: Any, seed: int, n: int, scaled: bool) -> None:
        p = some_data(d, n, dtype, seed)
        scale = p.scale if scaled else None
        X, G, on_scale = on_device(b, p.X, p.G, scale)
        wX, wG = in_float64(p.X, p.G)
        ws: Any = 1.0 if scale is None else scale.astype(np.float64)
        rng = np.random.default_rng(seed)
        new = [int(r) for r in rng.choice(n, rng.integers(1, n + 1), replace=False)]
        sums = b.pair_products(X, G, new, on_scale)
        for found in sums:
            require(
                isinstance(found, np.ndarray)
                and found.shape == (len(new), n)
                and found.dtype == np.float64,
                f"pair_products gave {short_repr(found)}, not {len(new)} x {n} float64 of the host",
            )
            require(
                not found[range(len(new)), new].any(), "pair_products: a row differs from itself"
            )
        for a, r in enumerate(new):
            dx, dg = wX - wX[r], wG - wG[r]
            for name, found, terms in zip(
                "DEM", sums, ((dx / ws) ** 2, (dg * ws) ** 2, dg * dx), strict=True
            ):
                assert_sums(found[a], terms, f"pair_products {name}")
        for rows, values, inverse in ((X, wX, False), (G, wG, True)):
            found = b.row_pair_distances(rows, new, on_scale, inverse)
            require(
                isinstance(found, np.ndarray)
                and found.shape == (len(new), n)
                and found.dtype == np.float64,
                f"row_pair_distances gave {short_repr(found)}, not {len(new)} x {n} "
                f"float64 of the host",
            )
            require(
                not found[range(len(new)), new].any(),
                "row_pair_distances: a row is away from itself",
            )
            for a, r in enumerate(new):
                step = values - values[r]
                assert_sums(
                    found[a], (step * ws if inverse else step / ws) ** 2, "row_pair_distances"
                )

    for_sizes(body, n=ints(1, 12), scaled=draw_one(False, True))
    rows: Any = on_device(b, np.ones((3, 5)))[0]
    for name, operation in (
        ("pair_products", lambda: b.pair_products(rows, rows, [0, 3])),
        ("row_pair_distances", lambda: b.row_pair_distances(rows, [0, 3])),
    ):
        try:
            operation()
        except IndexError:
            continue
        raise AssertionError(f"{name} takes row 3 of 3 without an IndexError")


@SUITE.check()
def difference_products_of_rows(s: Subject) -> None:
    """difference_products are float64 sums on the host, reading the rows in the pairs alone; a row
    that is not there is an error.
    """
    b = s.backend

    def body(d: int, dtype: Any, seed: int, n: int, p: int, q: int, same: bool) -> None:
        data, rng = some_data(d, n + 1, dtype, seed), np.random.default_rng(seed)
        data.X[n] = data.G[n] = np.nan  # in no pair
        left, right = (
            np.column_stack([rng.integers(0, n, m), rng.integers(-1, n, m)]) for m in (p, q)
        )
        A, B = on_device(b, data.X, data.G)
        wA, wB = in_float64(data.X, data.G)
        if same:
            B, wB, right = A, wA, left
        found = b.difference_products(A, left, B, right)
        fits = (
            isinstance(found, np.ndarray)
            and found.shape == (len(left), len(right))
            and found.dtype == np.float64
        )
        require(
            fits,
            f"difference_products gave {short_repr(found)}, not {len(left)} x "
            f"{len(right)} float64 of the host",
        )
        # of rows, and of vectors and rows
        for products in (found, b.difference_products([*A[:1], A[1:]], left, [*B], right)):
            assert_sums(
                products, of_pairs(wA, left)[:, None] * of_pairs(wB, right), "difference_products"
            )

    for_sizes(body, n=ints(1, 6), p=ints(1, 7), q=ints(1, 7), same=draw_one(False, True))
    rows: Any = on_device(b, np.ones((3, 5)))[0]
    for pair in ((0, 3), (3, -1)):
        try:
            b.difference_products(rows, np.array([[0, 1]]), rows, np.array([pair]))
        except IndexError:
            continue
        raise CheckFailed(f"difference_products took the pair {pair} of 3 rows")


@SUITE.check()
def products_are_batch_invariant(s: Subject) -> None:
    """With `batch_invariant_products`, a product of differences has the same bits alone, beside any
    others and with its factors exchanged.
    """
    b = s.backend
    left, right = (
        np.array([*([i + 1, i] for i in range(13)), [5, -1]]),
        np.array([*([i, 13 - i] for i in range(10)), [2, -1]]),
    )
    for d, dtype in itertools.product(
        (3, 700, 9_000, 70_000) if b.batch_invariant_products else (), (np.float32, np.float64)
    ):
        A, B = on_device(b, *(vars(some_data(d, 14, dtype, d))[rows] for rows in "XG"))
        whole, turned = (
            b.difference_products(A, left, B, right),
            b.difference_products(B, right, A, left),
        )
        assert_same_bits(turned, whole.T, "exchanged factors have other bits")
        for (i, j), n in itertools.product(
            ((0, 0), (1, 2), (2, 7), (3, 10), (12, 9), (13, 4)), (1, 13)
        ):
            part = b.difference_products(A, left[i : i + n], B, right[max(0, j + 1 - n) : j + 1])
            assert_same_bits(
                part[0, -1], whole[i, j], f"product {i}, {j}: other bits beside others"
            )


@SUITE.check()
def close_points_keep_precision(s: Subject) -> None:
    """Points 1e-4 apart at 1e3: |a|^2 + |b|^2 - 2ab loses every digit there; the entries are exact,
    so the differences must be too.
    """
    b, rng = s.backend, np.random.default_rng(1)
    for dtype in (np.float32, np.float64):
        x: Any = (1e3 + rng.normal(size=20_000)).astype(dtype)
        X = (x + 1e-4 * rng.normal(size=(3, x.size))).astype(dtype)
        terms = (X.astype(np.float64) - x.astype(np.float64)) ** 2
        on_X, on_x = on_device(b, X, x)
        assert_sums(b.squared_distances(on_X, on_x), terms, "squared_distances")
        (rows,) = on_device(b, np.vstack([X, x]))
        for found in b.pair_products(rows, rows, [3]):
            assert_sums(found[0, :3], terms, "pair_products")
        pairs = np.array([[i, 3] for i in range(3)])
        assert_sums(
            b.difference_products(rows, pairs, rows, pairs).diagonal(), terms, "difference_products"
        )
        assert_sums(b.squared_distance(on_X[0], on_x), terms[0], "squared_distance")
