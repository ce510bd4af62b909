"""What the history definitions: the newest rows, and pair matrices that are those of the rows, under
any sequence of appending and restoring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optex_core._validation import short_repr
from optex_core.backends import get_backend
from optex_core.errors import ArgumentTypeError
from optex_core.model.history import History
from optex_core.testing.assertions import EPS, assert_same_bits, assert_within
from optex_core.testing.check_suite import CheckReport, CheckSuite, require
from optex_core.testing.properties import for_all


@dataclass(frozen=True)
class Subject:
    """A class of histories with the constructor of `optex_core.model.history.History`."""

    label: str
    make: Callable[..., Any]

    def filled(
        self, X: np.ndarray, G: np.ndarray, capacity: int | None = None, **options: Any
    ) -> Any:
        history = self.make(
            capacity or max(2, len(X)), X.shape[1], X.dtype, get_backend("numpy"), **options
        )
        for x, g in zip(X, G, strict=True):
            history.append(x, g)
        return history


def prepare(kind: Any = History) -> Subject:
    """The class itself, or a function with its signature."""
    if not callable(kind):
        raise ArgumentTypeError(
            f"check_history takes a class with the constructor of History, got {short_repr(kind)}"
        )
    return Subject(getattr(kind, "__name__", str(kind)), kind)


def _registered_subjects() -> Iterable[Any]:
    return [History]


SUITE = CheckSuite("history", prepare, _registered_subjects)


def check_history(
    kind: Any = History, *, expected_failures: Mapping[str, str] | None = None
) -> CheckReport:
    """Check a ring buffer of rows with its pair matrices.

    Parameters
    ----------
    kind : class, default History
        Constructor and methods as `optex_core.model.history.History`.
    expected_failures : mapping of str to str, optional
        Check -> reason. Strict: one that passes is a failure.

    Returns
    -------
    CheckReport
        A list of `CheckResult`, true where all is well.

    Examples
    --------
    >>> from optex_core.testing import check_history
    >>> check_history().ok
    True
    """
    return SUITE.run(kind, expected_failures)


def _matrices(X: np.ndarray, G: np.ndarray, scale: Any, dims: Any) -> dict[str, np.ndarray]:
    X, G, s = (
        X.astype(np.float64),
        G.astype(np.float64),
        1.0 if scale is None else scale.astype(np.float64),
    )
    dx, dg = X[:, None] - X[None], G[:, None] - G[None]
    cut = slice(None) if dims is None else dims
    squares = (dx / s) ** 2
    return {
        "D": squares.sum(2),
        "E": ((dg * s) ** 2).sum(2),
        "M": (dx * dg).sum(2),
        "S": squares[:, :, cut].sum(2),
    }


def _compare(
    history: Any, X: np.ndarray, G: np.ndarray, scale: Any = None, dims: Any = None
) -> None:
    n, order = len(X), history.chronological_order()
    require(history.n == n, f"{n} rows were kept, n is {history.n}")
    require(sorted(order) == list(range(n)), f"order() is {order}, not an order of {n} rows")
    require(not n or order[-1] == history.newest, "the newest row is not the last of order()")
    host = history.backend.to_host
    assert_same_bits(host(history.X)[order], X, "the points kept are not the newest, oldest first")
    assert_same_bits(
        host(history.G)[order], G, "the gradients kept are not the newest, oldest first"
    )
    expected = _matrices(X, G, scale, dims)
    at = np.ix_(order, order)
    eps = float(np.finfo(X.dtype).eps)
    for name, right in expected.items():
        matrix = np.asarray(getattr(history, name))[:n, :n]
        # Some ten roundings in float64; products cancel, so they count against their largest
        # possible size.
        size = np.sqrt(expected["D"] * expected["E"]) if name == "M" else right
        assert_within(
            matrix[at],
            right,
            20 * (4 + X.shape[1]) * EPS * size,
            f"{name}, from the rows themselves,",
        )
        assert_same_bits(matrix, np.ascontiguousarray(matrix.T), f"{name} is not symmetric")
    sizes = ((G.astype(np.float64) * (1.0 if scale is None else scale)) ** 2).sum(1)
    assert_within(np.asarray(history.squared_norms)[order], sizes, 8 * eps * sizes, "sizes")


def _options(d: int, scaled: bool, subset: bool, dtype: Any) -> dict[str, Any]:
    scale = (2.0 ** np.arange(d) / 3).astype(dtype) if scaled else None
    return {"scale": scale, "dims": np.arange(0, d, 2) if subset else None}


@SUITE.check()
def pair_matrices_match_rows(s: Subject) -> None:
    """D, E, M and S are |dx / scale|^2, |scale dg|^2, dx.dg and kernel distances of the rows kept,
    whatever was overwritten.
    """
    from optex_core.testing import hypothesis_strategies as st

    def body(
        rows: tuple[np.ndarray, np.ndarray], capacity: int, scaled: bool, subset: bool
    ) -> None:
        X, G = rows
        options = _options(X.shape[1], scaled, subset, X.dtype)
        history = s.filled(X, G, capacity, **options)
        _compare(history, X[-capacity:], G[-capacity:], **options)
        require(history.total == len(X), f"{len(X)} rows were appended, total is {history.total}")

    for dtype in (np.float64, np.float32):
        for_all(
            body, rows=st.histories(dtype=dtype), capacity=st.st.integers(2, 9), scaled=st.st.booleans(), subset=st.st.booleans(), examples=40,
        )  # fmt: skip


@SUITE.check()
def close_distant_rows_keep_precision(s: Subject) -> None:
    """Rows 1e-4 apart at an offset of 1e3: distances come from differences, not from |a|^2 + |b|^2
    - 2ab, which loses every digit there.
    """
    rng = np.random.default_rng(2)
    for dtype in (np.float64, np.float32):
        X = (1e3 + 1e-4 * rng.normal(size=(7, 40))).astype(dtype)
        G = (1e2 + 1e-3 * rng.normal(size=(7, 40))).astype(dtype)
        _compare(s.filled(X, G, 5), X[-5:], G[-5:])


@SUITE.check()
def distances_match_rows(s: Subject) -> None:
    """distances(x) are the squared kernel distances to every row in ring order; to a row itself,
    zero.
    """
    from optex_core.testing import hypothesis_strategies as st

    def body(rows: tuple[np.ndarray, np.ndarray], scaled: bool, subset: bool) -> None:
        X, G = rows
        options = _options(X.shape[1], scaled, subset, X.dtype)
        history = s.filled(X, G, 4, **options)
        kept = X[-4:]
        cut = slice(None) if options["dims"] is None else options["dims"]
        scale = 1.0 if options["scale"] is None else options["scale"]
        for x in (kept[-1], kept[0], np.ones(X.shape[1])):
            expected = (((kept - x) / scale)[:, cut] ** 2).sum(1)
            assert_within(
                np.asarray(history.distances(x))[history.chronological_order()],
                expected,
                50 * EPS * expected,
                "distances",
            )

    for_all(body, rows=st.histories(), scaled=st.st.booleans(), subset=st.st.booleans())


@SUITE.check()
def dump_and_restore_round_trip(s: Subject) -> None:
    """restore(dump()) into another history, whatever that held before, gives one that goes on with
    the same bits.
    """
    rng = np.random.default_rng(5)
    for scaled, subset in ((False, False), (True, True)):
        options = _options(3, scaled, subset, np.float64)
        X, G = rng.normal(size=(2, 11, 3))
        expected = s.filled(X[:7], G[:7], 5, **options)
        state = {name: np.array(value, copy=True) for name, value in expected.dump().items()}
        other = s.filled(rng.normal(size=(9, 3)), rng.normal(size=(9, 3)), 5, **options)
        other.restore(state)
        _compare(other, X[2:7], G[2:7], **options)
        for x, g in zip(X[7:], G[7:], strict=True):
            expected.append(x, g)
            other.append(x, g)
        for name in ("X", "G", "D", "E", "M", "S", "squared_norms"):
            assert_same_bits(
                np.asarray(getattr(other, name)),
                np.asarray(getattr(expected, name)),
                f"{name} differs after restoring and going on",
            )
        require(
            (other.newest, other.total) == (expected.newest, expected.total),
            "newest or total differs after restoring and going on",
        )


@SUITE.check()
def copies_its_inputs(s: Subject) -> None:
    """What is appended is copied: the caller may reuse its arrays."""
    x, g = np.arange(3.0), np.ones(3)
    history = s.make(4, 3, np.float64, get_backend("numpy"))
    history.append(x, g)
    x[:], g[:] = np.nan, np.nan
    history.append(np.zeros(3), np.zeros(3))
    _compare(history, np.array([[0.0, 1.0, 2.0], [0.0] * 3]), np.array([[1.0] * 3, [0.0] * 3]))
