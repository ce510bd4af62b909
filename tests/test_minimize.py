"""The front door: callables in every form, counters, the callback, failures and their policies,
clocks, Ctrl-C, the progress line.
"""

from __future__ import annotations

import collections
import inspect
import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from combinations import covering_pairs
from scipy import optimize
from strategy_names import STRATEGY_NAMES

import optex_core as ox
from optex_core.engine import checkpoint_file
from optex_core.engine.status import Status
from optex_core.errors import CapabilityError, EvaluationError, ObjectiveError

X0 = np.array([3.0, -4.0, 1.0])
SCALES = np.array([1.0, 2.0, 3.0])


def value(x):
    return float(SCALES @ x**2) if x.dtype.kind == "f" else complex(SCALES @ x**2)


def gradient(x):
    return 2.0 * SCALES * x


def fun(x):
    return value(x), gradient(x)


def minimize(f=fun, x0=X0, **options):
    return ox.minimize(
        f,
        x0,
        **{"optimizer": ox.SGD(0.05), "strategy": "paper", "parallelism": 3, "rng": 0, **options},
    )


class Counting:
    """Counts its calls, from any thread, and fails where it is told to."""

    def __init__(self, f=fun, fails=lambda call, ctx: None):
        self.f, self.fails, self.calls, self.lock = f, fails, 0, threading.Lock()
        self.seen = []

    def __call__(self, x, *, ctx):
        with self.lock:
            self.calls += 1
            call = self.calls - 1
            self.seen.append(ctx)
        error = self.fails(call, ctx)
        if error is not None:
            if isinstance(error, BaseException):
                raise error
            return error
        return self.f(x)


# -- the plain use ---------------------------------------------------------------------------------


def test_nothing_but_fun_and_x0_is_needed():
    result = ox.minimize(lambda x: (x @ x, 2 * x), [0.01, -0.02])
    assert result.success
    assert result.stop == {"gtol": 1e-6}
    assert isinstance(result, optimize.OptimizeResult)
    assert "success: True" in repr(result)
    again = ox.minimize(lambda x: (x @ x, 2 * x), [0.01, -0.02], rng=result.seed)
    np.testing.assert_array_equal(again.x, result.x)


def test_starts_of_every_form():
    np.testing.assert_array_equal(
        ox.minimize(lambda x: (x @ x, 2 * x), 3, optimizer=ox.SGD(0.5), maxiter=1).x, [0.0]
    )
    assert minimize(x0=[3, -4, 1], maxiter=1).x.dtype == np.float64
    assert (
        ox.minimize(
            lambda x, a, b: (a * x @ x, 2 * a * x + 0 * b),
            X0,
            (2.0, 1.0),
            optimizer=ox.SGD(0.1),
            maxiter=1,
            rng=0,
        ).nfev
        == 5  # four at x0, and the closing one
    )
    assert (
        ox.minimize(
            lambda x, a: (a * x @ x, 2 * a * x), X0, 2.0, optimizer=ox.SGD(0.1), maxiter=1, rng=0
        ).nfev
        == 5  # four at x0, and the closing one
    )


def test_bounds_are_never_left_not_even_by_differences():
    low, high = np.array([1.0, -5.0, -1.0]), np.array([5.0, -0.5, 1.0])
    seen = []

    def f(x):
        seen.append(x.copy())
        return value(x)

    result = minimize(f, jac="3-point", bounds=list(zip(low, high, strict=True)), gtol=1e-6)
    assert result.status is Status.GTOL
    # Central differences at a bound are good to eps^(2/3).
    np.testing.assert_allclose(result.x, [1.0, -0.5, 0.0], atol=1e-6)
    assert (np.array(seen) >= low).all()
    assert (np.array(seen) <= high).all()


# -- counters --------------------------------------------------------------------------------------

JACS = {
    "True": (fun, True, None),
    "callable": (value, gradient, None),
    "2-point": (value, "2-point", 1e-6),
    "3-point": (value, "3-point", 1e-8),
    "cs": (value, "cs", 1e-14),
    "gradient only": (None, gradient, None),
}


