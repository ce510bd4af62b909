"""Weighted sums of rows, the posterior mean and sums in one pass: one rounding, whatever the
weights.
"""

from __future__ import annotations

import numpy as np

from optex_core.backends.base import Backend
from optex_core.testing import hypothesis_strategies as st
from optex_core.testing.assertions import assert_same_bits, assert_within
from optex_core.testing.check_suite import require
from optex_core.testing.suites._backend_data import (
    assert_refuses_rows,
    assert_weighted_sum,
    check,
    for_sizes,
    in_float64,
    on_device,
    sample_data,
)


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
        found = b.weighted_sum(on_device(b, p.X)[0], p.w, at)
        assert_weighted_sum(
            b, found, *_anchored(p.w, in_float64(p.X)[0], at), dtype, "weighted_sum"
        )

    for_sizes(body, n=st.integers(1, 7), anchor=st.integers(-1, 6))


@check
def posterior_mean(b: Backend) -> None:
    """predict is weighted_sum(G) plus the linear part curvature / scale^2 (x - weighted_sum(X));
    without curvature it does not read X.
    """

    def body(
        d: int, dtype: type, seed: int, n: int, anchor: int, curvature: float, scaled: bool
    ) -> None:
        p = sample_data(d, n, dtype, seed)
        at, scale = None if anchor < 0 else min(anchor, n - 1), p.scale if scaled else None
        X, G, x, on_scale = on_device(b, p.X, p.G, p.x, scale)
        wX, wG, wx = in_float64(p.X, p.G, p.x)
        (centre, spread), (mean, size) = _anchored(p.w, wX, at), _anchored(p.w, wG, at)
        factor = curvature / np.float64(1.0 if scale is None else scale) ** 2
        expected = mean + factor * (wx - centre)
        magnitude = size + np.abs(factor) * (np.abs(wx) + spread)
        found = b.predict(X, G, p.w, at, x, curvature, on_scale)
        assert_weighted_sum(b, found, expected, magnitude, dtype, "predict")

    for_sizes(
        body,
        n=st.integers(1, 7),
        anchor=st.integers(-1, 6),
        curvature=st.sampled_from((0.0, 0.3, -40.0)),
        scaled=st.booleans(),
        examples=50,
    )
    p = sample_data(50, 4, np.float64, 0)
    X, G, x = on_device(b, np.full_like(p.X, np.nan), p.G, np.full_like(p.x, np.nan))
    found, expected = b.predict(X, G, p.w, 2, x, 0.0), b.weighted_sum(G, p.w, 2)
    text = "predict without curvature is not weighted_sum"
    assert_same_bits(b.to_host(found), b.to_host(expected), text)


@check
def weighted_sums_in_one_pass(b: Backend) -> None:
    """weighted_sums gives every sum of vectors and of rows around an anchor, accumulated in
    float64, reading the rows that have weights and no other.
    """

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
        require(len(found) == k, f"weighted_sums gave {len(found)} sums, not {k}")
        X, G, V = in_float64(data.X[: used[0]], data.G[: used[1]], vectors)
        sides = [(more, V), (wG, G - G[at]), *([(wX, X - X[at])] if both else [])]
        expected = np.sum([w @ v for w, v in sides], axis=0)
        magnitude = np.sum([np.abs(w) @ np.abs(v) for w, v in sides], axis=0)
        for j, one in enumerate(found):
            text = f"sum {j} of weighted_sums"
            assert_weighted_sum(b, one, expected[j], magnitude[j], dtype, text)

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
    """Rows 1e-4 apart at 1e3 with weights of 100 that sum to one: the anchored sum in float64 keeps
    what float32 sums lose.
    """
    rng, w = np.random.default_rng(3), np.array([100.0, -100.0, 50.0, -49.0])
    X = (1e3 + 1e-4 * rng.normal(size=(4, 5_000))).astype(np.float32)
    expected, _ = _anchored(w, in_float64(X)[0], 3)
    (rows,), bound = on_device(b, X), float(np.finfo(np.float32).eps) * 1.1e3
    assert_within(b.to_host(b.weighted_sum(rows, w, 3)), expected, bound, "weighted_sum")
    (found,) = b.weighted_sums(None, w[None], rows, w[None], 3, [rows[3]], np.ones((1, 1)))
    assert_within(b.to_host(found), expected, bound, "weighted_sums")


@check
def invalid_anchor_raises(b: Backend) -> None:
    """weighted_sum and weighted_sums with an anchor that is no row raise IndexError instead of
    reading beyond.
    """
    p = sample_data(5, 4, np.float64, 0)
    (X,), w = on_device(b, p.X), p.w[None]
    for at in (-5, 4):
        text = f"takes row {at} of 4 as its anchor"
        assert_refuses_rows(f"weighted_sum {text}", b.weighted_sum, X, p.w, at)
        sums = (X, w, X, w, at, [X[0]], w[:, :1])
        assert_refuses_rows(f"weighted_sums {text}", b.weighted_sums, *sums)
