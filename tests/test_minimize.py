"""The front door: callables in every form, counters, the callback."""

from __future__ import annotations

import collections
import inspect
import logging

import numpy as np
import pytest
from combinations import covering_pairs
from minimizing import X0, Counting, at, fun, gradient, minimize, value
from scipy import optimize
from strategy_names import STRATEGY_NAMES

import optex_core as ox
from optex_core.engine.stopping import Status
from optex_core.errors import CapabilityError, EvaluationError

# -- the plain use ---------------------------------------------------------------------------------


def test_nothing_but_fun_and_x0_is_needed():
    result = ox.minimize(lambda x: (x @ x, 2 * x), [0.01, -0.02])
    assert result.success
    assert result.stop == {"gtol": 1e-6}
    assert isinstance(result, optimize.OptimizeResult)
    assert "success: True" in repr(result)
    again = ox.minimize(lambda x: (x @ x, 2 * x), [0.01, -0.02], rng=result.seed)
    np.testing.assert_array_equal(again.x, result.x)


def test_starts_of_every_form():
    np.testing.assert_array_equal(
        ox.minimize(lambda x: (x @ x, 2 * x), 3, optimizer=ox.SGD(0.5), maxiter=1).x, [0.0]
    )
    assert minimize(x0=[3, -4, 1], maxiter=1).x.dtype == np.float64
    assert (
        ox.minimize(
            lambda x, a, b: (a * x @ x, 2 * a * x + 0 * b),
            X0,
            (2.0, 1.0),
            optimizer=ox.SGD(0.1),
            maxiter=1,
            rng=0,
        ).nfev
        == 2
    )
    assert (
        ox.minimize(
            lambda x, a: (a * x @ x, 2 * a * x), X0, 2.0, optimizer=ox.SGD(0.1), maxiter=1, rng=0
        ).nfev
        == 2
    )


def test_bounds_are_never_left_not_even_by_differences():
    low, high = np.array([1.0, -5.0, -1.0]), np.array([5.0, -0.5, 1.0])
    seen = []

    def f(x):
        seen.append(x.copy())
        return value(x)

    result = minimize(f, jac="3-point", bounds=list(zip(low, high, strict=True)), gtol=1e-6)
    assert result.status is Status.GTOL
    # Central differences at a bound are good to eps^(2/3).
    np.testing.assert_allclose(result.x, [1.0, -0.5, 0.0], atol=1e-6)
    assert (np.array(seen) >= low).all()
    assert (np.array(seen) <= high).all()


# -- counters --------------------------------------------------------------------------------------

JACS = {
    "True": (fun, True, None),
    "callable": (value, gradient, None),
    "2-point": (value, "2-point", 1e-6),
    "3-point": (value, "3-point", 1e-8),
    "cs": (value, "cs", 1e-14),
    "gradient only": (None, gradient, None),
}


@pytest.mark.parametrize(
    ("kind", "strategy", "workers"), covering_pairs(JACS, STRATEGY_NAMES, [None, "threads"])
)
def test_counters_count_calls(kind, strategy, workers):
    f, jac, tolerance = JACS[kind]
    if f is None and strategy == "line_search":
        with pytest.raises(CapabilityError, match="strategy 'line_search' needs values"):
            minimize(f, jac=jac, strategy=strategy)
        return
    counted = None if f is None else Counting(f)
    counted_jac = Counting(jac) if callable(jac) else jac
    result = minimize(
        counted, jac=counted_jac, strategy=strategy, workers=workers, maxiter=5, gtol=1.0
    )
    assert result.nfev == (0 if f is None else counted.calls)
    if callable(jac):
        assert result.njev == counted_jac.calls
    elif jac is True:
        assert result.njev == counted.calls
    else:
        per_gradient = {"2-point": 4, "3-point": 7, "cs": 4}[jac]
        assert result.nfev == per_gradient * result.njev
    if tolerance:  # the stencil's own accuracy, relative to gradients of about 20
        np.testing.assert_allclose(result.jac, gradient(result.x), atol=20 * tolerance)
    assert np.isnan(result.fun) == (f is None)


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_counters_count_failed_and_repeated_calls(strategy):
    rng = np.random.default_rng(0)
    f = Counting(fails=lambda call, ctx: OSError("licence") if rng.random() < 0.3 else None)
    result = minimize(f, strategy=strategy, maxiter=6, on_error="retry", max_retries=20)
    assert (result.nfev, result.njev) == (f.calls, f.calls)
    assert f.calls == int(result.history.evaluations.sum()) + len(result.failures)
    assert len(result.failures) > 2


def at_random(share):
    """Fails at so many calls, but not at the first."""
    rng = np.random.default_rng(0)
    return lambda call, ctx: OSError("licence") if call and rng.random() < share else None


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_max_evals_is_a_cap(strategy):
    for max_evals in range(1, 10):
        f = Counting(fails=at_random(0.2))
        try:
            result = minimize(f, strategy=strategy, max_evals=max_evals, on_error="retry")
        except EvaluationError as error:  # no evaluation was left to try theta again
            result = error.partial_result
        assert result.njev == f.calls <= max_evals


