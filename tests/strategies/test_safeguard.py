"""The undisturbed optimizer beside the windows: no run is worse, and it costs what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest

import optex_core as ox
from optex_core.problems import get_problem
from optex_core.strategies._safeguard import FIRST_DOUBT, LONGEST_DOUBT, Safeguard
from optex_core.strategies.base import Observation


def lowest_values(strategy, N, name, optimizer, iterations):
    """The lowest value evaluated up to the end of each iteration."""
    problem, ends = get_problem(name), []
    engine = ox.OptEx(
        problem.start(1), optimizer=optimizer, parallelism=N, strategy=strategy, rng=0, gtol=0.0,
        maxiter=iterations,
    )  # fmt: skip
    while not engine.stop():
        for c in engine.ask():
            value, gradient = problem(c.x)
            engine.tell(c.id, gradient=gradient, value=value)
        ends.append(engine.state.best_value)
    return np.array(ends)


@pytest.mark.parametrize("N", [3, 5])
@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("minimal_surface", ox.SGD(0.5, momentum=0.9)),  # stiff modes that the surrogate lacks
        ("negative_binomial", ox.Adam(0.3)),  # the optimizer itself overshoots
        ("levy", ox.Adam(0.3)),  # many minima
        ("quadratic", ox.SGD(3.6, momentum=0.9)),  # the edge of stability
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_no_iteration_is_above_the_undisturbed_optimizer(name, optimizer, N):
    alone = lowest_values("sequential", 1, name, optimizer, 40)
    found = lowest_values("auto", N, name, optimizer, 40)
    k = min(len(alone), len(found)) - 1  # the final evaluation is that of theta_t alone
    assert (found[:k] <= alone[:k] * (1.0 + 1e-12)).all()


def test_with_two_gradients_it_takes_part_in_doubt_only():
    asked = []
    problem = get_problem("minimal_surface", d=256)
    engine = ox.OptEx(
        np.zeros(256), optimizer=ox.SGD(0.5, momentum=0.9), parallelism=2, rng=0, maxiter=60
    )
    while not engine.stop():
        for c in engine.ask():
            value, gradient = problem(c.x)
            engine.tell(c.id, gradient=gradient, value=value)
        asked.append(engine.state.strategy_state.safeguard.evaluations(2))
    assert 0 < sum(asked) < len(asked)


def test_its_points_are_no_rows_of_the_history():
    problem = get_problem("rosenbrock", d=30)
    engine = ox.OptEx(problem.start(1), optimizer=ox.Adam(0.05), parallelism=4, rng=0, maxiter=20)
    unrecorded = 0
    while not engine.stop():
        candidates = engine.ask()
        last = None if engine.round is None else engine.round.proposal.unrecorded
        before = engine.machine.surrogate.history.total
        for c in candidates:
            value, gradient = problem(c.x)
            engine.tell(c.id, gradient=gradient, value=value)
        if last and not engine.stop():
            unrecorded += last
            assert engine.machine.surrogate.history.total <= before + len(candidates) - last
    assert unrecorded > 10


def test_without_values_gradients_decide():
    problem = get_problem("minimal_surface", d=256)
    starts = {"optimizer": ox.SGD(0.5, momentum=0.9), "rng": 0, "maxiter": 60}
    ends = [
        problem.value(
            ox.minimize(
                None, np.zeros(256), jac=problem.gradient, parallelism=N, strategy=s, **starts
            ).x
        )
        for N, s in ((4, "auto"), (1, "sequential"))
    ]
    assert ends[0] <= ends[1] * 1.01


def test_the_result_is_the_best_point_with_its_gradient():
    problem = get_problem("levy")
    res = ox.minimize(problem, problem.start(1), optimizer=ox.Adam(1.0), rng=0, maxiter=7)
    value, gradient = problem(res.x)
    assert res.fun == value == res.best_fun < res.history.value[-1]
    np.testing.assert_array_equal(res.jac, gradient)
    np.testing.assert_array_equal(res.x, res.best_x)


def test_one_gradient_an_iteration_and_noise_return_the_last_iterate():
    def noisy(x, *, seed):
        r = np.random.default_rng(seed)
        return float(x @ x) + r.standard_normal(), 2.0 * x + r.standard_normal(len(x))

    res = ox.minimize(noisy, np.ones(5), optimizer=ox.SGD(0.1), parallelism=4, rng=0, maxiter=30)
    assert res.fun == res.history.value[-1] > res.best_fun
    problem = get_problem("quadratic", d=50, condition=1e3)
    res = ox.minimize(
        problem, problem.start(1), optimizer=ox.SGD(3.7, momentum=0.9), parallelism=1, maxiter=31
    )
    assert res.fun == res.history.value[-1] > res.best_fun


@pytest.mark.parametrize("N", [2, 4])
@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_a_saved_safeguard_goes_on_with_the_same_bits(N, rounds, tmp_path):
    problem = get_problem("minimal_surface", d=64)

    def advance(engine, count):
        for _ in range(count):
            for c in engine.ask():
                value, gradient = problem(c.x)
                engine.tell(c.id, gradient=gradient, value=value)
        return engine

    def new():
        return ox.OptEx(np.zeros(64), optimizer=ox.Adam(0.5), parallelism=N, rng=0, maxiter=16)

    expected = advance(new(), 20).result()
    advance(new(), rounds).save(tmp_path / "run")
    found = advance(ox.OptEx.load(tmp_path / "run"), 20).result()
    assert found.x.tobytes() == expected.x.tobytes()
    assert found.jac.tobytes() == expected.jac.tobytes()
    assert found.history == expected.history


def test_doubt_grows_with_each_defeat():
    class View:
        parallelism = 2

        def step(self, x, g, state, value):
            return x - g, state

    view, x = View(), np.zeros(2)
    safeguard = Safeguard(x, None).restarted(x, None)
    ahead = Observation(x, 0.0, 1.0)
    for patience in (4 * FIRST_DOUBT, 16 * FIRST_DOUBT, LONGEST_DOUBT, LONGEST_DOUBT):
        behind = Observation(x, 0.0, 2.0)
        safeguard = Safeguard(x, None, True, 2.0, 1, safeguard.patience)
        safeguard, won = safeguard.advance(view, behind, ahead, (x, None), x, 8)
        assert won
        assert (safeguard.patience, safeguard.doubt, safeguard.apart) == (patience, patience, False)
        assert math.isinf(safeguard.low)
