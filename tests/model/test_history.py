"""The history: pair matrices against sums in 50 digits, and what happens at its edges."""

from __future__ import annotations

from collections import Counter
from decimal import localcontext

import numpy as np
import pytest

from optex_core.backends import get_backend
from optex_core.errors import ArgumentError
from optex_core.model.estimator import GradientEstimator
from optex_core.model.history import History
from optex_core.testing.reference.digits import exact, rounded

EPS = np.finfo(np.float64).eps
NUMPY = get_backend("numpy")


def filled(X, G, capacity=None, **options):
    history = History(capacity or len(X), X.shape[1], X.dtype, NUMPY, **options)
    for x, g in zip(X, G, strict=True):
        history.append(x, g)
    return history


def pairs(X, G, scale=None):
    """D, E and M of rows, every sum in 50 digits."""
    with localcontext(prec=50):
        X, G = exact(X), exact(G)
        s = exact(np.ones(X.shape[1]) if scale is None else scale)
        dx, dg = X[:, None] - X[None], G[:, None] - G[None]
        return (
            rounded(((dx / s) ** 2).sum(2)),
            rounded(((dg * s) ** 2).sum(2)),
            rounded((dx * dg).sum(2)),
        )


def test_rows_that_left_leave_nothing_behind():
    rng = np.random.default_rng(1)
    X, G = rng.normal(size=(2, 23, 4))
    X[:7] *= 1e150  # squares of 1e300: the least trace of them would show
    history = filled(X, G, capacity=5)
    order = history.chronological_order()
    assert np.array_equal(history.X[order], X[-5:])
    assert np.array_equal(history.G[order], G[-5:])
    for matrix, right in zip((history.D, history.E, history.M), pairs(X[-5:], G[-5:]), strict=True):
        assert np.allclose(
            matrix[np.ix_(order, order)], right, rtol=0.0, atol=10 * EPS * np.abs(right).max()
        )
    assert (history.n, history.total, history.newest) == (5, 23, 22 % 5)


@pytest.mark.parametrize("dims", [None, np.array([0, 2])], ids=["all", "dims"])
def test_distances_to_rows_are_the_stored_ones(dims):
    X, G = np.random.default_rng(3).normal(size=(2, 6, 5))
    history = filled(X, G, dims=dims, scale=np.array([1.0, 2.0, 0.5, 1e3, 1e-3]))
    for i in range(6):
        assert np.array_equal(history.distances(X[i]), history.S[i])


def test_empty():
    history = History(3, 2, np.float64, NUMPY)
    assert (history.n, history.newest, history.total) == (0, -1, 0)
    assert history.chronological_order().shape == history.distances(np.zeros(2)).shape == (0,)
    assert history.dump()["X"].shape == (0, 2)


def test_rows_cast_to_float32_are_those_that_the_distances_are_taken_of():
    X = 1.0 + 1e-9 * np.arange(4.0)[:, None] * np.ones(3)  # equal once cast
    history = History(4, 3, np.float32, NUMPY)
    for x in X:
        history.append(x, x)
    assert not history.D.any()


class Counting:
    """The NumPy backend, which counts what it is asked for."""

    def __init__(self):
        self.asked = Counter()

    def __getattr__(self, name):
        operation = getattr(NUMPY, name)
        if not callable(operation):
            return operation

        def counted(*args):
            self.asked[name] += 1
            return operation(*args)

        return counted


@pytest.mark.parametrize("dims", [None, np.array([0, 2, 5])], ids=["all", "dims"])
def test_pairs_that_nobody_reads_are_not_computed(dims):
    X, G = np.random.default_rng(4).normal(size=(2, 12, 7))
    backend = Counting()
    history = History(5, 7, np.float64, backend, dims=dims)
    for begin in range(0, 12, 3):
        history.extend(list(zip(X[begin : begin + 3], G[begin : begin + 3], strict=True)))
        assert history.S.any()
    assert not backend.asked["pair_products"]
    assert backend.asked["row_pair_distances"] == (4 if dims is None else 0)
    order = history.chronological_order()
    right = dict(zip("DEM", pairs(X[-5:], G[-5:]), strict=True))
    for name, asked in (("D", dims is not None), ("E", True), ("M", True)):
        before = sum(backend.asked.values())
        for _ in range(2):
            assert np.allclose(
                getattr(history, name)[np.ix_(order, order)], right[name], rtol=1e-13, atol=1e-13
            )
        assert sum(backend.asked.values()) == before + asked  # once, however often it is read


def test_what_is_not_computed_yet_goes_through_a_file_as_it_is():
    # Two runs of which one is saved must not differ: pairs computed in other company may have other
    # last bits.
    X, G = np.random.default_rng(5).normal(size=(2, 9, 4))
    backend = Counting()
    saved, other = History(6, 4, np.float64, backend), History(6, 4, np.float64, NUMPY)
    saved.extend(list(zip(X[:7], G[:7], strict=True)))
    assert saved.E[:6, :6].any()
    saved.extend(list(zip(X[7:], G[7:], strict=True)))
    asked = backend.asked["row_pair_distances"], backend.asked["pair_products"]
    other.restore({name: np.array(value) for name, value in saved.dump().items()})
    assert (backend.asked["row_pair_distances"], backend.asked["pair_products"]) == asked
    for name in "DEM":
        assert np.array_equal(getattr(saved, name), getattr(other, name))
        assert np.allclose(
            getattr(saved, name),
            dict(zip("DEM", pairs(saved.X, saved.G), strict=True))[name],
            rtol=1e-13,
            atol=1e-13,
        )


@pytest.mark.parametrize(
    ("points", "scale", "error"),
    [
        pytest.param((0.0, 1.0), None, "", id="usual"),
        pytest.param((0.0, 1e-150), None, "", id="small"),
        pytest.param((1.0, 1.0), None, "", id="coincident"),
        pytest.param((0.0, 1e-170), None, "underflow", id="tiny"),
        pytest.param((0.0, 1e160), None, "overflow", id="huge"),
        pytest.param((0.0, 1.0), 1e200, "underflow", id="large units"),
        pytest.param((0.0, 1.0), 1e-200, "overflow", id="small units"),
    ],
)
def test_squares_out_of_range_are_noticed(points, scale, error):
    scale = None if scale is None else np.full(2, scale)
    history = History(4, 2, np.float64, get_backend("numpy"), scale=scale)
    for x in points:
        history.append(np.full(2, x), np.ones(2))
    assert error in history.range_error()
    assert bool(error) == bool(history.range_error())
    if error:
        X = np.array(points)[:, None] * np.ones(2)
        with pytest.raises(ArgumentError, match=error):
            GradientEstimator().fit(X, np.ones((2, 2)), x_scale=scale)
