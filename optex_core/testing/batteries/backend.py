"""What every backend promises: the answers of plain float64 formulas, whatever the size and layout, with nothing changed and nothing aliased."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from optex_core._checks import shown
from optex_core.backends import NAMES, get_backend
from optex_core.backends.base import Backend
from optex_core.engine import OptEx
from optex_core.errors import ArgumentTypeError, BackendError
from optex_core.optimizers.base import get_optimizer
from optex_core.testing.batteries._chains import RATES, RULE, need_coefficients, need_steps, some_field
from optex_core.testing.batteries._vectors import (
    every_operation,
    exchanging_rule,
    flat,
    for_sizes,
    in_float64,
    ints,
    need_combination,
    need_sums,
    of_pairs,
    on_device,
    one_of,
    placed,
    slot_rule,
    some_data,
)
from optex_core.testing.battery import BatteryReport, CheckFailed, CheckSkipped, Suite, require
from optex_core.testing.numeric import need_close, need_same_bits

BAD = (np.nan, -np.nan, np.inf, -np.inf)


@dataclass(frozen=True)
class Subject:
    """A backend, made when the first check asks for it."""

    label: str
    make: Callable[[], Backend]

    @property
    def backend(self) -> Backend:
        return self.make()


def prepare(backend: Any) -> Subject:
    """A name or an object."""
    if isinstance(backend, Backend):
        return Subject(type(backend).__name__ if not getattr(backend, "name", "") else backend.name, lambda: backend)
    if not isinstance(backend, str):
        raise ArgumentTypeError(f"check_backend takes a backend or its name, got {shown(backend)}")
    if backend not in NAMES:
        get_backend(backend)  # says what there is
    return Subject(backend, lambda: _usable(backend))


def _usable(name: str) -> Backend:
    library = {"numpy": "NumPy", "numba": "Numba", "cupy": "CuPy"}.get(name, name)
    if importlib.util.find_spec(name) is None:
        raise CheckSkipped(f"{library} is not installed")
    if name == "cupy":
        import cupy

        try:
            usable = cupy.cuda.is_available()
        except cupy.cuda.runtime.CUDARuntimeError:  # a CUDA runtime without a driver
            usable = False
        if not usable:
            raise CheckSkipped("no CUDA device")
    try:
        return get_backend(name)
    except BackendError as error:
        raise CheckFailed(f"the backend does not start: {error}") from error


def _registered() -> Iterable[str]:
    return NAMES


SUITE = Suite("backend", prepare, _registered)


def check_backend(backend: Any, *, expected_failures: Mapping[str, str] | None = None) -> BatteryReport:
    """Check a backend: every operation of `optex_core.backends.base.Backend`.

    Parameters
    ----------
    backend : str or Backend
        "numpy", "numba", "cupy", or an object. A library or device that is missing here skips the checks, and the report is not ok.
    expected_failures : mapping of str to str, optional
        Check -> reason. Strict: one that passes is a failure.

    Returns
    -------
    BatteryReport
        A list of `CheckResult`, true where all is well.

    Examples
    --------
    >>> from optex_core.testing import check_backend
    >>> check_backend("numpy")["nan_is_seen_wherever_it_is"].ok
    True
    """
    return SUITE.run(backend, expected_failures)


# -- reductions ---------------------------------------------------------------------------------------------------------------------------


@SUITE.promise()
def products_and_distances_of_two_vectors(s: Subject) -> None:
    """dot and squared_distance are float64 sums, for float32 vectors too, and return Python floats."""
    b = s.backend

    def body(d: int, dtype: Any, seed: int) -> None:
        p = some_data(d, 1, dtype, seed)
        x, g, scale = on_device(b, p.x, p.g, p.scale)
        wx, wg, ws = in_float64(p.x, p.g, p.scale)
        need_sums(b.dot(x, g), wx * wg, "dot")
        need_sums(b.squared_distance(x, g), (wx - wg) ** 2, "squared_distance")
        need_sums(b.squared_distance(x, g, scale), ((wx - wg) / ws) ** 2, "squared_distance with a scale")
        require(b.squared_distance(x, x) == 0.0, "a vector is away from itself")
        require(isinstance(b.dot(x, g), float) and isinstance(b.squared_distance(x, g), float), "dot or squared_distance gives no float")

    for_sizes(body)


@SUITE.promise()
def the_largest_entry_is_exact(s: Subject) -> None:
    """max_abs is the largest |x_k|, exactly; finite vectors are finite, also where their squares overflow."""
    b = s.backend

    def body(d: int, dtype: Any, seed: int) -> None:
        p = some_data(d, 1, dtype, seed)
        require(b.max_abs(*on_device(b, p.x)) == np.abs(p.x).max(), f"max_abs is not {np.abs(p.x).max()!r}")
        require(b.max_abs(*on_device(b, np.zeros(d, dtype))) == 0.0, "max_abs of zeros is not 0")
        require(b.all_finite(*on_device(b, p.x)) is True, "all_finite of finite numbers is not True")

    for_sizes(body)
    (huge,) = on_device(b, np.full(10, 1e300))
    require(b.all_finite(huge) is True and b.max_abs(huge) == 1e300, "entries of 1e300 are finite: only their squares are not")


@SUITE.promise()
def nan_is_seen_wherever_it_is(s: Subject) -> None:
    """One nan or infinity anywhere makes all_finite False and max_abs nan or infinite; nan outweighs infinity."""
    b = s.backend

    def body(d: int, dtype: Any, seed: int, bad: float, at: float) -> None:
        x = some_data(d, 1, dtype, seed).x
        x[int(at * (d - 1))] = bad
        (on,) = on_device(b, x)
        require(b.all_finite(on) is False, f"all_finite does not see {bad}")
        top = b.max_abs(on)
        require(np.isnan(top) if np.isnan(bad) else top == np.inf, f"max_abs of a vector with {bad} is {top}")

    for_sizes(body, bad=one_of(*BAD), at=one_of(0.0, 1.0, 0.5, 0.99), examples=60)
    (both,) = on_device(b, np.array([np.inf, np.nan, 1.0]))
    require(np.isnan(b.max_abs(both)), "infinity hides a nan from max_abs")


# -- history ------------------------------------------------------------------------------------------------------------------------------


@SUITE.promise()
def rows_against_a_point(s: Subject) -> None:
    """squared_distances are float64 sums on the host, with units and without."""
    b = s.backend

    def body(d: int, dtype: Any, seed: int, n: int, scaled: bool) -> None:
        p = some_data(d, n, dtype, seed)
        scale = p.scale if scaled else None
        wX, wx = in_float64(p.X, p.x)
        ws: Any = 1.0 if scale is None else scale.astype(np.float64)
        found = b.squared_distances(*on_device(b, p.X, p.x, scale))
        require(
            isinstance(found, np.ndarray) and found.shape == (n,) and found.dtype == np.float64,
            f"squared_distances gave {shown(found)}, not {n} float64 of the host",
        )
        need_sums(found, ((wX - wx) / ws) ** 2, "squared_distances")

    for_sizes(body, n=ints(1, 7), scaled=one_of(False, True))


@SUITE.promise()
def new_rows_against_all_rows(s: Subject) -> None:
    """pair_rows gives the three float64 sums of each new row with every row, row_distances one square; a row that is not there is an error."""
    b = s.backend

    def body(d: int, dtype: Any, seed: int, n: int, scaled: bool) -> None:
        p = some_data(d, n, dtype, seed)
        scale = p.scale if scaled else None
        X, G, on_scale = on_device(b, p.X, p.G, scale)
        wX, wG = in_float64(p.X, p.G)
        ws: Any = 1.0 if scale is None else scale.astype(np.float64)
        rng = np.random.default_rng(seed)
        new = [int(r) for r in rng.choice(n, rng.integers(1, n + 1), replace=False)]
        sums = b.pair_rows(X, G, new, on_scale)
        for found in sums:
            require(
                isinstance(found, np.ndarray) and found.shape == (len(new), n) and found.dtype == np.float64,
                f"pair_rows gave {shown(found)}, not {len(new)} x {n} float64 of the host",
            )
            require(not found[range(len(new)), new].any(), "pair_rows: a row differs from itself")
        for a, r in enumerate(new):
            dx, dg = wX - wX[r], wG - wG[r]
            for name, found, terms in zip("DEM", sums, ((dx / ws) ** 2, (dg * ws) ** 2, dg * dx), strict=True):
                need_sums(found[a], terms, f"pair_rows {name}")
        for rows, values, inverse in ((X, wX, False), (G, wG, True)):
            found = b.row_distances(rows, new, on_scale, inverse)
            require(
                isinstance(found, np.ndarray) and found.shape == (len(new), n) and found.dtype == np.float64,
                f"row_distances gave {shown(found)}, not {len(new)} x {n} float64 of the host",
            )
            require(not found[range(len(new)), new].any(), "row_distances: a row is away from itself")
            for a, r in enumerate(new):
                step = values - values[r]
                need_sums(found[a], (step * ws if inverse else step / ws) ** 2, "row_distances")

    for_sizes(body, n=ints(1, 12), scaled=one_of(False, True))
    rows: Any = on_device(b, np.ones((3, 5)))[0]
    for name, operation in (("pair_rows", lambda: b.pair_rows(rows, rows, [0, 3])), ("row_distances", lambda: b.row_distances(rows, [0, 3]))):
        try:
            operation()
        except IndexError:
            continue
        raise AssertionError(f"{name} takes row 3 of 3 without an IndexError")


@SUITE.promise()
def products_of_differences_of_rows(s: Subject) -> None:
    """difference_products are float64 sums on the host, reading the rows in the pairs alone; a row that is not there is an error."""
    b = s.backend

    def body(d: int, dtype: Any, seed: int, n: int, p: int, q: int, same: bool) -> None:
        data, rng = some_data(d, n + 1, dtype, seed), np.random.default_rng(seed)
        data.X[n] = data.G[n] = np.nan  # in no pair
        left, right = (np.column_stack([rng.integers(0, n, m), rng.integers(-1, n, m)]) for m in (p, q))
        A, B = on_device(b, data.X, data.G)
        wA, wB = in_float64(data.X, data.G)
        if same:
            B, wB, right = A, wA, left
        found = b.difference_products(A, left, B, right)
        fits = isinstance(found, np.ndarray) and found.shape == (len(left), len(right)) and found.dtype == np.float64
        require(fits, f"difference_products gave {shown(found)}, not {len(left)} x {len(right)} float64 of the host")
        for products in (found, b.difference_products([*A[:1], A[1:]], left, [*B], right)):  # of rows, and of vectors and rows
            need_sums(products, of_pairs(wA, left)[:, None] * of_pairs(wB, right), "difference_products")

    for_sizes(body, n=ints(1, 6), p=ints(1, 7), q=ints(1, 7), same=one_of(False, True))
    rows: Any = on_device(b, np.ones((3, 5)))[0]
    for pair in ((0, 3), (3, -1)):
        try:
            b.difference_products(rows, np.array([[0, 1]]), rows, np.array([pair]))
        except IndexError:
            continue
        raise CheckFailed(f"difference_products took the pair {pair} of 3 rows")


@SUITE.promise()
def products_that_keep_their_bits_alone(s: Subject) -> None:
    """With `pairwise`, a product of differences has the same bits alone, beside any others and with its factors exchanged."""
    b = s.backend
    left, right = np.array([*([i + 1, i] for i in range(13)), [5, -1]]), np.array([*([i, 13 - i] for i in range(10)), [2, -1]])
    for d, dtype in itertools.product((3, 700, 9_000, 70_000) if b.pairwise else (), (np.float32, np.float64)):
        A, B = on_device(b, *(vars(some_data(d, 14, dtype, d))[rows] for rows in "XG"))
        whole, turned = b.difference_products(A, left, B, right), b.difference_products(B, right, A, left)
        need_same_bits(turned, whole.T, "exchanged factors have other bits")
        for (i, j), n in itertools.product(((0, 0), (1, 2), (2, 7), (3, 10), (12, 9), (13, 4)), (1, 13)):
            part = b.difference_products(A, left[i : i + n], B, right[max(0, j + 1 - n) : j + 1])
            need_same_bits(part[0, -1], whole[i, j], f"product {i}, {j}: other bits beside others")


@SUITE.promise()
def close_points_keep_their_digits(s: Subject) -> None:
    """Points 1e-4 apart at 1e3: |a|^2 + |b|^2 - 2ab loses every digit there; the entries are exact, so the differences must be too."""
    b, rng = s.backend, np.random.default_rng(1)
    for dtype in (np.float32, np.float64):
        x: Any = (1e3 + rng.normal(size=20_000)).astype(dtype)
        X = (x + 1e-4 * rng.normal(size=(3, x.size))).astype(dtype)
        terms = (X.astype(np.float64) - x.astype(np.float64)) ** 2
        on_X, on_x = on_device(b, X, x)
        need_sums(b.squared_distances(on_X, on_x), terms, "squared_distances")
        (rows,) = on_device(b, np.vstack([X, x]))
        for found in b.pair_rows(rows, rows, [3]):
            need_sums(found[0, :3], terms, "pair_rows")
        pairs = np.array([[i, 3] for i in range(3)])
        need_sums(b.difference_products(rows, pairs, rows, pairs).diagonal(), terms, "difference_products")
        need_sums(b.squared_distance(on_X[0], on_x), terms[0], "squared_distance")


# -- combinations -------------------------------------------------------------------------------------------------------------------------


@SUITE.promise()
def weighted_sums_of_rows(s: Subject) -> None:
    """combine is one weighted sum, accumulated in float64, around an anchor row or none."""
    b = s.backend

    def body(d: int, dtype: Any, seed: int, n: int, anchor: int) -> None:
        p = some_data(d, n, dtype, seed)
        at = None if anchor < 0 else min(anchor, n - 1)
        (wX,) = in_float64(p.X)
        base: Any = 0.0 if at is None else wX[at]
        expected = base + p.w @ (wX - base)
        found = b.combine(on_device(b, p.X)[0], p.w, at)
        need_combination(b, found, expected, np.abs(base) + np.abs(p.w) @ np.abs(wX - base), dtype, "combine")

    for_sizes(body, n=ints(1, 7), anchor=ints(-1, 6))


@SUITE.promise()
def the_posterior_mean(s: Subject) -> None:
    """predict is combine(G) plus the linear part curvature / scale^2 (x - combine(X)); without curvature it does not read X."""
    b = s.backend

    def body(d: int, dtype: Any, seed: int, n: int, anchor: int, curvature: float, scaled: bool) -> None:
        p = some_data(d, n, dtype, seed)
        at, scale = None if anchor < 0 else min(anchor, n - 1), p.scale if scaled else None
        X, G, x, on_scale = on_device(b, p.X, p.G, p.x, scale)
        wX, wG, wx = in_float64(p.X, p.G, p.x)
        factor: Any = curvature / (1.0 if scale is None else scale.astype(np.float64)) ** 2
        base_x, base_g = (0.0, 0.0) if at is None else (wX[at], wG[at])
        expected = base_g + p.w @ (wG - base_g) + factor * (wx - base_x - p.w @ (wX - base_x))
        weights = np.abs(p.w)
        magnitude: Any = np.abs(base_g) + weights @ np.abs(wG - base_g)
        magnitude = magnitude + np.abs(factor) * (np.abs(wx) + np.abs(base_x) + weights @ np.abs(wX - base_x))
        need_combination(b, b.predict(X, G, p.w, at, x, curvature, on_scale), expected, magnitude, dtype, "predict")

    for_sizes(body, n=ints(1, 7), anchor=ints(-1, 6), curvature=one_of(0.0, 0.3, -40.0), scaled=one_of(False, True), examples=50)
    p = some_data(50, 4, np.float64, 0)
    X, G, x = on_device(b, np.full_like(p.X, np.nan), p.G, np.full_like(p.x, np.nan))
    found = b.to_host(b.predict(X, G, p.w, 2, x, 0.0))
    need_same_bits(found, b.to_host(b.combine(G, p.w, 2)), "predict without curvature is not combine")


@SUITE.promise()
def many_sums_in_one_pass(s: Subject) -> None:
    """blend gives every sum of vectors and of rows around an anchor, accumulated in float64, reading the rows that have weights and no other."""
    b = s.backend

    def body(d: int, dtype: Any, seed: int, used: tuple[int, int], anchor: int, k: int, extras: int, both: bool) -> None:
        data, rng = some_data(d, 9, dtype, seed), np.random.default_rng(seed)
        weights, at = [rng.normal(size=(k, n)) for n in (*used, extras)], min(anchor, *(n - 1 for n in used))
        data.X[used[0] :] = data.G[used[1] :] = np.nan
        more = rng.normal(size=(extras, d)).astype(dtype)
        X, G, *vectors = on_device(b, data.X, data.G, *more)
        found = b.blend(X if both else None, weights[0], G, weights[1], at, vectors, weights[2])
        require(len(found) == k, f"blend gave {len(found)} sums, not {k}")
        wX, wG, terms = in_float64(data.X[: used[0]], data.G[: used[1]], more)
        sides = [(weights[2], terms), (weights[1], wG - wG[at]), *([(weights[0], wX - wX[at])] if both else [])]
        expected, magnitude = sum(w @ v for w, v in sides), sum(np.abs(w) @ np.abs(v) for w, v in sides)
        for j, one in enumerate(found):
            need_combination(b, one, expected[j], magnitude[j], dtype, f"sum {j} of blend")

    used = {"used": one_of((1, 1), (3, 3), (4, 4), (8, 8), (9, 9), (2, 7), (7, 2)), "anchor": ints(0, 8)}
    for_sizes(body, **used, k=one_of(1, 2, 3, 8, 9, 17), extras=ints(1, 4), both=one_of(False, True))


@SUITE.promise()
def large_weights_keep_their_digits(s: Subject) -> None:
    """Rows 1e-4 apart at 1e3 with weights of 100 that sum to one: the anchored sum in float64 keeps what float32 sums lose."""
    b, rng = s.backend, np.random.default_rng(3)
    X = (1e3 + 1e-4 * rng.normal(size=(4, 5_000))).astype(np.float32)
    w = np.array([100.0, -100.0, 50.0, -49.0])
    (wX,) = in_float64(X)
    (rows,), expected, bound = on_device(b, X), wX[3] + w @ (wX - wX[3]), float(np.finfo(np.float32).eps) * 1.1e3
    need_close(b.to_host(b.combine(rows, w, 3)), expected, bound, "combine")
    need_close(b.to_host(b.blend(None, w[None], rows, w[None], 3, [rows[3]], np.ones((1, 1)))[0]), expected, bound, "blend")


@SUITE.promise()
def an_anchor_outside_the_rows_is_an_error(s: Subject) -> None:
    """combine and blend with an anchor that is no row raise IndexError instead of reading beyond."""
    b = s.backend
    p = some_data(5, 4, np.float64, 0)
    (X,), w = on_device(b, p.X), p.w[None]
    calls = {"combine": lambda anchor: b.combine(X, p.w, anchor), "blend": lambda anchor: b.blend(X, w, X, w, anchor, [X[0]], w[:, :1])}
    for (name, call), anchor in itertools.product(calls.items(), (-5, 4)):
        try:
            call(anchor)
        except IndexError:
            continue
        raise CheckFailed(f"{name} took row {anchor} of 4 as its anchor")


# -- elementwise --------------------------------------------------------------------------------------------------------------------------


@SUITE.promise()
def sums_limits_and_means(s: Subject) -> None:
    """axpy rounds three times at most, clip is exact and lets nan through, mean is a float64 mean and that of equal vectors is the vector."""
    b = s.backend

    def body(d: int, dtype: Any, seed: int, a: float) -> None:
        p = some_data(d, 3, dtype, seed)
        x, y = on_device(b, p.x, p.g)
        wx, wy, eps = *in_float64(p.x, p.g), float(np.finfo(dtype).eps)
        found = b.axpy(a, x, y)
        require(found.dtype == dtype, f"axpy of {np.dtype(dtype)} gave {found.dtype}")
        bound = 3 * eps * (np.abs(a * wx) + np.abs(wy)) + float(np.finfo(dtype).tiny)
        need_close(b.to_host(found), a * wx + wy, bound, "axpy")
        need_same_bits(b.to_host(b.clip(x, -0.5, 0.25)), np.clip(p.x, np.asarray(-0.5, dtype), np.asarray(0.25, dtype)), "clip to numbers")
        need_same_bits(b.to_host(b.clip(x, y, np.inf)), np.maximum(p.x, p.g), "clip to a vector")
        need_combination(b, b.mean(on_device(b, *p.X)), in_float64(p.X)[0].mean(axis=0), np.abs(p.X).max(axis=0).astype(np.float64), dtype, "mean")
        need_same_bits(b.to_host(b.mean([x, x, x])), p.x, "the mean of equal vectors")

    for_sizes(body, a=one_of(0.0, 1.0, -0.1, 1e3))
    (x,) = on_device(b, np.array([np.nan, -3.0, 3.0, np.inf]))
    need_close(b.to_host(b.clip(x, -1.0, 2.0)), np.array([np.nan, -1.0, 2.0, 2.0]), 0.0, "clip of nan, -3, 3, inf to [-1, 2]")


def _quotient_rule(_xp: Any) -> Any:
    return lambda x, y: (x / y,)


@SUITE.promise()
def overflow_and_division_by_zero_are_silent(s: Subject) -> None:
    """They give inf and nan without a warning or an error: a run that blows up is the engine's to notice."""
    b = s.backend
    x, zero = on_device(b, np.array([1.0, -1.0, 0.0]), np.zeros(3))
    need_close(b.to_host(b.apply(_quotient_rule, (x, zero), ())[0]), np.array([np.inf, -np.inf, np.nan]), 0.0, "1/0, -1/0, 0/0")
    (huge,) = on_device(b, np.full((2, 3), 1e300))
    with b.hushed():
        require(b.squared_distances(huge, -huge[0])[0] == np.inf, "an overflowing distance is not infinite")
    pair, weight = np.array([[0, -1]]), np.full((1, 1), 1e10)
    require(b.difference_products(huge, pair, huge, pair)[0, 0] == np.inf, "an overflowing product is not infinite")
    need_close(b.to_host(b.blend(None, weight, huge, weight, 0, [huge[0]], weight)[0]), np.full(3, np.inf), 0.0, "an overflowing sum")