@pytest.mark.parametrize(
    ("kind", "strategy", "workers"), covering_pairs(JACS, STRATEGY_NAMES, [None, "threads"])
)
def test_counters_count_calls(kind, strategy, workers):
    f, jac, tolerance = JACS[kind]
    if f is None and strategy == "line_search":
        with pytest.raises(CapabilityError, match="strategy 'line_search' needs values"):
            minimize(f, jac=jac, strategy=strategy)
        return
    counted = None if f is None else Counting(f)
    counted_jac = Counting(jac) if callable(jac) else jac
    result = minimize(
        counted, jac=counted_jac, strategy=strategy, workers=workers, maxiter=5, gtol=1.0
    )
    assert result.nfev == (0 if f is None else counted.calls)
    if callable(jac):
        assert result.njev == counted_jac.calls
    elif jac is True:
        assert result.njev == counted.calls
    else:
        per_gradient = {"2-point": 4, "3-point": 7, "cs": 4}[jac]
        assert result.nfev == per_gradient * result.njev
    if tolerance:  # the stencil's own accuracy, relative to gradients of about 20
        np.testing.assert_allclose(result.jac, gradient(result.x), atol=20 * tolerance)
    assert np.isnan(result.fun) == (f is None)


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_counters_count_failed_and_repeated_calls(strategy):
    rng = np.random.default_rng(0)
    f = Counting(fails=lambda call, ctx: OSError("licence") if rng.random() < 0.3 else None)
    result = minimize(f, strategy=strategy, maxiter=6, on_error="retry", max_retries=20)
    assert (result.nfev, result.njev) == (f.calls, f.calls)
    assert f.calls == int(result.history.evaluations.sum()) + len(result.failures)
    assert len(result.failures) > 2


def at_random(share):
    """Fails at so many calls, but not at the first."""
    rng = np.random.default_rng(0)
    return lambda call, ctx: OSError("licence") if call and rng.random() < share else None


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_max_evals_is_a_cap(strategy):
    for max_evals in range(1, 10):
        f = Counting(fails=at_random(0.2))
        try:
            result = minimize(f, strategy=strategy, max_evals=max_evals, on_error="retry")
        except EvaluationError as error:  # no evaluation was left to try theta again
            result = error.partial_result
        assert result.njev == f.calls <= max_evals


@pytest.mark.parametrize(
    ("strategy", "workers"),
    [(name, (None, "threads", map)[i % 3]) for i, name in enumerate(STRATEGY_NAMES)],
)
def test_one_retry_at_the_end_of_the_budget_is_paid_by_the_closing_point(strategy, workers):
    for max_evals in range(2, 9):
        plain = minimize(strategy=strategy, max_evals=max_evals)
        # the closing point itself has nothing left to be tried again with
        for iteration in range(plain.nit):
            f = Counting(fails=at(iteration, 0, lambda: OSError("licence")))
            result = minimize(
                f, strategy=strategy, max_evals=max_evals, on_error="retry", workers=workers
            )
            assert result.status is Status.MAX_EVALS
            assert result.njev == f.calls <= max_evals
            assert result.fun == value(result.x)
            np.testing.assert_array_equal(result.jac, gradient(result.x))


def test_rows_of_a_vectorized_call_are_counted():
    rows = []

    def f(X):
        rows.append(len(X))
        return np.array([value(x) for x in X]), np.array([gradient(x) for x in X])

    result = minimize(f, vectorized=True, maxiter=4)
    assert (result.nfev, result.njev) == (sum(rows), sum(rows))
    assert rows == [1, 3, 3, 3, 1]


def test_seeds_and_contexts_are_those_of_the_contract():
    f = Counting(
        fails=lambda call, ctx: (
            OSError("once") if ctx.iteration == 2 and ctx.slot == 1 and not ctx.attempt else None
        )
    )
    result = minimize(f, maxiter=3, on_error="retry", rng=9)
    assert result.seed == 9
    for c in f.seen:
        assert (
            c.seed
            == np.random.SeedSequence(9, spawn_key=(c.iteration, c.slot)).generate_state(1)[0]
        )
        assert (c.id, c.workdir, c.deadline) == (c.iteration * 3 + c.slot, None, None)
    assert [c.attempt for c in f.seen if (c.iteration, c.slot) == (2, 1)] == [0, 1]
    shifted = collections.Counter()

    def differenced(x, *, seed):
        shifted[seed] += 1
        return value(x)

    minimize(differenced, jac="2-point", maxiter=2)
    assert set(shifted.values()) == {4}


# -- the callback and the progress line ------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "parallelism", "workers"),
    covering_pairs(STRATEGY_NAMES, [1, 3], [None, "threads"]),
)
def test_call_k_of_the_callback_reports_theta_k(strategy, parallelism, workers):
    seen, shown = [], []
    result = minimize(
        strategy=strategy,
        parallelism=parallelism,
        workers=workers,
        maxiter=5,
        callback=seen.append,
        progress=shown.append,
    )
    assert [r.nit for r in seen] == [1, 2, 3, 4, 5]
    assert [r.nit for r in shown] == [0, 1, 2, 3, 4, 5]
    for r in seen:
        # Averages of equal numbers may differ from them in the last digit.
        np.testing.assert_allclose(r.jac, gradient(r.x), rtol=1e-15)
        np.testing.assert_allclose(r.fun, value(r.x), rtol=1e-15)
    np.testing.assert_array_equal(seen[-1].x, result.x)
    assert [r.fun for r in seen] == result.history.value[1:].tolist()


