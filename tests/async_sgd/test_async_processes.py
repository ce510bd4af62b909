"""Real worker processes: killed, hanging, wrong; a driver killed and resumed. Nothing is applied
twice, nothing acknowledged is lost.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from clocks import only_these_bursts_take_too_long

import optex_core
from optex_core.async_sgd import Master, Push, minimize, replay, run
from optex_core.errors import ArgumentTypeError, EvaluationError

ROOT = Path(optex_core.__file__).parent.parent


def counting(v, ctx):
    """One in the place of the burst's id: v then says which bursts were applied, and how often."""
    s = np.zeros_like(v)
    s[ctx.id % len(v)] = -1.0
    time.sleep(0.002)
    return Push.steps(s, report={"process": os.getpid()})


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        # A zombie that nobody has waited for yet counts as gone.
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def gone(processes: set[int], seconds: float = 120.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(alive(p) for p in processes):
            return True
        time.sleep(0.1)
    return False


def test_killed_workers_cost_their_burst_and_no_more() -> None:
    master = Master(np.zeros(400), rng=0)
    rng = np.random.default_rng(3)
    seen: set[int] = set()
    killed: list[int] = []

    def kill(result):
        process = int(result.push.report["process"])
        seen.add(process)
        if result.receipt.version in (5, 11, 12, 40) or (len(killed) < 6 and rng.random() < 0.02):
            living = sorted(p for p in seen if p not in killed)
            killed.append(int(rng.choice(living)))
            os.kill(killed[-1], signal.SIGKILL)

    report = run(master, counting, parallelism=3, workers="processes", maxiter=120, callback=kill)
    assert report.pushes == 120
    assert len(killed) >= 4
    # A worker that was killed between two bursts loses none; each kill costs one at most.
    assert master.counts["worker"] <= len(killed)
    lost = {entry.id for entry in master.lost}
    applied = np.zeros(400)
    applied[[i for i in range(master.state.issued) if i not in lost]] = 1
    assert np.array_equal(master.x, applied)
    assert sorted(master.push_trace.job) == sorted(set(range(master.state.issued)) - lost)
    assert gone(seen), "worker processes are left behind"


def test_a_hanging_process_is_killed_and_replaced_with_what_it_has_started(
    tmp_path, monkeypatch
) -> None:
    pid_file = tmp_path / "solver.txt"
    only_these_bursts_take_too_long(
        monkeypatch, lambda burst: burst == 3 and pid_file.exists() and pid_file.read_text() != ""
    )

    def burst(v, ctx):
        if ctx.id == 3:
            program = subprocess.Popen(
                [sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True
            )
            pid_file.write_text(str(program.pid))
            program.wait()
        return counting(v, ctx)

    master = Master(np.zeros(64), rng=0)
    seen: set[int] = set()
    report = run(
        master,
        burst,
        parallelism=2,
        workers=2,
        maxiter=40,
        timeout=0.5,
        callback=lambda result: seen.add(int(result.push.report["process"])),
    )
    assert report.pushes == 40
    assert [(entry.id, entry.status) for entry in master.lost] == [(3, "timeout")]
    assert master.x.sum() == 40
    assert gone({*seen, int(pid_file.read_text())}), (
        "a worker, or the solver of a burst that was given up, goes on"
    )


def test_nan_and_errors_and_exits_are_counted_and_the_run_goes_on() -> None:
    class Unpicklable(Exception):
        def __init__(self, one, two):
            super().__init__(one)

    def burst(v, ctx):
        if ctx.id == 4:
            return Push.steps(np.full_like(v, np.nan))
        if ctx.id == 8:
            raise Unpicklable("x", "y")
        if ctx.id == 12:
            os._exit(3)
        return counting(v, ctx)

    master = Master(np.zeros(64), rng=0)
    report = run(master, burst, parallelism=2, workers="processes", maxiter=30, on_error="drop")
    assert report.pushes == 30
    assert {entry.id: entry.status for entry in master.lost} == {
        4: "not finite",
        8: "error",
        12: "worker",
    }
    assert "Unpicklable" in next(e for e in master.lost if e.id == 8).message
    assert master.x.sum() == 30


def test_state_stays_with_its_worker_and_large_vectors_share_memory() -> None:
    class Walk:
        def spawn(self, worker, seed):
            walk = Walk()
            walk.worker, walk.calls = worker, 0
            return walk

        def __call__(self, v, ctx):
            assert not v.flags.writeable
            assert ctx.worker == self.worker
            assert ctx.burst == self.calls, "another process went on with this worker"
            self.calls += 1
            return Push.affine(
                0.5, np.full_like(v, 1.0 + ctx.version), report={"process": os.getpid()}
            )

    d = 100_000  # 800 kB: above what goes through pipes
    found: dict[int, set[float]] = {}
    master = Master(np.zeros(d), rng=0)
    run(
        master,
        Walk(),
        parallelism=4,
        workers=2,
        maxiter=40,
        callback=lambda result: found.setdefault(
            int(result.master.push_trace.worker[-1]), set()
        ).add(result.push.report["process"]),
    )
    assert sorted(found) == [0, 1, 2, 3]
    assert all(len(processes) == 1 for processes in found.values())
    assert found[0] == found[2]
    assert found[1] == found[3]
    expected = 0.0
    for start in master.push_trace.start:
        expected = 0.5 * expected + 1.0 + start
    assert np.array_equal(master.x, np.full(d, expected))


DRIVER = """
    import os, sys, time
    import numpy as np
    from optex_core.async_sgd import Master, Push, run

    def burst(v, ctx):
        s = np.zeros_like(v)
        s[ctx.id % len(v)] = -1.0
        time.sleep(0.005)
        return Push.steps(s, report={"process": os.getpid()})

    def tell(result):
        # Only what the driver was told counts as acknowledged.
        process = int(result.push.report["process"])
        os.write(acknowledged, f"{result.master.push_trace.job[-1]} {process}\\n".encode())

    if __name__ == "__main__":
        acknowledged = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        new = not os.path.exists(sys.argv[1])
        log, workers, pushes = sys.argv[1], sys.argv[3], int(sys.argv[4])
        master = Master(np.zeros(2000), rng=0, log=log) if new else Master.resume(log)
        run(master, burst, parallelism=3, workers=workers, maxiter=pushes, callback=tell)
        master.close()
"""


@pytest.mark.parametrize("workers", ["processes", "threads"])
def test_a_killed_driver_loses_nothing_it_acknowledged(tmp_path, workers: str) -> None:
    script, log, told_file = (
        tmp_path / "driver.py",
        tmp_path / "run.log",
        tmp_path / "told_file.txt",
    )
    script.write_text(textwrap.dedent(DRIVER))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(script), str(log), str(told_file), workers]
    rng = np.random.default_rng(1)
    processes: set[int] = set()
    for turn in range(3):
        before = len(told_file.read_text().splitlines()) if told_file.exists() else 0
        driver = subprocess.Popen([*command, "100000"], env=environment)
        end = time.monotonic() + 300
        while (len(told_file.read_text().splitlines()) if told_file.exists() else 0) < before + 20:
            assert driver.poll() is None, "the driver ended by itself"
            assert time.monotonic() < end, "the driver does not get on"
            time.sleep(0.02)
        time.sleep(float(rng.random()) * 0.1)
        driver.kill()
        driver.wait()
        if turn == 1 and log.stat().st_size:  # a frame that the kill has cut, made certain
            with log.open("ab") as file:
                file.write(b"\x37\x00\x00\x00half a fra")
        lines = [line.split() for line in told_file.read_text().splitlines()]
        acknowledged = [int(job) for job, _ in lines]
        processes |= {int(process) for _, process in lines}
        found = replay(log)
        applied = list(found.push_trace.job)
        assert len(set(applied)) == len(applied), "a push was applied twice"
        assert set(acknowledged) <= set(applied), "an acknowledged push is missing"
        assert len(set(acknowledged)) == len(acknowledged), "an id was given twice"
        assert found.x.sum() == len(applied)
    total = len(replay(log).push_trace) + 30
    subprocess.run([*command, str(total)], env=environment, check=True, timeout=600)
    final = replay(log)
    assert final.counts["applied"] == total
    assert final.x.sum() == total
    assert gone(processes), "workers outlive their killed driver"


def test_a_worker_that_cannot_start_ends_the_run_with_a_reason() -> None:
    class Broken:
        def __call__(self, v, ctx):
            return Push.steps(v)

        def __reduce__(self):
            return _explode, ()

    with pytest.raises(Exception, match="cannot be loaded in a worker process"):
        run(Master(np.ones(2), rng=0), Broken(), parallelism=1, workers="processes", maxiter=3)


def _explode():
    raise ImportError("no such module on this side")


def test_what_cannot_be_sent_is_named_at_the_door() -> None:
    import threading

    lock = threading.Lock()

    def burst(v, ctx):
        with lock:
            return Push.steps(v)

    with pytest.raises(ArgumentTypeError, match="lock"):
        run(Master(np.ones(2), rng=0), burst, workers="processes", maxiter=3)


def test_a_pool_of_the_user() -> None:
    with ThreadPoolExecutor(3) as pool:
        master = Master(np.zeros(128), rng=0)
        report = run(master, counting, parallelism=3, workers=pool, maxiter=50)
        assert report.pushes == 50
        assert master.x.sum() == 50
        assert pool.submit(int, 3).result() == 3, "the pool was shut down"
    with pytest.raises(EvaluationError, match="caller's pool"):
        run(Master(np.zeros(8), rng=0), counting, workers=pool, maxiter=5)


def test_minimize_resumes_on_processes(tmp_path) -> None:
    def fun(x, *, seed):
        noise = np.random.default_rng(seed).standard_normal(x.shape)
        return 0.5 * x @ x, x + 0.1 * noise

    log = tmp_path / "run.log"
    first = minimize(
        fun, np.full(6, 3.0), rate=0.02, maxiter=30, workers=2, parallelism=2, log=log, rng=0
    )
    second = minimize(
        fun, np.full(6, 3.0), rate=0.02, maxiter=90, workers=2, parallelism=2, log=log, resume=True
    )
    assert first.nit == 30
    assert second.nit == 90
    assert second.njev == second.nfev == 901
    assert len(second.history) == 90
    assert second.fun < 0.05 * first.history.value[0]
    assert replay(log).x.tobytes() == second.x.tobytes()