@SUITE.promise()
def rules_are_applied_to_every_entry(s: Subject) -> None:
    """apply runs the rule on every entry of every block, keeps the dtype, casts scalars once, and copies what the rule hands through."""
    b = s.backend

    def body(d: int, dtype: Any, seed: int) -> None:
        p = some_data(d, 1, dtype, seed)
        x, g = on_device(b, p.x, p.g)
        new, kept = b.apply(slot_rule, (x, g), (0.1,))
        require(new.dtype == kept.dtype == dtype, f"apply turned {np.dtype(dtype)} into {new.dtype}")
        rate = np.asarray(0.1, dtype)
        bound = 3 * float(np.finfo(dtype).eps) * (np.abs(p.x) + np.abs(rate * p.g))
        need_close(b.to_host(new), in_float64(p.x)[0] - float(rate) * in_float64(p.g)[0], bound, "x - rate g")
        need_same_bits(b.to_host(kept), p.g, "a slot that is handed through")

    for_sizes(body)


@SUITE.promise()
def what_may_be_overwritten_changes_no_bit(s: Subject) -> None:
    """apply with `into` gives the bits of new arrays, though the rule exchanges what it is given; arrays that are not named stay as they are."""
    b = s.backend

    def body(d: int, dtype: Any, seed: int, into: tuple[int, ...], twice: bool) -> None:
        p = some_data(d, 1, dtype, seed)
        given = on_device(b, p.x, p.g, p.scale)
        if twice:
            given[2] = given[0]
        before = [b.to_host(a).copy() for a in given]
        expected = [b.to_host(a) for a in b.apply(exchanging_rule, given, (0.1,))]
        found = b.apply(exchanging_rule, given, (0.1,), into=into)
        for one, other in zip(found, expected, strict=True):
            need_same_bits(b.to_host(one), other, f"apply with into={into}")
        for i, (array, old) in enumerate(zip(given, before, strict=True)):
            if i not in into:
                need_same_bits(b.to_host(array), old, f"array {i}, which into={into} does not name,")

    for_sizes(body, into=one_of((0, 1), (1, 0), (2, 0)), twice=one_of(False, True))


