"""Real processes that raise, return nan, are killed, or hang: the run has the bits of the one
without faults, and leaves nothing behind.
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from clocks import Clock, only_these_take_too_long
from saved_runs import X0, assert_same_path, exact

import optex_core as ox
from optex_core.errors import EvaluationError
from optex_core.execution.workers import process_cleanup

RUN = dict(optimizer=ox.SGD(2e-3, momentum=0.5), parallelism=3, strategy="verified", rng=5)


class Faulty:
    """Does `fault` to so many per cent of the evaluations, at their first attempts, and notes every
    call in a file.
    """

    def __init__(self, folder, fault, per_cent=20):
        self.folder, self.fault, self.per_cent = Path(folder), fault, per_cent

    def chosen(self, ctx):
        return np.random.default_rng([3, ctx.id]).random() < self.per_cent / 100

    def __call__(self, x, *, ctx):
        note(self.folder / "calls", f"{ctx.id} {ctx.attempt} {os.getpid()}\n")
        fault = getattr(self, self.fault)(x, ctx) if self.chosen(ctx) and not ctx.attempt else None
        return exact(x) if fault is None else fault

    def calls(self):
        return [
            tuple(map(int, line.split()))
            for line in (self.folder / "calls").read_text().splitlines()
        ]

    def raises(self, x, ctx):
        raise EvaluationError("no licence", detail={"iteration": ctx.iteration})

    def gives_nan(self, x, ctx):
        return np.nan, x * np.nan

    def is_killed(self, x, ctx):
        """Once: a point that is lost with its worker is asked again with the same attempt."""
        with contextlib.suppress(FileExistsError):
            (self.folder / f"killed{ctx.id}").touch(exist_ok=False)
            subprocess.Popen(["sleep", "600"], start_new_session=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def hangs(self, x, ctx):
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        (self.folder / f"hangs{ctx.id}").touch()
        time.sleep(600)

    def hanging(self, id_, attempt):
        return not attempt and (self.folder / f"hangs{id_}").exists()


def note(path, line):
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, line.encode())
    os.close(handle)


def assert_nothing_left():
    """No process that this one, or a worker of it, has started; what was killed needs a core."""
    end = time.monotonic() + 60.0
    while ours() and time.monotonic() < end:
        time.sleep(0.02)
    assert not ours(), "left behind"


def ours():
    found = []
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else []:
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                marks = [
                    e
                    for e in (entry / "environ").read_bytes().split(b"\0")
                    if e.startswith(process_cleanup.TOKEN_VARIABLE.encode() + b"=")
                ]
                if any(
                    m.startswith(f"{process_cleanup.TOKEN_VARIABLE}={os.getpid()}-".encode())
                    for m in marks
                ):
                    found.append((entry / "cmdline").read_bytes())
    return found


@pytest.mark.parametrize("fault", ["raises", "gives_nan"])
def test_one_in_five_fails_and_is_tried_again(tmp_path, fault):
    f = Faulty(tmp_path, fault)
    result = ox.minimize(f, X0, workers=2, maxiter=40, on_error="retry", **RUN)
    assert_same_path(result, ox.minimize(exact, X0, maxiter=40, **RUN))
    calls = f.calls()
    assert result.deterministic
    assert result.njev == result.nfev == len(calls)
    assert len(result.failures) == len(calls) - len({id_ for id_, _, _ in calls}) > 10
    assert os.getpid() not in {pid for _, _, pid in calls}
    if fault == "raises":
        assert isinstance(result.failures[0].error, EvaluationError)
        assert result.failures[0].error.detail == {"iteration": result.failures[0].iteration}
        assert "no licence" in result.failures[0].traceback
    assert_nothing_left()


def test_one_in_five_fails_and_is_dropped(tmp_path):
    class Proxies(Faulty):
        def chosen(self, ctx):
            return ctx.slot and super().chosen(ctx)

    f = Proxies(tmp_path, "raises")
    result = ox.minimize(f, X0, workers=2, maxiter=40, on_error="drop", **RUN)
    assert result.nit == 40
    assert result.njev == len(f.calls())
    assert (
        len(result.failures)
        == sum(f.chosen(ox.Context(i, 0, i // 3, i % 3)) for i, _, _ in f.calls())
        > 5
    )
    assert result.fun < exact(X0)[0]


def test_workers_that_are_killed_during_fifty_rounds_cost_nothing_but_time(tmp_path, caplog):
    f = Faulty(tmp_path, "is_killed", per_cent=4)
    result = ox.minimize(f, X0, workers=2, maxiter=50, **RUN)
    assert_same_path(result, ox.minimize(exact, X0, maxiter=50, **RUN))
    times = collections.Counter(id_ for id_, _, _ in f.calls())
    killed = {int(p.name.removeprefix("killed")) for p in tmp_path.glob("killed*")}
    assert len(killed) >= 4
    # what the others were computing was not lost
    assert {id_ for id_, n in times.items() if n > 1} == killed
    assert {attempt for _, attempt, _ in f.calls()} == {0}
    # a call that is lost was made
    assert result.njev == result.nfev == len(f.calls()) == len(times) + len(killed)
    assert not result.failures
    assert caplog.text.count("a worker process died") == len(killed)
    assert_nothing_left()  # nor the programs that the killed workers had started


def test_workers_that_are_killed_from_outside_cost_nothing_but_time(tmp_path):
    stop, killed = threading.Event(), []

    def kill():
        while not stop.wait(0.02) and len(killed) < 2:
            for waits in set(tmp_path.glob("waits*")) - set(killed):
                if pid := waits.read_text():
                    killed.append(waits)
                    os.kill(int(pid), signal.SIGKILL)

    class Waiting(Faulty):
        def chosen(self, ctx):
            """Two evaluations wait for their end; the second time they do not."""
            waits = self.folder / f"waits{ctx.id}"
            if ctx.id in (20, 51) and not waits.exists():
                waits.write_text(str(os.getpid()))
                time.sleep(600)
            return False

    f = Waiting(tmp_path, "raises")
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        result = ox.minimize(f, X0, workers=2, maxiter=50, **RUN)
    finally:
        stop.set()
        killer.join()
    assert_same_path(result, ox.minimize(exact, X0, maxiter=50, **RUN))
    assert len(killed) == 2
    assert result.njev >= len(f.calls())  # a worker that had a call may die before it makes it
    assert_nothing_left()


def test_a_hanging_worker_is_killed_and_replaced_while_the_others_go_on(tmp_path, monkeypatch):
    f = Faulty(tmp_path, "hangs", per_cent=9)
    only_these_take_too_long(monkeypatch, f.hanging)
    result = ox.minimize(f, X0, workers=3, maxiter=18, timeout=0.5, on_error="retry", **RUN)
    assert_same_path(result, ox.minimize(exact, X0, maxiter=18, **RUN))
    hung = {id_ for id_, _, _ in f.calls() if f.chosen(ox.Context(id_, 0, 0, 0))}
    assert {failure.id for failure in result.failures} == hung
    assert hung
    assert "longer than timeout=0.5 s" in result.failures[0].message
    assert not result.deterministic
    times = collections.Counter(id_ for id_, _, _ in f.calls())
    # what the others were computing was not lost
    assert {id_ for id_, n in times.items() if n > 1} == hung
    assert result.njev == len(f.calls())
    assert_nothing_left()


def test_starting_a_worker_takes_nothing_of_the_timeout(tmp_path, monkeypatch):
    begun, go, clock, ended = tmp_path / "begun", tmp_path / "go", Clock(monkeypatch), []

    class Heavy:
        """Takes longer to load than an evaluation may take."""

        def __call__(self, x):
            return exact(x)

        def __setstate__(self, state):
            begun.touch()
            while not go.exists():
                time.sleep(0.01)

        def __getstate__(self):
            return {"loaded": False}

    def load():
        while not begun.exists() and not ended:
            time.sleep(0.01)
        clock.advance(100.0)
        time.sleep(0.5)  # the loop looks at its clock every 0.2 s
        go.touch()

    loader = threading.Thread(target=load)
    loader.start()
    try:
        result = ox.minimize(Heavy(), X0, workers=1, maxiter=3, timeout=0.2, **RUN)
    finally:
        ended.append(True)
        loader.join()
    assert (result.nit, result.failures, result.deterministic) == (3, [], True)


def test_a_hanging_thread_is_left_behind_and_another_takes_its_slot(monkeypatch):
    release, hung = threading.Event(), []
    only_these_take_too_long(monkeypatch, lambda id_, attempt: id_ in hung and not attempt)

    def f(x, *, ctx):
        if ctx.id in (4, 5) and not ctx.attempt:
            hung.append(ctx.id)
            release.wait(60.0)
        return exact(x)

    try:
        result = ox.minimize(
            f, X0, workers="threads", maxiter=8, timeout=0.5, on_error="retry", **RUN
        )
        assert not release.is_set()
    finally:
        release.set()
    assert sorted(hung) == [4, 5] == sorted(failure.id for failure in result.failures)
    assert_same_path(result, ox.minimize(exact, X0, maxiter=8, **RUN))


@pytest.mark.parametrize("workers", ["threads", 2])
def test_evaluations_that_were_given_up_count_in_the_budget(tmp_path, monkeypatch, workers):
    release = threading.Event()

    class Stuck(Faulty):
        def hangs(self, x, ctx):
            (self.folder / f"hangs{ctx.id}").touch()
            release.wait(60.0)

    f = Stuck(tmp_path, "hangs", 20) if workers == "threads" else Faulty(tmp_path, "hangs", 20)
    only_these_take_too_long(monkeypatch, f.hanging)
    try:
        result = ox.minimize(
            f, X0, workers=workers, max_evals=11, timeout=0.5, on_error="retry", **RUN
        )
    finally:
        release.set()
    assert result.failures
    assert result.njev == len(f.calls()) == 11
    assert result.stop == {"max_evals": 11}


def test_a_users_pool_whose_workers_all_hang_ends_the_run_with_a_sentence(monkeypatch):
    monkeypatch.setattr("optex_core.runs.evaluation_loop.MAX_BLOCKED_TIMEOUTS", 2.0)
    release, hung = threading.Event(), []
    only_these_take_too_long(monkeypatch, lambda *key: key in hung)

    def f(x, *, ctx):
        if ctx.id == 4:
            hung.append((4, ctx.attempt))
            release.wait(60.0)
        return exact(x)

    with ThreadPoolExecutor(1) as pool:
        try:
            with pytest.raises(
                EvaluationError,
                match="1 evaluations that took longer than timeout=0.3 s hold all workers",
            ) as caught:
                ox.minimize(f, X0, workers=pool, maxiter=8, timeout=0.3, on_error="retry", **RUN)
        finally:
            release.set()
    assert caught.value.partial_result.nit == 1


def test_a_value_that_is_known_although_the_gradient_failed_is_told():
    calls = []

    def gradient(x):
        calls.append(x.copy())
        if len(calls) == 6:
            raise EvaluationError("the adjoint diverged")
        return exact(x)[1]

    result = ox.minimize(lambda x: exact(x)[0], X0, jac=gradient, maxiter=3, **RUN)
    (failure,) = result.failures
    assert failure.value == exact(failure.x)[0]
    engine = ox.OptEx([3.0, -4.0], optimizer=ox.SGD(0.1), parallelism=2, rng=0)
    for c in engine.ask():
        engine.tell(c.id, gradient=2 * c.x, value=25.0)
    proxy = engine.ask()[1]
    engine.tell(proxy.id, value=1.0, error=EvaluationError("the adjoint diverged"))
    assert engine.result().best_fun == 1.0
    np.testing.assert_array_equal(engine.result().best_x, proxy.x)


def test_a_program_does_not_outlive_the_worker_that_started_it_nor_its_folder(
    monkeypatch, tmp_path
):
    token = process_cleanup.new_token()
    monkeypatch.setenv(process_cleanup.TOKEN_VARIABLE, token)
    monkeypatch.setattr(process_cleanup, "_own", (os.getpid(), token))  # as in a worker
    assert process_cleanup.temp_prefix() == f"optex-core-{token}-"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"{process_cleanup.temp_prefix()}1").mkdir()
    (tmp_path / "other").mkdir()
    program = subprocess.Popen(["sleep", "600"], start_new_session=True)
    monkeypatch.delenv(process_cleanup.TOKEN_VARIABLE)
    process_cleanup.kill_tagged(token)
    assert program.wait() == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="/proc is not installed")
def test_a_program_that_is_being_loaded_is_not_taken_for_one_without_a_token(monkeypatch):
    """Linux shows an empty environment for a moment after the exec."""
    monkeypatch.setenv(process_cleanup.TOKEN_VARIABLE, "1-of-this-test")
    mark, seen = f"{process_cleanup.TOKEN_VARIABLE}=1-of-this-test".encode(), []
    for _ in range(200):
        # without close_fds the caller goes on earlier
        with subprocess.Popen(["sleep", "600"], close_fds=False) as program:
            seen.append(process_cleanup._read_environment(str(program.pid)))
            program.kill()
    assert all(found is None or mark in found.split(b"\0") for found in seen)