@pytest.mark.parametrize("workers", [None, "threads"])
@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_a_callback_may_stop_the_run(strategy, workers):
    def stops(intermediate_result):
        if intermediate_result.nit == 3:
            raise StopIteration

    f = Counting()
    result = minimize(f, strategy=strategy, workers=workers, maxiter=9, callback=stops)
    assert (result.nit, result.status, result.stop, result.success) == (
        3,
        Status.CALLBACK,
        {"callback": True},
        False,
    )
    np.testing.assert_allclose(result.fun, value(result.x), rtol=1e-15)
    assert result.njev == f.calls
    assert minimize(strategy=strategy, maxiter=9, callback=lambda r: r.nit == 3).nit == 3


def test_what_a_callback_raises_passes_through_with_the_result_so_far():
    def fails(result):
        if result.nit == 2:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        minimize(maxiter=9, callback=fails)
    assert caught.value.partial_result.nit == 2


def test_parallelism_without_workers_is_said_once_in_the_log(caplog):
    with caplog.at_level(logging.INFO, logger="optex_core"):
        minimize(maxiter=3)
        assert caplog.text.count("without workers") == 1
        caplog.clear()
        minimize(maxiter=3, parallelism=1)
        minimize(maxiter=3, workers="threads")
    assert "without workers" not in caplog.text


# -- failures --------------------------------------------------------------------------------------


class MeshError(Exception):
    """A user's own."""


def at(iteration, slot, what, attempts=1):
    """Fails at one point, so many times."""
    return lambda call, ctx: (
        what()
        if (ctx.iteration, ctx.slot) == (iteration, slot) and ctx.attempt < attempts
        else None
    )


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


# -- clocks and Ctrl-C -----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [None, "threads"])
def test_a_time_limit_ends_the_run_at_a_known_point(workers):
    def slow(x):
        time.sleep(0.01)
        return fun(x)

    result = minimize(slow, max_time=0.15, workers=workers)
    assert (result.status, result.stop, result.deterministic) == (
        Status.MAX_TIME,
        {"max_time": 0.15},
        False,
    )
    assert result.nit > 0
    assert np.isnan(result.fun) or result.fun == value(result.x)
    assert minimize(max_time=0).njev == 0
    assert minimize(max_time=99.0, maxiter=3).deterministic


def test_ctrl_c_in_fun_returns_the_result_so_far():
    f = Counting(
        fails=lambda call, ctx: (
            KeyboardInterrupt() if ctx.iteration == 3 and ctx.slot == 1 else None
        )
    )
    result = minimize(f, maxiter=9)
    assert (result.nit, result.status, result.stop, result.success) == (
        3,
        Status.INTERRUPTED,
        {"interrupted": True},
        False,
    )
    assert result.fun == value(result.x)
    assert result.message == Status.INTERRUPTED.message


@pytest.mark.parametrize(
    ("kind", "execution", "jac"),
    covering_pairs(
        [KeyboardInterrupt, SystemExit], [None, "threads", map, "vectorized"], [True, "2-point"]
    ),
)
def test_calls_that_an_interrupt_cuts_off_are_counted(kind, execution, jac):
    rows = []

    def f(x):
        rows.append(len(x) if x.ndim == 2 else 1)
        if sum(rows) >= 10:
            raise kind
        answer = [fun(y) for y in np.atleast_2d(x)]
        v, g = np.array([v for v, _ in answer]), np.array([g for _, g in answer])
        v, g = (v, g) if x.ndim == 2 else (v[0], g[0])
        return (v, g) if jac is True else v

    execution = {"vectorized": True} if execution == "vectorized" else {"workers": execution}
    # others that run are left behind
    parallelism = 1 if execution.get("workers") == "threads" else 3
    try:
        result = minimize(f, jac=jac, parallelism=parallelism, maxiter=99, **execution)
        assert result.status is Status.INTERRUPTED
    except SystemExit as error:
        result = error.partial_result
    assert result.nfev == sum(rows)
    assert jac != True or result.njev == sum(rows)  # noqa: E712  a string is neither


