"""Calibration under noise: a slope that noise does not bias, and pauses that grow."""

from __future__ import annotations

import math

import numpy as np
import pytest

import optex_core as ox
from optex_core.backends import get_backend
from optex_core.optimizers._on_backend import bind_optimizer
from optex_core.problems import get_problem
from optex_core.problems.noisy import Noisy
from optex_core.strategies._calibration import (
    BACKOFF,
    LEVEL,
    LONGEST_BACKOFF,
    Calibration,
    calibration_slope,
)
from optex_core.strategies.base import Observation
from optex_core.strategies.rollout import ArraySpace, EngineView


def view():
    backend = get_backend("numpy")
    space = ArraySpace(bind_optimizer(ox.SGD(0.1), backend), backend)
    return EngineView(4, np.zeros(200), None, lambda: None, space, lambda x: x)


def observed(g):
    return Observation(g, float(g @ g))


@pytest.mark.parametrize("noise", [0.0, 1.0, 10.0])
def test_the_slope_is_one_where_predictions_are_right_and_zero_where_they_know_nothing(noise):
    rng, slopes = np.random.default_rng(0), {True: [], False: []}
    for _ in range(300):
        mean = rng.standard_normal(200)
        for right, found in slopes.items():
            g = (mean if right else rng.standard_normal(200)) + noise * rng.standard_normal(200)
            found.append(calibration_slope(view(), [None, mean], [observed(g), observed(g)]))
    assert abs(np.mean(slopes[True]) - 1.0) < 0.02 + 0.02 * noise
    assert abs(np.mean(slopes[False])) < 0.02 + 0.02 * noise


def test_nothing_to_compare_is_nan():
    g = np.ones(3)
    assert math.isnan(calibration_slope(view(), [None, g], [observed(g), None]))
    assert math.isnan(calibration_slope(view(), [], []))


def test_pauses_grow_while_predictions_know_nothing_and_shrink_when_they_do():
    calibration, pauses = Calibration(), []
    for _ in range(6):
        calibration = calibration.advance(0.0)
        assert not calibration.trusted
        pauses.append(calibration.rest)
        for rest in range(calibration.rest, 0, -1):
            assert calibration.rest == rest
            calibration = calibration.advance(math.nan)
    assert pauses == [BACKOFF, 8, 16, 32, LONGEST_BACKOFF, LONGEST_BACKOFF]
    while not calibration.trusted:
        calibration = calibration.advance(1.0)
    assert calibration.slope >= LEVEL
    assert calibration.rest == 0
    assert calibration.backoff < LONGEST_BACKOFF


def test_under_noise_that_hides_all_auto_averages_at_one_point():
    problem = Noisy(get_problem("quadratic", d=30), 20.0)
    engine = ox.OptEx(problem.start(1), optimizer=ox.SGD(0.02), parallelism=8, rng=0, maxiter=40)
    repeats = []
    while not engine.stop():
        candidates = engine.ask()
        repeats.append(sum(np.array_equal(c.x, candidates[0].x) for c in candidates))
        for c in candidates:
            value, gradient = problem(c.x, seed=c.seed)
            engine.tell(c.id, gradient=gradient, value=value)
    assert np.mean(np.array(repeats[5:-1]) >= 5) > 0.8
