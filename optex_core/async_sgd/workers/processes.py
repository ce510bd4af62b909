"""Worker processes of our own: one that dies or hangs costs its burst and is replaced, the others
do not notice.
"""

from __future__ import annotations

import os
import queue
import time
from collections import deque
from concurrent.futures import BrokenExecutor, Future
from typing import Any, ClassVar

from optex_core.async_sgd.records import Pull
from optex_core.async_sgd.workers.base import BurstExecutor
from optex_core.async_sgd.workers.burst_runner import BurstResult, BurstRunner
from optex_core.async_sgd.workers.serialization import (
    as_burst_result,
    initialize_worker,
    report_ready,
    run_installed,
    serialize_runner,
)
from optex_core.execution.workers import process_cleanup
from optex_core.execution.workers.process import THREAD_LIMITS
from optex_core.execution.workers.serialization import SerializedReport, forbid_during_import
from optex_core.execution.workers.shared_memory import SharedMemoryPool


class ProcessExecutor(BurstExecutor):
    """loky processes, each an executor of its own: a shared one fails every burst in it when one
    process dies.

    Worker w runs on process w modulo `number` and stays there, so that spawned bursts keep their
    state. Parameters and pushes of more than 32 kB travel in shared memory.

    Parameters
    ----------
    team : BurstRunner
        Whose bursts run.
    number : int
        How many processes; started when they are first needed.
    """

    background: ClassVar[bool] = True

    def __init__(self, runner: BurstRunner, number: int) -> None:
        forbid_during_import()
        self._number = number
        self._installed = (runner.name, *serialize_runner(runner).serialize())
        self._shared_memory = SharedMemoryPool()
        self._slots: dict[int, _Slot] = {}
        self._where: dict[int, tuple[int, Future[SerializedReport]]] = {}  # job -> slot and future
        self._ended: queue.SimpleQueue[tuple[int, Future[SerializedReport]]] = queue.SimpleQueue()

    @property
    def pending(self) -> int:
        return len(self._where)

    def submit(self, job: Pull) -> None:
        self._send(job, job.context.worker % self._number)

    def next(self, timeout: float | None = None) -> list[BurstResult]:
        end = None if timeout is None else time.monotonic() + timeout
        found: list[BurstResult] = []
        while self._where:
            left = None if end is None else max(0.0, end - time.monotonic())
            try:
                job, future = self._ended.get(block=not found, timeout=None if found else left)
            except queue.Empty:
                break
            if self._where.get(job, (0, None))[1] is not future:  # given up, or sent again since
                continue
            number = self._where.pop(job)[0]
            slot = self._slots[number]
            try:
                found.append(as_burst_result(job, future.result()))
            except BrokenExecutor:
                # Calls run in the order in which they were sent: the oldest was with the worker,
                # the others had not begun and lose nothing.
                oldest = slot.jobs[0].id
                waiting = self._replace(number)
                found.append(BurstResult(oldest, lost=True))
                self._where.pop(oldest, None)
                for other in waiting[1:]:
                    self._send(other, number)
            except Exception as error:
                # The burst's own errors come back in its report: this one is of the way, such as a
                # result that cannot be pickled.
                slot.finish(job)
                found.append(BurstResult(job, None, error, ""))
            else:
                slot.finish(job)
        return found

    def overdue(self, seconds: float) -> list[int]:
        now = time.monotonic()
        return [
            slot.jobs[0].id
            for slot in self._slots.values()
            if slot.jobs and slot.since is not None and now - slot.since > seconds
        ]

    def give_up(self, job: int) -> list[int]:
        if job not in self._where:
            return []
        number, _ = self._where.pop(job)
        slot = self._slots[number]
        if slot.jobs[0].id != job:
            slot.finish(job)
            return []
        for other in self._replace(number)[1:]:
            self._send(other, number)
        return []

    def processes(self) -> list[int]:
        """Process ids of the workers that are up."""
        return [slot.process for slot in self._slots.values() if slot.process is not None]

    def close(self) -> None:
        for number in list(self._slots):
            self._replace(number)
        self._where.clear()
        self._shared_memory.close()

    def _send(self, job: Pull, number: int) -> None:
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = _Slot(self._installed)
        executor = slot.executor
        try:
            future = self._shared_memory.send(
                lambda *task: executor.submit(run_installed, *task), job.v, job.context
            )
        except BrokenExecutor as error:
            # it died while nobody waited for it: found out by what is sent
            future = Future()
            future.set_exception(error)
        slot.add(job)
        self._where[job.id] = number, future
        future.add_done_callback(lambda f: self._ended.put((job.id, f)))

    def _replace(self, number: int) -> list[Pull]:
        """End a worker at once; the next job gets a new one. Returns what it had to do, oldest
        first.
        """
        slot = self._slots.pop(number)
        # what the burst has started, a solver say, goes with it
        process_cleanup.kill_tagged(slot.token)
        slot.executor.shutdown(wait=True, kill_workers=True)
        return list(slot.jobs)


class _Slot:
    """One worker process and the jobs sent to it, oldest first.

    Attributes
    ----------
    since : float or None
        When the oldest job began; None while there is none or the process is not up.
    process : int or None
        Its id, once it is up.
    """

    def __init__(self, installed: tuple[Any, ...]) -> None:
        from loky import ProcessPoolExecutor  # here: 0.1 s, for those who use processes

        self.token = process_cleanup.new_worker_token()
        environment = {
            **{name: os.environ.get(name, "1") for name in THREAD_LIMITS},
            process_cleanup.TOKEN_VARIABLE: self.token,
        }
        self.executor: Any = ProcessPoolExecutor(
            1, initializer=initialize_worker, initargs=installed, env=environment
        )
        self.jobs: deque[Pull] = deque()
        self.since: float | None = None
        self.process: int | None = None
        self.executor.submit(report_ready).add_done_callback(self._started)

    def add(self, job: Pull) -> None:
        self.jobs.append(job)
        if len(self.jobs) == 1 and self.process is not None:
            self.since = time.monotonic()

    def finish(self, job: int) -> None:
        self.jobs = deque(j for j in self.jobs if j.id != job)
        self.since = time.monotonic() if self.jobs else None

    def _started(self, future: Future[int]) -> None:
        # In a thread of the executor, once; a timeout counts from here, not from the start of an
        # interpreter.
        if not future.cancelled() and future.exception() is None:
            self.process = future.result()
            self.since = time.monotonic()
