"""The default: L-BFGS paths from the lowest point, without a learning rate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import threadpoolctl
from scipy import optimize

import optex_core as ox
from optex_core.backends import get_backend
from optex_core.errors import CapabilityError
from optex_core.strategies import lookahead
from optex_core.strategies._lookahead.lbfgs_path import LBFGSMatrix, predicted_path
from optex_core.strategies._lookahead.rows import Coordinates, Rows, unknown_products


def rosenbrock(x):
    a = x[1:] - x[:-1] ** 2
    g = np.zeros_like(x)
    g[:-1] = -400 * x[:-1] * a - 2 * (1 - x[:-1])
    g[1:] += 200 * a
    return float(100 * a @ a + ((1 - x[:-1]) ** 2).sum()), g


def quadratic(x):
    h = np.geomspace(1.0, 1e4, len(x))
    return float(0.5 * (h * x) @ x), h * x


START = np.random.default_rng(0).uniform(-1.0, 1.0, 10)


@pytest.mark.parametrize("N", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("fun", [rosenbrock, quadratic])
def test_values_never_rise_and_the_minimum_is_found(fun, N):
    result = ox.minimize(fun, START, parallelism=N, rng=0)
    assert result.success
    assert result.status is ox.Status.GTOL
    assert (np.diff(result.history.value) <= 0).all()
    value, gradient = fun(result.x)
    assert value == result.fun
    np.testing.assert_array_equal(gradient, result.jac)
    assert result.fun == result.best_fun


def test_no_point_is_evaluated_twice_but_the_one_that_tells_noise():
    seen = []

    def fun(x):
        seen.append(x.tobytes())
        return rosenbrock(x)

    result = ox.minimize(fun, START, parallelism=4, rng=0)
    assert len(seen) == result.njev
    assert len(seen) - len(set(seen)) == 1


def test_more_gradients_at_once_need_fewer_rounds():
    rounds = [ox.minimize(rosenbrock, START, parallelism=N, rng=0).nit for N in (1, 4, 16)]
    assert rounds[0] > rounds[1] > rounds[2]


@pytest.mark.parametrize("N", [1, 4])
@pytest.mark.parametrize("seed", range(4))
def test_bounds_lead_to_the_solution_of_lbfgsb(seed, N):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((12, 12))
    H, b = A @ A.T + 0.1 * np.eye(12), rng.standard_normal(12)

    def fun(x):
        return float(0.5 * x @ H @ x - b @ x), H @ x - b

    bounds = [(-0.3, 0.2)] * 12
    theirs = optimize.minimize(fun, np.zeros(12), jac=True, bounds=bounds, method="L-BFGS-B")
    ours = ox.minimize(fun, np.zeros(12), parallelism=N, bounds=bounds, rng=0, gtol=1e-5)
    assert ours.fun <= theirs.fun + 1e-7 * abs(theirs.fun)
    assert (ours.x >= -0.3).all()
    assert (ours.x <= 0.2).all()


@pytest.mark.parametrize("N", [2, 4])
def test_a_noisy_function_is_noticed_and_averaged(N):
    def fun(x, *, seed):
        noise = np.random.default_rng(seed).standard_normal(len(x))
        return float(0.5 * x @ x), x + 3.0 * noise

    x0 = np.full(20, 5.0)
    result = ox.minimize(fun, x0, parallelism=N, rng=0, maxiter=150, gtol=0.0)
    assert "averaged gradients" in set(result.history.note)
    assert result.fun < 0.1 * 0.5 * float(x0 @ x0)


def test_gradients_alone_are_enough():
    result = ox.minimize(
        None, np.full(5, 3.0), jac=lambda x: 2 * x, parallelism=4, maxiter=200, gtol=1e-3
    )
    assert np.abs(result.x).max() < 1.0
    assert "averaged gradients" in set(result.history.note)


def test_points_that_fail_shorten_the_step():
    def fun(x):
        if np.abs(x).max() > 1.5:
            raise ValueError("outside")
        return rosenbrock(x)

    result = ox.minimize(fun, np.zeros(6), parallelism=4, rng=0)
    assert result.success
    assert result.failures


def test_a_run_that_finds_nothing_lower_says_so():
    result = ox.minimize(
        lambda x: (float(np.abs(x).sum()), np.sign(x) + 1e-3), np.zeros(3), parallelism=4
    )
    assert result.status is ox.Status.STALLED
    assert not result.success
    assert result.fun == result.best_fun == np.abs(result.x).sum()
    np.testing.assert_array_equal(result.jac, np.sign(result.x) + 1e-3)


@pytest.mark.parametrize("N", [1, 4])
def test_a_run_to_the_last_digit_has_the_value_of_its_point(N):
    result = ox.minimize(rosenbrock, START, parallelism=N, rng=0, gtol=0.0, maxiter=300)
    assert result.fun == rosenbrock(result.x)[0]


def second_round(fun, x0, N):
    """Points of the second round, without the repetition of x0."""
    engine = ox.OptEx(np.asarray(x0, float), parallelism=N)
    for _ in range(2):
        candidates = engine.ask()
        if len(candidates) > 1:
            return np.array([c.x for c in candidates])[1:]
        for c in candidates:
            value, gradient = fun(c.x)
            engine.tell(c.id, value=value, gradient=gradient)
    raise AssertionError("no second round")


def test_random_vectors_widen_the_second_round():
    start = np.arange(1.0, 31.0)
    moves, gradient = second_round(quadratic, start, 16) - start, quadratic(start)[1]
    p = -gradient / np.linalg.norm(gradient)
    beside = np.linalg.norm(moves - np.outer(moves @ p, p), axis=1)
    assert (beside[:-6] < 1e-11).all()
    random = moves[-6:] - p  # the unit step has length one
    np.testing.assert_allclose(np.linalg.norm(random, axis=1), 0.3)
    assert np.linalg.matrix_rank(random) == 6
    usual = np.random.default_rng(0).standard_normal(30)  # starts of test problems are made so
    assert (np.abs(random @ usual) < 0.25 * np.linalg.norm(usual)).all()


@pytest.mark.parametrize(("d", "N", "rank"), [(3, 8, 3), (4, 8, 4), (5, 8, 1), (7, 16, 7)])
def test_vectors_that_complete_the_space_are_tried_with_few_parameters(d, N, rank):
    start = np.random.default_rng(5).uniform(-1.0, 1.0, d)
    moves = second_round(rosenbrock, start, N) - start
    assert np.linalg.matrix_rank(moves, tol=1e-6) == rank


@pytest.mark.parametrize("N", [8, 16])
def test_a_symmetric_function_keeps_its_symmetry(N):
    def fun(x):  # pairs of parameters, all alike
        value, gradient = rosenbrock(x[:2])
        return len(x) / 2 * value, np.tile(gradient, len(x) // 2)

    points = second_round(fun, np.tile([-1.2, 1.0], 20), N)
    assert (points[:, ::2] == points[:, :1]).all()
    assert (points[:, 1::2] == points[:, 1:2]).all()
    assert np.linalg.matrix_rank(points - points[0], tol=1e-6) == 2


def test_a_path_ends_where_nothing_is_known():
    def falls(z):
        return np.array([-1.0, 0.0])

    def path(extent):
        matrix = LBFGSMatrix(np.empty((0, 2)), np.empty((0, 2)), 20)
        return predicted_path(falls, matrix, 20, falls(0.0), 1.0, extent)

    assert np.linalg.norm(path(np.inf)[-1]) > 10
    assert np.linalg.norm(path(10.0)[-1]) <= 10
    assert len(path(0.5)) == 2  # the first step is always tried


def test_other_optimizers_are_refused():
    with pytest.raises(CapabilityError, match="takes L-BFGS steps of its own, not those of Adam"):
        ox.OptEx(START, optimizer=ox.Adam(), strategy="lookahead")


@pytest.mark.parametrize("N", [1, 4])
def test_a_saved_run_continues_with_the_same_bits(N, tmp_path):
    def drive(engine, rounds):
        for _ in range(rounds):
            for c in engine.ask():
                value, gradient = rosenbrock(c.x)
                engine.tell(c.id, value=value, gradient=gradient)
        return engine

    whole = drive(ox.OptEx(START, parallelism=N, rng=0), 16)
    engine = drive(ox.OptEx(START, parallelism=N, rng=0), 9)
    engine.save(tmp_path / "run.npz")
    again = drive(ox.OptEx.load(tmp_path / "run.npz"), 7)
    assert np.array_equal(whole.state.x, again.state.x)
    assert whole.trace == again.trace


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coordinates_are_an_isometry(dtype):
    backend, rng = get_backend("numpy"), np.random.default_rng(0)
    n, d = 7, 400
    X, G = (rng.standard_normal((n, d)).astype(dtype) for _ in range(2))
    rows = Rows(X, G, np.arange(n), np.ones(n, bool), unknown_products(n))
    known = Coordinates(rows, backend)
    tolerance = 1e-9 if dtype == np.float64 else 1e-6
    wide = X.astype(np.float64)
    np.testing.assert_allclose(
        np.linalg.norm(known.X, axis=1),
        np.linalg.norm(wide - wide[-1], axis=1),
        rtol=tolerance,
        atol=tolerance,
    )
    products = G.astype(np.float64) @ G.astype(np.float64).T
    np.testing.assert_allclose(known.G @ known.G.T, products, rtol=1e-9, atol=1e-7)
    lifted = known.lift(known.X[:3])
    for point, row in zip(lifted, X[:3], strict=True):
        np.testing.assert_allclose(point, row, rtol=0, atol=10 * tolerance)
    # Products that are known are not made again, and the same.
    some = known.gram.copy()
    some[:, [1, 4]], some[:, :, [1, 4]] = np.nan, np.nan
    again = Coordinates(Rows(X, G, np.arange(n), np.ones(n, bool), some), backend)
    np.testing.assert_allclose(again.gram, known.gram, rtol=1e-13, atol=1e-10)


def test_products_survive_new_rows_and_evictions():
    backend, rng = get_backend("numpy"), np.random.default_rng(1)
    d, most, N = 300, 21, 4
    rows = Rows.empty(backend, (most + N, d), np.dtype(float))
    path = []
    for k in range(12):
        points, gradients = list(rng.standard_normal((N, d))), list(rng.standard_normal((N, d)))
        lowest = k % 3 != 1
        marks = [False, False, lowest, lowest]
        rows = rows.extended(points, gradients, marks, lowest=lowest, most=most)
        x = rows.x.copy() if not lowest else points[-1]
        np.testing.assert_array_equal(rows.x, x)
        path += points[2:] if lowest else []
        fresh = Coordinates(replace(rows, gram=unknown_products(len(rows.order))), backend)
        known = Coordinates(rows, backend)
        np.testing.assert_allclose(known.gram, fresh.gram, rtol=1e-12, atol=1e-10)
        if k > 1:
            assert 0 < np.isfinite(rows.gram[0]).sum() < rows.gram[0].size
        rows = replace(rows, gram=known.gram)
    assert len(rows.order) == most
    # A third of the rows, at least: the newest points of the path.
    kept = rows.X[rows.order[rows.mark]]
    assert len(kept) >= most // 3
    np.testing.assert_array_equal(kept, path[-len(kept) :])


@pytest.mark.parametrize("N", [1, 4])
def test_a_round_makes_the_products_of_its_own_rows_alone(N):
    engine, made = ox.OptEx(np.full(400, -1.0), parallelism=N, backend="numpy"), []
    kind = type(get_backend("numpy"))
    original = kind.difference_products

    def counted(self, A, a, B, b):
        made.append(len(a))
        return original(self, A, a, B, b)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "difference_products", counted)
        for _ in range(30):
            for c in engine.ask():
                value, gradient = rosenbrock(c.x)
                engine.tell(c.id, value=value, gradient=gradient)
    # Of the gradient, and of the differences of points and gradients: one per new row, one more
    # where x moved behind them or a row was evicted between two others.
    assert len(made) >= 15
    assert max(made) <= 1 + 2 * (2 * N + 2)


@pytest.mark.parametrize("d", [2, 10, 300])
def test_models_of_many_rows_have_one_blas_thread_however_few_parameters(d, monkeypatch):
    limits = []
    original = lookahead.propose

    def observed(*args, **kwargs):
        pools = threadpoolctl.ThreadpoolController().select(user_api="blas").info()
        limits.append(all(pool["num_threads"] == 1 for pool in pools))
        return original(*args, **kwargs)

    monkeypatch.setattr(lookahead, "propose", observed)
    ox.minimize(rosenbrock, np.full(d, -1.0), parallelism=8, maxiter=6, rng=0)
    assert len(limits) >= 4
    assert all(limits[3:])


def test_held_parameters_do_not_enter_the_products_that_are_kept():
    backend, rng = get_backend("numpy"), np.random.default_rng(2)
    n, d = 6, 90
    X, G = rng.standard_normal((2, n, d))
    free = np.arange(d) % 3 > 0
    X[:, ~free] = 0.5
    rows = Rows(X, G, np.arange(n), np.ones(n, bool), unknown_products(n))
    known = Coordinates(rows, backend, free)
    assert np.isnan(known.gram).all()
    np.testing.assert_allclose(known.G @ known.G.T, G[:, free] @ G[:, free].T, rtol=1e-9)
    for point, row in zip(known.lift(known.X), X, strict=True):
        np.testing.assert_allclose(point, row, rtol=0, atol=1e-9)
    X[0, 0] += 100.0  # far away in a parameter that is held
    assert len(Coordinates(rows, backend, free).X) == n - 1


def test_the_line_search_follows_the_path_that_bounds_bend():
    asked = []

    def fun(x):
        asked.append(x)
        return float(200 * (x[1] - 0.3) ** 2 - 20 * x[0]), np.array([-20.0, 400 * (x[1] - 0.3)])

    ox.minimize(fun, np.zeros(2), parallelism=1, bounds=[(0, 0.02), (-5, 5)], maxiter=3, rng=0)
    p = np.array([20.0, 120.0]) / np.hypot(20, 120)  # the first direction has length one
    np.testing.assert_allclose(asked[1], [0.02, p[1]])
    t = asked[2][1] / p[1]
    assert 0 < t < 1
    np.testing.assert_allclose(asked[2], [min(0.02, t * p[0]), t * p[1]])
    assert asked[2][0] > 0.02 * t  # not on the segment to the first trial


def test_more_rows_than_memory_holds_are_refused_in_one_sentence():
    strategy = ox.strategies.Lookahead(history=10**30)
    with pytest.raises(ox.ArgumentError, match=r"rows of 3 parameters take .* GB, more than"):
        ox.OptEx(np.zeros(3), strategy=strategy)


def test_a_line_search_that_rounding_ends_is_followed_by_steepest_descent():
    t = np.linspace(77.6, 760.0, 14)

    def fun(x):  # units of the parameters a factor of 1e6 apart
        e = np.exp(-x[1] * t)
        r = x[0] * (1 - e) - 240.0 * (1 - np.exp(-5.5e-4 * t))
        return float(r @ r), np.array([2 * r @ (1 - e), 2 * x[0] * r @ (t * e)])

    start = np.array([1000.0, 1e-4])
    result = ox.minimize(fun, start, parallelism=1, gtol=0, maxiter=400)
    assert result.fun < 1e-10 * fun(start)[0]
