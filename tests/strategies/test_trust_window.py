"""The window of `verified`: what is believed, how far a replay goes, how windows grow, and what
`max_overhead` does.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from driver import QUADRATIC, Driver, plain, told, view_of

import optex_core as ox
from optex_core.strategies import Corrected, Paper, Strategy, Verified
from optex_core.strategies.auto import Auto
from optex_core.strategies.rollout import equally_spaced
from optex_core.strategies.trust_window import (
    MAX_WINDOW_PER_SLOT,
    OUTLIER_FACTOR,
    next_window,
    run_corrected,
    truncate_outliers,
)


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [
        ((1, 2, 3), 3),
        ((1, OUTLIER_FACTOR, 3), 3),
        ((1, 2, 1.001 * OUTLIER_FACTOR, 3), 2),
        ((1, None, 3), 1),
        ((0, 0, 0), 3),
        ((0, 1e-30), 1),
    ],
)
def test_what_is_believed(sizes, kept):
    believed = truncate_outliers(told(*sizes))
    assert [one is not None for one in believed] == [i < kept for i in range(len(sizes))]


def test_windows_grow_and_shrink():
    assert next_window(5, 5, True, 5, 5) == 8  # ceil(1.5 x 5)
    assert next_window(39, 39, True, 5, 5) == MAX_WINDOW_PER_SLOT * 5
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
        ((1.0, 0.5, 0.3), 4),
        ((1.0, 0.71, 0.3), 2),
        ((1.61, 0.1, 0.2), 1),
        ((1.0, 0.5, 0.81), 3),
        ((1.0, math.inf, 0.0), 1),
    ],
)
def test_replay_goes_on_while_it_is_near_the_prediction(replayed, taken):
    # The predicted path comes back to where it began: its reach is 1 all the same.
    path = [np.array([z]) for z in (0.0, 1.0, 0.1, 0.2)]
    ahead = [np.array([y]) for y in (*replayed[1:], 9.0)]

    class Mean:
        def mean(self, x):
            return x

    class Ahead:
        def init(self, x):
            return 0

        def step(self, x, g, state, *, trusted):
            assert not trusted
            return ahead[state], state + 1

    view = view_of(path[0], optimizer=Ahead())
    rollout = view.rollout(3, np.array([replayed[0]]), 0, posterior=Mean(), path=path)
    assert run_corrected(rollout) == taken
    assert rollout.state == taken - 1
    assert rollout.x[0] == (*replayed, 9.0)[taken - 1]


def test_distances_that_overflow_are_no_trust():
    path = [np.array([z]) for z in (0.0, 1e200, 1e200)]
    posterior = SimpleNamespace(mean=lambda x: x)
    start = np.array([-1e200]), view_of().state
    rollout = view_of(path[0]).rollout(2, *start, posterior=posterior, path=path)
    assert run_corrected(rollout) == 1


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
