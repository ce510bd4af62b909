"""Weighted sums of rows, the posterior mean and sums in one pass: one rounding, whatever the
weights.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from optex_core.testing.assertions import assert_same_bits, assert_within
from optex_core.testing.check_suite import CheckFailed, require
from optex_core.testing.suites._backend_subject import SUITE, Subject
from optex_core.testing.suites._vectors import (
    assert_weighted_sum,
    draw_one,
    for_sizes,
    in_float64,
    ints,
    on_device,
    some_data,
)


@SUITE.check()
def weighted_sum_of_rows(s: Subject) -> None:
    """weighted_sum is one weighted sum, accumulated in float64, around an anchor row or none."""
    b = s.backend

    def body(d: int, dtype: Any, seed: int, n: int, anchor: int) -> None:
        p = some_data(d, n, dtype, seed)
        at = None if anchor < 0 else min(anchor, n - 1)
        (wX,) = in_float64(p.X)
        base: Any = 0.0 if at is None else wX[at]
        expected = base + p.w @ (wX - base)
        found = b.weighted_sum(on_device(b, p.X)[0], p.w, at)
        assert_weighted_sum(
            b,
            found,
            expected,
            np.abs(base) + np.abs(p.w) @ np.abs(wX - base),
            dtype,
            "weighted_sum",
        )

    for_sizes(body, n=ints(1, 7), anchor=ints(-1, 6))


@SUITE.check()
def posterior_mean(s: Subject) -> None:
    """predict is weighted_sum(G) plus the linear part curvature / scale^2 (x - weighted_sum(X));
    without curvature it does not read X.
    """
    b = s.backend

    def body(
        d: int, dtype: Any, seed: int, n: int, anchor: int, curvature: float, scaled: bool
    ) -> None:
        p = some_data(d, n, dtype, seed)
        at, scale = None if anchor < 0 else min(anchor, n - 1), p.scale if scaled else None
        X, G, x, on_scale = on_device(b, p.X, p.G, p.x, scale)
        wX, wG, wx = in_float64(p.X, p.G, p.x)
        factor: Any = curvature / (1.0 if scale is None else scale.astype(np.float64)) ** 2
        base_x, base_g = (0.0, 0.0) if at is None else (wX[at], wG[at])
        expected = base_g + p.w @ (wG - base_g) + factor * (wx - base_x - p.w @ (wX - base_x))
        weights = np.abs(p.w)
        magnitude: Any = np.abs(base_g) + weights @ np.abs(wG - base_g)
        magnitude = magnitude + np.abs(factor) * (
            np.abs(wx) + np.abs(base_x) + weights @ np.abs(wX - base_x)
        )
        assert_weighted_sum(
            b,
            b.predict(X, G, p.w, at, x, curvature, on_scale),
            expected,
            magnitude,
            dtype,
            "predict",
        )

    for_sizes(
        body,
        n=ints(1, 7),
        anchor=ints(-1, 6),
        curvature=draw_one(0.0, 0.3, -40.0),
        scaled=draw_one(False, True),
        examples=50,
    )
    p = some_data(50, 4, np.float64, 0)
    X, G, x = on_device(b, np.full_like(p.X, np.nan), p.G, np.full_like(p.x, np.nan))
    found = b.to_host(b.predict(X, G, p.w, 2, x, 0.0))
    assert_same_bits(
        found, b.to_host(b.weighted_sum(G, p.w, 2)), "predict without curvature is not weighted_sum"
    )


@SUITE.check()
def weighted_sums_in_one_pass(s: Subject) -> None:
    """weighted_sums gives every sum of vectors and of rows around an anchor, accumulated in
    float64, reading the rows that have weights and no other.
    """
    b = s.backend

    def body(
        d: int,
        dtype: Any,
        seed: int,
        used: tuple[int, int],
        anchor: int,
        k: int,
        extras: int,
        both: bool,
    ) -> None:
        data, rng = some_data(d, 9, dtype, seed), np.random.default_rng(seed)
        weights, at = (
            [rng.normal(size=(k, n)) for n in (*used, extras)],
            min(anchor, *(n - 1 for n in used)),
        )
        data.X[used[0] :] = data.G[used[1] :] = np.nan
        more = rng.normal(size=(extras, d)).astype(dtype)
        X, G, *vectors = on_device(b, data.X, data.G, *more)
        found = b.weighted_sums(
            X if both else None, weights[0], G, weights[1], at, vectors, weights[2]
        )
        require(len(found) == k, f"weighted_sums gave {len(found)} sums, not {k}")
        wX, wG, terms = in_float64(data.X[: used[0]], data.G[: used[1]], more)
        sides = [
            (weights[2], terms),
            (weights[1], wG - wG[at]),
            *([(weights[0], wX - wX[at])] if both else []),
        ]
        expected, magnitude = (
            sum(w @ v for w, v in sides),
            sum(np.abs(w) @ np.abs(v) for w, v in sides),
        )
        for j, one in enumerate(found):
            assert_weighted_sum(
                b, one, expected[j], magnitude[j], dtype, f"sum {j} of weighted_sums"
            )

    used = {
        "used": draw_one((1, 1), (3, 3), (4, 4), (8, 8), (9, 9), (2, 7), (7, 2)),
        "anchor": ints(0, 8),
    }
    for_sizes(
        body, **used, k=draw_one(1, 2, 3, 8, 9, 17), extras=ints(1, 4), both=draw_one(False, True)
    )


@SUITE.check()
def large_weights_keep_precision(s: Subject) -> None:
    """Rows 1e-4 apart at 1e3 with weights of 100 that sum to one: the anchored sum in float64 keeps
    what float32 sums lose.
    """
    b, rng = s.backend, np.random.default_rng(3)
    X = (1e3 + 1e-4 * rng.normal(size=(4, 5_000))).astype(np.float32)
    w = np.array([100.0, -100.0, 50.0, -49.0])
    (wX,) = in_float64(X)
    (rows,), expected, bound = (
        on_device(b, X),
        wX[3] + w @ (wX - wX[3]),
        float(np.finfo(np.float32).eps) * 1.1e3,
    )
    assert_within(b.to_host(b.weighted_sum(rows, w, 3)), expected, bound, "weighted_sum")
    assert_within(
        b.to_host(b.weighted_sums(None, w[None], rows, w[None], 3, [rows[3]], np.ones((1, 1)))[0]),
        expected,
        bound,
        "weighted_sums",
    )


@SUITE.check()
def invalid_anchor_raises(s: Subject) -> None:
    """weighted_sum and weighted_sums with an anchor that is no row raise IndexError instead of
    reading beyond.
    """
    b = s.backend
    p = some_data(5, 4, np.float64, 0)
    (X,), w = on_device(b, p.X), p.w[None]
    calls = {
        "weighted_sum": lambda anchor: b.weighted_sum(X, p.w, anchor),
        "weighted_sums": lambda anchor: b.weighted_sums(X, w, X, w, anchor, [X[0]], w[:, :1]),
    }
    for (name, call), anchor in itertools.product(calls.items(), (-5, 4)):
        try:
            call(anchor)
        except IndexError:
            continue
        raise CheckFailed(f"{name} took row {anchor} of 4 as its anchor")
