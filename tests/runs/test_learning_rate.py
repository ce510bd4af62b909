"""Suggested learning rates: near the best of a grid, in few gradients; refusals in a sentence."""

from __future__ import annotations

import math

import numpy as np
import pytest

import optex_core as ox
from optex_core.errors import ArgumentError, ArgumentTypeError, CapabilityError, ObjectiveError
from optex_core.runs.learning_rate import minimize_line

CURVATURES = np.linspace(0.1, 1.0, 30)
START = np.random.default_rng(0).standard_normal(30)


def quadratic(x):
    return float(CURVATURES @ (x * x)) / 2, CURVATURES * x


def good_rates(kind, steps, rates):
    """Those whose ends are within 1 % of the drop of the best."""

    def end(rate):
        rule, x = kind(rate), START
        state = rule.init(x)
        for _ in range(steps):
            x, state = rule.step(x, quadratic(x)[1], state)
        return quadratic(x)[0]

    ends = {rate: end(rate) for rate in rates}
    lowest = min(ends.values())
    limit = lowest + 0.01 * (quadratic(START)[0] - lowest)
    return [rate for rate, value in ends.items() if value <= limit]


@pytest.mark.parametrize("kind", [ox.SGD, ox.Adam, ox.Adagrad])
def test_it_is_near_a_rate_that_ends_well(kind):
    good = good_rates(kind, 60, 2.0 ** np.arange(-12, 5))
    rate = ox.suggest_learning_rate(quadratic, START, kind(123.0))
    assert min(good) / 2.0 <= rate <= 2.0 * max(good)


@pytest.mark.parametrize("scale", [1e-4, 1e3])
def test_it_follows_the_units_of_the_function(scale):
    def scaled(x):
        value, gradient = quadratic(x)
        return scale * value, scale * gradient

    plain = ox.suggest_learning_rate(quadratic, np.ones(30), "sgd")
    found = ox.suggest_learning_rate(scaled, np.ones(30), "sgd")
    assert found * scale == pytest.approx(plain, rel=1e-6)


def test_a_round_has_n_gradients_and_there_are_four_after_the_first():
    count, seeds = [], []

    def counted(x, *, seed):
        count.append(x)
        seeds.append(seed)
        return quadratic(x)

    ox.suggest_learning_rate(counted, np.ones(30), "adam", parallelism=6)
    assert len(count) == 1 + 4 * 6
    assert len(set(seeds)) == 5  # one sample for all that are compared


def test_wrapped_and_named_optimizers_and_schedules_get_a_rate():
    plain = ox.suggest_learning_rate(quadratic, np.ones(30), ox.Adam())
    for other in ("adam", ox.ClipByNorm(ox.Adam(), 1e9), ox.Adam(lambda t: 1e-9)):
        assert ox.suggest_learning_rate(quadratic, np.ones(30), other) == pytest.approx(plain)


def test_points_where_the_function_fails_or_overflows_are_too_far():
    def narrow(x):
        if np.abs(x).max() > 2.0:
            raise ValueError("outside")
        return quadratic(x) if np.abs(x).max() < 1.5 else (math.nan, x)

    rate = ox.suggest_learning_rate(narrow, np.ones(30), "sgd")
    assert 0.0 < rate < 4.0


def test_workers_give_the_same_rate():
    alone = ox.suggest_learning_rate(quadratic, np.ones(30), "sgd")
    assert ox.suggest_learning_rate(quadratic, np.ones(30), "sgd", workers="threads") == alone


def test_single_precision_is_kept():
    seen = set()

    def watched(x):
        seen.add(x.dtype)
        return quadratic(x)

    ox.suggest_learning_rate(watched, np.ones(30, np.float32), "adam")
    assert seen == {np.dtype(np.float32)}


def test_where_no_rate_descends_the_log_says_so(caplog):
    def kinked(x):  # the gradient promises a descent that is not there
        return float(np.abs(x - 1.0).sum()), np.ones(30)

    rate = ox.suggest_learning_rate(kinked, np.ones(30), "sgd")
    assert rate > 0.0
    assert "at no rate did the value fall below 0" in caplog.text


def test_the_secant_finds_the_minimum_of_a_parabola():
    lengths = np.array([0.5, 2.0, 8.0])  # f = (r - 3)^2
    values, slopes = (lengths - 3.0) ** 2, 2.0 * (lengths - 3.0)
    assert minimize_line(lengths, list(values), list(slopes), 9.0, -6.0) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((quadratic, np.zeros(30), "sgd"), ArgumentError, "the first step at x0 leads nowhere"),
        ((quadratic, np.ones(30), "prodigy"), ArgumentError, "needs no learning rate"),
        ((quadratic, np.ones(30), "sdg"), ArgumentError, "sgd"),
        ((None, np.ones(30), "sgd"), CapabilityError, "pass fun"),
        ((lambda x: (1.0, x[:3]), np.ones(30), "sgd"), ObjectiveError, "shape"),
    ],
)
def test_what_cannot_work_is_told(arguments, error, message):
    with pytest.raises(error, match=message):
        ox.suggest_learning_rate(*arguments)


def test_an_optimizer_without_a_rate_is_told():
    class Descent:
        def init(self, x):
            return None

        def step(self, x, g, state):
            return x - 0.1 * g, state

    with pytest.raises(ArgumentTypeError, match="a setting learning_rate"):
        ox.suggest_learning_rate(quadratic, np.ones(30), Descent())


def test_the_first_evaluation_keeps_its_exception():
    def failing(x):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        ox.suggest_learning_rate(failing, np.ones(30), "sgd")