@pytest.mark.parametrize("workers", ["threads", None])
def test_ctrl_c_from_outside_returns_the_result_so_far(workers):
    fired = threading.Event()

    def sends(x, *, ctx):
        if ctx.iteration == 3 and not fired.is_set():
            fired.set()
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        return fun(x)

    before = signal.getsignal(signal.SIGINT)
    result = minimize(sends, workers=workers, maxiter=2000)
    assert (result.nit, result.status) == (3, Status.INTERRUPTED)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_within_our_own_work_waits_until_the_state_is_whole(tmp_path):
    def interrupts(result):  # the callback runs inside a tell
        if result.nit == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.02)

    result = minimize(maxiter=6, callback=interrupts, checkpoint=tmp_path / "run")
    assert result.status is Status.INTERRUPTED
    assert result.nit in {3, 4}
    whole = minimize(maxiter=6, checkpoint=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(whole.x, minimize(maxiter=6).x)


def test_ctrl_c_ends_the_wait_for_what_still_runs_after_the_end():
    release, left, begin = threading.Event(), [], time.monotonic()

    def hangs(x, *, ctx):
        if ctx.iteration == 2 and not ctx.slot:
            # Two iterations had most of a second, and the interrupt comes after its end; neither
            # depends on how busy the machine is.
            threading.Timer(
                max(0.0, begin + 1.3 - time.monotonic()), os.kill, (os.getpid(), signal.SIGINT)
            ).start()
        if ctx.iteration == 2:
            release.wait(60.0)
            left.append(ctx.slot)
        return fun(x)

    try:
        result = minimize(hangs, workers="threads", max_time=1.0)
        assert not left, "it was waited for"
    finally:
        release.set()
    assert (result.nit, result.status) == (2, Status.MAX_TIME)
    assert result.njev == int(result.history.evaluations.sum())


def test_what_waits_behind_an_evaluation_that_hangs_is_dropped_at_the_end():
    release, left = threading.Event(), []

    def hangs(x, *, ctx):
        if ctx.iteration == 2:
            release.wait(60.0)
            left.append(ctx.slot)
        return fun(x)

    with ThreadPoolExecutor(1) as pool:
        try:
            with pytest.raises(EvaluationError, match="longer than timeout"):
                minimize(hangs, workers=pool, timeout=0.5, maxiter=9)
            assert not left, "it was waited for"
        finally:
            release.set()


@pytest.mark.parametrize("times", [1, 2])
def test_a_second_ctrl_c_does_not_wait_and_does_not_touch_the_checkpoint(tmp_path, times):
    class Torn(ox.SGD):
        """Is interrupted in the middle of a step."""

        def step(self, x, g, state, *args, **keywords):
            if len(saves) == 3 and not fired:
                fired.append(True)
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(0.01)
            return super().step(x, g, state, *args, **keywords)

    fired, saves, path, write = [], [], tmp_path / "run", checkpoint_file.write_checkpoint

    def noted(to, header, arrays):
        saves.append(header["state"]["nit"])
        write(to, header, arrays)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_file, "write_checkpoint", noted)
        result = minimize(optimizer=Torn(0.05), maxiter=9, checkpoint=path)
    assert result.status is Status.INTERRUPTED
    assert saves == ([1, 2, 3, 3] if times == 1 else [1, 2, 3])
    whole = minimize(optimizer=Torn(0.05), maxiter=9, checkpoint=path, resume=True)
    np.testing.assert_array_equal(whole.x, minimize(maxiter=9).x)


def test_other_threads_and_other_handlers_are_left_alone():
    results = []
    thread = threading.Thread(target=lambda: results.append(minimize(maxiter=3)))
    thread.start()
    thread.join()
    assert results[0].nit == 3
    mine = lambda *_: None  # noqa: E731
    before = signal.signal(signal.SIGINT, mine)
    try:
        minimize(maxiter=3, callback=lambda r: results.append(signal.getsignal(signal.SIGINT)))
    finally:
        signal.signal(signal.SIGINT, before)
    assert results[1:] == [mine] * 3


def test_a_quorum_closes_rounds_and_late_gradients_still_count():
    release = threading.Event()

    def f(x, *, ctx):
        if (ctx.iteration, ctx.slot) == (2, 2):
            release.wait(5.0)
        if ctx.iteration == 4:
            release.set()
        return fun(x)

    result = minimize(f, workers="threads", quorum=2, grace=0.3, maxiter=6)
    assert result.history.evaluations[2] == 2
    assert result.history.accepted[2] == 2
    assert not result.deterministic
    assert result.njev == int(result.history.evaluations.sum()) + 1
    assert minimize(workers="threads", quorum=3, maxiter=6).deterministic


