"""Steps of differences: they follow the digits that values have, or `rel_step`."""

from __future__ import annotations

import numpy as np
import pytest

import optex_core as ox
from optex_core.adapters.finite_differences import stencil
from optex_core.adapters.objective import make_objective
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.types import Context

CONTEXT = Context(id=0, seed=0, iteration=0, slot=0)
MINIMIZER = 3.03672  # of each coordinate of `smooth`


def smooth(x):
    return float(np.sum((x - 3) ** 2) + 0.7 * np.cos(x).sum())


#: Values with few digits, and how near the minimizer they let one come.
FEW_DIGITS = {
    "float32 computation": (lambda x: np.float32(smooth(np.float32(x))), 1e-4),
    "float32 as float": (lambda x: float(np.float32(smooth(x))), 1e-4),
    "float32 point": (lambda x: smooth(np.float32(x).astype(float)), 1e-4),
    "scaled float32": (lambda x: 0.1 * float(np.float32(smooth(x))), 1e-3),
    "float16": (lambda x: np.float16(smooth(x)), 2e-2),
    "four decimals": (lambda x: float(f"{smooth(x):.3e}"), 2e-2),
    "three after the point": (lambda x: round(smooth(x), 3), 2e-2),
    "nine decimals": (lambda x: float(f"{smooth(x):.8e}"), 1e-4),
}


@pytest.mark.parametrize("jac", ["2-point", "3-point"])
@pytest.mark.parametrize("name", FEW_DIGITS)
def test_the_step_follows_the_digits_of_the_values(name, jac):
    fun, near = FEW_DIGITS[name]
    res = ox.minimize(fun, np.ones(2), jac=jac, optimizer=ox.SGD(0.1), maxiter=100, rng=0)
    assert res.nit > 2
    np.testing.assert_allclose(res.x, MINIMIZER, atol=near)
    # The longer steps are counted. Those of "3-point" are 25 roundings of a float32 point: no value
    # shows them, and they suffice.
    plain = res.njev * (3 if jac == "2-point" else 5)
    assert res.nfev > plain or (name == "float32 point" and jac == "3-point")


def test_values_of_full_precision_cost_no_further_call():
    for x0 in (np.ones(2), np.zeros(2), np.full(2, 3.0)):
        for jac, calls in (("2-point", 3), ("3-point", 5)):
            assert make_objective(smooth, jac=jac, x0=x0).evaluate(x0, CONTEXT).nfev == calls


@pytest.mark.parametrize("workers", ["threads", 2])
def test_the_longer_steps_are_tasks_like_the_first_ones(workers):
    fun, x0 = FEW_DIGITS["four decimals"][0], np.ones(2)
    options = {"jac": "2-point", "optimizer": ox.SGD(0.1), "maxiter": 5, "rng": 0}
    here = ox.minimize(fun, x0, **options)
    there = ox.minimize(fun, x0, workers=workers, **options)
    np.testing.assert_array_equal(here.x, there.x)
    assert (here.nfev, here.njev) == (there.nfev, there.njev)


def test_rows_of_a_batch_are_refined_alone():
    fun = FEW_DIGITS["four decimals"][0]
    rows = make_objective(
        lambda X: np.array([fun(x) for x in X]), jac="2-point", x0=np.ones(2), vectorized=True
    )
    points = [np.ones(2), np.full(2, 2.0)]
    for x, one in zip(points, rows.evaluate_batch(points, [CONTEXT] * 2), strict=True):
        alone = make_objective(fun, jac="2-point", x0=x).evaluate(x, CONTEXT)
        np.testing.assert_array_equal(one.gradient, alone.gradient)
        assert one.nfev == alone.nfev


def test_a_gradient_that_vanishes_is_said():
    with pytest.warns(RuntimeWarning, match="all differences over steps of up to 9.9e-02 vanish"):
        res = ox.minimize(lambda x: 5.0, np.ones(2), jac="2-point", rng=0)
    np.testing.assert_array_equal(res.jac, 0.0)


@pytest.mark.parametrize("rel_step", [1e-3, [1e-3, 1e-4]])
@pytest.mark.parametrize("method", ["2-point", "3-point", "cs"])
def test_rel_step_is_relative_to_the_larger_of_one_and_x(method, rel_step):
    x = np.array([0.5, -20.0])
    for k, to in stencil(x, method, rel_step=np.asarray(rel_step)).perturbations:
        taken = to.imag if method == "cs" else abs(to.real - x[k])
        np.testing.assert_allclose(taken, np.broadcast_to(rel_step, 2)[k] * (1, 20)[k], rtol=1e-9)


def test_rel_step_averages_noise_out():
    def noisy(x):
        return smooth(x) + 1e-8 * np.sin(1e9 * x.sum())

    options = {"jac": "3-point", "optimizer": ox.SGD(0.1), "maxiter": 60, "rng": 0}
    res = ox.minimize(noisy, np.ones(2), rel_step=1e-3, **options)
    np.testing.assert_allclose(res.x, MINIMIZER, atol=1e-4)
    assert res.nfev == 5 * res.njev


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"rel_step": 0.0, "jac": "cs"}, ArgumentError, "positive number or 2 of them, got 0.0"),
        ({"rel_step": [1e-3] * 3, "jac": "cs"}, ArgumentError, "or 2 of them"),
        ({"rel_step": "small", "jac": "cs"}, ArgumentTypeError, "got 'small'"),
        ({"rel_step": 1e-3}, ArgumentError, "but jac=True takes none; pass jac='2-point'"),
    ],
)
def test_a_rel_step_that_cannot_work_is_refused(options, error, match):
    with pytest.raises(error, match=match):
        ox.minimize(smooth, np.ones(2), **options)