@SUITE.promise()
def optimizers_follow_those_of_numpy(s: Subject) -> None:
    """Five steps of an optimizer with two moments are NumPy's to rounding, in both dtypes."""
    optimizer: Any = get_optimizer("adam")
    for dtype, d in ((np.float32, 3_000), (np.float64, 40_000)):
        results = []
        for b in (get_backend("numpy"), s.backend):
            p = some_data(d, 3, dtype, 7)
            (x,) = on_device(b, p.x)
            state = optimizer.init(x, backend=b)
            for g in (*p.X, p.g, p.x):
                x, state = optimizer.step(x, *on_device(b, g), state, backend=b)
            results.append([b.to_host(a) for a in (x, *state.slots)])
        for found, expected in zip(results[1], results[0], strict=True):
            require(found.dtype == expected.dtype, f"state of dtype {found.dtype} in place of {expected.dtype}")
            bound = 64 * float(np.finfo(dtype).eps) * max(1.0, float(np.abs(expected).max()))
            need_close(found, expected, bound, "an optimizer's step")


@SUITE.promise()
def predicted_steps_are_those_taken_one_by_one(s: Subject) -> None:
    """chain, where there is one, takes the steps of predict and apply; coefficient_chain those on coefficients. None says that there is none."""
    for dtype, d in ((np.float32, 3_000), (np.float64, 40)):
        field, x = some_field(s.backend, d, dtype)
        chain = s.backend.chain(RULE, field, x, (), RATES)
        if chain is not None:
            need_steps(s.backend, chain, field, x)
    walk = s.backend.coefficient_chain(field.formula.lines, field.formula.result, True, RULE, 0, 1)
    if walk is not None:
        need_coefficients(walk)