@pytest.mark.parametrize(("on_error", "attempts"), [("drop", 1), ("retry", 2)])
def test_an_evaluation_that_takes_too_long_is_given_up(on_error, attempts):
    release = threading.Event()

    def f(x, *, ctx):
        # the others take microseconds, or as long as a busy machine lets them wait
        assert ctx.deadline == 2.0
        if (ctx.iteration, ctx.slot) == (2, 1) and not ctx.attempt:
            release.wait(60.0)
        return fun(x)

    try:
        result = minimize(
            f, workers="threads", parallelism=4, timeout=2.0, on_error=on_error, maxiter=5
        )
    finally:
        release.set()
    assert result.nit == 5
    assert "longer than timeout=2 s" in result.failures[0].message
    assert result.history.accepted[2] == (1 if on_error == "drop" else 4)
    assert not result.deterministic


@pytest.mark.parametrize(
    "options",
    [{"timeout": 0.3}, {"quorum": 2}, {"quorum": 2, "grace": 1.0}],
    ids=["timeout", "quorum", "grace"],
)
@pytest.mark.parametrize(
    ("execution", "says"),
    [
        ({}, "workers=None evaluates"),
        ({"workers": map}, "workers=.* evaluates"),
        ({"vectorized": True}, "vectorized=True evaluates"),
    ],
    ids=["serial", "map", "vectorized"],
)
def test_clocks_that_cannot_act_are_refused_before_anything_runs(options, execution, says):
    f = Counting()
    with pytest.raises(
        CapabilityError, match=f"{next(iter(options))}=.* in the background, but .*{says}"
    ):
        minimize(f, **options, **execution)
    assert f.calls == 0


@pytest.mark.parametrize("workers", ["threads", "two threads"])
def test_waiting_for_a_worker_takes_nothing_of_the_timeout(workers):
    def f(x):
        time.sleep(0.15)
        return fun(x)

    with ThreadPoolExecutor(2) as pool:
        workers = pool if workers == "two threads" else workers
        # Two threads take 1.2 s for all: the last have waited for longer than the timeout, and each
        # has 0.85 s of it for a busy machine.
        result = minimize(
            f, workers=workers, strategy="data_parallel", parallelism=16, timeout=1.0, maxiter=1
        )
    assert result.failures == []
    assert result.deterministic


def test_a_theta_that_takes_too_long_ends_the_run():
    release = threading.Event()

    def f(x, *, ctx):
        if ctx.iteration == 2:
            release.wait(5.0)
        return fun(x)

    try:
        with pytest.raises(EvaluationError, match=r"longer than timeout=0.3 s"):
            minimize(f, workers="threads", timeout=0.3, maxiter=5)
    finally:
        release.set()


def test_clocks_are_in_the_history_and_nowhere_else():
    def slow(x):
        time.sleep(0.002)
        return fun(x)

    for strategy in STRATEGY_NAMES:
        history = minimize(slow, strategy=strategy, maxiter=3).history
        assert (history.slowest >= 0.002).all()
        assert (history.seconds >= history.evaluations * 0.002).all()
        assert (history.overhead >= 0).all()
        assert (history.overhead < history.seconds).all()


def test_time_in_the_users_hands_is_not_our_own_work():
    def waits(*_):
        time.sleep(0.1)

    # Own work takes 1 ms, and what a busy machine makes of it; counted as ours, two waits would be
    # 200 ms and one 100.
    for strategy in ("paper", "data_parallel"):
        history = minimize(strategy=strategy, callback=waits, progress=waits, maxiter=3).history
        assert (history.seconds >= 0.1).all()
        assert np.median(history.overhead) < 0.1
    f = Counting(fails=lambda call, ctx: OSError() if ctx.slot == 1 and not ctx.attempt else None)
    history = minimize(f, on_error=lambda failure: (waits(), "retry")[1], maxiter=4).history
    assert (history.seconds[1:-1] >= 0.1).all()
    assert np.median(history.overhead) < 0.1


def test_every_argument_of_the_contract_is_there():
    names = list(inspect.signature(ox.minimize).parameters)
    assert names[:3] == ["fun", "x0", "args"]
    rest = (
        "jac optimizer parallelism strategy estimator workers vectorized bounds backend x_scale "
        "maxiter gtol ftol xtol target max_time max_evals callback progress rng checkpoint "
        "checkpoint_every resume tag on_error max_retries max_failures timeout quorum grace "
        "rel_step"
    )
    assert set(names[3:]) == set(rest.split())
