"""Operations of a backend against plain float64 formulas, within their rounding."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from optex_core.backends import get_backend
from optex_core.backends.base import Backend
from optex_core.optimizers.base import get_optimizer
from optex_core.testing import hypothesis_strategies as st
from optex_core.testing.assertions import assert_same_bits, assert_within
from optex_core.testing.check_suite import require, require_equal, require_raises
from optex_core.testing.suites._backend_data import (
    assert_host,
    assert_sums,
    assert_weighted_sum,
    check,
    for_sizes,
    in_float64,
    on_device,
    sample_data,
    slot_rule,
)
from optex_core.types import Array

NONFINITE = (np.nan, -np.nan, np.inf, -np.inf)
#: Numbers of rows, and the anchor of a weighted sum: none, or a row.
ROWS, ANCHORS = st.integers(1, 7), st.integers(-1, 6)


# -- reductions ------------------------------------------------------------------------------------


@check
def vector_products_and_distances(b: Backend) -> None:
    """dot and squared_distance are float64 sums, for float32 vectors too, as Python floats."""

    def body(d: int, dtype: type, seed: int) -> None:
        p = sample_data(d, 1, dtype, seed)
        x, g, scale = on_device(b, p.x, p.g, p.scale)
        wx, wg, ws = in_float64(p.x, p.g, p.scale)
        for what, found, terms in (
            ("dot", b.dot(x, g), wx * wg),
            ("squared_distance", b.squared_distance(x, g), (wx - wg) ** 2),
            ("squared_distance in units", b.squared_distance(x, g, scale), ((wx - wg) / ws) ** 2),
        ):
            assert_sums(found, terms, what)
            require(isinstance(found, float), f"{what} gives no float")
        require_equal(b.squared_distance(x, x), 0.0, "the distance of a vector from itself")

    for_sizes(body)


@check
def max_abs_is_exact(b: Backend) -> None:
    """max_abs is exact; vectors whose squares overflow are finite."""

    def body(d: int, dtype: type, seed: int) -> None:
        host = sample_data(d, 1, dtype, seed).x
        x, zeros = on_device(b, host, np.zeros(d, dtype))
        require_equal(b.max_abs(x), np.abs(host).max(), "max_abs")
        require_equal(b.max_abs(zeros), 0.0, "max_abs of zeros")
        require(b.all_finite(x) is True, "all_finite of finite numbers is not True")

    for_sizes(body)
    (huge,) = on_device(b, np.full(10, 1e300))
    finite = b.all_finite(huge) is True and b.max_abs(huge) == 1e300
    require(finite, "entries of 1e300 are finite: only their squares are not")


@check
def nonfinite_entries_are_detected(b: Backend) -> None:
    """One nan or infinity anywhere shows in all_finite and max_abs; nan outweighs infinity."""

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
    """squared_distances are float64 sums; pairwise_distances have the same bits."""

    def body(d: int, dtype: type, seed: int, n: int, scaled: bool) -> None:
        p = sample_data(d, n, dtype, seed)
        X, x, scale = on_device(b, p.X, p.x, p.scale if scaled else None)
        wX, wx, ws = in_float64(p.X, p.x, p.scale if scaled else np.ones(1))
        found = b.squared_distances(X, x, scale)
        assert_host(found, (n,), "squared_distances")
        assert_sums(found, ((wX - wx) / ws) ** 2, "squared_distances")
        points = on_device(b, p.x, p.X[0].copy(), p.x)
        several = b.pairwise_distances(X, points, scale)
        assert_host(several, (3, n), "pairwise_distances")
        alone = np.array([b.squared_distances(X, x, scale) for x in points])
        assert_same_bits(several, alone, "pairwise_distances differ from squared_distances")

    for_sizes(body, n=ROWS, scaled=st.booleans())


@check
def pair_products_of_new_rows(b: Backend) -> None:
    """pair_products and row_pair_distances are float64 sums of new rows with every row."""

    def body(d: int, dtype: type, seed: int, n: int, scaled: bool) -> None:
        p = sample_data(d, n, dtype, seed)
        X, G, scale = on_device(b, p.X, p.G, p.scale if scaled else None)
        wX, wG, s = in_float64(p.X, p.G, p.scale if scaled else np.ones(1))
        rng = np.random.default_rng(seed)
        new = [int(r) for r in rng.choice(n, rng.integers(1, n + 1), replace=False)]
        dx, dg = ((rows - rows[new][:, None]) for rows in (wX, wG))
        points, gradients, mixed = b.pair_products(X, G, new, scale)
        for name, found, terms in (
            ("pair_products", points, (dx / s) ** 2),
            ("pair_products", gradients, (dg * s) ** 2),
            ("pair_products", mixed, dg * dx),
            ("row_pair_distances", b.row_pair_distances(X, new, scale, False), (dx / s) ** 2),
            (
                "inverse row_pair_distances",
                b.row_pair_distances(G, new, scale, True),
                (dg * s) ** 2,
            ),
        ):
            assert_host(found, (len(new), n), name)
            require(not found[range(len(new)), new].any(), f"{name}: a row differs from itself")
            assert_sums(found, terms, name)

    for_sizes(body, n=st.integers(1, 12), scaled=st.booleans())
    (rows,) = on_device(b, np.ones((3, 5)))
    with require_raises(IndexError, "pair_products takes row 3 of 3"):
        b.pair_products(rows, rows, [0, 3])
    with require_raises(IndexError, "row_pair_distances takes row 3 of 3"):
        b.row_pair_distances(rows, [0, 3])


def _differences(rows: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Rows minus rows by index pairs; -1 is nothing."""
    return np.array([rows[i] - rows[j] if j >= 0 else rows[i] for i, j in pairs.tolist()])