# -- manners ------------------------------------------------------------------------------------------------------------------------------


@SUITE.promise()
def inputs_stay_and_outputs_never_alias(s: Subject) -> None:
    """No operation writes into what it gets, and no result shares memory with it, below and above the size of a block."""
    b = s.backend
    shares = b.xp.shares_memory if hasattr(b.xp, "shares_memory") else np.shares_memory
    for d in (7, 20_000):
        host = some_data(d, 3, np.float64, 11)
        p = placed(b, host)
        results = every_operation(b, p)
        for key, value in vars(host).items():
            now = value if key == "w" else b.to_host(getattr(p, key))
            need_same_bits(now, value, f"an operation changed {key}")
        for name, value in results.items():
            for array in flat(value):
                if isinstance(array, b.xp.ndarray):
                    require(not any(shares(array, v) for k, v in vars(p).items() if k != "w"), f"{name} returns memory that it was given")


@SUITE.promise()
def any_layout_gives_the_same_answer(s: Subject) -> None:
    """Read-only, strided and reversed arrays are accepted."""
    b = s.backend
    p = placed(b, some_data(5_000, 3, np.float64, 13))

    def strided(a: Any) -> Any:
        padded = b.zeros((*a.shape, 2), a.dtype)
        padded[..., 0] = a
        return padded[..., 0]

    layouts: dict[str, Callable[[Any], Any]] = {"read-only": b.read_only, "strided": strided, "reversed": lambda a: a[..., ::-1].copy()[..., ::-1]}
    expected = every_operation(b, p)
    for kind, lay in layouts.items():
        found = every_operation(b, SimpleNamespace(**{k: v if k == "w" else lay(v) for k, v in vars(p).items()}))
        for name, value in expected.items():
            for one, right in zip(flat(found[name]), flat(value), strict=True):
                one, right = (np.asarray(b.to_host(v) if isinstance(v, b.xp.ndarray) else v, dtype=np.float64) for v in (one, right))
                # The layout may change the order of a sum in NumPy; terms are of order 10 at most, 5,000 of them.
                need_close(one, right, 1e-12 * (1 + np.abs(right)), f"{name} of {kind} arrays")


