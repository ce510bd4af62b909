"""Evaluations in a pool: any concurrent.futures.Executor, of which only ``submit`` and standard
futures are assumed.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future
from contextlib import AbstractContextManager
from typing import Protocol

from optex_core.errors import EvaluationError, OptexError, ProtocolError
from optex_core.execution.base import Evaluator, Outcome, Task, attach_call_counts
from optex_core.execution.workers.serialization import SerializedReport
from optex_core.types import Array, Candidate, Context

logger = logging.getLogger("optex_core")

#: A point that is lost with its worker so many times, without one finished evaluation in between,
#: ends the run: the cause is then the point itself.
MAX_LOSSES = 10


class EvaluationWorkers(Protocol):
    """What `PoolEvaluator` needs of a pool, be it the user's or ours."""

    #: Named in error messages.
    name: str
    #: As `Evaluator.out_of_process`.
    out_of_process: bool

    def submit(self, x: Array, context: Context) -> Future[SerializedReport]:
        """Start an evaluation."""
        ...

    def batch(self) -> AbstractContextManager[None]:
        """Within it several are sent: where that helps, none of them is begun before all are ready."""
        ...

    def terminate(self, future: Future[SerializedReport]) -> bool:
        """Give up an evaluation and free its slot; False where it runs on, and its future will be
        done some day.
        """
        ...

    def restart(self) -> bool:
        """True if what was lost can be sent again: the worker is replaced; False where that is not
        ours to do.
        """
        ...

    def close(self) -> None:
        """End the pool at once, if it is ours."""
        ...