@pytest.mark.parametrize(
    ("strategy", "workers"),
    [(name, (None, "threads", map)[i % 3]) for i, name in enumerate(STRATEGY_NAMES)],
)
def test_one_retry_at_the_end_of_the_budget_is_paid_by_the_closing_point(strategy, workers):
    for max_evals in range(2, 9):
        plain = minimize(strategy=strategy, max_evals=max_evals)
        # the final evaluation itself has nothing left to be tried again with
        for iteration in range(plain.nit):
            f = Counting(fails=at(iteration, 0, lambda: OSError("licence")))
            result = minimize(
                f, strategy=strategy, max_evals=max_evals, on_error="retry", workers=workers
            )
            assert result.status is Status.MAX_EVALS
            assert result.njev == f.calls <= max_evals
            assert result.fun == value(result.x)
            np.testing.assert_array_equal(result.jac, gradient(result.x))


def test_rows_of_a_vectorized_call_are_counted():
    rows = []

    def f(X):
        rows.append(len(X))
        return np.array([value(x) for x in X]), np.array([gradient(x) for x in X])

    result = minimize(f, vectorized=True, maxiter=4)
    assert (result.nfev, result.njev) == (sum(rows), sum(rows))
    assert rows == [1, 3, 3, 3, 1]


def test_seeds_and_contexts_are_those_of_the_contract():
    f = Counting(
        fails=lambda call, ctx: (
            OSError("once") if ctx.iteration == 2 and ctx.slot == 1 and not ctx.attempt else None
        )
    )
    result = minimize(f, maxiter=3, on_error="retry", rng=9)
    assert result.seed == 9
    for c in f.seen:
        assert (
            c.seed
            == np.random.SeedSequence(9, spawn_key=(c.iteration, c.slot)).generate_state(1)[0]
        )
        assert (c.id, c.workdir, c.deadline) == (c.iteration * 3 + c.slot, None, None)
    assert [c.attempt for c in f.seen if (c.iteration, c.slot) == (2, 1)] == [0, 1]
    shifted = collections.Counter()

    def differenced(x, *, seed):
        shifted[seed] += 1
        return value(x)

    minimize(differenced, jac="2-point", maxiter=2)
    assert set(shifted.values()) == {4}


# -- the callback and the progress line ------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "parallelism", "workers"),
    covering_pairs(STRATEGY_NAMES, [1, 3], [None, "threads"]),
)
def test_call_k_of_the_callback_reports_theta_k(strategy, parallelism, workers):
    seen, shown = [], []
    result = minimize(
        strategy=strategy,
        parallelism=parallelism,
        workers=workers,
        maxiter=5,
        callback=seen.append,
        progress=shown.append,
    )
    assert [r.nit for r in seen] == [1, 2, 3, 4, 5]
    assert [r.nit for r in shown] == [0, 1, 2, 3, 4, 5]
    for r in seen:
        # Averages of equal numbers may differ from them in the last digit.
        np.testing.assert_allclose(r.jac, gradient(r.x), rtol=1e-15)
        np.testing.assert_allclose(r.fun, value(r.x), rtol=1e-15)
    np.testing.assert_array_equal(seen[-1].x, result.x)
    assert [r.fun for r in seen] == result.history.value[1:].tolist()


@pytest.mark.parametrize(
    ("strategy", "workers"),
    [(name, (None, "threads")[i % 2]) for i, name in enumerate(STRATEGY_NAMES)],
)
def test_a_callback_may_stop_the_run(strategy, workers):
    def stops(intermediate_result):
        if intermediate_result.nit == 3:
            raise StopIteration

    f = Counting()
    result = minimize(f, strategy=strategy, workers=workers, maxiter=9, callback=stops)
    assert (result.nit, result.status, result.stop, result.success) == (
        3,
        Status.CALLBACK,
        {"callback": True},
        False,
    )
    np.testing.assert_allclose(result.fun, value(result.x), rtol=1e-15)
    assert result.njev == f.calls
    assert minimize(strategy=strategy, maxiter=9, callback=lambda r: r.nit == 3).nit == 3


def test_what_a_callback_raises_passes_through_with_the_result_so_far():
    def fails(result):
        if result.nit == 2:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        minimize(maxiter=9, callback=fails)
    assert caught.value.partial_result.nit == 2


def test_parallelism_without_workers_is_said_once_in_the_log(caplog):
    with caplog.at_level(logging.INFO, logger="optex_core"):
        minimize(maxiter=3)
        assert caplog.text.count("without workers") == 1
        caplog.clear()
        minimize(maxiter=3, parallelism=1)
        minimize(maxiter=3, workers="threads")
    assert "without workers" not in caplog.text


def test_every_argument_of_the_contract_is_there():
    names = list(inspect.signature(ox.minimize).parameters)
    assert names[:3] == ["fun", "x0", "args"]
    rest = (
        "jac optimizer parallelism strategy estimator workers vectorized bounds backend x_scale "
        "maxiter gtol ftol xtol target max_time max_evals callback progress rng checkpoint "
        "checkpoint_every resume tag on_error max_retries max_failures timeout quorum grace "
        "rel_step"
    )
    assert set(names[3:]) == set(rest.split())


def test_an_estimator_that_is_not_read_is_said_of_functions_with_a_seed_too(caplog):
    def fun(x, *, seed):
        return x @ x, 2 * x

    ox.minimize(fun, np.ones(3), estimator=ox.GradientEstimator(kernel="rbf"), maxiter=1)
    assert "estimator= is not read by `lookahead`" in caplog.text
