"""Evaluator on a pool: threads or processes of ours, or any concurrent.futures.Executor."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future
from dataclasses import replace

from optex_core.errors import EvaluationError, ObjectiveError, OptexError, ProtocolError, describe
from optex_core.execution.base import Evaluator, attach_call_counts, by_id, raise_interrupt
from optex_core.execution.workers.evaluation_workers import Key, Workers
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
        self._tasks: dict[tuple[int, int], Task] = {}  # by their keys
        self._losses: Counter[int] = Counter()  # by id, since an evaluation has finished last
        self._lost: list[Task] = []
        self._cancelled = self._closed = False

    @property
    def pending(self) -> int:
        return len(self._tasks)

    def submit_tasks(self, tasks: Sequence[Task]) -> None:
        if self._closed:
            raise ProtocolError("this evaluator is closed")
        self._cancelled = False
        self._submit(tasks)

    def next(self, timeout: float | None = None) -> list[EvaluationResult]:
        self._need_pending()
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            done = self._workers.wait(left)
            results, lost = self._collect(done)
            if results:
                self._losses.clear()
            if lost and not self._cancelled:
                self._submit_again(lost)
            if results or not done or not self._tasks:
                return results

    def started(self) -> dict[tuple[int, int], float]:
        return self._workers.started()

    def pop_lost(self) -> list[Task]:
        lost, self._lost = self._lost, []
        return lost

    def abandon(self, id: int, attempt: int) -> bool:  # noqa: A002  (as in `Candidate`)
        key, workers = (id, attempt), self._workers
        future = workers.running.get(key)
        if future is None or future.done() or not workers.terminate(future):
            return False
        workers.forget(key)
        del self._tasks[key]
        return True

    def cancel(self) -> None:
        self._cancelled = True
        for key in self._workers.cancel():
            del self._tasks[key]

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._tasks.clear()
            self._workers.close()

    def _collect(
        self, done: Iterable[tuple[Key, Future[SerializedResult]]]
    ) -> tuple[list[EvaluationResult], list[Task]]:
        """Results of finished futures, by id, and the tasks that were lost with a worker."""
        results: list[EvaluationResult] = []
        lost: list[Task] = []
        name = self._workers.name
        for task, future in [(self._tasks.pop(key), future) for key, future in done]:
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
            ids = sorted({t.candidate.id for t in [*lost, *self._tasks.values()]})
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
                    self._workers.submit(x, task.context, task.perturbation, key=task.key)
                except BrokenExecutor:
                    lost = tasks[i:]
                    break
                except RuntimeError as error:
                    text = f"{self._workers.name} takes no work: {describe(error)}"
                    raise EvaluationError(text) from error
                self._tasks[task.key] = task
        if lost:
            self._submit_again(list(lost))
