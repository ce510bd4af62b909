"""With the new part off, the whole equals something known; and whatever runs the gradients, the
bits are the same.
"""

from __future__ import annotations

import collections
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from saved_runs import assert_same_path, exact
from strategy_names import STRATEGY_NAMES

import optex_core as ox
from optex_core.backends import get_backend
from optex_core.errors import ArgumentError
from optex_core.optimizers._on_backend import bind_optimizer
from optex_core.optimizers.base import OPTIMIZERS, get_optimizer

X0 = np.array([-1.2, 1.0, 0.7, 2.0, -0.3])
OPTIMIZER_NAMES = sorted(OPTIMIZERS)
#: Settings under which an optimizer does something else at every step.
OTHERS = {
    "nesterov": ox.SGD(2e-3, momentum=0.9, nesterov=True),
    "clipped": ox.ClipByNorm(ox.SGD(2e-3), 0.3),
    "scheduled": ox.Adam(lambda t: 0.1 / (1 + t)),
}


def noisy(x, *, seed):
    value, gradient = exact(x)
    return value, gradient + 0.3 * np.random.default_rng(seed).standard_normal(len(x))


def rows(X):
    pairs = [exact(x) for x in X]
    return np.array([value for value, _ in pairs]), np.array([gradient for _, gradient in pairs])


def made(name):
    if name in OTHERS:
        return OTHERS[name]
    try:
        return get_optimizer(name)
    except ArgumentError:  # SGD has no rate of its own
        return OPTIMIZERS[name](2e-3)


def bare(optimizer, steps, backend="numpy", x=X0):
    """The optimizer's own loop: nothing of the engine."""
    bound = bind_optimizer(optimizer, get_backend(backend))
    x, state, values = x.copy(), bound.init(x), []
    for _ in range(steps):
        value, gradient = exact(x)
        values.append(value)
        x, state = bound.step(x, gradient, state, value=value)
    return x, [*values, exact(x)[0]]


# At N = 1 strategies and optimizers do not meet: a row for every one of each suffices.
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("optimizer", "strategy", "backend"),
    [
        *(
            (name, STRATEGY_NAMES[i % 9], "numpy")
            for i, name in enumerate([*OPTIMIZER_NAMES, *OTHERS])
        ),
        ("adam", "auto", "numba"),
        ("sgd", "paper", "numba"),
    ],
)
def test_one_gradient_at_a_time_is_the_bare_optimizer(optimizer, strategy, backend, dtype):
    x0 = X0.astype(dtype)
    x, values = bare(made(optimizer), 12, backend, x0)
    run = dict(strategy=strategy, parallelism=1, backend=backend, maxiter=12, rng=0)
    result = ox.minimize(exact, x0, optimizer=made(optimizer), **run)
    assert result.x.dtype == dtype
    np.testing.assert_array_equal(result.x, x)
    assert result.history.value.tolist() == values
    assert (result.nit, result.nsteps, result.njev, result.nfev) == (12, 12, 13, 13)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "sgd"])
def test_sequential_is_the_bare_optimizer_at_any_parallelism(optimizer):
    x, values = bare(made(optimizer), 12)
    run = dict(strategy="sequential", parallelism=7, maxiter=12, rng=0)
    result = ox.minimize(exact, X0, optimizer=made(optimizer), **run)
    np.testing.assert_array_equal(result.x, x)
    assert result.history.value.tolist() == values
    assert result.njev == 13


def test_target_is_the_bare_optimizer_counted_otherwise():
    x, values = bare(ox.Adam(0.05), 12)
    result = ox.minimize(
        exact, X0, optimizer=ox.Adam(0.05), strategy="target", parallelism=4, maxiter=3, rng=0
    )
    np.testing.assert_array_equal(result.x, x)
    assert result.history.value.tolist() == values[::4]
    assert (result.nit, result.nsteps, result.njev) == (3, 12, 13)
    assert result.history.accepted.tolist() == [4, 4, 4, 0]


def test_averages_of_equal_gradients_are_the_bare_optimizer():
    x, _ = bare(ox.SGD(2e-3), 12)
    run = dict(strategy="data_parallel", parallelism=5, maxiter=12, rng=0)
    result = ox.minimize(exact, X0, optimizer=ox.SGD(2e-3), **run)
    # A mean of five equal numbers may differ from them in the last digit, in each of 12 steps.
    np.testing.assert_allclose(result.x, x, rtol=1e-13)


@pytest.mark.parametrize("strategy", ["auto", "paper"])
def test_what_changes_nothing_changes_no_bit(strategy):
    run = dict(optimizer=ox.Adam(0.05), strategy=strategy, parallelism=3, maxiter=10, rng=0)
    plain = ox.minimize(exact, X0, **run)
    # Under bounds the norm in the history is that of x - P(x - g), which rounds.
    assert_same_path(plain, ox.minimize(exact, X0, bounds=[(None, None)] * 5, **run), history=False)
    assert_same_path(plain, ox.minimize(exact, X0, bounds=[(-1e9, 1e9)] * 5, **run), history=False)
    assert_same_path(
        plain,
        ox.minimize(
            exact, list(X0), callback=lambda r: None, on_error="retry", max_failures=3, **run
        ),
    )


