"""Shared data of the checks of a backend: the backend under test, vectors, rows and bounds."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from optex_core._validation import short_repr
from optex_core.backends import BACKEND_NAMES, get_backend
from optex_core.backends.base import Backend
from optex_core.errors import ArgumentTypeError, BackendError
from optex_core.testing import hypothesis_strategies as st
from optex_core.testing.assertions import EPS, assert_within
from optex_core.testing.check_suite import (
    CheckFailed,
    CheckSkipped,
    CheckSuite,
    require,
    require_equal,
)
from optex_core.testing.properties import for_all
from optex_core.types import Array

#: Around the borders of NumPy's blocks (16,384 entries, 1,024 columns), Numba's (2,048) and CuPy's
#: (8,192); small ones come first, for shrinking.
SIZES = (1, 2, 3, 1_023, 1_024, 1_025, 2_047, 2_048, 2_049, 8_193, 16_383, 16_384, 16_385, 40_000)

#: Makes the backend when the first check asks for it.
Make = Callable[[], Backend]


def prepare_backend(backend: Backend | str) -> tuple[str, Make]:
    """Check a backend: every operation of `optex_core.backends.base.Backend`.

    Parameters
    ----------
    backend : str or Backend
        "numpy", "numba", "cupy", or an object. A library or device that is missing here skips the
        checks, and the report is not ok.

    Examples
    --------
    >>> from optex_core.testing import check_backend
    >>> check_backend("numpy")["nonfinite_entries_are_detected"].ok
    True
    """
    if isinstance(backend, Backend):
        return getattr(backend, "name", "") or type(backend).__name__, lambda: backend
    if not isinstance(backend, str):
        raise ArgumentTypeError(
            f"check_backend takes a backend or its name, got {short_repr(backend)}"
        )
    if backend not in BACKEND_NAMES:
        get_backend(backend)  # says what there is
    return backend, lambda: _usable(backend)


def _usable(name: str) -> Backend:
    if importlib.util.find_spec(name) is None:
        library = {"numpy": "NumPy", "numba": "Numba", "cupy": "CuPy"}.get(name, name)
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


SUITE = CheckSuite("backend", prepare_backend, lambda: BACKEND_NAMES)


def check(function: Callable[[Backend], None]) -> Callable[[Backend], None]:
    """Add a check that takes the backend itself."""

    @functools.wraps(function)
    def opened(make: Make) -> None:
        function(make())

    SUITE.check()(opened)
    return function


def sample_data(d: int, n: int, dtype: type, seed: int) -> SimpleNamespace:
    """Rows X and G, a point x with gradient g, weights, and a scale of several magnitudes."""
    rng = np.random.default_rng(seed)
    draws = {"X": (n, d), "G": (n, d), "x": (d,), "g": (d,), "w": (n,), "scale": (d,)}
    found = {name: rng.normal(size=shape) for name, shape in draws.items()}
    found["scale"] = np.exp(found["scale"])
    return SimpleNamespace(**{k: v if k == "w" else v.astype(dtype) for k, v in found.items()})


def on_device(backend: Backend, *arrays: Array | None) -> Any:
    """Copies of arrays on the device of `backend`; None stays None."""
    return [None if a is None else backend.copy_in(a, a.dtype) for a in arrays]


def in_float64(*arrays: np.ndarray) -> list[np.ndarray]:
    """The arrays in float64."""
    return [a.astype(np.float64) for a in arrays]


def assert_host(found: object, shape: tuple[int, ...], what: str) -> None:
    """Raise `CheckFailed` unless `found` is a float64 array of the host."""
    fits = isinstance(found, np.ndarray) and found.shape == shape and found.dtype == np.float64
    size = " x ".join(map(str, shape))
    require(fits, f"{what} gave {short_repr(found)}, not {size} float64 of the host")


def assert_sums(found: float | np.ndarray, terms: np.ndarray, what: str) -> None:
    """Sums over the last axis within the classical bound d eps sum |terms|."""
    on_host = isinstance(found, (float, np.ndarray))
    require(on_host, f"{what} gave {short_repr(found)}, not a number or an array of the host")
    bound = (terms.shape[-1] + 4) * EPS * np.abs(terms).sum(axis=-1)
    assert_within(found, terms.sum(axis=-1), bound, what)


def assert_weighted_sum(
    backend: Backend,
    found: Array,
    expected: np.ndarray,
    magnitude: np.ndarray | float,
    dtype: type,
    what: str,
) -> None:
    """One rounding to the dtype, plus float64 sums of up to 24 terms of this magnitude."""
    require_equal(found.dtype, np.dtype(dtype), f"dtype of {what}")
    bound = float(np.finfo(dtype).eps) * np.abs(expected) + 64 * EPS * magnitude
    assert_within(backend.to_host(found), expected, bound, what)


def for_sizes(body: Callable[..., None], *, examples: int = 30, **more: st.Strategy) -> None:
    """Call `body` with sizes, dtypes, seeds, and what `more` draws."""
    more["d"], more["dtype"] = st.sampled_from(SIZES), st.sampled_from((np.float64, np.float32))
    for_all(body, seed=st.integers(0, 2**32 - 1), examples=examples, **more)


def slot_rule(_xp: object) -> Callable[..., tuple[Array, ...]]:
    """x - rate g, and g handed through."""
    return lambda x, g, rate: (x - rate * g, g)
