"""Strategies: whole runs against plain loops, N = 1 against the optimizer, and what a failed
evaluation does.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import math
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from strategy_names import STRATEGY_NAMES

import optex_core as ox
from optex_core.backends import get_backend
from optex_core.model import likelihood as tuning
from optex_core.model.estimator import GradientEstimator
from optex_core.optimizers import OPTIMIZERS
from optex_core.optimizers._bound import bind_optimizer
from optex_core.problems.quadratic import Quadratic
from optex_core.problems.rosenbrock import Rosenbrock
from optex_core.strategies import (
    STRATEGIES,
    Corrected,
    EngineView,
    Observation,
    Paper,
    Strategy,
    Update,
    Verified,
    base,
)
from optex_core.strategies.auto import UNKNOWN, Auto
from optex_core.strategies.prediction_space import PredictionSpace
from optex_core.strategies.rollout import equally_spaced
from optex_core.strategies.trust_window import (
    LONGEST,
    OUTLIER_FACTOR,
    corrected_rollout,
    next_window,
    truncate_outliers,
)
from optex_core.testing import check_strategy
from optex_core.testing.reference.optex import ReferenceOptEx

QUADRATIC = Quadratic(d=4, condition=20.0, rotated=True)
ROSENBROCK = Rosenbrock(d=2)
OPTIMIZER_NAMES = sorted(OPTIMIZERS)


class Driver:
    """An engine with a deterministic function; `lose(iteration, slot)`: that evaluation fails."""

    def __init__(self, problem, x0, *, lose=lambda iteration, slot: False, **options):
        self.engine = ox.OptEx(x0, rng=0, maxiter=10_000, **options)
        self.problem, self.lose = problem, lose
        self.path, self.asked = [np.array(self.engine.state.x)], []

    def round(self):
        candidates = self.engine.ask()
        self.asked.append([np.array(c.x) for c in candidates])
        # In reverse: the order of arrival must not matter. Slot 0 stays, or nothing is left of the
        # round.
        for c in reversed(candidates):
            if self.lose(c.iteration, c.slot):
                self.engine.tell(c.id, error=RuntimeError("lost"))
            else:
                value, gradient = self.problem(c.x)
                self.engine.tell(c.id, gradient=gradient, value=value)
        self.path.append(np.array(self.engine.state.x))

    def run(self, rounds):
        for _ in range(rounds):
            self.round()
        return self.path


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


# -- reductions ------------------------------------------------------------------------------------


def plain(problem, x0, optimizer, steps):
    """The optimizer alone."""
    x, path = np.array(x0), [np.array(x0)]
    state = optimizer.init(x)
    for _ in range(steps):
        x, state = optimizer.step(x, problem(x)[1], state)
        path.append(x)
    return path


OTHERS = [
    lambda: ox.SGD(0.1, momentum=0.9, nesterov=True),
    lambda: ox.ClipByNorm(ox.SGD(0.1), 0.3),
    lambda: ox.Adam(lambda t: 0.1 / (1 + t)),
]


# One row for every strategy: that N = 1 is every registered optimizer is in test_reductions and in
# the check suites.
@pytest.mark.parametrize(
    ("strategy", "make"),
    [(name, OTHERS[i % 3]) for i, name in enumerate(STRATEGY_NAMES)],
    ids=STRATEGY_NAMES,
)
def test_one_evaluation_a_round_is_the_optimizer_bit_for_bit(strategy, make):
    x0 = QUADRATIC.start(3)
    path = Driver(QUADRATIC, x0, optimizer=make(), parallelism=1, strategy=strategy).run(6)
    for x, right in zip(path, plain(QUADRATIC, x0, make(), 6), strict=True):
        assert np.array_equal(x, right)


@pytest.mark.parametrize("parallelism", [1, 4])
def test_sequential_takes_one_candidate(parallelism):
    driver = Driver(
        QUADRATIC,
        QUADRATIC.start(0),
        optimizer=ox.SGD(0.5),
        parallelism=parallelism,
        strategy="sequential",
    )
    path = driver.run(5)
    assert [len(p) for p in driver.asked] == [1] * 5
    assert all(
        np.array_equal(a, b)
        for a, b in zip(path, plain(QUADRATIC, path[0], ox.SGD(0.5), 5), strict=True)
    )


def test_target_is_n_steps_of_the_optimizer():
    engine = ox.OptEx(
        QUADRATIC.start(0),
        optimizer=ox.Adam(0.1),
        parallelism=3,
        strategy="target",
        maxiter=4,
        rng=0,
    )
    while not engine.stop():
        for c in engine.ask():
            engine.tell(c.id, gradient=QUADRATIC(c.x)[1], value=QUADRATIC(c.x)[0])
    assert np.array_equal(
        engine.result().x, plain(QUADRATIC, QUADRATIC.start(0), ox.Adam(0.1), 12)[-1]
    )
    assert (engine.result().nit, engine.result().nsteps) == (4, 12)


def test_data_parallel_with_exact_gradients_is_the_optimizer():
    path = Driver(
        QUADRATIC,
        QUADRATIC.start(0),
        optimizer=ox.SGD(0.5),
        parallelism=4,
        strategy="data_parallel",
    ).run(6)
    # The mean of four equal numbers is exact.
    assert all(
        np.array_equal(a, b)
        for a, b in zip(path, plain(QUADRATIC, path[0], ox.SGD(0.5), 6), strict=True)
    )


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


# -- verified and auto, in detail ------------------------------------------------------------------


def told(*sizes):
    return [
        None if size is None else Observation(np.array([float(size), 0.0]), float(size) ** 2)
        for size in sizes
    ]


def view_of(x=(0.0, 0.0), parallelism=4, optimizer=None):
    space = PredictionSpace(bind_optimizer(optimizer or ox.SGD(0.1)), get_backend("numpy"))
    return EngineView(parallelism, np.array(x, dtype=float), None, lambda: None, space, lambda x: x)


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [
        pytest.param((1, 2, 3), 3, id="all"),
        pytest.param((1, OUTLIER_FACTOR, 3), 3, id="at the limit"),
        pytest.param((1, 2, 1.001 * OUTLIER_FACTOR, 3), 2, id="one far"),
        pytest.param((1, None, 3), 1, id="one missing"),
        pytest.param((0, 0, 0), 3, id="all zero"),
        pytest.param((0, 1e-30), 1, id="first zero"),
    ],
)
def test_what_is_believed(sizes, kept):
    believed = truncate_outliers(told(*sizes))
    assert [one is not None for one in believed] == [i < kept for i in range(len(sizes))]


def test_windows_grow_and_shrink():
    assert next_window(5, 5, True, 5, 5) == 8  # ceil(1.5 x 5)
    assert next_window(39, 39, True, 5, 5) == LONGEST * 5
    assert next_window(20, 10, False, 5, 5) == 12  # 1.2 x the accepted length
    assert next_window(20, 1, False, 5, 5) == 5  # not below N
    assert next_window(20, 1, False, 5, 2) == 2  # but for noise
    assert next_window(1, 1, True, 1, 1) == 1


@pytest.mark.parametrize(
    ("length", "count"), [(1, 1), (1, 5), (5, 5), (5, 1), (40, 5), (7, 3), (6, 4)]
)
def test_points_are_spread_over_the_window(length, count):
    at = equally_spaced(length, count)
    assert at == sorted(set(at))
    assert at[0] == 0
    assert len(at) == min(length, count)
    assert count == 1 or at[-1] == length - 1
    assert count == 1 or length == 1 or np.ptp(np.diff(at)) <= 1


@pytest.mark.parametrize(
    ("replayed", "taken"),
    [
        pytest.param((1.0, 0.5, 0.3), 4, id="within 0.6 of the farthest point so far"),
        pytest.param((1.0, 0.71, 0.3), 2, id="0.61 away at the second"),
        pytest.param((1.61, 0.1, 0.2), 1, id="0.61 away at the first"),
        pytest.param((1.0, 0.5, 0.81), 3, id="0.61 away at the third"),
        pytest.param((1.0, math.inf, 0.0), 1, id="a step that leaves the finite numbers"),
    ],
)
def test_replay_goes_on_while_it_is_near_the_prediction(replayed, taken):
    # The predicted path comes back to where it began: its reach is 1 all the same.
    path = [np.array([z]) for z in (0.0, 1.0, 0.1, 0.2)]
    ahead = [np.array([y]) for y in (*replayed[1:], 9.0)]

    class Mean:
        def mean_and_noise_factor(self, x):
            return x, 0.0

    class Ahead:
        def init(self, x):
            return 0

        def step(self, x, g, state, *, trusted):
            assert not trusted
            return ahead[state], state + 1

    view, points = view_of(path[0], optimizer=Ahead()), SimpleNamespace(points=path)
    x, state, steps = corrected_rollout(view, Mean(), np.array([replayed[0]]), 0, points, 4)
    assert steps == taken
    assert state == taken - 1
    assert x[0] == (*replayed, 9.0)[taken - 1]


def test_distances_that_overflow_are_no_trust():
    path = [np.array([z]) for z in (0.0, 1e200, 1e200)]
    posterior = SimpleNamespace(mean_and_noise_factor=lambda x: (x, 0.0))
    given = view_of(path[0]), posterior, np.array([-1e200]), view_of().state
    assert corrected_rollout(*given, SimpleNamespace(points=path), 3)[2] == 1


@pytest.mark.parametrize("strategy", ["auto", "verified", "corrected"])
@pytest.mark.parametrize("x_scale", [1e-300, 1e-160, 1e160, 1e300])
def test_squared_distances_out_of_range_leave_the_optimizer_alone(strategy, x_scale):
    driver = Driver(
        QUADRATIC,
        QUADRATIC.start(0),
        optimizer=ox.SGD(0.05),
        parallelism=3,
        strategy=strategy,
        x_scale=x_scale,
    )
    path, rounds = driver.run(8), 8
    alone = plain(QUADRATIC, QUADRATIC.start(0), ox.SGD(0.05), rounds + 8)
    # While there is one row, its gradient is repeated, which asks no distances.
    begin = next(i for i, x in enumerate(alone) if np.allclose(x, path[3], rtol=1e-14, atol=0.0))
    assert np.allclose(path[3:], alone[begin : begin + 6], rtol=1e-12, atol=0.0)
    notes = driver.engine.machine.trace.note
    assert all("the optimizer alone: squared distances" in note for note in notes[2:])


def test_prefix():
    prefixes = [Strategy.usable(told(*sizes)) for sizes in [(1, 2), (1, None, 3), (None,), ()]]
    assert [len(prefix) for prefix in prefixes] == [2, 1, 0, 0]


def test_a_given_window_is_held():
    driver = Driver(
        QUADRATIC,
        QUADRATIC.start(0),
        optimizer=ox.SGD(0.3),
        parallelism=3,
        strategy=Verified(window=7),
    )
    driver.run(6)
    assert driver.engine.state.strategy_state.steps == 7
    assert list(driver.engine.trace.window)[2:] == [7] * 4


def clocked(strategy, *, base, step, gradients=1.0, rounds=40, told=True):
    """An engine whose own work takes `base` seconds a round and `step` for each step predicted or
    replayed; its share of the gradients' time.
    """
    engine = ox.OptEx(
        QUADRATIC.start(0),
        optimizer=ox.SGD(0.02),
        parallelism=4,
        strategy=strategy,
        rng=0,
        maxiter=10_000,
        gtol=0.0,
    )
    shares, path = [], []
    for _ in range(rounds):
        for c in engine.ask():
            value, gradient = QUADRATIC(c.x)
            engine.tell(c.id, gradient=gradient, value=value)
        own = base + step * (engine.trace.window[-1] + engine.trace.accepted[-1])
        if told:
            engine.note_time(gradients + own, own)
        shares.append(own / gradients)
        path.append(np.array(engine.state.x))
    return engine, np.array(shares), np.array(path)


@pytest.mark.parametrize(
    ("base", "step", "limit", "window"),
    [
        (0.0, 0.01, 0.3, None),
        (0.1, 0.01, 0.3, None),
        (0.2, 0.002, 0.25, None),
        (0.0, 0.01, 0.3, 30),
        (0.05, 0.01, 0.2, 11),
    ],
)
def test_max_overhead_bounds_our_share_and_uses_it(base, step, limit, window):
    free, shares, _ = clocked(Verified(window=window), base=base, step=step)
    assert shares[10:].max() > 1.1 * limit
    assert free.state.deterministic
    bound, shares, _ = clocked(Verified(window=window, max_overhead=limit), base=base, step=step)
    assert shares[10:].max() <= limit * (1 + 1e-12)
    # What is allowed is used, to within the step or two that whole numbers leave, and a quarter
    # that the rounds take to come near.
    assert shares[10:].max() >= 0.75 * limit - 2 * step
    assert not bound.state.deterministic


def test_with_max_overhead_a_window_of_N_stays_however_slow_we_are():
    engine, _, path = clocked(Verified(max_overhead=1e-3), base=1.0, step=1.0)
    assert set(engine.trace.window[3:]) == {4}
    assert np.array_equal(path, clocked(Verified(window=4), base=0.0, step=0.0)[2])


def test_a_limit_that_is_never_reached_changes_nothing():
    engine, _, path = clocked(Verified(max_overhead=1e3), base=1.0, step=1.0)
    assert engine.state.deterministic
    assert np.array_equal(path, clocked(Verified(), base=0.0, step=0.0)[2])


@pytest.mark.parametrize("strategy", [Verified(), Auto(), Paper(), Corrected()])
def test_without_max_overhead_no_clock_has_any_influence(strategy):
    assert Verified().max_overhead is None
    engine, _, path = clocked(strategy, base=100.0, step=10.0, rounds=12)
    assert engine.state.deterministic
    assert np.array_equal(path, clocked(strategy, base=0.0, step=0.0, rounds=12, told=False)[2])


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
    assert (first.steps, first.noise_status, first.race.apart) == (6, UNKNOWN, False)
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