@SUITE.promise()
def copies_are_copies(s: Subject) -> None:
    """copy_in casts and never aliases, zeros are zeros, a read-only view cannot change what it shows, and release takes back nothing in use."""
    b = s.backend
    host = np.arange(4)
    x = b.copy_in(host, np.float32)
    host[0] = 9
    require(x.dtype == np.float32, f"copy_in to float32 gave {x.dtype}")
    need_close(b.to_host(x), np.arange(4.0), 0.0, "copy_in aliases what it copies:")
    same = on_device(b, np.arange(4.0))[0]
    alias = b.copy_in(same, np.float64)
    alias[0] = 9.0
    need_same_bits(b.to_host(same), np.arange(4.0), "copy_in of the same dtype aliases what it copies")
    need_same_bits(b.to_host(b.zeros((2, 3), np.float64)), np.zeros((2, 3)), "zeros")
    require(b.empty(5, np.float32).shape == (5,), "empty(5) has another shape")
    (x,) = on_device(b, np.arange(3.0))
    view = b.read_only(x)
    with contextlib.suppress(ValueError):  # a library without read-only views hands out a copy
        view[0] = 7.0
    b.release()
    need_same_bits(b.to_host(x), np.arange(3.0), "a read_only view was written through")


@SUITE.promise()
def two_threads_at_once_get_the_same_bits(s: Subject) -> None:
    """Instances have no state that influences results: two threads may call them."""
    b = s.backend
    x, g = on_device(b, *(some_data(30_000, 1, np.float64, 19).__dict__[k] for k in ("x", "g")))
    expected, found = b.dot(x, g), []  # type: ignore[var-annotated]
    threads = [threading.Thread(target=lambda: found.extend(b.dot(x, g) for _ in range(50))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    require(found == [expected] * 100, "two threads at once got other results than one")


@SUITE.promise()
def a_whole_run_is_that_of_numpy(s: Subject) -> None:
    """Six rounds of a run, with everything the engine asks of a backend, follow those of NumPy to a stated tolerance, and repeat bit for bit."""

    def run(backend: Backend) -> np.ndarray:
        (x0,) = on_device(backend, np.linspace(-1.0, 2.0, 3_000))
        h = 1.0 / (1.0 + np.arange(3_000) % 7)
        engine = OptEx(x0, optimizer="adam", parallelism=3, strategy="corrected", backend=backend, rng=0, maxiter=6)
        while not engine.stop():
            for c in engine.ask():
                x = backend.to_host(c.x)
                engine.tell(c.id, gradient=backend.copy_in(h * x, np.float64), value=float(h @ (x * x)) / 2)
        return backend.to_host(engine.state.x)

    found = run(s.backend)
    need_close(found, run(get_backend("numpy")), 1e-6, "the last iterate")
    need_same_bits(run(s.backend), found, "the same run twice")
