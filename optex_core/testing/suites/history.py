"""Checks of the history: the newest rows, with pair matrices that are those of the rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from optex_core._validation import short_repr
from optex_core.backends import get_backend
from optex_core.errors import ArgumentTypeError
from optex_core.model.history import History
from optex_core.testing import hypothesis_strategies as st
from optex_core.testing.assertions import EPS, assert_same_bits, assert_within
from optex_core.testing.check_suite import CheckSuite, require_equal
from optex_core.testing.properties import for_all

#: Makes an empty history, with the arguments of `History`.
Make = Callable[..., History]
Vector = np.ndarray | None


def prepare_history(kind: Make = History) -> tuple[str, Make]:
    """Check a ring buffer of rows with its pair matrices.

    Parameters
    ----------
    kind : class, default History
        Constructor and methods as `optex_core.model.history.History`.

    Examples
    --------
    >>> from optex_core.testing import check_history
    >>> check_history().ok
    True
    """
    if not callable(kind):
        raise ArgumentTypeError(
            f"check_history takes a class with the constructor of History, got {short_repr(kind)}"
        )
    return getattr(kind, "__name__", str(kind)), kind


SUITE = CheckSuite("history", prepare_history, lambda: [History])


def assert_matches_rows(
    history: History, X: np.ndarray, G: np.ndarray, scale: Vector = None, dims: Vector = None
) -> None:
    """Raise `CheckFailed` unless `history` holds the rows X and G, oldest first: bit for bit, with
    the pair matrices of these rows to rounding.
    """
    n, order = len(X), history.chronological_order()
    require_equal(history.n, n, "number of rows")
    require_equal(sorted(order), list(range(n)), "rows in chronological_order()")
    require_equal(history.newest, order[-1] if n else -1, "newest row, last in that order")
    host = history.backend.to_host
    assert_same_bits(host(history.X)[order], X, "the points kept are not the newest, oldest first")
    assert_same_bits(host(history.G)[order], G, "the gradients are not those of these points")
    eps, s = float(np.finfo(X.dtype).eps), np.float64(1.0 if scale is None else scale)
    X, G = X.astype(np.float64), G.astype(np.float64)
    dx, dg = X[:, None] - X[None], G[:, None] - G[None]
    squares = (dx / s) ** 2
    expected = {
        "D": squares.sum(2),
        "E": ((dg * s) ** 2).sum(2),
        "M": (dx * dg).sum(2),
        "S": squares[:, :, slice(None) if dims is None else dims].sum(2),
    }
    for name, right in expected.items():
        matrix = np.asarray(getattr(history, name))[:n, :n]
        # Some ten roundings in float64; products cancel, so they count against their largest
        # possible size.
        size = np.sqrt(expected["D"] * expected["E"]) if name == "M" else right
        bound = 20 * (4 + X.shape[1]) * EPS * size
        assert_within(matrix[np.ix_(order, order)], right, bound, f"{name} from the rows")
        assert_same_bits(matrix, np.ascontiguousarray(matrix.T), f"{name} is not symmetric")
    norms = ((G * s) ** 2).sum(1)
    assert_within(np.asarray(history.squared_norms)[order], norms, 8 * eps * norms, "squared_norms")


def _filled(make: Make, X: np.ndarray, G: np.ndarray, capacity: int, **options: Vector) -> History:
    history = make(capacity, X.shape[1], X.dtype, get_backend("numpy"), **options)
    for x, g in zip(X, G, strict=True):
        history.append(x, g)
    return history


def _options(d: int, scaled: bool, subset: bool, dtype: DTypeLike) -> dict[str, Vector]:
    scale = (2.0 ** np.arange(d) / 3).astype(dtype) if scaled else None
    return {"scale": scale, "dims": np.arange(0, d, 2) if subset else None}


@SUITE.check()
def pair_matrices_match_rows(make: Make) -> None:
    """D, E, M and S are those of the rows kept, whatever was overwritten."""

    def body(
        rows: tuple[np.ndarray, np.ndarray], capacity: int, scaled: bool, subset: bool
    ) -> None:
        X, G = rows
        options = _options(X.shape[1], scaled, subset, X.dtype)
        history = _filled(make, X, G, capacity, **options)
        assert_matches_rows(history, X[-capacity:], G[-capacity:], **options)
        require_equal(history.total, len(X), "total of appended rows")

    more = {"capacity": st.integers(2, 4), "scaled": st.booleans(), "subset": st.booleans()}
    for dtype in (np.float64, np.float32):
        for_all(body, rows=st.histories(dtype=dtype), examples=40, **more)


@SUITE.check()
def close_distant_rows_keep_precision(make: Make) -> None:
    """Rows 1e-4 apart at 1e3 keep their digits: |a|^2 + |b|^2 - 2ab loses all of them."""
    rng = np.random.default_rng(2)
    for dtype in (np.float64, np.float32):
        X = (1e3 + 1e-4 * rng.normal(size=(7, 40))).astype(dtype)
        G = (1e2 + 1e-3 * rng.normal(size=(7, 40))).astype(dtype)
        assert_matches_rows(_filled(make, X, G, 5), X[-5:], G[-5:])


@SUITE.check()
def distances_match_rows(make: Make) -> None:
    """distances(x) are the squared kernel distances to every row; to a row itself, zero."""

    def body(rows: tuple[np.ndarray, np.ndarray], scaled: bool, subset: bool) -> None:
        X, G = rows
        options = _options(X.shape[1], scaled, subset, X.dtype)
        history = _filled(make, X, G, 4, **options)
        order, kept = history.chronological_order(), X[-4:]
        dims = slice(None) if options["dims"] is None else options["dims"]
        scale = 1.0 if options["scale"] is None else options["scale"]
        for x in (kept[-1], kept[0], np.ones(X.shape[1])):
            expected = (((kept - x) / scale)[:, dims] ** 2).sum(1)
            found = np.asarray(history.distances(x))[order]
            assert_within(found, expected, 50 * EPS * expected, "distances")

    for_all(body, rows=st.histories(), scaled=st.booleans(), subset=st.booleans(), examples=25)


@SUITE.check()
def dump_and_restore_round_trip(make: Make) -> None:
    """restore(dump()) into another history gives one that continues bitwise identically."""
    rng = np.random.default_rng(5)
    for scaled, subset in ((False, False), (True, True)):
        options = _options(3, scaled, subset, np.float64)
        X, G = rng.normal(size=(2, 11, 3))
        expected = _filled(make, X[:7], G[:7], 5, **options)
        state = {name: np.array(value, copy=True) for name, value in expected.dump().items()}
        other = _filled(make, rng.normal(size=(9, 3)), rng.normal(size=(9, 3)), 5, **options)
        other.restore(state)
        assert_matches_rows(other, X[2:7], G[2:7], **options)
        for x, g in zip(X[7:], G[7:], strict=True):
            expected.append(x, g)
            other.append(x, g)
        for name in ("X", "G", "D", "E", "M", "S", "squared_norms", "newest", "total"):
            a, b = (np.asarray(getattr(one, name)) for one in (other, expected))
            assert_same_bits(a, b, f"{name} differs after restoring and going on")


@SUITE.check()
def copies_its_inputs(make: Make) -> None:
    """What is appended is copied: the caller may reuse its arrays."""
    x, g = np.arange(3.0), np.ones(3)
    history = make(4, 3, np.float64, get_backend("numpy"))
    history.append(x, g)
    x[:], g[:] = np.nan, np.nan
    history.append(np.zeros(3), np.zeros(3))
    X, G = np.array([[0.0, 1.0, 2.0], [0.0] * 3]), np.array([[1.0] * 3, [0.0] * 3])
    assert_matches_rows(history, X, G)
