"""scipy.optimize.minimize(method=scipy_method): what passes through, what is undone, what is
refused.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from scipy import optimize

from optex_core import _minimize, scipy_method
from optex_core.errors import ArgumentError

X = np.array([1.0, -2.0, 0.5])


def fun(x):
    return float(x @ x), 2 * x


def value(x):
    return float(x @ x)


def gradient(x):
    return 2 * x


@pytest.fixture
def passed(monkeypatch):
    """What reaches `optex_core.minimize`, which is replaced."""
    got = {}
    signature = inspect.signature(_minimize.minimize)

    def recorder(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        got.update(bound.arguments)
        return optimize.OptimizeResult(x=X)

    recorder.__signature__ = signature
    monkeypatch.setattr(_minimize, "minimize", recorder)
    return got


def test_the_memo_that_scipy_wraps_around_fun_is_taken_off(passed):
    optimize.minimize(fun, X, jac=True, method=scipy_method)
    assert passed["fun"] is fun
    assert passed["jac"] is True


def test_a_separate_gradient_stays_separate_and_none_means_differences(passed):
    optimize.minimize(value, X, args=(), jac=gradient, method=scipy_method)
    assert (passed["fun"], passed["jac"]) == (value, gradient)
    optimize.minimize(value, X, method=scipy_method)
    assert passed["jac"] == "2-point"


def test_options_bounds_args_and_tol_pass_through(passed):
    bounds = optimize.Bounds(-3, 3)
    optimize.minimize(
        fun,
        X,
        args=(1, 2),
        jac=True,
        method=scipy_method,
        tol=1e-3,
        bounds=bounds,
        options={"parallelism": 3, "maxiter": 7, "disp": True},
    )
    assert passed["args"] == (1, 2)
    assert passed["bounds"] is bounds
    assert (passed["gtol"], passed["parallelism"], passed["maxiter"], passed["progress"]) == (
        1e-3,
        3,
        7,
        True,
    )
    optimize.minimize(fun, X, jac=True, method=scipy_method, tol=1e-3, options={"gtol": 1e-5})
    assert passed["gtol"] == 1e-5


def test_callbacks_come_in_the_two_forms_of_scipy(passed):
    result, seen = optimize.OptimizeResult(x=X), []

    def by_name(intermediate_result):
        seen.append(intermediate_result)
        return True  # means nothing to SciPy

    optimize.minimize(fun, X, jac=True, method=scipy_method, callback=by_name)
    assert passed["callback"](result) is None
    optimize.minimize(fun, X, jac=True, method=scipy_method, callback=seen.append)
    passed["callback"](result)
    assert seen[0] is result
    np.testing.assert_array_equal(seen[1], X)
    assert not np.shares_memory(seen[1], X)


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"constraints": [{"type": "eq", "fun": value}]}, "no constraints"),
        ({"constraints": optimize.LinearConstraint(np.eye(3), 0, 1)}, "no constraints"),
        ({"options": {"paralelism": 4}}, "did you mean 'parallelism'"),
    ],
)
def test_what_cannot_be_served_is_an_error(keywords, says):
    with pytest.raises(ArgumentError, match=says):
        optimize.minimize(fun, X, jac=True, method=scipy_method, **keywords)


def test_second_derivatives_are_ignored_with_a_warning(passed):
    with pytest.warns(RuntimeWarning, match="ignores hess$"):
        optimize.minimize(fun, X, jac=True, method=scipy_method, hess=lambda x: np.eye(3))
    with pytest.warns(RuntimeWarning, match="ignores hessp$"):
        optimize.minimize(fun, X, jac=True, method=scipy_method, hessp=lambda x, p: p)


def test_a_run_through_the_door_ends_where_the_direct_one_does():
    from optex_core._minimize import minimize

    keywords = {"optimizer": "adam", "strategy": "paper", "parallelism": 2, "maxiter": 5, "rng": 0}
    through = optimize.minimize(fun, X, jac=True, method=scipy_method, options=dict(keywords))
    direct = minimize(fun, X, **keywords)
    np.testing.assert_array_equal(through.x, direct.x)
    assert through.nit == 5
    assert through.nfev == direct.nfev