@check
def difference_products_of_rows(b: Backend) -> None:
    """difference_products are float64 sums, of the rows in the pairs alone."""

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

    for_sizes(body, n=st.integers(1, 6), p=ROWS, q=ROWS, same=st.booleans())
    (rows,) = on_device(b, np.ones((3, 5)))
    for pair in ((0, 3), (3, -1)):
        with require_raises(IndexError, f"difference_products takes the pair {pair} of 3 rows"):
            b.difference_products(rows, np.array([[0, 1]]), rows, np.array([pair]))


@check
def products_are_batch_invariant(b: Backend) -> None:
    """With `batch_invariant_products` a product has the same bits whatever is beside it."""
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
            assert_same_bits(part[0, -1], whole[i, j], f"product {i}, {j} beside others")


@check
def close_points_keep_precision(b: Backend) -> None:
    """Points 1e-4 apart at 1e3 keep their digits: |a|^2 + |b|^2 - 2ab loses all of them."""
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


# -- weighted sums of rows -------------------------------------------------------------------------


def _anchored(
    w: np.ndarray, rows: np.ndarray, anchor: int | None
) -> tuple[np.ndarray, np.ndarray | float]:
    """r + sum w (row - r) with r the anchor row or 0, and the sum of absolute terms."""
    base: np.ndarray | float = 0.0 if anchor is None else rows[anchor]
    return base + w @ (rows - base), np.abs(base) + np.abs(w) @ np.abs(rows - base)


@check
def weighted_sum_of_rows(b: Backend) -> None:
    """weighted_sum is one weighted sum, accumulated in float64, around an anchor row or none."""

    def body(d: int, dtype: type, seed: int, n: int, anchor: int) -> None:
        p = sample_data(d, n, dtype, seed)
        at = None if anchor < 0 else min(anchor, n - 1)
        found, right = b.weighted_sum(on_device(b, p.X)[0], p.w, at), in_float64(p.X)[0]
        assert_weighted_sum(b, found, *_anchored(p.w, right, at), dtype, "weighted_sum")

    for_sizes(body, n=ROWS, anchor=ANCHORS)


@check
def posterior_mean(b: Backend) -> None:
    """predict is weighted_sum(G) plus the linear part; without curvature it does not read X."""

    def body(
        d: int, dtype: type, seed: int, n: int, anchor: int, curvature: float, scaled: bool
    ) -> None:
        p = sample_data(d, n, dtype, seed)
        at = None if anchor < 0 else min(anchor, n - 1)
        X, G, x, scale = on_device(b, p.X, p.G, p.x, p.scale if scaled else None)
        wX, wG, wx, ws = in_float64(p.X, p.G, p.x, p.scale if scaled else np.ones(1))
        (centre, spread), (mean, size) = _anchored(p.w, wX, at), _anchored(p.w, wG, at)
        expected = mean + curvature / ws**2 * (wx - centre)
        magnitude = size + np.abs(curvature / ws**2) * (np.abs(wx) + spread)
        found = b.predict(X, G, p.w, at, x, curvature, scale)
        assert_weighted_sum(b, found, expected, magnitude, dtype, "predict")

    more = {"curvature": st.sampled_from((0.0, 0.3, -40.0)), "scaled": st.booleans()}
    for_sizes(body, n=ROWS, anchor=ANCHORS, examples=50, **more)
    p = sample_data(50, 4, np.float64, 0)
    X, G, x = on_device(b, np.full_like(p.X, np.nan), p.G, np.full_like(p.x, np.nan))
    found, expected = b.predict(X, G, p.w, 2, x, 0.0), b.weighted_sum(G, p.w, 2)
    assert_same_bits(b.to_host(found), b.to_host(expected), "predict without curvature")


