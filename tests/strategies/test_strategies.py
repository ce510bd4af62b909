"""Strategies: whole runs against plain loops, and what a failed evaluation does. What they are with
N = 1, or with equal gradients, is in test_reductions.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from driver import QUADRATIC, ROSENBROCK, Driver, plain, view_of
from strategy_names import STRATEGY_NAMES

import optex_core as ox
from optex_core.model import likelihood as tuning
from optex_core.model.estimator import GradientEstimator
from optex_core.problems import get_problem
from optex_core.problems.noisy import Noisy
from optex_core.strategies import (
    STRATEGIES,
    Corrected,
    Paper,
    Strategy,
    Update,
    Verified,
    base,
)
from optex_core.strategies.auto import EXACT, UNKNOWN, Auto
from optex_core.testing import check_strategy
from optex_core.testing.reference.optex import ReferenceOptEx

# -- the slow twin ---------------------------------------------------------------------------------

CASES = {
    "paper": (Paper, "constant"),
    "paper, zero mean": (Paper, "zero"),
    "corrected": (Corrected, "constant"),
    "verified": (Verified, "linear"),
    "verified, constant mean": (Verified, "constant"),
}


def twin_and_engine(
    case, problem, optimizer, N, rounds, *, lost=frozenset(), scale=None, **estimator
):
    """Both runs side by side; returns the largest difference of iterates and of asked points,
    relative to their size.
    """
    kind, mean = CASES[case]
    given = GradientEstimator(mean=mean, **{"history": 7, **estimator})
    x0 = problem.start(1)
    driver = Driver(
        problem,
        x0,
        lose=lambda *at: at in lost,
        optimizer=optimizer,
        parallelism=N,
        strategy=kind(),
        estimator=given,
        x_scale=scale,
    )
    twin, asked, steps = ReferenceOptEx(x0, optimizer, N, given, scale), [], 0
    worst = 0.0
    for t in range(rounds):
        points = []

        def gradient(x, t=t, points=points):
            points.append(x)
            return None if (t, len(points) - 1) in lost else problem(x)[1]

        getattr(twin, kind.name)(gradient)
        driver.round()
        asked.append(len(points))
        steps += twin.steps
        size = 1.0 + np.abs(twin.x).max()
        assert [len(p) for p in driver.asked] == asked
        worst = max(
            worst,
            *(np.abs(a - b).max() / size for a, b in zip(driver.asked[-1], points, strict=True)),
        )
        worst = max(worst, np.abs(driver.path[-1] - twin.x).max() / size)
        assert driver.engine.state.nsteps == steps
    history = driver.engine.machine.surrogate.history
    assert history.n == len(twin.rows)
    assert np.allclose(
        history.X[history.chronological_order()], [x for x, _ in twin.rows], rtol=0.0, atol=1e-8
    )
    return worst


# Rounding of an estimate is 1e-16 / noise; steps that contract do not let it grow. Ten rounds wrap
# the ring of seven rows several times.
TOLERANCE = 1e-8


@pytest.mark.parametrize("case", sorted(CASES))
@pytest.mark.parametrize("optimizer", [ox.SGD(0.5), ox.Adam(0.1)], ids=["sgd", "adam"])
def test_ten_rounds_are_those_of_plain_loops(case, optimizer):
    assert (
        twin_and_engine(
            case, QUADRATIC, optimizer, 3, 10, tune="fixed", length_scale=3.0, noise=1e-5
        )
        < TOLERANCE
    )


@pytest.mark.parametrize("case", sorted(CASES))
def test_momentum_and_units(case):
    scale = np.array([0.5, 1.0, 2.0, 10.0])
    assert (
        twin_and_engine(
            case,
            QUADRATIC,
            ox.SGD(0.1, momentum=0.9),
            4,
            8,
            scale=scale,
            tune="fixed",
            length_scale=2.0,
            noise=1e-4,
        )
        < TOLERANCE
    )


@pytest.mark.parametrize("case", ["paper", "corrected", "verified"])
@pytest.mark.parametrize("tune", ["fixed", "median"])
def test_default_lengths(case, tune):
    # The noise of 1e-8 at ten medians is 1e-6 of a contrast.
    assert twin_and_engine(case, ROSENBROCK, ox.SGD(1e-3), 3, 8, tune=tune) < 1e-6


@pytest.mark.parametrize("case", ["paper", "paper, zero mean", "corrected", "verified"])
def test_the_likelihood_chooses_as_in_plain_loops(case, monkeypatch):
    # A coarse grid, for the twin's sake.
    monkeypatch.setattr(tuning, "LENGTH_GRID", np.array([1.0, 10.0]))
    monkeypatch.setattr(tuning, "NOISE_GRID", np.array([1e-6, 1e-2]))
    monkeypatch.setattr(tuning, "CURVATURE_GRID", np.array([0.0, 1.0]))
    assert twin_and_engine(case, QUADRATIC, ox.SGD(0.5), 3, 5, history=6) < TOLERANCE


@pytest.mark.parametrize("case", ["paper", "corrected", "verified"])
def test_lost_evaluations_are_those_of_plain_loops(case):
    lost = frozenset({(2, 2), (3, 1), (5, 3), (6, 1), (6, 2), (6, 3)})
    assert (
        twin_and_engine(
            case,
            QUADRATIC,
            ox.SGD(0.5),
            4,
            9,
            lost=lost,
            tune="fixed",
            length_scale=3.0,
            noise=1e-5,
        )
        < TOLERANCE
    )


# -- single rounds ---------------------------------------------------------------------------------


def test_a_gradient_that_does_not_change_is_predicted_exactly():
    # Constant gradients: every strategy that predicts takes N true steps a round.
    c = np.array([1.0, -2.0, 3.0])

    def constant(x):
        return float(c @ x), c

    for strategy in ("paper", "corrected", "repeat_last"):
        driver = Driver(
            constant, np.zeros(3), optimizer=ox.SGD(0.25), parallelism=4, strategy=strategy
        )
        path = driver.run(4)
        # The first round knows nothing: one step.
        assert np.allclose(path[-1], -0.25 * (1 + 3 * 4) * c, rtol=1e-12)


def test_repeat_last_uses_the_last_gradient():
    driver = Driver(
        QUADRATIC, QUADRATIC.start(0), optimizer=ox.SGD(0.5), parallelism=3, strategy="repeat_last"
    )
    driver.run(3)
    last = QUADRATIC(driver.asked[1][-1])[1]
    assert np.array_equal(driver.asked[2][1], driver.path[2] - 0.5 * last)
    assert np.array_equal(driver.asked[2][2], driver.asked[2][1] - 0.5 * last)


def test_line_search_multiplies_the_last_step_and_takes_the_lowest():
    driver = Driver(
        QUADRATIC, QUADRATIC.start(0), optimizer=ox.SGD(0.3), parallelism=4, strategy="line_search"
    )
    driver.run(4)
    for t in (1, 2, 3):
        step = driver.path[t] - driver.path[t - 1]
        assert np.allclose(
            driver.asked[t], [driver.path[t] + j * step for j in range(4)], rtol=0.0, atol=1e-14
        )
        best = min(driver.asked[t], key=lambda x: QUADRATIC(x)[0])
        assert np.array_equal(driver.path[t + 1], best - 0.3 * QUADRATIC(best)[1])


@pytest.mark.parametrize(
    ("selection", "key"), [("value", lambda v, g: v), ("gradient_norm", lambda v, g: g @ g)]
)
def test_paper_selects(selection, key):
    # A rate at which the chain overshoots, so that the best is not always the last.
    driver = Driver(
        ROSENBROCK,
        ROSENBROCK.start(0),
        optimizer=ox.SGD(3e-3),
        parallelism=4,
        strategy=Paper(selection=selection),
    )
    driver.run(8)
    chosen = []
    for t in range(8):
        scores = [key(*ROSENBROCK(x)) for x in driver.asked[t]]
        j = int(np.argmin(scores))
        chosen.append(j)
        x = driver.asked[t][j]
        assert np.array_equal(driver.path[t + 1], x - 3e-3 * ROSENBROCK(x)[1])
    assert len(set(chosen)) > 1


# -- failures --------------------------------------------------------------------------------------


def cut(kind, iteration, slots):
    """The strategy `kind`, which asks for `slots` points only in the round `iteration`."""

    class Cut(kind):
        def plan(self, view, strategy_state):
            plan = kind.plan(self, view, strategy_state)
            rounds.append(len(rounds))
            if rounds[-1] != iteration:
                return plan
            return replace(plan, points=plan.points[:slots], predictions=plan.predictions[:slots])

    rounds = []
    return Cut()


@pytest.mark.parametrize("kind", [Paper, Corrected, Verified])
@pytest.mark.parametrize("slot", [1, 3])
def test_a_lost_tail_is_as_if_it_had_never_been_asked(kind, slot):
    options = {"optimizer": ox.Adam(0.1), "parallelism": 4}
    x0 = QUADRATIC.start(0)
    lost = Driver(QUADRATIC, x0, lose=lambda t, i: t == 3 and i >= slot, strategy=kind(), **options)
    never = Driver(QUADRATIC, x0, strategy=cut(kind, 3, slot), **options)
    assert len(lost.run(8)[0]) == 4
    never.run(8)
    assert [len(p) for p in never.asked][3] == slot
    assert all(np.array_equal(a, b) for a, b in zip(lost.path, never.path, strict=True))
    assert len(lost.engine.failures) == 4 - slot
    assert (
        lost.engine.machine.surrogate.history.total == never.engine.machine.surrogate.history.total
    )


@pytest.mark.parametrize("kind", [Verified, Auto])
def test_verified_believes_nothing_after_a_gap(kind):
    # The points behind a failure are told, but not believed: the same run as without them.
    options = {"optimizer": ox.SGD(0.3), "parallelism": 4, "strategy": kind()}
    x0 = QUADRATIC.start(0)
    gap = Driver(QUADRATIC, x0, lose=lambda t, i: t == 3 and i == 2, **options)
    tail = Driver(QUADRATIC, x0, lose=lambda t, i: t == 3 and i >= 2, **options)
    assert all(np.array_equal(a, b) for a, b in zip(gap.run(7), tail.run(7), strict=True))


@pytest.mark.parametrize("kind", [Paper, Corrected])
def test_points_behind_a_gap_are_data(kind):
    options = {"optimizer": ox.SGD(0.3), "parallelism": 4, "strategy": kind()}
    gap = Driver(QUADRATIC, QUADRATIC.start(0), lose=lambda t, i: t == 3 and i == 1, **options)
    gap.run(4)
    assert gap.engine.machine.surrogate.history.total == 1 + 4 + 4 + 3
    assert gap.engine.trace.accepted[-1] == 1


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_with_only_the_first_slot_left_it_is_one_plain_step(strategy):
    driver = Driver(
        QUADRATIC,
        QUADRATIC.start(0),
        lose=lambda t, i: i > 0,
        optimizer=ox.SGD(0.5),
        parallelism=4,
        strategy=strategy,
    )
    if strategy in ("sequential", "target"):  # one point an ask, and that one is needed
        driver.lose = lambda t, i: False
    path = driver.run(5)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(path, plain(QUADRATIC, path[0], ox.SGD(0.5), 5), strict=True)
    )


def test_exact_gradients_settle_the_question_for_good():
    # A kink looks like noise to the likelihood; a repeated gradient that is the same proves that it
    # is none.
    def rough(x):
        return float(np.abs(x).sum()), np.sign(x) + 0.1 * x

    driver = Driver(
        rough, np.array([1.0, -0.7, 0.4]), optimizer=ox.SGD(0.05), parallelism=4, strategy="auto"
    )
    driver.run(25)
    repeats = [sum(np.array_equal(x, points[0]) for x in points) - 1 for points in driver.asked]
    assert sum(repeats) == 1
    assert driver.engine.state.strategy_state.noise_status == 1


@pytest.mark.parametrize("parallelism", [2, 5])
def test_the_first_step_under_noise_is_that_of_data_parallel(parallelism):
    problem = Noisy(get_problem("rosenbrock", d=6), 1.0)
    ends = []
    for strategy in ("auto", "data_parallel"):
        given = {"optimizer": ox.Adam(0.05), "parallelism": parallelism, "rng": 3, "maxiter": 1}
        ends.append(ox.minimize(problem, problem.start(1), strategy=strategy, **given))
    np.testing.assert_array_equal(ends[0].x, ends[1].x)


def test_a_function_without_a_seed_is_evaluated_once_at_the_start():
    asked = []

    def fun(x):
        asked.append(x)
        return x @ x, 2 * x

    def seeded(x, *, seed):
        return fun(x)

    for objective, first in ((fun, 1), (seeded, 4)):
        asked.clear()
        ox.minimize(objective, np.ones(3), optimizer=ox.SGD(0.1), maxiter=1)
        assert len(asked) == first + 1  # and the final evaluation


def test_rows_of_the_first_point_enter_the_history_once():
    engine = ox.OptEx(
        np.ones(4), optimizer=ox.SGD(0.1), parallelism=5, strategy=Auto(stochastic=True), rng=0
    )
    for c in engine.ask():
        engine.tell(c.id, gradient=c.x, value=0.5 * float(c.x @ c.x))
    assert engine.machine.surrogate.history.n == 1
    assert engine.state.strategy_state.noise_status == EXACT


def test_noise_is_found_out_and_averaged():
    rng = np.random.default_rng(0)

    def noisy(x):
        return float(x @ x), 2.0 * x + 3.0 * rng.normal(size=len(x))

    driver = Driver(noisy, np.full(6, 2.0), optimizer=ox.Adam(0.05), parallelism=4, strategy="auto")
    driver.run(25)
    assert driver.engine.state.strategy_state.noise_status == 2
    assert driver.engine.state.strategy_state.steps <= 4
    # all slots at theta_t
    assert any(sum(np.array_equal(x, points[0]) for x in points) == 4 for points in driver.asked)


def test_memories_start_as_declared():
    first = Auto().init(view_of(parallelism=6))
    assert (first.steps, first.noise_status, first.safeguard.apart) == (6, UNKNOWN, False)
    assert Verified(window=9).init(view_of(parallelism=6)).steps == 9


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_plans_begin_at_the_iterate_and_advances_do_not_alias_it(strategy):
    chosen: Strategy = STRATEGIES[strategy]()
    seen = []

    class Watched(type(chosen)):
        def advance(self, view, strategy_state, proposal, observations):
            step = type(chosen).advance(self, view, strategy_state, proposal, observations)
            assert isinstance(step, Update)
            seen.append((view.x, proposal, step))
            return step

    Driver(
        QUADRATIC, QUADRATIC.start(0), optimizer=ox.SGD(0.5), parallelism=3, strategy=Watched()
    ).run(4)
    assert len(seen) == 4
    for x, proposal, step in seen:
        assert np.array_equal(proposal.points[0], x)
        assert step.steps >= 1
        assert not np.shares_memory(step.x, x)
        assert len(proposal.points) <= 3


def test_paper_takes_up_the_state_of_any_point_again() -> None:
    # Only the state at the last point is kept: one further back is made again, by the same steps,
    # whether chosen or left over by a failure.
    import optex_core as ox

    def advanced(fail: int | None, selection: str) -> tuple[np.ndarray, list[np.ndarray]]:
        engine = ox.OptEx(
            np.ones(40),
            optimizer="adam",
            strategy=ox.strategies.Paper(selection=selection),
            parallelism=4,
            maxiter=9,
            rng=0,
        )
        kept: list[np.ndarray] = []
        for _ in range(4):
            for c in engine.ask():
                last = engine.state.nit == 3
                value = float(c.slot != 2) if last else -float(c.slot)
                if last and c.slot == fail:
                    engine.tell(c.id, error=ValueError("no"))
                else:
                    engine.tell(c.id, gradient=np.linspace(0.1, 1, 40) * c.x, value=value)
        state = engine.state
        kept += [np.asarray(slot) for slot in state.optimizer_state.slots]
        return np.asarray(state.x), kept

    chosen, by_value = advanced(None, "value"), advanced(3, "last")
    np.testing.assert_array_equal(chosen[0], by_value[0])  # both step from point 2
    for a, b in zip(chosen[1], by_value[1], strict=True):
        np.testing.assert_array_equal(a, b)
    # Against the chain by hand: three optimizer steps behind the state, the third with the true
    # gradient.
    engine = ox.OptEx(
        np.ones(40), optimizer="adam", strategy="paper", parallelism=4, maxiter=9, rng=0
    )
    for _ in range(3):
        for c in engine.ask():
            engine.tell(c.id, gradient=np.linspace(0.1, 1, 40) * c.x, value=1.0)
    engine.ask()
    assert engine.round is not None
    plan, x, state = engine.round.proposal, engine.state.x, engine.state.optimizer_state
    for i in range(3):
        mean = engine.round.predictions[i] if i < 2 else np.linspace(0.1, 1, 40) * plan.points[2]
        x, state = engine.settings.optimizer.step(
            plan.points[i], mean, state, backend=engine.backend
        )
    np.testing.assert_array_equal(x, chosen[0])


def test_the_recipe_for_a_strategy_works_as_it_stands(monkeypatch, tmp_path):
    monkeypatch.setattr(STRATEGIES, "_entries", dict(STRATEGIES._entries))
    text = inspect.cleandoc(base.__doc__).partition("::\n")[2]
    lines = itertools.takewhile(lambda line: not line or line[0] == " ", text.splitlines())
    (tmp_path / "strategy_of_the_recipe.py").write_text(textwrap.dedent("\n".join(lines)))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("strategy_of_the_recipe")
    assert check_strategy("halfway")
    driver = Driver(QUADRATIC, QUADRATIC.start(0), optimizer=ox.SGD(0.3), strategy="halfway")
    driver.run(4)
    assert driver.engine.machine.trace.accepted.tolist() == [1, 3, 3, 3]


def test_a_strategy_that_says_without_its_state_whether_it_averages_is_refused_at_the_door():
    class Old(ox.strategies.Sequential):
        averages_gradients = True

    with pytest.raises(
        ox.errors.ArgumentTypeError, match="must be a method of the strategy's stat"
    ):
        ox.OptEx(np.ones(2), strategy=Old())
