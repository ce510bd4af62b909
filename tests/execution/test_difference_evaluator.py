"""Differences as part of the concurrent batch: every shifted call a task of its own, the bits of
the loop, every call counted.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from evaluating import finish

import optex_core as ox
from optex_core.adapters.objective import make_objective
from optex_core.errors import EvaluationError, ObjectiveError
from optex_core.execution.difference_evaluator import FiniteDifferenceEvaluator
from optex_core.execution.factory import make_evaluator
from optex_core.types import Candidate

D = 3


def fun(x, *, seed):
    return np.sum(x**3 * np.arange(1, D + 1)) + seed % 13


def candidates(n, first=0):
    return [Candidate(first + i, np.array([1.0, -2.0, 0.5]) + i, 100 + i, 0, i) for i in range(n)]


def spread(function, workers, jac="2-point", parallelism=2, **options):
    evaluator = make_evaluator(
        make_objective(function, jac=jac, x0=np.ones(D), **options),
        workers,
        parallelism=parallelism,
    )
    assert isinstance(evaluator, FiniteDifferenceEvaluator)
    return evaluator


@pytest.mark.parametrize("jac", ["2-point", "3-point", "cs"])
@pytest.mark.parametrize("workers", ["threads", 2, map])
def test_the_bits_and_counts_of_the_loop(jac, workers):
    bounds = (np.array([-5.0, -5.0, 0.5]), np.array([9.0, 9.0, 9.0]))
    alone = make_evaluator(make_objective(fun, jac=jac, x0=np.ones(D), bounds=bounds))
    with spread(fun, workers, jac, bounds=bounds) as evaluator:
        for e in (alone, evaluator):
            e.submit(candidates(3))
        for a, b in zip(finish(alone), finish(evaluator), strict=True):
            assert b.error is None, b.traceback
            assert (a.candidate.id, a.nfev, a.njev) == (b.candidate.id, b.nfev, b.njev)
            assert a.value == b.value
            np.testing.assert_array_equal(a.gradient, b.gradient)
            assert b.gradient.dtype == float


def test_all_calls_of_a_round_run_at_once_with_the_seed_and_id_of_their_point():
    barrier, seen = threading.Barrier(2 * (D + 1)), []

    def together(x, ctx):
        seen.append((ctx.id, ctx.seed, ctx.slot))
        barrier.wait(30)  # nobody goes on before all calls of both points have begun
        return float(x @ x)

    with ThreadPoolExecutor(2 * (D + 1)) as pool, spread(together, pool) as evaluator:
        evaluator.submit(candidates(2))
        outcomes = finish(evaluator)
    assert [o.nfev for o in outcomes] == [D + 1] * 2
    assert sorted(seen) == sorted([(0, 100, 0)] * (D + 1) + [(1, 101, 1)] * (D + 1))
    np.testing.assert_allclose(outcomes[1].gradient, 2 * outcomes[1].candidate.x, atol=1e-6)


def test_minimize_counts_every_shifted_call(monkeypatch):
    calls = []

    def value(x):
        calls.append(1)
        return float(x @ x)

    alone = ox.minimize(value, np.ones(D), jac="3-point", optimizer=ox.SGD(0.1), maxiter=3, rng=0)
    made = len(calls)
    res = ox.minimize(
        value, np.ones(D), jac="3-point", optimizer=ox.SGD(0.1), maxiter=3, rng=0, workers="threads"
    )
    np.testing.assert_array_equal(res.x, alone.x)
    assert res.nfev == alone.nfev == made == len(calls) - made == res.njev * (2 * D + 1)


def test_a_call_that_fails_fails_its_point_alone_and_every_call_is_counted():
    calls = []

    def fails(x):
        calls.append(x[0])
        if x[0] == 2.0 and x[1] != -1.0:  # a shifted call of the second point
            raise EvaluationError("tangled")
        return float(x @ x)

    with spread(fails, "threads") as evaluator:
        evaluator.submit(candidates(3))
        outcomes = finish(evaluator)
        assert [type(o.error) for o in outcomes] == [type(None), EvaluationError, type(None)]
        assert outcomes[1].gradient is None
        assert "tangled" in outcomes[1].traceback
        assert sum(o.nfev for o in outcomes) == len(calls) <= 3 * (D + 1)
        assert [o.njev for o in outcomes] == [1, 1, 1]
        evaluator.submit(candidates(1, first=10))  # and it goes on
        assert finish(evaluator)[0].nfev == D + 1


def test_a_function_that_drops_the_imaginary_part_is_the_users_bug():
    with spread(lambda x: float(np.real(x @ x)), "threads", "cs") as evaluator:
        evaluator.submit(candidates(1))
        (outcome,) = finish(evaluator)
    assert isinstance(outcome.error, ObjectiveError)


def test_what_has_begun_is_finished_and_what_has_not_is_dropped():
    gate, begun = threading.Event(), threading.Event()

    def slow(x):
        begun.set()
        gate.wait(30)
        return float(x @ x)

    with ThreadPoolExecutor(1) as pool, spread(slow, pool) as evaluator:
        evaluator.submit(candidates(3))
        assert begun.wait(30)
        assert list(evaluator.started()) == [(0, 0)]
        evaluator.cancel()
        assert evaluator.pending == 1
        gate.set()
        (outcome,) = evaluator.drain()
        assert (outcome.candidate.id, outcome.nfev) == (0, D + 1)
        evaluator.submit(candidates(2, first=5))
        evaluator.drain()
        assert evaluator.pending == 0


def test_a_difference_that_takes_too_long_is_given_up_with_all_its_calls():
    def hangs(x):
        if x[0] > 1.0:
            time.sleep(60)
        return float(x @ x)

    start = time.monotonic()
    with pytest.raises(EvaluationError, match="timeout"):
        ox.minimize(hangs, np.ones(2), jac="2-point", workers=2, timeout=0.5, parallelism=1)
    assert time.monotonic() - start < 45


def test_a_gradient_of_one_call_is_not_spread():
    evaluator = make_evaluator(make_objective(lambda x: (1.0, x), x0=np.ones(D)), "threads")
    assert not isinstance(evaluator, FiniteDifferenceEvaluator)
    evaluator.close()
