"""Vectors, rows and bounds for the checks of a backend."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from optex_core._checks import shown
from optex_core.backends.base import Backend
from optex_core.testing.battery import require
from optex_core.testing.examples import for_all
from optex_core.testing.numeric import EPS, need_close

#: Around the borders of NumPy's blocks (16,384 entries, 1,024 columns), Numba's (2,048) and CuPy's (8,192); small ones come first, for shrinking.
SIZES = (1, 2, 3, 1_023, 1_024, 1_025, 2_047, 2_048, 2_049, 8_193, 16_383, 16_384, 16_385, 40_000)


def some_data(d: int, n: int, dtype: Any, seed: int) -> Any:
    """Rows X and G, a point x with gradient g, weights, and a scale with several orders of magnitude."""
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


def need_sums(found: Any, terms: np.ndarray, what: str) -> None:
    """Sums over the last axis: the classical bound d eps sum |terms| for any order of summation, four times for the rounding of each term."""
    require(isinstance(found, (float, np.ndarray)), f"{what} gave {shown(found)}, not a number or an array of the host")
    bound = (terms.shape[-1] + 4) * EPS * np.abs(terms).sum(axis=-1)
    need_close(found, terms.sum(axis=-1), bound, what)


def need_combination(backend: Backend, found: Any, expected: np.ndarray, magnitude: Any, dtype: Any, what: str) -> None:
    """One rounding to the dtype, plus float64 sums of terms of this magnitude (64 eps: up to 24 terms, two operations each and a few more)."""
    require(found.dtype == dtype, f"{what} of {np.dtype(dtype)} gave {found.dtype}")
    bound = float(np.finfo(dtype).eps) * np.abs(expected) + 64 * EPS * magnitude
    need_close(backend.to_host(found), expected, bound, what)


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


def one_of(*values: Any) -> Any:
    """One of the values."""
    from hypothesis import strategies as st

    return st.sampled_from(values)