class PoolEvaluator(Evaluator):
    """Evaluates in a pool; outcomes come in the order in which evaluations finish.

    Points lost with a worker process are asked again, their attempt unchanged: a lost worker says
    nothing about the point.

    Parameters
    ----------
    workers : Workers
        The pool.
    """

    asynchronous = True

    def __init__(self, workers: EvaluationWorkers) -> None:
        self._workers = workers
        self.out_of_process = workers.out_of_process
        self._running: dict[Future[SerializedReport], Task] = {}
        # Not `concurrent.futures.wait`: it locks and unlocks all of them each time, 0.1 ms of the
        # 0.3 that an outcome took. Nor a queue that wakes its reader once for all that end
        # together: the slowest of eight threads that slept for 50 ms took 51.0 ms in place of 51.6,
        # and nothing was gained (of ideal, threads 0.87, 0.90, 0.90, 0.87, 0.85 with it and 0.87,
        # 0.87, 0.89, 0.89, 0.87 without; processes 0.86, 0.85, 0.85, 0.88 and 0.87, 0.82, 0.85,
        # 0.90).
        self._ended: queue.SimpleQueue[Future[SerializedReport]] = queue.SimpleQueue()
        # when a future that keeps no time itself was first seen to run
        self._first_seen_running: dict[Future[SerializedReport], float] = {}
        # how often a point was lost since an evaluation has finished last, by id
        self._losses: dict[int, int] = {}
        self._lost: list[Candidate] = []
        self._cancelled = False
        self._closed = False

    @property
    def pending(self) -> int:
        return len(self._running)

    def submit(
        self, candidates: Sequence[Candidate], *, attempt: int = 0, deadline: float | None = None
    ) -> None:
        if self._closed:
            raise ProtocolError("this evaluator is closed")
        self._cancelled = False
        self._submit([Task(c, attempt, deadline) for c in candidates])

    def next(self, timeout: float | None = None) -> list[Outcome]:
        self._need_pending()
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            done = self._finished(end)
            outcomes, lost = self._collect(done)
            if outcomes:
                self._losses.clear()
            if lost and not self._cancelled:
                self._recover(lost)
            if outcomes or not done or not self._running:
                return outcomes

    def started(self) -> dict[tuple[int, int], float]:
        now, found = time.perf_counter(), {}
        for future, task in self._running.items():
            if future.running():
                started_at = getattr(future, "started_at", None)
                found[task.candidate.id, task.attempt] = (
                    self._first_seen_running.setdefault(future, now)
                    if started_at is None
                    else started_at
                )
        return found

    def pop_lost(self) -> list[Candidate]:
        lost, self._lost = self._lost, []
        return lost

    def abandon(self, id: int, attempt: int) -> bool:  # noqa: A002  (as in `Candidate`)
        for future, task in self._running.items():
            if (task.candidate.id, task.attempt) == (id, attempt) and not future.done():
                if self._workers.terminate(future):
                    self._forget(future)
                    return True
                break
        return False

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

    def _finished(self, end: float | None) -> list[Future[SerializedReport]]:
        """The futures that are done: at least one of them, unless `end` comes before."""
        done: list[Future[SerializedReport]] = []
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            try:
                future = self._ended.get(block=not done, timeout=None if done else left)
            except queue.Empty:
                return done
            if future in self._running:  # it was not given up or dropped
                done.append(future)

    def _forget(self, future: Future[SerializedReport]) -> Task:
        self._first_seen_running.pop(future, None)
        return self._running.pop(future)

    def _collect(
        self, done: Iterable[Future[SerializedReport]]
    ) -> tuple[list[Outcome], list[Task]]:
        """Take finished futures: the outcomes by id, and the tasks that were lost with a worker."""
        outcomes: list[Outcome] = []
        lost: list[Task] = []
        interrupt: BaseException | None = None
        for future in done:
            task = self._forget(future)
            try:
                report = future.result().report
            except BrokenExecutor:
                lost.append(task)
                # of the caller's pools it is not known which had begun
                if getattr(future, "started_at", None) is not None:
                    self._lost.append(task.candidate)
            except CancelledError as error:
                raise EvaluationError(
                    f"{self._workers.name} dropped a waiting evaluation; was the pool "
                    f"shut down during the run?"
                ) from error
            except OptexError:
                raise
            except Exception as error:
                # User code cannot raise here: what it raises is part of its report.
                raise EvaluationError(
                    f"{self._workers.name} could not run an evaluation: "
                    f"{type(error).__name__}: {error}"
                ) from error
            except BaseException as error:
                # of user code; what came with it is counted, though nobody will hear of it
                interrupt = error
            else:
                outcomes.append(report.outcome(task.candidate, task.attempt))
        if interrupt is not None:
            attach_call_counts(
                interrupt, sum(o.nfev for o in outcomes), sum(o.njev for o in outcomes)
            )
            raise interrupt
        return sorted(outcomes, key=lambda o: o.candidate.id), lost

    def _recover(self, lost: list[Task]) -> None:
        """Ask again for what was lost with a worker: same id, seed and attempt."""
        for task in lost:
            self._losses[task.candidate.id] = self._losses.get(task.candidate.id, 0) + 1
        losses = max(self._losses.values())
        if losses >= MAX_LOSSES:
            ids = sorted({t.candidate.id for t in [*lost, *self._running.values()]})
            raise EvaluationError(
                f"{losses} times in a row a worker process died before any evaluation "
                f"finished; the last points asked have the ids "
                f"{ids}. Does the function crash the interpreter, or does memory run out?"
            )
        if not self._workers.restart():
            raise EvaluationError(
                f"{self._workers.name} broke: a worker process died. It is the "
                f"caller's pool and is not replaced here; "
                "with workers=<number of processes> lost points are asked again"
            )
        logger.warning(
            "a worker process died; %d points are asked again (loss %d of at most %d)",
            len(lost),
            losses,
            MAX_LOSSES,
        )
        self._submit(sorted(lost, key=lambda t: t.candidate.id))

    def _submit(self, tasks: list[Task]) -> None:
        lost: list[Task] = []
        with self._workers.batch():
            for i, task in enumerate(tasks):
                try:
                    future = self._workers.submit(task.candidate.x, task.context)
                except BrokenExecutor:
                    lost = tasks[i:]
                    break
                except RuntimeError as error:
                    raise EvaluationError(f"{self._workers.name} takes no work: {error}") from error
                self._running[future] = task
                future.add_done_callback(self._ended.put)
        if lost:
            self._recover(lost)
