"""Bursts as futures: our own threads and processes, and pools of the user."""

from __future__ import annotations

import functools
import queue
import time
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from dataclasses import replace
from typing import Any, ClassVar

from optex_core.async_sgd.records import BurstResult, Pull
from optex_core.async_sgd.status import BurstStatus
from optex_core.async_sgd.workers.base import BurstExecutor, BurstRunner
from optex_core.async_sgd.workers.serialization import run_installed, run_serialized_runner
from optex_core.errors import EvaluationError
from optex_core.execution.workers.pool import PoolWorker, WorkerPool
from optex_core.execution.workers.process import WorkerProcess
from optex_core.execution.workers.serialization import (
    SerializedObjective,
    SerializedResult,
    forbid_during_import,
    install_objective,
)
from optex_core.execution.workers.shared_memory import SharedMemoryPool
from optex_core.execution.workers.thread import ThreadWorker


class FutureExecutor(BurstExecutor):
    """Bursts whose results arrive as futures of a `BurstResult` or `SerializedResult`."""

    background: ClassVar[bool] = True

    def __init__(self) -> None:
        self._futures: dict[int, Future[object]] = {}
        self._done: queue.SimpleQueue[tuple[int, Future[object]]] = queue.SimpleQueue()

    @property
    def pending(self) -> int:
        return len(self._futures)

    def submit(self, pull: Pull) -> None:
        future = self._futures[pull.id] = self._start(pull)
        future.add_done_callback(lambda f: self._done.put((pull.id, f)))

    def next(self, timeout: float | None = None) -> list[BurstResult]:
        end = None if timeout is None else time.monotonic() + timeout
        results: list[BurstResult] = []
        while self._futures:
            left = None if end is None else max(0.0, end - time.monotonic())
            try:
                # Wait for the first one only.
                burst_id, future = self._done.get(not results, None if results else left)
            except queue.Empty:
                break
            if self._futures.get(burst_id) is future:  # else it was given up
                del self._futures[burst_id]
                results.append(_result(burst_id, future))
        return results

    def overdue(self, seconds: float) -> list[int]:
        latest = time.perf_counter() - seconds
        # What is done waits for the driver, which may be in a callback.
        running = [burst_id for burst_id, future in self._futures.items() if not future.done()]
        started = {burst_id: self._started_at(burst_id) for burst_id in running}
        return [burst_id for burst_id, at in started.items() if at is not None and at < latest]

    def give_up(self, burst_id: int) -> None:
        self._terminate(self._futures.pop(burst_id))

    def abandon(self) -> None:
        for burst_id in list(self._futures):
            self.give_up(burst_id)

    @abstractmethod
    def _start(self, pull: Pull) -> Future[object]:
        """Submit a burst."""

    @abstractmethod
    def _started_at(self, burst_id: int) -> float | None:
        """When a burst began to run (`time.perf_counter`); None while it waits."""

    @abstractmethod
    def _terminate(self, future: Future[object]) -> None:
        """End a burst, or let it run on unheard."""


def _result(burst_id: int, future: Future[object]) -> BurstResult:
    try:
        result = future.result()
    except (BrokenExecutor, CancelledError):
        return BurstResult(burst_id, failure=BurstStatus.WORKER)
    except Exception as error:  # of the transport: errors of bursts are in their results
        return BurstResult(burst_id, error=error, failure=BurstStatus.ERROR)
    found: Any = result.result if isinstance(result, SerializedResult) else result
    return replace(found, id=burst_id)


class PoolExecutor(FutureExecutor):
    """`number` threads or processes of our own, started when they are first needed.

    Worker w runs on worker w modulo `number` of the pool and stays there, so that spawned bursts
    keep their state. One that dies or hangs costs its burst and is replaced. Large vectors to and
    from processes travel in shared memory.
    """

    def __init__(self, runner: BurstRunner, number: int, *, processes: bool) -> None:
        super().__init__()
        self._runner, self._number, self._processes = runner, number, processes
        self._memory = SharedMemoryPool()
        make_worker: Callable[[], PoolWorker] = ThreadWorker
        if processes:
            forbid_during_import()
            installed = (runner.name, *SerializedObjective(runner).serialize())
            make_worker = functools.partial(WorkerProcess, install_objective, *installed)
        self._pool = WorkerPool(make_worker, number)

    def close(self) -> None:
        self._futures.clear()
        self._pool.close()
        self._memory.close()

    def _start(self, pull: Pull) -> Future[Any]:
        worker = None if pull.evaluation else pull.context.worker % self._number
        if not self._processes:
            return self._pool.submit(self._runner.run, pull, worker=worker)

        def submit(v: object, rest: Pull) -> Future[object]:
            return self._pool.submit(run_installed, v, rest, worker=worker)

        return self._memory.send(submit, pull.v, replace(pull, v=pull.v[:0]))

    def _started_at(self, burst_id: int) -> float | None:
        future: Any = self._futures[burst_id]
        started_at: float | None = future.started_at
        return started_at

    def _terminate(self, future: Future[object]) -> None:
        task: Any = future
        if not self._pool.terminate(task) and task.worker is not None:
            # A thread cannot be ended. It keeps its burst objects: what it still does there must
            # not meet the next burst.
            self._runner.drop(task.worker, self._number)


class UserExecutor(FutureExecutor):
    """Bursts in a pool with `submit` and standard futures; the caller's, unless it is `owned`.

    Which process runs a worker's next burst is the pool's choice. A spawned burst lives in each
    process that has run its worker, begun with another seed in each.
    """

    def __init__(self, runner: BurstRunner, executor: Any, *, owned: bool = False) -> None:
        super().__init__()
        self._executor = executor
        self._serialized = SerializedObjective(runner)
        self._owned = owned
        self._seen_running: dict[int, float] = {}

    def _start(self, pull: Pull) -> Future[Any]:
        rest = replace(pull, v=pull.v[:0])
        try:
            future: Future[Any] = self._executor.submit(
                run_serialized_runner, self._serialized, pull.v, rest
            )
        except (BrokenExecutor, RuntimeError) as error:  # RuntimeError: shut down
            raise EvaluationError(
                f"workers={type(self._executor).__name__} takes no work ({error}). It is the "
                "caller's pool and is not replaced here; with workers=<number of processes> a dead "
                "worker costs its burst and is replaced"
            ) from error
        return future

    def _started_at(self, burst_id: int) -> float | None:
        if burst_id not in self._seen_running and self._futures[burst_id].running():
            self._seen_running[burst_id] = time.perf_counter()
        return self._seen_running.get(burst_id)

    def _terminate(self, future: Future[object]) -> None:
        # Pools of `optex_core.executors` can end one; in others its place stays taken.
        terminate = getattr(self._executor, "terminate", None)
        if not (callable(terminate) and terminate(future)):
            future.cancel()

    def abandon(self) -> None:
        for future in self._futures.values():
            future.cancel()
        self._futures.clear()

    def close(self) -> None:
        self.abandon()
        if self._owned:
            self._executor.shutdown(wait=False, cancel_futures=True)
