"""Distances that were found while steps were predicted serve the rows that their points become: the
same numbers, bits that hang on nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

import optex_core as ox
from optex_core.backends import get_backend
from optex_core.model import history as histories
from optex_core.model.history import History
from optex_core.strategies.paper import Paper

pytest.importorskip("numba")
D = 9_000  # two blocks of columns


@pytest.fixture(autouse=True)
def small_problems(monkeypatch):
    monkeypatch.setattr(histories, "DISTANCE_CACHE_MIN_SIZE", 1)


class Counted(type(get_backend("numba"))):
    """What is asked of the rows: how many rows, how many points."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def pairwise_distances(self, rows, points, scale=None):
        self.asked.append((len(rows), len(points)))
        return super().pairwise_distances(rows, points, scale)

    def row_pair_distances(self, rows, new, scale=None, inverse=False):
        self.asked.append("row_pair_distances")
        return super().row_pair_distances(rows, new, scale, inverse)


def engine(strategy="paper", dtype=np.float32, backend="numba", far=0, **options):
    estimator = ox.GradientEstimator(history=12, tune="fixed")
    x0 = np.cos(np.arange(D, dtype=dtype)) + far
    return ox.OptEx(
        x0,
        optimizer=ox.Adam(1e-2),
        strategy=strategy,
        parallelism=4,
        estimator=estimator,
        backend=backend,
        maxiter=99,
        rng=0,
        **options,
    )


def slope(x, far=0):
    return np.linspace(0.1, 1.0, len(x), dtype=x.dtype) * (x - far)


def run(made, rounds=8, at=None, change=lambda e: e, lost=(), far=0):
    """Rounds, with something done to the engine between two tells; `lost` are rounds whose third
    evaluation fails.
    """
    for k in range(rounds):
        for i, c in enumerate(made.ask()):
            made.tell(
                c.id,
                **(
                    {"error": ValueError("lost")}
                    if k in lost and i == 2
                    else {"gradient": slope(c.x, far)}
                ),
            )
            if (k, i) == at:
                made = change(made)
                made.ask()
    return made


def bits(made):
    h = made.machine.surrogate.history
    return made.state.x.tobytes(), h.D[: h.n, : h.n].tobytes(), h.X[: h.n].tobytes()


def exact(h):
    X = h.X[: h.n].astype(np.longdouble) / (
        1.0 if h.scale is None else h.scale.astype(np.longdouble)
    )
    return ((X[:, None] - X[None]) ** 2).sum(-1).astype(float)


