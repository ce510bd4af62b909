"""The window under noise: what it measures, what it allows, and runs against averages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import optex_core as ox
from optex_core.backends import get_backend
from optex_core.problems import get_problem
from optex_core.problems.noisy import Noisy
from optex_core.strategies import Auto
from optex_core.strategies._noisy_window import (
    FAR,
    LONGEST,
    LONGEST_PAUSE,
    MAX_NOISE_SHARE,
    PAUSE,
    SPAN,
    NoisyWindow,
)
from optex_core.strategies.base import Observation
from optex_core.strategies.rollout import ArraySpace, EngineView

CURVATURES = np.array([1.0, 3.0, 10.0])


def f(x):
    return 0.5 * float(CURVATURES @ x**2), CURVATURES * x


def view(N=8):
    backend = get_backend("numpy")
    space = ArraySpace(ox.SGD(0.1), backend)
    return EngineView(N, np.zeros(3), None, lambda: None, space, lambda x: x)


def observed(x, noise=0.0, value=None):
    exact, g = f(x)
    g = g + noise
    return Observation(g, float(g @ g), exact if value is None else value)


def path(rate, steps, start=(4.0, 2.0, 1.0)):
    """Points of gradient descent; along them f falls for rates below 0.2, and rises above."""
    points = [np.array(start)]
    for _ in range(steps):
        points.append(points[-1] - rate * f(points[-1])[1])
    return points


def after(window, points, N=8, values=True, noise=0.0, rng=None):
    """The window after an iteration along `points`."""
    at = window.slots(len(points), N)
    drawn = [0.0 if rng is None else noise * rng.standard_normal(3) for _ in at]
    value = None if values else np.nan
    seen = [observed(points[i], e, value) for i, e in zip(at, drawn, strict=True)]
    z = [points[i] for i in at]
    return window.advance(view(N), z, at, seen)[0]


def falling(start=1.0, rate=0.05):
    """Values of a run that falls by `rate` an iteration."""
    return start - rate * np.arange(2 * SPAN)


@pytest.mark.parametrize("N", [2, 3, 4, 5, 8, 16])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_slots_are_at_theta_t_and_along_the_path_to_its_end(N, steps):
    window = NoisyWindow(steps=steps, pause=0)
    length = window.path_length(N)
    at = window.slots(length, N)
    assert len(at) == N
    assert at == sorted(at)
    assert set(at) == set(range(length))
    assert at.count(0) >= min(2, N - 1)
    assert NoisyWindow(steps=steps, pause=1).path_length(N) == 1


def test_a_rise_is_the_difference_of_values_whatever_the_noise_of_values():
    points = path(0.15, 3)
    window = after(NoisyWindow(steps=2, pause=0), points)
    want = [f(z)[0] - f(points[0])[0] for z in points[1:]]
    np.testing.assert_allclose(window.rises, want, rtol=1e-12)
    np.testing.assert_allclose(window.slope, f(points[0])[1] @ (points[1] - points[0]))
    # Every value of the iteration counts, each less the rise to its point.
    np.testing.assert_allclose(window.values[-1], f(points[0])[0])


@pytest.mark.parametrize("N", [2, 8])
def test_noise_and_signal_are_estimated_without_bias(N):
    """Of N = 2 gradients one is at each point: half the square of their difference is noise."""
    rng, noise, points = np.random.default_rng(0), 5.0, path(0.05, N // 2 - 1 or 1)
    found = np.array(
        [
            (one.noise, one.signal)
            for _ in range(2000)
            for one in [after(NoisyWindow(steps=2, pause=0), points, N, noise=noise, rng=rng)]
        ]
    )
    error = found.std(0) / np.sqrt(len(found))
    (g, h), difference = (f(z)[1] for z in points[:2]), 0.0
    if N == 2:
        difference = 0.5 * float((g - h) @ (g - h))
    expected = [3 * noise**2 + difference, g @ h if N == 2 else g @ g]
    assert np.all(np.abs(found.mean(0) - expected) < 4 * error)


@pytest.mark.parametrize("values", [True, False])
def test_windows_grow_while_paths_descend(values):
    window, points = NoisyWindow(pause=0, values=falling()), path(0.05, LONGEST - 1)
    for _ in range(14):
        window = after(window, points[: window.path_length(8)], values=values)
    assert window.steps == LONGEST
    assert after(NoisyWindow(pause=0, steps=2), points[:2], N=4).path_length(4) == 2


@pytest.mark.parametrize("values", [True, False])
def test_pauses_double_while_paths_rise(values):
    window, points, pauses = NoisyWindow(values=falling(100.0)), path(0.6, 1), []
    for _ in range(400):
        planned = window.path_length(8)
        before, window = window, after(window, points[:planned], values=values)
        assert window.steps == 1
        if planned > 1 and window.pause:
            pauses.append(window.pause)
            assert not window.weights.any()  # rises from before the pause are forgotten
        elif planned == 1:
            assert window.pause == before.pause - 1
    assert pauses[:6] == [PAUSE, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE]


@pytest.mark.parametrize(("steps", "factor"), [(1, 1.0), (2, 2.0)])
@pytest.mark.parametrize("share", [0.9, 1.1])
def test_a_rise_may_be_what_an_iteration_descends_and_twice_that_in_the_window(
    steps, factor, share
):
    """By the values: the slope allows more."""
    rise, decrease = factor * share * 0.05, 0.05
    start = np.array([1.0, 0.0, 0.0])
    end = -np.sqrt(1.0 + 2.0 * rise) * np.array([1.0, 0.0, 0.0])
    window, at = NoisyWindow(steps=steps, pause=0, values=falling(0.0, decrease)), [0] * 4 + [1] * 4
    for t in range(7):
        value = -decrease * (2 * SPAN + t)
        seen = [observed((start, end)[i], value=value + rise * i) for i in at]
        window, _ = window.advance(view(), [(start, end)[i] for i in at], at, seen)
    assert (window.steps > 1) == (share < 1.0)


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_noise_takes_windows_away(share):
    """By the noise scale alone: the path descends."""
    points, signal = path(0.05, 1), float(f(path(0.05, 1)[0])[1] @ f(path(0.05, 1)[0])[1])
    noise = share * MAX_NOISE_SHARE * 8 / 2 * signal
    window = NoisyWindow(pause=0, values=falling(100.0), noise=1e3 * noise, signal=1e3 * signal)
    for _ in range(7):
        window = after(window, points)
    assert (window.steps > 1) == (share < 1.0)


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_no_gradient_looks_ahead_where_noise_allows_no_window(share):
    window = NoisyWindow(pause=0, noise=share * MAX_NOISE_SHARE * 8 / 2, signal=1.0)
    assert window.path_length(8) == (2 if share < 1.0 else 1)
    assert replace(window, steps=2).path_length(8) == 4  # the path ends the window


def test_one_tiny_gradient_of_many_ends_no_run():
    """Some batches fit, as of a network that has learned most of its data."""

    def fun(x, *, seed):
        fits = np.random.default_rng(seed).random() < 0.3
        return (0.0, 0.0 * x) if fits else f(x)

    found = ox.minimize(fun, np.ones(3), optimizer=ox.SGD(0.19), parallelism=8, rng=0, maxiter=30)
    assert found.nit == 30
    values = found.history.value[1:-1]
    assert 0.0 < values.min() < values.max()


def test_a_look_ahead_ends_at_the_second_path_where_rises_are_far_too_high():
    """By the values: the path rises by 111, and descends by 91 to first order."""
    points, at = path(0.6, 1), [0] * 6 + [1] * 2
    rise = f(points[1])[0] - f(points[0])[0]
    for decrease, paths in ((0.5 * rise / FAR, 2), (1.5 * rise / FAR, 6)):
        window = NoisyWindow(pause=0, values=falling(0.0, decrease))
        for count in range(1, 9):
            value = -decrease * (2 * SPAN + count)
            seen = [observed(points[i], value=value + i * rise) for i in at]
            window, _ = window.advance(view(), [points[i] for i in at], at, seen)
            if window.pause:
                break
        assert count == paths


def test_a_path_that_was_lost_ends_the_window():
    points = path(0.05, 3)
    window = NoisyWindow(steps=2, pause=0, values=falling())
    at = window.slots(4, 8)
    seen = [observed(points[i]) if i != 1 else None for i in at]
    seen[1] = None  # of the repeats at theta_t one
    window, mean = window.advance(view(), [points[i] for i in at], at, seen)
    assert (window.steps, window.pause) == (1, PAUSE)
    np.testing.assert_array_equal(mean, f(points[0])[1])


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


def end(problem, strategy, optimizer, seed, N):
    given = {"optimizer": optimizer, "parallelism": N, "rng": seed, "maxiter": 60}
    found = ox.minimize(problem, problem.start(seed), strategy=strategy, **given)
    return problem.problem(found.x)[0]


@pytest.mark.parametrize(
    ("rate", "level", "low", "high"), [(0.01, 0.1, 0.0, 0.5), (0.03, 20.0, 0.8, 1.1)]
)
def test_windows_are_taken_where_they_pay_and_averages_elsewhere(rate, level, low, high):
    """Final values over those of averages, geometric mean of four seeds."""
    ratios = []
    for seed in range(1, 5):
        problem = get_problem("quadratic", d=30)
        noise = level * float(np.linalg.norm(problem(problem.start(seed))[1]))
        noisy = Noisy(problem, noise / np.sqrt(30))
        ends = [end(noisy, one, ox.Adam(rate), seed, 8) for one in ("auto", "data_parallel")]
        ratios.append(ends[0] / ends[1])
    assert low < np.exp(np.mean(np.log(ratios))) < high


def test_a_run_in_a_window_that_is_saved_goes_on_with_the_same_bits(tmp_path):
    problem = Noisy(get_problem("quadratic", d=30), 0.3)

    def engine():
        given = {"optimizer": ox.Adam(0.01), "parallelism": 8, "rng": 1}
        return ox.OptEx(problem.start(1), strategy=Auto(stochastic=True), **given)

    def advance(run, rounds):
        for _ in range(rounds):
            for c in run.ask():
                value, gradient = problem(c.x, seed=c.seed)
                run.tell(c.id, value=value, gradient=gradient)
        return run

    whole = advance(engine(), 20)
    assert whole.state.strategy_state.window.steps > 1
    whole.save(tmp_path / "run.npz")
    again = ox.OptEx.load(tmp_path / "run.npz")
    for run in (whole, again):
        advance(run, 10)
    np.testing.assert_array_equal(whole.state.x, again.state.x)
    states = [run.state.strategy_state.window for run in (whole, again)]
    for name in NoisyWindow.__slots__:
        np.testing.assert_array_equal(*[getattr(one, name) for one in states])
