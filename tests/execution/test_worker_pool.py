"""Worker pool: batches, affinity, loss and replacement of workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import Future

import pytest

from optex_core.execution.workers.pool import PoolWorker, TaskFuture, WorkerLostError, WorkerPool
from optex_core.execution.workers.process import WorkerProcess
from optex_core.execution.workers.thread import ThreadWorker


class Recorder(PoolWorker):
    """Notes what it is given, and answers at once."""

    def __init__(self, said):
        self.said = said

    def ready(self):
        up = TaskFuture()
        up.resolve()
        return up

    def serialize(self, call):
        self.said.append(("serialized", *call))
        if call == ("bad",):
            raise ValueError("cannot be serialized")
        return call

    def start(self, task, payload):
        self.said.append(("begun", *payload))
        task.resolve(result=payload)

    def terminate(self, *, wait=True):
        return True


def test_a_batch_is_serialized_before_the_first_call_begins():
    said = []
    pool = WorkerPool(lambda: Recorder(said), 3)
    pool.submit("first").result(0)
    pool.submit("second")  # workers are made as they are needed
    with pool.batch():
        del said[:]
        tasks = [pool.submit(i) for i in range(4)]
        assert not said
    assert sorted(task.result(0) for task in tasks) == [(0,), (1,), (2,), (3,)]
    assert {what for what, *_ in said} == {"serialized", "begun"}
    assert all(t.started_at is not None and t.started_at <= time.perf_counter() for t in tasks)
    pool.close()


def test_a_call_that_cannot_be_serialized_fails_alone():
    pool = WorkerPool(lambda: Recorder([]), 2)
    with pool.batch():
        tasks = [pool.submit(word) for word in ("bad", "good", "bad", "fine")]
    kinds = [type(task.exception(0)) for task in tasks]
    assert kinds == [ValueError, type(None), ValueError, type(None)]
    assert pool.submit("later").result(0) == ("later",)
    pool.close()


def test_a_worker_that_cannot_be_started_is_reported_to_whoever_waits():
    def fails():
        raise OSError("too many open files")

    pool = WorkerPool(fails, 2)
    with pytest.raises(OSError, match="too many open files"):
        pool.submit(len, "").result(60)


def test_a_closed_pool_takes_no_work_and_cancels_what_waits():
    gate = threading.Event()
    pool = WorkerPool(ThreadWorker, 1)
    running, waiting = pool.submit(gate.wait, 600), pool.submit(int)
    pool.close()
    assert waiting.cancelled()
    gate.set()
    assert isinstance(running, Future)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(int)


# -- affinity


def test_a_pinned_task_runs_on_its_worker_in_order():
    pool = WorkerPool(ThreadWorker, 3)
    seen = [[], [], []]
    tasks = [
        pool.submit(lambda w=w, i=i: seen[w].append((i, threading.get_ident())), worker=w)
        for i in range(5)
        for w in (2, 0, 1)
    ]
    for task in tasks:
        task.result(60)
    assert [[i for i, _ in row] for row in seen] == [[0, 1, 2, 3, 4]] * 3
    assert [len({thread for _, thread in row}) for row in seen] == [1, 1, 1]
    assert len({row[0][1] for row in seen}) == 3
    pool.close()


def test_a_pinned_task_waits_for_its_worker_and_others_pass_it():
    gate, pool = threading.Event(), WorkerPool(ThreadWorker, 2)
    first = pool.submit(gate.wait, 600, worker=0)
    second = pool.submit(int, worker=0)
    assert pool.submit(len, "abc").result(60) == 3  # on the other worker
    assert not second.running()
    gate.set()
    assert first.result(60)
    assert second.result(60) == 0
    pool.close()


def test_a_lost_worker_costs_its_task_and_what_waits_for_it_gets_a_new_one():
    pool = WorkerPool(WorkerProcess, 2)
    pids = [pool.submit(os.getpid, worker=w).result(60) for w in (0, 1)]
    running = pool.submit(time.sleep, 600, worker=0)
    waiting = pool.submit(os.getpid, worker=0)
    os.kill(pids[0], signal.SIGKILL)
    with pytest.raises(WorkerLostError, match="a worker process died"):
        running.result(60)
    assert waiting.result(60) not in pids  # nobody had to submit again
    assert pool.submit(os.getpid, worker=1).result(60) == pids[1]
    hangs, waiting = pool.submit(time.sleep, 600, worker=1), pool.submit(os.getpid, worker=1)
    assert pool.terminate(hangs)
    with pytest.raises(WorkerLostError):
        hangs.result(60)
    assert waiting.result(60) not in pids
    pool.close()


def test_a_thread_that_cannot_be_ended_loses_its_place():
    gate, pool = threading.Event(), WorkerPool(ThreadWorker, 1)
    hangs, waiting = pool.submit(gate.wait, 600), pool.submit(int)
    assert not pool.terminate(hangs)
    assert waiting.result(60) == 0
    gate.set()
    assert hangs.result(60)
    pool.close()


def test_an_answer_that_cannot_be_pickled_costs_nothing_else():
    pool = WorkerPool(WorkerProcess, 1)
    with pytest.raises(RuntimeError, match="cannot be pickled"):
        pool.submit(threading.Lock).result(60)
    assert pool.submit(len, "ab").result(60) == 2
    pool.close()
