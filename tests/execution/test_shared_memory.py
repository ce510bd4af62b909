"""Large vectors travel through shared memory: the same bits, nothing left behind, nothing
overwritten that somebody still holds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from evaluating import finish
from fresh_python import run_python

from optex_core.adapters.objective import make_objective
from optex_core.execution.factory import make_evaluator
from optex_core.execution.workers import shared_memory
from optex_core.execution.workers.process_cleanup import FOLDER_PREFIX
from optex_core.execution.workers.shared_memory import SharedArrayHandle, SharedMemoryPool
from optex_core.types import Candidate

D = shared_memory.MIN_BYTES // 8 + 1  # one number more than what still goes by pipe


def fun(x, *, seed):
    result = float(x[0]) + seed, x * 2 + seed
    x[:] = -1.0  # user code may write into its x: into the segment it cannot
    return result


def candidates(n, d=D, dtype=float):
    return [Candidate(i, np.full(d, float(i), dtype), 100 + i, 0, i) for i in range(n)]


@pytest.fixture
def named(monkeypatch, tmp_path):
    """A system without anonymous files."""
    monkeypatch.setattr(shared_memory, "has_memfd", lambda: False)
    monkeypatch.setattr(shared_memory.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(shared_memory.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def check(workers, dtype=float):
    with make_evaluator(make_objective(fun, x0=np.ones(D, dtype)), workers) as evaluator:
        for _ in range(3):  # the segments are used again
            evaluator.submit(candidates(3, dtype=dtype))
            outcomes = finish(evaluator)
            for o in outcomes:
                assert o.error is None, o.traceback
                i = o.candidate.id
                assert o.value == 100 + 2 * i
                assert o.gradient.dtype == dtype
                np.testing.assert_array_equal(o.gradient, 2.0 * i + 100 + i)
                np.testing.assert_array_equal(o.candidate.x, i)
        return outcomes


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_large_vectors_come_back_with_their_bits(dtype, monkeypatch):
    sent = []
    monkeypatch.setattr(
        SharedMemoryPool,
        "_acquire",
        lambda self, size, take=SharedMemoryPool._acquire: sent.append(size) or take(self, size),
    )
    check(2, dtype)
    # float32 halves the bytes: that many go by pipe
    assert sent == ([D * 8] * 9 if dtype is np.float64 else [])


def test_a_users_local_pool_gets_them_too(monkeypatch):
    opened = []
    monkeypatch.setattr(
        SharedMemoryPool,
        "_acquire",
        lambda self, size, take=SharedMemoryPool._acquire: opened.append(size) or take(self, size),
    )
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        check(pool)
    assert opened == [D * 8] * 9


def test_without_any_place_for_them_vectors_travel_by_pipe(named, monkeypatch, caplog):
    def none():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(shared_memory.tempfile, "gettempdir", none)
    check(2)
    assert caplog.text.count("large vectors travel by pipe") == 1


def test_segments_with_names_are_removed(named):
    check(2)
    assert list(named.iterdir()) == []


def test_the_next_run_removes_what_a_killed_driver_left(named):
    gone = int(run_python("import os; print(os.getpid())"))
    left, mine, other = (
        named / f"{FOLDER_PREFIX}{p}-abc{shared_memory.SUFFIX}"
        for p in (gone, os.getpid(), "notes")
    )
    for folder in (left, mine, other):
        folder.mkdir()
        (folder / "7").touch()
    SharedMemoryPool()._get_folder()
    assert not left.exists()
    assert mine.exists()
    assert other.exists()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="os.memfd_create is not installed")
def test_a_killed_driver_leaves_no_shared_memory(tmp_path):
    # Anonymous files have no name to be left: what is looked for is the memory itself, by the names
    # of the files that processes map.
    code = (
        "import os, numpy as np, optex_core as ox\n"
        "def fun(x):\n"
        "    open('up', 'w').close()\n"
        "    import time; time.sleep(0.2)\n"
        "    return float(x @ x), 2 * x\n"
        f"ox.minimize(fun, np.ones({D}), workers=2, optimizer=ox.SGD(0.1))\n"
    )
    before = set(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else set()
    folder = tmp_path / "tmp"
    folder.mkdir()
    env = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, start_new_session=True
    )
    try:
        end = time.monotonic() + 300
        while not (tmp_path / "up").exists() and time.monotonic() < end:
            time.sleep(0.02)
        assert (tmp_path / "up").exists()
        assert _segments_of(driver.pid)
    finally:
        driver.kill()
        driver.wait()
        with contextlib.suppress(ProcessLookupError):  # its workers
            os.killpg(driver.pid, signal.SIGKILL)
    assert driver.returncode == -signal.SIGKILL
    assert not list(folder.glob(f"{FOLDER_PREFIX}*"))
    named = set(os.listdir("/dev/shm")) - before if Path("/dev/shm").is_dir() else set()
    assert not [n for n in named if "optex" in n]


def _segments_of(process):
    return [
        e for e in Path(f"/proc/{process}/fd").iterdir() if "memfd:optex-core" in os.readlink(e)
    ]


def test_a_gradient_that_is_still_held_is_not_overwritten():
    pool, futures = SharedMemoryPool(min_bytes=1), []

    def submit(handle):
        futures.append(Future())
        shared_memory.store_result(handle, handle.open() + 1)
        return futures[-1]

    def evaluate(value):
        future = pool.send(submit, np.full(4, float(value)))
        gradient = shared_memory._claim_result(max(shared_memory._in_use))
        future.set_result(None)
        return gradient

    first = evaluate(1)
    view = evaluate(2)[1:]
    third = evaluate(3)
    assert first.tolist() == [2.0] * 4
    assert view.tolist() == [3.0] * 3
    assert third.tolist() == [4.0] * 4
    pool.close()
    assert not shared_memory._in_use


def test_a_gradient_is_the_segment_itself_which_is_used_again_once_nobody_holds_it():
    pool, handles = SharedMemoryPool(min_bytes=1), []

    def evaluate():
        future = Future()
        pool.send(lambda handle: handles.append(handle) or future, np.ones(4))
        gradient = shared_memory._claim_result(handles[-1].token)
        future.set_result(None)
        return gradient

    first, second = evaluate(), evaluate()
    handles[0].open()[:] = 7.0
    assert first.tolist() == [7.0] * 4
    del first
    third = evaluate()
    assert handles[2].inode == handles[0].inode != handles[1].inode
    pool.close()
    # memory that is held outlives the pool
    assert (second.tolist(), third.tolist()) == ([1.0] * 4, [1.0] * 4)


def test_a_segment_that_a_lost_worker_may_write_is_not_used_again():
    pool, handles, futures = SharedMemoryPool(min_bytes=1), [], []

    def submit(handle):
        assert isinstance(handle, SharedArrayHandle)
        handles.append(handle)
        futures.append(Future())
        return futures[-1]

    pool.send(submit, np.ones(4))
    futures[0].set_exception(RuntimeError("the worker is lost"))
    pool.send(submit, np.ones(4))
    futures[1].set_result(None)
    pool.send(submit, np.ones(4))
    futures[2].set_result(None)
    assert handles[0].inode != handles[1].inode == handles[2].inode
    with pytest.raises(FileNotFoundError):  # what stands there by now is not it
        handles[0].open()
    pool.close()