@pytest.mark.parametrize("strategy", ["paper", "verified", "corrected"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_they_are_the_distances_of_the_rows(strategy, dtype):
    # Eight rounds of four points go around the ring of twelve rows, the first of them with one
    # point: rounds lie across its end.
    h = run(engine(strategy, dtype, far=1000), lost=(5,), far=1000).machine.surrogate.history
    expected = exact(h)
    assert h.caches_distances
    assert h.n == 12
    assert np.array_equal(h.D, h.D.T)
    # From differences: the squares of the points are 1e9 times as large as the smallest distance.
    off = ~np.eye(12, dtype=bool)
    assert 1e9 * expected[off].min() < float((h.X[0].astype(float) ** 2).sum())
    assert (np.abs(h.D - expected)[off] <= 1e-13 * expected[off]).all()
    assert not h.D.diagonal().any()


class Moved(Paper):
    """Evaluates elsewhere than predicted: `move` makes a point of the one that the walk came to."""

    move: ClassVar[Callable[..., object]]

    def plan(self, view, strategy_state):
        plan = super().plan(view, strategy_state)
        points = [plan.points[0], *(self.move(x) for x in plan.points[1:])]
        return replace(plan, points=points, predictions=())


def test_a_point_that_a_strategy_moves_has_distances_of_its_own():
    class Fresh(Moved):
        move = staticmethod(lambda x: np.clip(x, -0.7, 0.7))

    class InPlace(Moved):
        move = staticmethod(lambda x: np.clip(x, -0.7, 0.7, out=x))

    h = run(engine(Fresh(), np.float64)).machine.surrogate.history
    np.testing.assert_allclose(h.D, exact(h), rtol=1e-13)
    # in place of the distances of the point that it was
    with pytest.raises(ValueError, match="read-only"):
        run(engine(InPlace(), np.float64))


def test_units_and_bounds():
    for options in ({"x_scale": np.linspace(0.5, 2.0, D)}, {"bounds": [(-0.9, 0.9)] * D}):
        if "bounds" in options:
            with pytest.warns(RuntimeWarning, match="clipped"):
                made = engine(dtype=np.float64, **options)
        else:
            made = engine(dtype=np.float64, **options)
        h = run(made).machine.surrogate.history
        np.testing.assert_allclose(h.D, exact(h), rtol=1e-13)


def test_the_rows_are_read_once_for_the_last_point_and_the_next_iterate():
    backend = Counted()
    made = run(engine(backend=backend), 5)
    backend.asked.clear()
    run(made, 1)
    # theta_t and the one point whose distances no step has asked for, against all rows; then the
    # three others among themselves.
    among = [asked for asked in backend.asked if asked != (12, 2)]
    assert backend.asked.count((12, 2)) == 1
    assert "row_pair_distances" not in among
    assert all(rows <= 3 and points == 3 for rows, points in among)
    assert sum(rows for rows, _ in among) == 3


def test_another_array_is_not_taken_for_a_known_one():
    h = History(4, 50, np.float64, get_backend("numba"))
    x, y = np.random.default_rng(0).normal(size=(2, 50))
    h.append(x, x)
    h.cache_distances(y, np.array([123.0]))
    assert h.cached_distances(y.copy()) is None
    assert h.distances(y)[0] == 123.0
    h.append(y.copy(), y)
    assert h.cached_distances(y) is None  # those were distances to the rows before
    assert h.D[0, 1] == pytest.approx(((x - y) ** 2).sum(), rel=1e-14)


@pytest.mark.parametrize("strategy", ["paper", "verified"])
def test_bits_do_not_hang_on_the_process_that_predicted(strategy, tmp_path):
    expected = bits(run(engine(strategy), lost=(2,)))

    def again(made):
        made.save(tmp_path / "run.npz")
        return ox.OptEx.load(tmp_path / "run.npz")

    def looked(made):
        made.machine.surrogate.posterior()
        return made

    for change in (again, copy.deepcopy, looked):
        for at in ((0, 0), (2, 1), (2, 3), (4, 0), (4, 3), (6, 2)):
            assert bits(run(engine(strategy), at=at, change=change, lost=(2,))) == expected, (
                change,
                at,
            )


def test_bits_do_not_hang_on_what_else_is_asked_for(monkeypatch):
    from optex_core.backends.numba import kernel_threads as _team

    monkeypatch.setattr(_team, "ENTRIES_PER_THREAD", 1)
    b, rng = get_backend("numba"), np.random.default_rng(1)
    for dtype in (np.float32, np.float64):
        rows, points = (
            rng.normal(size=(7, 40_000)).astype(dtype),
            rng.normal(size=(5, 40_000)).astype(dtype),
        )
        for scale in (None, np.linspace(0.5, 2.0, 40_000).astype(dtype)):
            for threads in (1, 2, 3):
                monkeypatch.setattr(_team, "num_threads", lambda threads=threads: threads)
                together = b.pairwise_distances(rows, list(points), scale)
                alone = [b.squared_distances(rows, x, scale) for x in points]
                assert np.array_equal(together, alone)
            np.testing.assert_allclose(
                together[0],
                (((rows - points[0]).astype(float) / (1.0 if scale is None else scale)) ** 2).sum(
                    1
                ),
                rtol=1e-6,
            )


def test_points_of_another_length_are_refused():
    with pytest.raises(ValueError, match="vectors must have shape"):
        get_backend("numba").pairwise_distances(np.ones((3, 50)), [np.ones(49)])


def test_nothing_is_kept_where_nobody_reads_it():
    tracker = run(
        ox.OptEx(
            np.ones(D),
            optimizer=ox.SGD(0.1),
            strategy="paper",
            parallelism=4,
            backend="numba",
            rng=0,
            maxiter=99,
        ),
        4,
    )
    assert tracker.machine.surrogate.tracker is not None
    assert not tracker.machine.surrogate.history._distance_cache
    assert not engine(backend="numpy").machine.surrogate.history.caches_distances
