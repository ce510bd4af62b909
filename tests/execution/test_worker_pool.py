"""Calls that go to workers together: all are ready before the first begins, and one that cannot go
stops no other.
"""

from __future__ import annotations

import time

from optex_core.execution.workers.pool import PoolWorker, TaskFuture, WorkerPool


class Still(PoolWorker):
    """Notes what it is given."""

    def __init__(self, said):
        self.said = said

    def ready(self):
        up = TaskFuture(())
        up.resolve()
        return up

    def serialize(self, args):
        self.said.append(("serialized", *args))
        if args == ("bad",):
            raise ValueError("cannot be serialized")
        return args

    def start(self, task, payload):
        self.said.append(("begun", *payload))
        task.resolve(result=payload)

    def terminate(self, *, wait=True):
        return True


def test_calls_that_are_sent_together_are_ready_before_the_first_begins():
    said = []
    pool = WorkerPool(lambda: Still(said), 3)
    pool.submit("first").result(0)
    pool.submit("second")  # workers are made as they are needed
    with pool.batch():
        del said[:]
        tasks = [pool.submit(i) for i in range(4)]
        assert not said
    assert sorted(task.result(0) for task in tasks) == [(0,), (1,), (2,), (3,)]
    assert {what for what, *_ in said} == {"serialized", "begun"}
    assert all(
        task.started_at is not None and task.started_at <= time.perf_counter() for task in tasks
    )
    pool.close()


def test_a_call_that_cannot_be_serialized_fails_alone():
    said = []
    pool = WorkerPool(lambda: Still(said), 2)
    with pool.batch():
        tasks = [pool.submit(word) for word in ("bad", "good", "bad", "fine")]
    assert [type(task.exception(0)) for task in tasks] == [
        ValueError,
        type(None),
        ValueError,
        type(None),
    ]
    assert pool.submit("later").result(0) == ("later",)
    pool.close()
