"""Ask and tell: the protocol, what a failure costs, the hook. What ends a run is in test_stopping,
what late and earlier gradients do in test_late_gradients.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import json
import math
import pickle
import weakref

import numpy as np
import pytest
from ask_tell import X0, answer, engine_of, rounds
from strategy_names import STRATEGY_NAMES

import optex_core as ox
from optex_core.engine import checkpoint
from optex_core.engine.settings import as_x0, resolve_seed
from optex_core.engine.stopping import Status
from optex_core.errors import ArgumentError, ArgumentTypeError, CapabilityError, ProtocolError


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
        ({"gradient": X0 * 1j}, "real numbers, got complex numbers"),
        ({"gradient": [1.0, [2.0, 3.0], 4.0]}, "ragged"),
        ({"gradient": ["a", "b", "c"]}, "real numbers"),
        ({"gradient": np.array([1, None, 2])}, "real numbers, got dtype object"),
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


# -- the hook --------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [1, -1], ids=["first", "last"])
@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_the_hook_sees_every_iterate_once_with_its_value(strategy, turn):
    engine = engine_of(strategy=strategy, maxiter=5)
    seen = []
    engine.machine.on_iterate = lambda: seen.append(engine.result())
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

    engine.machine.on_iterate = fails
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


def test_an_estimator_that_the_default_does_not_read_is_said(caplog):
    given = ox.GradientEstimator(kernel="rbf")
    ox.OptEx(np.ones(3), estimator=given)
    assert "estimator= is not read by `lookahead`" in caplog.text
    caplog.clear()
    ox.OptEx(np.ones(3), estimator=given, optimizer=ox.SGD(0.1))
    ox.OptEx(np.ones(3), strategy="lookahead", estimator=given)
    ox.OptEx(np.ones(3))
    assert not caplog.text


def test_a_candidate_cannot_be_changed_and_travels():
    candidate = ox.OptEx(np.ones(3), optimizer=ox.SGD(0.1), rng=0).ask()[0]
    for name in ("x", "seed", "id", "other"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(candidate, name, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del candidate.x
    for twin in (pickle.loads(pickle.dumps(candidate)), copy.deepcopy(candidate)):
        assert (twin.id, twin.seed, twin.slot) == (candidate.id, candidate.seed, 0)
        np.testing.assert_array_equal(twin.x, candidate.x)