@pytest.mark.parametrize("seeded", [False, True], ids=["exact", "noisy"])
@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_whatever_runs_the_gradients_the_bits_are_the_same(strategy, seeded):
    fun = noisy if seeded else exact
    # gtol fires in the middle of a round: which others of the round have come back by then must not
    # show.
    run = dict(
        optimizer=ox.Adam(0.05), strategy=strategy, parallelism=3, maxiter=14, gtol=3.0, rng=5
    )
    serial = ox.minimize(fun, X0, **run)
    with ThreadPoolExecutor(3) as pool:
        for workers in ("threads", pool, map):
            assert_same_path(serial, ox.minimize(fun, X0, workers=workers, **run), best=False)


@pytest.mark.parametrize(("strategy", "fun"), [("auto", noisy), ("paper", exact)])
def test_processes_give_the_same_bits(strategy, fun):
    run = dict(
        optimizer=ox.Adam(0.05), strategy=strategy, parallelism=3, maxiter=14, gtol=3.0, rng=5
    )
    serial = ox.minimize(fun, X0, **run)
    assert_same_path(serial, ox.minimize(fun, X0, workers=2, **run), best=False)


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_vectorized_calls_give_the_same_within_rounding(strategy):
    run = dict(optimizer=ox.SGD(2e-3), strategy=strategy, parallelism=3, maxiter=10, rng=0)
    one, two = ox.minimize(exact, X0, **run), ox.minimize(rows, X0, vectorized=True, **run)
    # The rows are computed by the same code one by one, so nothing but the evaluator differs.
    np.testing.assert_allclose(two.x, one.x, rtol=1e-12)
    assert (two.nfev, two.njev, two.nit) == (one.nfev, one.njev, one.nit)


@pytest.mark.parametrize(
    ("strategy", "workers"),
    [(name, (None, "threads")[i % 2]) for i, name in enumerate(STRATEGY_NAMES)],
)
def test_counters_are_those_of_a_counting_objective_and_nothing_is_evaluated_twice(
    strategy, workers
):
    seen, lock = collections.Counter(), threading.Lock()

    def counting(x, *, seed):
        with lock:
            seen[x.tobytes(), seed] += 1
        return noisy(x, seed=seed)

    for end in (
        {"maxiter": 12},
        {"gtol": 6.0, "maxiter": 40},
        {"max_evals": 23},
        {"target": 20.0, "maxiter": 40},
    ):
        seen.clear()
        run = dict(strategy=strategy, parallelism=4, workers=workers, rng=1, **end)
        result = ox.minimize(counting, X0, optimizer=ox.Adam(0.05), **run)
        assert (result.nfev, result.njev) == (seen.total(), seen.total()), end
        assert max(seen.values()) == 1, end
        assert result.njev <= end.get("max_evals", np.inf)


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_the_value_and_gradient_of_the_result_belong_to_its_point(strategy):
    for end in (
        {"maxiter": 9},
        {"max_evals": 17},
        {"max_evals": 18},
        {"max_evals": 1},
        {"maxiter": 0},
        {"gtol": 4.0, "maxiter": 60},
    ):
        result = ox.minimize(
            exact, X0, optimizer=ox.Adam(0.05), strategy=strategy, parallelism=4, rng=0, **end
        )
        value, gradient = exact(result.x)
        # Averages of equal numbers may differ from them in the last digit.
        rtol = 1e-15 if strategy == "data_parallel" else 0.0
        np.testing.assert_allclose(result.fun, value, rtol=rtol)
        np.testing.assert_allclose(result.jac, gradient, rtol=rtol)
        last = result.history.value[-1]
        assert result.fun == last or (strategy == "auto" and result.fun < last)
        assert result.history.iteration.tolist() == list(range(result.nit + 1))
        assert int(result.history.evaluations.sum()) == result.njev


@pytest.mark.parametrize(
    ("strategy", "dtype"),
    [(name, (np.float32, np.float64)[i % 2]) for i, name in enumerate(STRATEGY_NAMES)],
)
def test_the_dtype_of_the_start_is_kept_everywhere(strategy, dtype):
    dtypes = set()

    def fun(x):
        dtypes.add(x.dtype)
        value, gradient = exact(x)
        return value, gradient.astype(np.float64)

    seen = []
    result = ox.minimize(
        fun,
        X0.astype(dtype),
        optimizer=ox.Adam(0.05),
        strategy=strategy,
        parallelism=3,
        maxiter=8,
        bounds=[(-3, 3)] * 5,
        rng=0,
        callback=seen.append,
    )
    assert dtypes == {np.dtype(dtype)}
    assert {a.dtype for r in [result, *seen] for a in (r.x, r.jac, r.best_x)} == {np.dtype(dtype)}
