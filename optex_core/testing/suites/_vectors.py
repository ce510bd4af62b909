"""Vectors, rows and bounds for the checks of a backend."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from optex_core._validation import short_repr
from optex_core.backends.base import Backend
from optex_core.testing.assertions import EPS, assert_within
from optex_core.testing.check_suite import require
from optex_core.testing.properties import for_all

#: Around the borders of NumPy's blocks (16,384 entries, 1,024 columns), Numba's (2,048) and CuPy's
#: (8,192); small ones come first, for shrinking.
SIZES = (1, 2, 3, 1_023, 1_024, 1_025, 2_047, 2_048, 2_049, 8_193, 16_383, 16_384, 16_385, 40_000)


def some_data(d: int, n: int, dtype: Any, seed: int) -> Any:
    """Rows X and G, a point x with gradient g, weights, and a scale with several orders of
    magnitude.
    """
    rng = np.random.default_rng(seed)
    return SimpleNamespace(
        X=rng.normal(size=(n, d)).astype(dtype), G=rng.normal(size=(n, d)).astype(dtype), x=rng.normal(size=d).astype(dtype),
        g=rng.normal(size=d).astype(dtype), w=rng.normal(size=n), scale=np.exp(rng.normal(size=d)).astype(dtype),
    )  # fmt: skip


def on_device(backend: Backend, *arrays: Any) -> Any:
    """Copies of arrays on the device of `backend`; None stays None."""
    return [None if a is None else backend.copy_in(a, a.dtype) for a in arrays]


def in_float64(*arrays: np.ndarray) -> list[Any]:
    """The arrays in float64."""
    return [a.astype(np.float64) for a in arrays]


def assert_sums(found: Any, terms: np.ndarray, what: str) -> None:
    """Sums over the last axis: the classical bound d eps sum |terms| for any order of summation,
    four times for the rounding of each term.
    """
    require(
        isinstance(found, (float, np.ndarray)),
        f"{what} gave {short_repr(found)}, not a number or an array of the host",
    )
    bound = (terms.shape[-1] + 4) * EPS * np.abs(terms).sum(axis=-1)
    assert_within(found, terms.sum(axis=-1), bound, what)


def assert_weighted_sum(
    backend: Backend, found: Any, expected: np.ndarray, magnitude: Any, dtype: Any, what: str
) -> None:
    """One rounding to the dtype, plus float64 sums of terms of this magnitude (64 eps: up to 24
    terms, two operations each and a few more).
    """
    require(found.dtype == dtype, f"{what} of {np.dtype(dtype)} gave {found.dtype}")
    bound = float(np.finfo(dtype).eps) * np.abs(expected) + 64 * EPS * magnitude
    assert_within(backend.to_host(found), expected, bound, what)


def for_sizes(body: Callable[..., None], *, examples: int = 30, **more: Any) -> None:
    """Call `body` with sizes, dtypes, seeds, and what `more` draws."""
    from hypothesis import strategies as st

    for_all(
        body, d=st.sampled_from(SIZES), dtype=st.sampled_from((np.float64, np.float32)), seed=st.integers(0, 2**32 - 1), examples=examples, **more
    )  # fmt: skip


def ints(low: int, high: int) -> Any:
    """Whole numbers, `high` included."""
    from hypothesis import strategies as st

    return st.integers(low, high)


def draw_one(*values: Any) -> Any:
    """One of the values."""
    from hypothesis import strategies as st

    return st.sampled_from(values)


def of_pairs(rows: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Rows minus rows by index pairs; -1 is nothing."""
    return np.array([rows[i] - rows[j] if j >= 0 else rows[i] for i, j in pairs.tolist()])


def placed(b: Backend, host: Any) -> Any:
    """The same data on a backend; weights stay on the host."""
    return SimpleNamespace(
        **{k: v if k == "w" else b.copy_in(v, v.dtype) for k, v in vars(host).items()}
    )


def every_operation(b: Backend, p: Any) -> dict[str, Any]:
    """What each operation returns, by name."""
    X, G, x, g, scale, w = p.X, p.G, p.x, p.g, p.scale, p.w
    pairs = np.array([[0, 1], [2, -1]])
    return {
        "dot": b.dot(x, g),
        "squared_distance": b.squared_distance(x, g, scale),
        "max_abs": b.max_abs(x),
        "all_finite": b.all_finite(x),
        "squared_distances": b.squared_distances(X, x, scale),
        "row_pair_distances": b.row_pair_distances(X, [0, 2], scale),
        "pair_products": b.pair_products(X, G, [0, 2], scale),
        "difference_products": b.difference_products(X, pairs, G, pairs),
        "weighted_sum": b.weighted_sum(X, w, 1),
        "predict": b.predict(X, G, w, 1, x, 0.5, scale),
        "weighted_sums": tuple(b.weighted_sums(X, w[None], G, w[None], 1, (x, g), w[None, :2])),
        "apply": b.apply(slot_rule, (x, g), (0.5,)),
        "axpy": b.axpy(1.0, x, g),
        "clip": b.clip(x, -10.0, 10.0),
        "clip arrays": b.clip(x, g - 1, g + 1),
        "mean": b.mean((x,)),
        "copy_in": b.copy_in(x, x.dtype),
    }


def flat(value: Any) -> list[Any]:
    """An answer as a list."""
    return list(value) if isinstance(value, tuple) else [value]


def slot_rule(_xp: Any) -> Any:
    """x - rate g, and g handed through."""
    return lambda x, g, rate: (x - rate * g, g)
