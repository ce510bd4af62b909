"""Evaluator on a pool: threads or processes of ours, or any concurrent.futures.Executor."""

from __future__ import annotations

import logging
import queue
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future
from dataclasses import replace

from optex_core.errors import (
    EvaluationError,
    ObjectiveError,
    OptexError,
    ProtocolError,
    describe,
)
from optex_core.execution.base import Evaluator, attach_call_counts, by_id, raise_interrupt
from optex_core.execution.workers.evaluation_workers import Workers
from optex_core.execution.workers.serialization import SerializedResult
from optex_core.types import EvaluationResult, Task

logger = logging.getLogger("optex_core")

#: A point that is lost with its worker so many times, without one finished evaluation in between,
#: ends the run: the cause is then the point itself.
MAX_LOSSES = 10


class PoolEvaluator(Evaluator):
    """Evaluates in a pool; results come in the order in which evaluations finish.

    Points lost with a worker process are submitted again, their attempt unchanged: a lost worker
    says nothing about the point. Of executors only ``submit`` and standard futures are assumed.
    """

    asynchronous = True

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.out_of_process = workers.out_of_process
        self._running: dict[Future[SerializedResult], Task] = {}
        # Not `concurrent.futures.wait`: it locks all futures each time, 0.1 ms of the 0.3 that a
        # result took.
        self._finished: queue.SimpleQueue[Future[SerializedResult]] = queue.SimpleQueue()
        self._first_seen_running: dict[Future[SerializedResult], float] = {}
        self._losses: Counter[int] = Counter()  # by id, since an evaluation has finished last
        self._lost: list[Task] = []
        self._cancelled = self._closed = False

    @property
    def pending(self) -> int:
        return len(self._running)

    def submit_tasks(self, tasks: Sequence[Task]) -> None:
        if self._closed:
            raise ProtocolError("this evaluator is closed")
        self._cancelled = False
        self._submit(tasks)

    def next(self, timeout: float | None = None) -> list[EvaluationResult]:
        self._need_pending()
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            done = self._wait(end)
            results, lost = self._collect(done)
            if results:
                self._losses.clear()
            if lost and not self._cancelled:
                self._submit_again(lost)
            if results or not done or not self._running:
                return results

    def started(self) -> dict[tuple[int, int], float]:
        now, found = time.perf_counter(), {}
        for future, task in self._running.items():
            if future.running():
                seen = self._first_seen_running.setdefault(future, now)
                found[task.key] = getattr(future, "started_at", None) or seen
        return found

    def pop_lost(self) -> list[Task]:
        lost, self._lost = self._lost, []
        return lost

    def abandon(self, id: int, attempt: int) -> bool:  # noqa: A002  (as in `Candidate`)
        future = next((f for f, t in self._running.items() if t.key == (id, attempt)), None)
        if future is None or future.done() or not self._workers.terminate(future):
            return False
        self._forget(future)
        return True

    def cancel(self) -> None:
        self._cancelled = True
        for future in [f for f in self._running if f.cancel()]:
            self._forget(future)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for future in self._running:
                future.cancel()
            self._running.clear()
            self._first_seen_running.clear()
            self._workers.close()

    def _wait(self, end: float | None) -> list[Future[SerializedResult]]:
        """The futures that are done: at least one of them, unless `end` comes before."""
        done: list[Future[SerializedResult]] = []
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            try:
                future = self._finished.get(block=not done, timeout=None if done else left)
            except queue.Empty:
                return done
            if future in self._running:  # else it was abandoned or dropped
                done.append(future)

    def _forget(self, future: Future[SerializedResult]) -> Task:
        self._first_seen_running.pop(future, None)
        return self._running.pop(future)

    def _collect(
        self, done: Iterable[Future[SerializedResult]]
    ) -> tuple[list[EvaluationResult], list[Task]]:
        """Results of finished futures, by id, and the tasks that were lost with a worker."""
        results: list[EvaluationResult] = []
        lost: list[Task] = []
        name = self._workers.name
        for future in done:
            task = self._forget(future)
            try:
                results.append(replace(future.result().result, task=task))
            except BrokenExecutor:
                lost.append(task)
                # Of the caller's pools it is not known which tasks had begun.
                if getattr(future, "started_at", None) is not None:
                    self._lost.append(task)
            except CancelledError as error:
                raise EvaluationError(
                    f"{name} dropped a waiting evaluation; was the pool shut down during the run?"
                ) from error
            except ObjectiveError as error:  # it cannot be loaded in a worker
                results.append(EvaluationResult(None, None, error=error, task=task))
            except OptexError:
                raise
            except Exception as error:  # not of user code, whose errors are part of a result
                text = f"{name} could not run an evaluation: {describe(error)}"
                raise EvaluationError(text) from error
            except BaseException as error:  # of the pool
                attach_call_counts(error, results)
                raise
        raise_interrupt(results)
        return by_id(results), lost

    def _submit_again(self, lost: list[Task]) -> None:
        """Submit again what was lost with a worker: same id, seed and attempt."""
        self._losses.update(t.id for t in lost)
        losses = max(self._losses.values())
        if losses >= MAX_LOSSES:
            ids = sorted({t.candidate.id for t in [*lost, *self._running.values()]})
            raise EvaluationError(
                f"{losses} times in a row a worker process died before any evaluation finished; "
                f"the last points asked have the ids {ids}. Does the function crash the "
                "interpreter, or does memory run out?"
            )
        if not self._workers.replaces_workers:
            raise EvaluationError(
                f"{self._workers.name} broke: a worker process died. It is the caller's pool and "
                "is not replaced here; with workers=<number of processes> lost points are asked "
                "again"
            )
        text = "a worker process died; %d points are asked again (loss %d of at most %d)"
        logger.warning(text, len(lost), losses, MAX_LOSSES)
        self._submit(sorted(lost, key=lambda t: t.id))

    def _submit(self, tasks: Sequence[Task]) -> None:
        lost: Sequence[Task] = ()
        with self._workers.batch():
            for i, task in enumerate(tasks):
                x = task.candidate.x
                try:
                    future = self._workers.submit(x, task.context, task.perturbation)
                except BrokenExecutor:
                    lost = tasks[i:]
                    break
                except RuntimeError as error:
                    text = f"{self._workers.name} takes no work: {describe(error)}"
                    raise EvaluationError(text) from error
                self._running[future] = task
                future.add_done_callback(self._finished.put)
        if lost:
            self._submit_again(list(lost))
