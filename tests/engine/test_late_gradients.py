"""Gradients that come after their round, after the end of the run, or from an earlier run."""

from __future__ import annotations

import numpy as np
import pytest
from ask_tell import WIDE, X0, answer, engine_of, rounds

import optex_core as ox
from optex_core.engine.stopping import Status
from optex_core.errors import ArgumentError, ArgumentTypeError, CapabilityError, ProtocolError


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
    assert sorted(engine.machine.late) == [c.id, d.id]
    assert engine.result().nit == 4
    assert not engine.result().deterministic
    answer(engine, c)
    engine.tell(d.id, error=RuntimeError("too late"))
    assert len(engine.failures) == 1
    assert engine.machine.late == {}
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