@check
def weighted_sums_in_one_pass(b: Backend) -> None:
    """weighted_sums gives every sum in float64, reading the rows that have weights alone."""

    def body(
        d: int,
        dtype: type,
        seed: int,
        used: tuple[int, int],
        anchor: int,
        k: int,
        extras: int,
        both: bool,
    ) -> None:
        data, rng = sample_data(d, 9, dtype, seed), np.random.default_rng(seed)
        wX, wG, more = (rng.normal(size=(k, n)) for n in (*used, extras))
        at = min(anchor, *(n - 1 for n in used))
        data.X[used[0] :] = data.G[used[1] :] = np.nan
        vectors: np.ndarray = rng.normal(size=(extras, d)).astype(dtype)
        X, G, *on_vectors = on_device(b, data.X, data.G, *vectors)
        found = b.weighted_sums(X if both else None, wX, G, wG, at, on_vectors, more)
        require_equal(len(found), k, "number of sums that weighted_sums gave")
        X, G, V = in_float64(data.X[: used[0]], data.G[: used[1]], vectors)
        sides = [(more, V), (wG, G - G[at]), *([(wX, X - X[at])] if both else [])]
        expected = np.sum([w @ v for w, v in sides], axis=0)
        magnitude = np.sum([np.abs(w) @ np.abs(v) for w, v in sides], axis=0)
        for one, right, size in zip(found, expected, magnitude, strict=True):
            assert_weighted_sum(b, one, right, size, dtype, "weighted_sums")

    for_sizes(
        body,
        used=st.sampled_from(((1, 1), (3, 3), (4, 4), (8, 8), (9, 9), (2, 7), (7, 2))),
        anchor=st.integers(0, 8),
        k=st.sampled_from((1, 2, 3, 8, 9, 17)),
        extras=st.integers(1, 4),
        both=st.booleans(),
    )


@check
def large_weights_keep_precision(b: Backend) -> None:
    """Weights of 100 that sum to one, of close rows: float64 keeps what float32 sums lose."""
    rng, w = np.random.default_rng(3), np.array([100.0, -100.0, 50.0, -49.0])
    X = (1e3 + 1e-4 * rng.normal(size=(4, 5_000))).astype(np.float32)
    expected, _ = _anchored(w, in_float64(X)[0], 3)
    (rows,), bound = on_device(b, X), float(np.finfo(np.float32).eps) * 1.1e3
    assert_within(b.to_host(b.weighted_sum(rows, w, 3)), expected, bound, "weighted_sum")
    (found,) = b.weighted_sums(None, w[None], rows, w[None], 3, [rows[3]], np.ones((1, 1)))
    assert_within(b.to_host(found), expected, bound, "weighted_sums")


@check
def invalid_anchor_raises(b: Backend) -> None:
    """weighted_sum and weighted_sums refuse an anchor that is no row with IndexError."""
    p = sample_data(5, 4, np.float64, 0)
    (X,), w = on_device(b, p.X), p.w[None]
    for at in (-5, 4):
        with require_raises(IndexError, f"weighted_sum takes row {at} of 4 as its anchor"):
            b.weighted_sum(X, p.w, at)
        with require_raises(IndexError, f"weighted_sums takes row {at} of 4 as its anchor"):
            b.weighted_sums(X, w, X, w, at, [X[0]], w[:, :1])


# -- elementwise rules -----------------------------------------------------------------------------


