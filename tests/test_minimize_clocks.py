"""Time limits, timeouts and Ctrl-C in `minimize`."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from clocks import Clock, only_these_take_too_long
from combinations import covering_pairs
from minimizing import Counting, fun, minimize, value
from strategy_names import STRATEGY_NAMES

import optex_core as ox
from optex_core.engine import checkpoint_file
from optex_core.engine.stopping import Status
from optex_core.errors import CapabilityError, EvaluationError
from optex_core.execution.pool_evaluator import PoolEvaluator
from optex_core.execution.workers.evaluation_workers import Workers


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.mark.parametrize("workers", [None, "threads"])
def test_a_time_limit_ends_the_run_at_a_known_point(workers, clock):
    def slow(x):
        clock.advance(0.01)
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
    rows, ended = [], threading.Event()

    def f(x):
        if sum(rows) >= 10:  # a thread that goes on before the caller hears of it is left behind
            ended.wait()
            raise kind
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
    finally:
        ended.set()
    assert result.nfev == sum(rows)
    assert jac != True or result.njev == sum(rows)  # noqa: E712  a string is neither


@pytest.mark.parametrize("workers", ["threads", None])
def test_ctrl_c_from_outside_returns_the_result_so_far(workers):
    fired, ended = threading.Event(), threading.Event()

    def sends(x, *, ctx):
        if ctx.iteration == 3 and not fired.is_set():
            fired.set()
            os.kill(os.getpid(), signal.SIGINT)
            ended.wait(60.0)  # the round is not over before the interrupt is heard
        return fun(x)

    before = signal.getsignal(signal.SIGINT)
    result = minimize(sends, workers=workers, maxiter=2000)
    ended.set()
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


def test_ctrl_c_ends_the_wait_for_what_still_runs_after_the_end(clock, monkeypatch):
    release, left, cancel = threading.Event(), [], PoolEvaluator.cancel

    def hangs(x, *, ctx):
        if ctx.iteration == 2:
            clock.advance(0.0 if ctx.slot else 2.0)
            release.wait(60.0)
            left.append(ctx.slot)
        return fun(x)

    def interrupted(self):
        """What waits is dropped at the end of a run, before what runs is waited for."""
        cancel(self)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    monkeypatch.setattr(PoolEvaluator, "cancel", interrupted)
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


def test_a_quorum_closes_rounds_and_late_gradients_still_count(clock):
    closed, release = threading.Event(), threading.Event()

    def f(x, *, ctx):
        if (ctx.iteration, ctx.slot) == (2, 2):
            while not closed.wait(0.01):
                clock.advance(0.1)
            release.wait(60.0)
        if ctx.iteration == 3:
            closed.set()
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
def test_an_evaluation_that_takes_too_long_is_given_up(on_error, attempts, monkeypatch):
    release, hung = threading.Event(), []
    only_these_take_too_long(monkeypatch, lambda *key: key in hung)

    def f(x, *, ctx):
        assert ctx.deadline == 0.5
        if (ctx.iteration, ctx.slot) == (2, 1) and not ctx.attempt:
            hung.append((ctx.id, 0))
            release.wait(60.0)
        return fun(x)

    try:
        result = minimize(
            f, workers="threads", parallelism=4, timeout=0.5, on_error=on_error, maxiter=5
        )
    finally:
        release.set()
    assert result.nit == 5
    assert "longer than timeout=0.5 s" in result.failures[0].message
    assert len(hung) == len(result.failures) == 1
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


@pytest.mark.parametrize("workers", ["threads", "executor"])
def test_waiting_for_a_worker_takes_nothing_of_the_timeout(workers, clock, monkeypatch):
    own = Workers.threads
    monkeypatch.setattr(Workers, "threads", lambda run, objective, number: own(run, objective, 1))

    def f(x):
        clock.advance(0.75)
        return fun(x)

    with ThreadPoolExecutor(1) as pool:
        workers = pool if workers == "executor" else workers
        # One thread takes 12 s for all: the last have waited for longer than the timeout.
        result = minimize(
            f, workers=workers, strategy="data_parallel", parallelism=16, timeout=1.0, maxiter=1
        )
    assert result.failures == []
    assert result.deterministic


def test_a_theta_that_takes_too_long_ends_the_run():
    release = threading.Event()

    def f(x, *, ctx):
        if ctx.iteration == 2:
            release.wait(60.0)
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


def test_time_in_the_users_hands_is_not_our_own_work(clock):
    def waits(*_):
        clock.advance(0.125)

    for strategy in ("paper", "data_parallel"):
        history = minimize(strategy=strategy, callback=waits, progress=waits, maxiter=3).history
        assert (history.seconds >= 0.125).all()
        assert (history.overhead == 0).all()
    f = Counting(fails=lambda call, ctx: OSError() if ctx.slot == 1 and not ctx.attempt else None)
    history = minimize(f, on_error=lambda failure: (waits(), "retry")[1], maxiter=4).history
    assert (history.seconds[1:-1] >= 0.125).all()
    assert (history.overhead == 0).all()
