"""Ask and tell: the protocol, what ends a run, what a failure costs, and what late and earlier
gradients do.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import math
import pickle
import weakref

import numpy as np
import pytest
from scipy.optimize import Bounds
from strategy_names import STRATEGY_NAMES

import optex_core as ox
from optex_core.engine import checkpoint
from optex_core.engine.settings import as_x0, resolve_seed
from optex_core.engine.status import Status
from optex_core.errors import ArgumentError, ArgumentTypeError, CapabilityError, ProtocolError

X0 = np.array([3.0, -4.0, 1.0])
#: Strategies that ask for several points in a round.
WIDE = ["auto", "corrected", "data_parallel", "line_search", "paper", "repeat_last", "verified"]


def engine_of(**options):
    options = {
        "optimizer": ox.SGD(0.05, momentum=0.5),
        "strategy": "paper",
        "parallelism": 3,
        "maxiter": 20,
        "rng": 0,
    } | options
    return ox.OptEx(options.pop("x0", X0), **options)


def answer(engine, c, **more):
    engine.tell(
        c.id,
        gradient=2.0 * c.x * np.arange(1, len(c.x) + 1),
        value=float(c.x**2 @ np.arange(1.0, len(c.x) + 1)),
        **more,
    )


def rounds(engine, n):
    for _ in range(n):
        for c in engine.ask():
            answer(engine, c)
    return engine


def whole(engine):
    """Everything a file would hold, comparable."""
    header, arrays = checkpoint.dump(engine.machine)
    return json.dumps(header, sort_keys=True), {
        name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()
    }


# -- the protocol ----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_a_cold_start_asks_for_theta_and_later_rounds_for_at_most_parallelism(strategy):
    engine = engine_of(strategy=strategy)
    first = engine.ask()
    assert len(first) == (3 if strategy == "data_parallel" else 1)
    np.testing.assert_array_equal(first[0].x, X0)
    sizes = set()
    while not engine.stop():
        asked = engine.ask()
        sizes.add(len(asked))
        np.testing.assert_array_equal(asked[0].x, engine.result().x)
        for c in asked:
            answer(engine, c)
    assert max(sizes) == (1 if strategy in {"sequential", "target"} else 3)
    assert engine.ask() == []


def test_asking_again_gives_what_is_still_pending():
    engine = rounds(engine_of(), 2)
    a, b, c = engine.ask()
    assert [k.id for k in engine.ask()] == [a.id, b.id, c.id]
    answer(engine, b)
    assert [k.id for k in engine.ask()] == [a.id, c.id]


def test_names_of_candidates_are_those_of_the_contract():
    engine = engine_of(rng=7)
    for _ in range(4):
        for slot, c in enumerate(engine.ask()):
            assert (c.id, c.slot, c.iteration) == (c.iteration * 3 + slot, slot, engine.state.nit)
            assert (
                c.seed
                == np.random.SeedSequence(7, spawn_key=(c.iteration, c.slot)).generate_state(1)[0]
            )
            answer(engine, c)


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_the_order_of_the_tells_does_not_matter(strategy):
    def run(order):
        engine = engine_of(strategy=strategy)
        for t in range(6):
            asked = engine.ask()
            for i in np.random.default_rng([t, order]).permutation(len(asked)):
                answer(engine, asked[i])
        return engine.result()

    results = [run(order) for order in range(3)]
    for other in results[1:]:
        np.testing.assert_array_equal(other.x, results[0].x)
        assert other.history == results[0].history


@pytest.mark.parametrize("id_", [0, 1, 99, -1, 5.0, "4", None, True, [3], np.arange(3)], ids=repr)
def test_done_and_unknown_ids_are_refused_and_change_nothing(id_):
    engine = rounds(engine_of(), 2)
    done, *_ = engine.ask()
    answer(engine, done)
    before = whole(engine)
    for wrong in (id_, done.id):
        with pytest.raises(ProtocolError, match="nothing was changed"):
            engine.tell(wrong, gradient=X0, value=1.0)
    assert whole(engine) == before


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({}, "needs a gradient of shape"),
        ({"gradient": [1.0, 2.0]}, r"shape of x, \(3,\), got \(2,\)"),
        ({"gradient": np.ones((1, 3))}, r"got \(1, 3\)"),
        ({"gradient": 1.0}, r"got \(\)"),
        ({"gradient": X0 * 1j}, "real numbers, got dtype complex128"),
        ({"gradient": [1.0, [2.0, 3.0], 4.0]}, "ragged"),
        ({"gradient": ["a", "b", "c"]}, "real numbers"),
        ({"gradient": np.array([1, None, 2])}, "real numbers, got dtype object"),
        ({"gradient": X0, "value": "1.5"}, "value must be a number, got '1.5'"),
        ({"gradient": X0, "value": 1j}, "value must be a number"),
        ({"gradient": X0, "value": [1.0, 2.0]}, "value must be a number"),
        ({"gradient": X0, "value": np.ones(2)}, "value must be a number"),
        ({"gradient": X0, "error": ValueError("no")}, "a gradient and an error"),
        ({"error": "no"}, "error must be an exception, got 'no'"),
        ({"gradient": X0, "seconds": -1.0}, "seconds must be a number >= 0"),
        ({"gradient": X0, "seconds": "fast"}, "seconds must be a number"),
        ({"gradient": X0, "nfev": -1}, "nfev must be an integer >= 0"),
        ({"gradient": X0, "njev": 0.5}, "njev must be an integer"),
    ],
    ids=lambda p: str(p)[:40] if isinstance(p, str) else "",
)
def test_what_cannot_be_told_is_refused_and_changes_nothing(told, says):
    engine = rounds(engine_of(), 2)
    c = engine.ask()[1]
    before = whole(engine)
    with pytest.raises((ArgumentError, ArgumentTypeError), match=says):
        engine.tell(c.id, **told)
    assert whole(engine) == before
    answer(engine, c)


def test_a_value_is_needed_where_something_reads_values():
    for needs in (
        {"strategy": "line_search"},
        {"ftol": 1e-3},
        {"target": 0.0},
        {"strategy": ox.strategies.Paper(selection="value")},
    ):
        engine = engine_of(**needs)
        (c,) = engine.ask()
        with pytest.raises(CapabilityError, match="needs values"):
            engine.tell(c.id, gradient=X0)
        answer(engine, c)


def test_gradients_alone_are_enough():
    engine = engine_of(gtol=1e-3, maxiter=None)
    while not engine.stop():
        for c in engine.ask():
            engine.tell(c.id, gradient=2.0 * c.x)
    result = engine.result()
    assert result.success
    assert math.isnan(result.fun)
    assert math.isnan(result.best_fun)
    assert (result.nfev, result.njev > 0) == (0, True)
    np.testing.assert_array_equal(result.jac, 2.0 * result.x)


def test_nothing_is_shared_with_the_user():
    x0 = X0.copy()
    engine = engine_of(x0=x0)
    x0[:] = np.nan
    buffer = np.empty(3)
    for _ in range(3):
        for c in engine.ask():
            with pytest.raises(ValueError, match="read-only"):
                c.x[0] = 1.0
            buffer[:] = 2.0 * c.x
            engine.tell(c.id, gradient=buffer, value=float(c.x @ c.x))
            buffer[:] = np.nan
    result = engine.result()
    for array in (result.x, result.jac, result.best_x):
        array[:] = 0.0
    assert np.isfinite(engine.result().x).all()
    assert engine.result().x.any()


# -- how it ends -----------------------------------------------------------------------------------

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


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
@pytest.mark.parametrize(
    ("criteria", "stop", "status"), ENDS, ids=lambda p: str(p) if isinstance(p, dict) else ""
)
def test_what_fired_is_said(criteria, stop, status, strategy):
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
    engine.on_iterate = lambda: points.append(engine.result().x)
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


# -- failures --------------------------------------------------------------------------------------


def test_a_failed_iterate_ends_the_run():
    engine = rounds(engine_of(), 2)
    c = engine.ask()[0]
    engine.tell(c.id, error=ValueError("mesh"))
    result = engine.result()
    assert (result.status, result.stop) == (Status.FAILED, {"failed": True})
    assert "mesh" in result.message
    assert "Iteration 2" in result.message
    assert result.failures[0].error.args == ("mesh",)
    assert (result.failures[0].id, result.failures[0].iteration, result.failures[0].slot) == (
        c.id,
        2,
        0,
    )
    assert math.isnan(result.fun)
    assert math.isfinite(result.best_fun)


@pytest.mark.parametrize(
    ("gradient", "value", "says"),
    [(X0 * np.inf, 1.0, "inf at index 0"), (X0, np.nan, "value is nan"), (X0, -np.inf, "-inf")],
)
def test_an_iterate_that_is_not_finite_is_a_divergence(gradient, value, says):
    engine = rounds(engine_of(), 2)
    c = engine.ask()[0]
    with np.errstate(invalid="ignore"):
        engine.tell(c.id, gradient=gradient, value=value)
    result = engine.result()
    assert (result.status, result.stop, result.success) == (
        Status.DIVERGED,
        {"diverged": True},
        False,
    )
    assert says in result.message
    assert "x = [" in result.message
    np.testing.assert_array_equal(result.failures[0].x, c.x)


@pytest.mark.parametrize("strategy", WIDE)
def test_a_proxy_that_fails_never_ends_a_run(strategy):
    engine = engine_of(strategy=strategy, parallelism=4)
    for t in range(8):
        for c in engine.ask():
            if c.slot == 1 + t % 3:
                engine.tell(c.id, error=RuntimeError("flaky"))
            elif c.slot == 1 + (t + 1) % 3:
                engine.tell(c.id, gradient=np.full(3, np.nan), value=1.0)
            else:
                answer(engine, c)
    result = engine.result()
    assert result.nit == 8
    assert result.stop == {}
    assert {f.message for f in result.failures} == {
        "flaky",
        "the gradient has 3 entries that are not finite, the first is nan at index 0",
    }
    assert np.isfinite(result.x).all()
    if engine.machine.surrogate.history is not None:
        assert np.isfinite(
            engine.machine.surrogate.history.G[: engine.machine.surrogate.history.n]
        ).all()


def test_a_window_ends_before_its_first_missing_gradient():
    engine = rounds(engine_of(strategy="paper", parallelism=4), 3)
    asked = engine.ask()
    for c in asked:
        if c.slot == 2:
            engine.tell(c.id, error=RuntimeError("lost"))
        else:
            answer(engine, c)
    assert engine.result().history.accepted[-1] == 2


def test_a_step_that_leaves_the_finite_numbers_is_a_divergence_with_theta_kept():
    engine = ox.OptEx([1e300], optimizer=ox.SGD(1e10), parallelism=1, rng=0)
    (c,) = engine.ask()
    with np.errstate(over="ignore"):
        engine.tell(c.id, gradient=c.x, value=1.0)
    result = engine.result()
    assert (result.status, result.fun) == (Status.DIVERGED, 1.0)
    assert result.x == 1e300
    assert "smaller learning rate" in result.message


def test_attempts_are_counted_and_leave_the_point_pending():
    engine = rounds(engine_of(), 2)
    c = engine.ask()[0]
    njev = engine.state.njev
    engine.report_attempt(c.id, ValueError("once"), "once", attempt=0, nfev=1, njev=1)
    assert c in engine.ask()
    assert (engine.state.njev, len(engine.failures)) == (njev + 1, 1)


# -- late and earlier gradients --------------------------------------------------------------------


def test_a_round_may_close_without_its_stragglers_whose_gradients_count_later():
    engine = rounds(engine_of(strategy="paper", parallelism=4), 3)
    with pytest.raises(ProtocolError, match="slot 0"):
        engine.close_round()
    a, b, c, d = engine.ask()
    answer(engine, b)
    with pytest.raises(ProtocolError, match="slot 0"):
        engine.close_round()
    answer(engine, a)
    engine.close_round()
    rows = engine.machine.surrogate.history.total
    assert sorted(engine.late) == [c.id, d.id]
    assert engine.result().nit == 4
    assert not engine.result().deterministic
    answer(engine, c)
    engine.tell(d.id, error=RuntimeError("too late"))
    assert len(engine.failures) == 1
    assert engine.late == {}
    with pytest.raises(ProtocolError, match="told already"):
        answer(engine, c)
    rounds(engine, 1)
    assert engine.machine.surrogate.history.total == rows + 1 + 4


@pytest.mark.parametrize("strategy", WIDE)
def test_what_a_finished_run_did_not_wait_for_may_still_be_told(strategy):
    engine = rounds(engine_of(strategy=strategy, gtol=1e9, maxiter=9), 0)
    rounds(engine, 1) if strategy == "data_parallel" else answer(engine, engine.ask()[0])
    assert engine.stop() == {"gtol": 1e9}
    engine = rounds(engine_of(strategy=strategy, maxiter=9), 2)
    first, *rest = engine.ask()
    answer(engine, first)
    engine.abort(Status.CALLBACK)
    before = engine.result()
    for c in rest:
        answer(engine, c)
    result = engine.result()
    assert result.njev == before.njev + len(rest)
    if strategy == "auto" and result.best_fun < before.fun:
        np.testing.assert_array_equal(result.x, result.best_x)
    else:
        np.testing.assert_array_equal(result.x, before.x)
    assert result.history == before.history


@pytest.mark.parametrize("strategy", ["auto", "corrected", "paper", "verified"])
def test_a_warm_start_fills_the_first_round(strategy):
    cold, warm = engine_of(strategy=strategy), engine_of(strategy=strategy)
    X = np.random.default_rng(0).standard_normal((8, 3)) + X0
    warm.add_observations(X, 2.0 * X * [1, 2, 3])
    assert (len(cold.ask()), len(warm.ask())) == (1, 3)
    assert warm.machine.surrogate.history.n == 8
    X[:] = np.nan
    assert np.isfinite(rounds(warm, 2).result().x).all()


def test_observations_told_within_a_round_wait_for_its_end():
    engine = rounds(engine_of(), 2)
    asked = engine.ask()
    n = engine.machine.surrogate.history.total
    engine.add_observations([[1.0, 2.0, 3.0]], [[1, 2, 3]])
    assert engine.machine.surrogate.history.total == n
    for c in asked:
        answer(engine, c)
    assert engine.machine.surrogate.history.total == n + 4


@pytest.mark.parametrize(
    ("X", "G", "says"),
    [
        ([[1.0, 2.0]], [[1.0, 2.0]], r"shape \(n, 3\)"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], r"shape \(n, 3\)"),
        ([[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]] * 2, r"got \(1, 3\) and \(2, 3\)"),
        ([[1.0, 2.0, np.nan]], [[1.0, 2.0, 3.0]], "must be finite, row 0"),
        ([[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0j]], "real numbers"),
        ([[1.0, 2.0, 3.0j]], [[1.0, 2.0, 3.0]], "real numbers"),
        ([["a", "b", "c"]], [[1.0, 2.0, 3.0]], "real numbers"),
    ],
)
def test_observations_that_are_none_are_refused(X, G, says):
    engine = engine_of()
    with pytest.raises((ArgumentError, ArgumentTypeError), match=says):
        engine.add_observations(X, G)
    assert engine.machine.surrogate.history.n == 0


def test_observations_need_a_history():
    for options in ({"strategy": "sequential"}, {"parallelism": 1}):
        with pytest.raises(CapabilityError, match="keeps no history"):
            engine_of(**options).add_observations([X0], [X0])


def test_a_history_smaller_than_a_round_is_no_problem():
    for strategy in ("paper", "corrected", "verified", "auto"):
        engine = engine_of(
            strategy=strategy, parallelism=5, estimator=ox.GradientEstimator(history=2)
        )
        assert rounds(engine, 10).result().nit == 10
        assert engine.machine.surrogate.history.n == 2


# -- the hook --------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [1, -1], ids=["first", "last"])
@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_the_hook_sees_every_iterate_once_with_its_value(strategy, turn):
    engine = engine_of(strategy=strategy, maxiter=5)
    seen = []
    engine.on_iterate = lambda: seen.append(engine.result())
    while not engine.stop():
        for c in engine.ask()[::turn]:
            answer(engine, c)
    assert [r.nit for r in seen] == [0, 1, 2, 3, 4, 5]
    for r in seen:
        # Averages of equal numbers may differ from them in the last digit.
        np.testing.assert_allclose(r.jac, 2.0 * r.x * [1, 2, 3], rtol=1e-15)
        np.testing.assert_allclose(r.fun, r.x**2 @ [1.0, 2.0, 3.0], rtol=1e-15)


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_a_hook_that_raises_loses_nothing(strategy):
    plain = rounds(engine_of(strategy=strategy), 6).result()
    engine = engine_of(strategy=strategy)

    def fails():
        raise KeyError("mine")

    engine.on_iterate = fails
    told = 0
    while told < plain.njev:
        for c in engine.ask():
            told += 1
            with contextlib.suppress(KeyError):
                answer(engine, c)
    engine.ask()
    result = engine.result()
    np.testing.assert_array_equal(result.x, plain.x)
    assert result.history == plain.history


# -- settings --------------------------------------------------------------------------------------


def test_seeds_come_in_several_forms():
    assert resolve_seed(5) == resolve_seed(np.int32(5)) == 5
    assert resolve_seed(np.random.default_rng(3)) == resolve_seed(np.random.default_rng(3))
    assert (
        resolve_seed(np.random.SeedSequence(3))
        == resolve_seed(np.random.SeedSequence(3))
        != resolve_seed(np.random.SeedSequence(4))
    )
    assert resolve_seed(None) != resolve_seed(None)
    assert engine_of(rng=None).result().seed >= 0


def test_starts_come_in_several_forms():
    assert as_x0(3).tolist() == [3.0]
    assert as_x0([1, 2]).dtype == np.float64
    assert as_x0(np.float32(2)).dtype == np.float32
    assert as_x0(np.array([True, False])).tolist() == [1.0, 0.0]
    assert as_x0(np.arange(6.0)[::2]).tolist() == [0.0, 2.0, 4.0]


def test_a_user_made_optimizer_is_enough():
    class Halving:
        def init(self, x):
            return {"steps": 0}

        def step(self, x, g, state):
            return x - 0.5 * g / (1.0 + state["steps"]), {"steps": state["steps"] + 1}

    engine = rounds(engine_of(optimizer=Halving()), 3)
    assert engine.state.optimizer_state == {"steps": engine.state.nsteps}


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


@pytest.mark.parametrize("optimizer", [ox.Adam(0.05), ox.SGD(0.1)], ids=["arrays", "sums"])
def test_an_engine_is_gone_with_its_last_name(optimizer):
    """Its history may be gigabytes: it is not left to Python's search for cycles, which few objects
    start.
    """
    engine = ox.OptEx(np.ones(3_000), optimizer=optimizer, backend="numpy", rng=0)
    gc.disable()
    try:
        for _ in range(3):
            for c in engine.ask():
                engine.tell(c.id, gradient=c.x, value=0.0)
        engine.ask()  # the round is open, as where a run is broken off
        gone = weakref.ref(engine)
        del engine
        assert gone() is None
    finally:
        gc.enable()


def test_a_copy_of_an_open_round_goes_its_own_way():
    engine = ox.OptEx(np.ones(30), optimizer=ox.SGD(0.1), parallelism=4, backend="numpy", rng=0)

    def go_on(one):
        for _ in range(4):
            for c in one.ask():
                one.tell(c.id, gradient=c.x, value=0.0)
        return one.state.x

    go_on(engine)
    engine.ask()
    copies = [copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))]
    assert all(
        np.array_equal(go_on(one), go_on(copy.deepcopy(engine)))
        and one.machine.surrogate.posterior().history is one.machine.surrogate.history
        for one in copies
    )
