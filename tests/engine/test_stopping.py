"""What ends a run, and what the result then says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ask_tell import X0, answer, engine_of, rounds
from scipy.optimize import Bounds
from strategy_names import STRATEGY_NAMES

import optex_core as ox
from optex_core.engine.stopping import Status
from optex_core.errors import ArgumentError

ENDS = [
    ({"gtol": 0.1, "maxiter": 99}, {"gtol": 0.1}, Status.GTOL),
    ({"ftol": 1e-2, "maxiter": 99}, {"ftol": 1e-2}, Status.FTOL),
    ({"xtol": 1e-2, "maxiter": 99}, {"xtol": 1e-2}, Status.XTOL),
    ({"target": 1.0, "maxiter": 99}, {"target": 1.0}, Status.TARGET),
    ({"maxiter": 4}, {"maxiter": 4}, Status.MAXITER),
    ({"maxiter": 0}, {"maxiter": 0}, Status.MAXITER),
    ({"maxiter": None, "max_evals": 8}, {"max_evals": 8}, Status.MAX_EVALS),
    ({"maxiter": None, "max_evals": 1}, {"max_evals": 1}, Status.MAX_EVALS),
    ({"maxiter": 4, "gtol": 1e9}, {"gtol": 1e9}, Status.GTOL),
]


# Strategies do not decide when a run ends: three ends for each, three strategies for each end.
@pytest.mark.parametrize(
    ("strategy", "end"),
    [(name, ENDS[(i + j) % len(ENDS)]) for i, name in enumerate(STRATEGY_NAMES) for j in (0, 3, 6)],
    ids=str,
)
def test_what_fired_is_said(strategy, end):
    criteria, stop, status = end
    engine = engine_of(strategy=strategy, **criteria)
    assert engine.stop() == {}
    while not engine.stop():
        for c in engine.ask():
            answer(engine, c)
            if engine.stop():
                break
    result = engine.result()
    assert (engine.stop(), result.stop, result.status) == (stop, stop, status)
    assert result.success == (status in {Status.GTOL, Status.FTOL, Status.XTOL, Status.TARGET})
    assert result.message == status.message
    assert result.deterministic
    assert math.isfinite(result.fun)
    assert result.njev <= criteria.get("max_evals", math.inf)


@pytest.mark.parametrize(
    ("given", "maxiter", "gtol"),
    [
        ({}, 1000, 1e-6),
        ({"maxiter": 7}, 7, 1e-6),
        ({"max_time": 7.0}, None, 1e-6),
        ({"max_evals": 7}, None, 1e-6),
        ({"ftol": 0.1}, 1000, None),
        ({"xtol": 0.1, "max_evals": 7}, None, None),
        ({"gtol": 0.0}, 1000, 0.0),
    ],
)
def test_limits_do_not_replace_a_criterion_of_convergence(given, maxiter, gtol):
    criteria = ox.OptEx(X0, **given).settings.criteria
    assert (criteria.maxiter, criteria.gtol) == (maxiter, gtol)


def test_max_evals_shortens_the_last_round_and_keeps_one_for_the_end():
    engine = engine_of(strategy="paper", maxiter=None, max_evals=6)
    sizes = []
    while not engine.stop():
        asked = engine.ask()
        sizes.append(len(asked))
        for c in asked:
            answer(engine, c)
    assert sizes == [1, 3, 1, 1]


def test_the_engine_has_no_clock():
    engine = engine_of(max_time=2.0)
    assert engine.stop() == engine.stop(elapsed=1.9) == {}
    assert engine.stop(elapsed=2.0) == {"max_time": 2.0}
    result = engine.result()
    assert (result.status, result.success, result.deterministic) == (Status.MAX_TIME, False, False)
    with pytest.raises(ArgumentError, match="elapsed must be"):
        engine_of(max_time=2.0).stop(elapsed=-1.0)


def test_within_an_iteration_of_several_asks_the_result_claims_nothing_it_does_not_know():
    engine = rounds(engine_of(strategy="target", parallelism=4), 6)
    result = engine.result()
    assert result.nit == 1
    assert math.isnan(result.fun)
    engine.abort(Status.INTERRUPTED)
    result = engine.result()
    assert result.stop == {"interrupted": True}
    assert result.history.iteration.tolist() == [0, 1]
    assert result.history.accepted.tolist() == [4, 2]
    # |theta_now - theta_1|, not the length of the way.
    np.testing.assert_allclose(
        result.history.step_norm[0], np.linalg.norm(engine.state.iteration_start - X0), rtol=1e-15
    )


def test_step_and_steps_of_a_row_describe_the_iteration():
    engine = engine_of(strategy="target", parallelism=4)
    points = []
    engine.machine.on_iterate = lambda: points.append(engine.result().x)
    rounds(engine, 12)
    lengths = [
        np.linalg.norm(b - a) for a, b in zip(points, [*points[1:], engine.result().x], strict=True)
    ]
    # Sums of squares of three numbers in another order.
    np.testing.assert_allclose(engine.result().history.step_norm, lengths, rtol=1e-14)


def test_bounds_hold_everywhere_and_gtol_reads_the_projected_gradient():
    with pytest.warns(RuntimeWarning, match="outside the bounds in 1 of 3 parameters"):
        engine = engine_of(
            x0=[3.0, -4.0, 9.0],
            bounds=Bounds([1.0, -5.0, 2.0], [5.0, -0.5, 6.0]),
            gtol=1e-9,
            maxiter=500,
        )
    assert engine.result().x[2] == 6.0
    while not engine.stop():
        for c in engine.ask():
            assert (c.x >= [1.0, -5.0, 2.0]).all()
            assert (c.x <= [5.0, -0.5, 6.0]).all()
            answer(engine, c)
    result = engine.result()
    assert result.status is Status.GTOL
    np.testing.assert_array_equal(result.x, [1.0, -0.5, 2.0])
    assert np.abs(result.jac).min() > 1.0
    assert result.history.gradient_norm[-1] <= 1e-9


def test_units_change_distances_and_nothing_else():
    # The length scale of the fit is in units of x / x_scale; the same numbers in other units give
    # the same run.
    wide = rounds(engine_of(x_scale=1e3), 6).result()
    plain = rounds(engine_of(), 6).result()
    # the likelihood is searched on a grid relative to the data
    np.testing.assert_allclose(wide.x, plain.x, rtol=1e-6)
    np.testing.assert_allclose(
        wide.history.step_norm[:-1] * 1e3, plain.history.step_norm[:-1], rtol=1e-6
    )


def test_statuses_keep_their_numbers():
    assert {s.name: int(s) for s in Status} == {
        "RUNNING": -1,
        "GTOL": 0,
        "FTOL": 1,
        "XTOL": 2,
        "TARGET": 3,
        "MAXITER": 10,
        "MAX_EVALS": 11,
        "MAX_TIME": 12,
        "STALLED": 13,
        "CALLBACK": 20,
        "INTERRUPTED": 21,
        "DIVERGED": 30,
        "FAILED": 31,
        "TOO_MANY_FAILURES": 32,
    }
    assert all(s.message.endswith(".") for s in Status)
