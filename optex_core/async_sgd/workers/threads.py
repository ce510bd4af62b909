"""One thread for each worker: for bursts that release the GIL (compiled kernels, large NumPy), wait
for programs, or sleep.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import ClassVar

from optex_core.async_sgd.records import Pull
from optex_core.async_sgd.workers.base import BurstExecutor
from optex_core.async_sgd.workers.burst_runner import BurstResult, BurstRunner


class ThreadExecutor(BurstExecutor):
    """Worker threads of our own, started at their first job.

    Not a ThreadPoolExecutor: its threads are joined when the interpreter ends, so one hanging burst
    would keep the program from ending. A hanging thread cannot be ended; it is left to itself, a
    new one takes its place, and what it still brings is dropped.

    Parameters
    ----------
    team : BurstRunner
        Whose bursts run; a burst without `spawn` is called by several threads at once.
    number : int
        How many threads; worker w runs on thread w modulo `number`.
    """

    background: ClassVar[bool] = True

    def __init__(self, runner: BurstRunner, number: int) -> None:
        self._runner = runner
        self._number = number
        self._threads: dict[int, _Thread] = {}
        self._ended: queue.SimpleQueue[BurstResult] = queue.SimpleQueue()
        self._jobs: dict[int, int] = {}  # job -> thread

    @property
    def pending(self) -> int:
        return len(self._jobs)

    def submit(self, job: Pull) -> None:
        slot = job.context.worker % self._number
        if slot not in self._threads:
            self._threads[slot] = _Thread(self._runner, self._ended, slot)
        self._jobs[job.id] = slot
        self._threads[slot].jobs.put(job)

    def next(self, timeout: float | None = None) -> list[BurstResult]:
        end = None if timeout is None else time.monotonic() + timeout
        found: list[BurstResult] = []
        while self._jobs:
            left = None if end is None else max(0.0, end - time.monotonic())
            try:
                done = self._ended.get(block=not found, timeout=None if found else left)
            except queue.Empty:
                break
            if self._jobs.pop(done.job, None) is not None:  # else it was given up
                found.append(done)
        return found

    def overdue(self, seconds: float) -> list[int]:
        now = time.monotonic()
        running = [thread.running for thread in self._threads.values()]
        return [
            r[0] for r in running if r is not None and r[0] in self._jobs and now - r[1] > seconds
        ]

    def give_up(self, job: int) -> list[int]:
        slot = self._jobs.pop(job, None)
        if slot is None:
            return []
        thread = self._threads[slot]
        if thread.running is None or thread.running[0] != job:
            return []
        del self._threads[slot]
        thread.jobs.put(None)
        others = [j for j, s in self._jobs.items() if s == slot]
        for other in others:
            del self._jobs[other]
        # The hanging thread keeps its burst object: whatever it still does there must not meet the
        # next one.
        for worker in thread.workers:
            self._runner.drop(worker)
        return others

    def close(self) -> None:
        for thread in self._threads.values():
            thread.abandoned = True
            thread.jobs.put(None)
        self._threads.clear()
        self._jobs.clear()


class _Thread(threading.Thread):
    def __init__(
        self, runner: BurstRunner, ended: queue.SimpleQueue[BurstResult], slot: int
    ) -> None:
        super().__init__(name=f"optex-core-async-{slot}", daemon=True)
        self.jobs: queue.SimpleQueue[Pull | None] = queue.SimpleQueue()
        self.running: tuple[int, float] | None = None
        self.workers: set[int] = set()
        self.abandoned = False
        self._runner, self._ended = runner, ended
        self.start()

    def run(self) -> None:
        while (job := self.jobs.get()) is not None and not self.abandoned:
            self.workers.add(job.context.worker)
            self.running = job.id, time.monotonic()
            done = self._runner.run(job)
            self.running = None
            self._ended.put(done)
