"""Failed evaluations in `minimize`, and what each policy makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from combinations import covering_pairs
from minimizing import X0, Counting, MeshError, at, minimize, value
from strategy_names import STRATEGY_NAMES

import optex_core as ox
from optex_core.engine.stopping import Status
from optex_core.errors import EvaluationError, ObjectiveError


@pytest.mark.parametrize("workers", [None, "threads", map])
def test_the_users_exception_at_theta_passes_through_with_the_result_so_far(workers):
    with pytest.raises(MeshError, match="the wing") as caught:
        minimize(
            Counting(fails=at(2, 0, lambda: MeshError("the wing"))), workers=workers, maxiter=9
        )
    result = caught.value.partial_result
    assert (result.nit, result.status, result.stop) == (2, Status.FAILED, {"failed": True})
    assert "MeshError" in result.failures[0].traceback
    assert "the wing" in result.message
    np.testing.assert_array_equal(result.failures[0].x, result.x)
    assert result.best_fun == value(result.best_x) <= min(result.history.value)


class SealedError(Exception):
    def __setattr__(self, name, value):
        raise TypeError(f"{name} cannot be set")


def test_an_exception_that_takes_no_attribute_is_not_hidden_by_that():
    with pytest.raises(SealedError, match="the wing"):
        minimize(Counting(fails=at(2, 0, lambda: SealedError("the wing"))), maxiter=9)


def test_the_users_exception_passes_through_in_the_middle_of_targets_chain():
    with pytest.raises(MeshError) as caught:
        minimize(
            Counting(fails=at(2, 1, lambda: MeshError("the wing"))), strategy="target", maxiter=9
        )
    assert caught.value.partial_result.status is Status.FAILED


@pytest.mark.parametrize(
    "on_error", ["drop", "retry", lambda failure: "drop"], ids=["drop", "retry", "callable"]
)
def test_a_theta_that_cannot_be_had_ends_the_run_under_every_policy(on_error):
    with pytest.raises(EvaluationError, match="After 2 iterations and") as caught:
        minimize(
            Counting(fails=at(2, 0, lambda: MeshError("the wing"), 99)),
            on_error=on_error,
            maxiter=9,
        )
    assert isinstance(caught.value.__cause__, MeshError)
    assert caught.value.partial_result.nit == 2
    assert len(caught.value.partial_result.failures) == (4 if on_error == "retry" else 1)


PROXY_FAULTS = {
    "raises": lambda: MeshError("flaky"),
    "nan": lambda: (np.nan, X0),
    "inf": lambda: (1.0, X0 * np.inf),
}


@pytest.mark.parametrize(
    ("strategy", "what", "on_error"),
    covering_pairs(
        ["auto", "corrected", "data_parallel", "line_search", "paper", "repeat_last", "verified"],
        PROXY_FAULTS,
        ["raise", "drop", "callable"],
    ),
)
def test_a_proxy_never_ends_a_run(strategy, what, on_error):
    f = Counting(fails=lambda call, ctx: PROXY_FAULTS[what]() if ctx.slot else None)
    policy = (lambda failure: "raise") if on_error == "callable" else on_error
    result = minimize(f, strategy=strategy, on_error=policy, maxiter=5)
    assert (result.nit, result.status) == (5, Status.MAXITER)
    assert len(result.failures) >= 4
    assert result.njev == f.calls


@pytest.mark.parametrize("workers", [None, "threads"])
@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_retries_give_the_bits_of_a_run_without_faults(strategy, workers):
    plain = minimize(strategy=strategy, maxiter=6)
    f = Counting(
        fails=lambda call, ctx: (
            OSError("licence") if not ctx.attempt and (ctx.id * 7) % 3 == 0 else None
        )
    )
    result = minimize(f, strategy=strategy, maxiter=6, on_error="retry", workers=workers)
    np.testing.assert_array_equal(result.x, plain.x)
    np.testing.assert_array_equal(result.jac, plain.jac)
    np.testing.assert_array_equal(result.history.value, plain.history.value)
    np.testing.assert_array_equal(result.history.evaluations, plain.history.evaluations)
    assert result.deterministic
    assert {f.attempt for f in result.failures} == {0}


def test_a_callable_decides_about_every_failure():
    asked = []

    def decide(failure):
        asked.append(
            (
                failure.iteration,
                failure.slot,
                failure.attempt,
                failure.message,
                failure.traceback != "",
            )
        )
        return "retry" if failure.attempt < 1 else "drop"

    result = minimize(
        Counting(fails=at(2, 1, lambda: MeshError("flaky"), 9)), on_error=decide, maxiter=4
    )
    assert asked == [(2, 1, 0, "MeshError: flaky", True), (2, 1, 1, "MeshError: flaky", True)]
    assert result.nit == 4
    with pytest.raises(ValueError, match="the answer of on_error must be one of"):
        minimize(
            Counting(fails=at(2, 1, lambda: MeshError("flaky"))),
            on_error=lambda f: "ignore",
            maxiter=4,
        )


def test_too_many_failures_end_the_run():
    with pytest.raises(EvaluationError, match="3 failed, the last with: flaky") as caught:
        minimize(
            Counting(fails=lambda call, ctx: MeshError("flaky") if ctx.slot else None),
            max_failures=2,
            maxiter=9,
        )
    result = caught.value.partial_result
    assert (result.status, result.stop) == (Status.TOO_MANY_FAILURES, {"too_many_failures": True})
    f = Counting(fails=lambda call, ctx: MeshError("flaky") if ctx.slot else None)
    with pytest.raises(EvaluationError):
        minimize(f, max_failures=0, on_error="retry", maxiter=9)


@pytest.mark.parametrize(
    "what", [lambda: (np.nan, X0), lambda: (1.0, X0 * np.nan)], ids=["value", "gradient"]
)
@pytest.mark.parametrize("on_error", ["raise", "drop", "retry"])
def test_a_theta_that_is_not_finite_is_a_divergence_and_returns(what, on_error):
    result = minimize(Counting(fails=at(3, 0, what, 99)), on_error=on_error, maxiter=9)
    assert (result.nit, result.status, result.stop, result.success) == (
        3,
        Status.DIVERGED,
        {"diverged": True},
        False,
    )
    assert "Iteration 3" in result.message
    assert "x = [" in result.message
    assert result.best_fun == value(result.best_x) <= result.history.value.min()
    assert len(result.failures) == (4 if on_error == "retry" else 1)


@pytest.mark.parametrize("workers", [None, "threads", map])
def test_the_message_is_about_theta_whatever_else_failed(workers):
    fails = lambda call, ctx: MeshError(f"slot {ctx.slot}") if ctx.iteration == 3 else None  # noqa: E731
    with pytest.raises(EvaluationError, match="slot 0 at x") as caught:
        minimize(Counting(fails=fails), on_error="drop", workers=workers, maxiter=9)
    assert str(caught.value.__cause__) == "slot 0"
    assert caught.value.detail.slot == 0


def test_a_learning_rate_far_too_large_diverges_and_returns():
    with np.errstate(over="ignore", invalid="ignore"):
        for strategy in STRATEGY_NAMES:
            result = minimize(optimizer=ox.SGD(1e60), strategy=strategy, maxiter=99)
            assert result.status is Status.DIVERGED
            assert np.isfinite(result.x).all()


@pytest.mark.parametrize("workers", [None, "threads", map])
def test_a_wrong_return_is_a_bug_and_ends_the_run_whatever_the_policy(workers):
    f = Counting(
        fails=lambda call, ctx: (1.0, [1.0]) if (ctx.iteration, ctx.slot) == (2, 1) else None
    )
    with pytest.raises(ObjectiveError, match=r"shape \(3,\), got shape \(1,\)") as caught:
        minimize(f, on_error="retry", maxiter=9, workers=workers)
    assert caught.value.partial_result.nit == 2
    assert caught.value.partial_result.njev <= f.calls


@pytest.mark.parametrize(
    "refused", [{"partial_result"}, {"partial_result", "__notes__"}], ids=["slots", "frozen"]
)
def test_an_exception_that_cannot_carry_the_result_passes_all_the_same(refused):
    class Closed(Exception):
        def __setattr__(self, name, what):
            if name in refused:
                raise AttributeError(name)
            super().__setattr__(name, what)

    with pytest.raises(Closed) as caught:
        minimize(Counting(fails=at(1, 0, Closed)), maxiter=9)
    assert not hasattr(caught.value, "partial_result")
    assert len(refused) == 2 or "after 1 iterations" in caught.value.__notes__[0]