@check
def axpy_clip_and_mean(b: Backend) -> None:
    """axpy rounds three times at most, clip is exact and keeps nan, mean is a float64 mean."""

    def body(d: int, dtype: type, seed: int, a: float) -> None:
        p = sample_data(d, 3, dtype, seed)
        x, y, *rows = on_device(b, p.x, p.g, *p.X)
        wx, wy, X = in_float64(p.x, p.g, p.X)
        found = b.axpy(a, x, y)
        require_equal(found.dtype, np.dtype(dtype), "dtype of axpy")
        info = np.finfo(dtype)
        bound = 3 * float(info.eps) * (np.abs(a * wx) + np.abs(wy)) + float(info.tiny)
        assert_within(b.to_host(found), a * wx + wy, bound, "axpy")
        clipped = np.clip(p.x, np.asarray(-0.5, dtype), np.asarray(0.25, dtype))
        assert_same_bits(b.to_host(b.clip(x, -0.5, 0.25)), clipped, "clip to numbers")
        above = b.to_host(b.clip(x, y, np.inf))
        assert_same_bits(above, np.maximum(p.x, p.g), "clip to a vector")
        mean, magnitude = X.mean(axis=0), np.abs(X).max(axis=0)
        assert_weighted_sum(b, b.average(rows), mean, magnitude, dtype, "mean")
        assert_same_bits(b.to_host(b.average([x, x, x])), p.x, "the mean of equal vectors")

    for_sizes(body, a=st.sampled_from((0.0, 1.0, -0.1, 1e3)))
    (x,) = on_device(b, np.array([np.nan, -3.0, 3.0, np.inf]))
    expected = np.array([np.nan, -1.0, 2.0, 2.0])
    found = b.to_host(b.clip(x, -1.0, 2.0))
    assert_within(found, expected, 0.0, "clip of nan, -3, 3, inf to [-1, 2]")


def _quotient_rule(_xp: object) -> Callable[..., tuple[Array, ...]]:
    return lambda x, y: (x / y,)


@check
def overflow_and_division_by_zero_are_silent(b: Backend) -> None:
    """They give inf and nan without a warning: a run that blows up is the engine's to notice."""
    x, zero, huge = on_device(b, np.array([1.0, -1.0, 0.0]), np.zeros(3), np.full((2, 3), 1e300))
    found = b.to_host(b.apply(_quotient_rule, (x, zero), ())[0])
    assert_within(found, np.array([np.inf, -np.inf, np.nan]), 0.0, "1/0, -1/0, 0/0")
    with b.ignore_fp_warnings():
        distance = b.squared_distances(huge, -huge[0])[0]
    require_equal(distance, np.inf, "an overflowing distance")
    pair, weight = np.array([[0, -1]]), np.full((1, 1), 1e10)
    product = b.difference_products(huge, pair, huge, pair)[0, 0]
    require_equal(product, np.inf, "an overflowing product")
    total = b.to_host(b.weighted_sums(None, weight, huge, weight, 0, [huge[0]], weight)[0])
    assert_within(total, np.full(3, np.inf), 0.0, "an overflowing sum")


@check
def rules_apply_to_every_entry(b: Backend) -> None:
    """apply runs a rule on every entry, keeps the dtype, and copies what is handed through."""

    def body(d: int, dtype: type, seed: int) -> None:
        p = sample_data(d, 1, dtype, seed)
        new, kept = b.apply(slot_rule, on_device(b, p.x, p.g), (0.1,))
        require(new.dtype == kept.dtype == dtype, f"apply turned {dtype} into {new.dtype}")
        rate, (wx, wg) = float(np.asarray(0.1, dtype)), in_float64(p.x, p.g)
        bound = 3 * float(np.finfo(dtype).eps) * (np.abs(wx) + np.abs(rate * wg))
        assert_within(b.to_host(new), wx - rate * wg, bound, "x - rate g")
        assert_same_bits(b.to_host(kept), p.g, "a slot that is handed through")

    for_sizes(body)


@check
def optimizer_steps_match_numpy(b: Backend) -> None:
    """Five steps of an optimizer with two moments are NumPy's to rounding, in both dtypes."""
    optimizer: Any = get_optimizer("adam")
    for dtype, d in ((np.float32, 3_000), (np.float64, 40_000)):
        p, results = sample_data(d, 3, dtype, 7), []
        for one in (get_backend("numpy"), b):
            (x,) = on_device(one, p.x)
            state = optimizer.init(x, backend=one)
            for g in (*p.X, p.g, p.x):
                x, state = optimizer.step(x, *on_device(one, g), state, backend=one)
            results.append([one.to_host(a) for a in (x, *state.slots)])
        for expected, found in zip(*results, strict=True):
            require_equal(found.dtype, expected.dtype, "dtype of the state")
            bound = 64 * float(np.finfo(dtype).eps) * max(1.0, float(np.abs(expected).max()))
            assert_within(found, expected, bound, "an optimizer's step")
