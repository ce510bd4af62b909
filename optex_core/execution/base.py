"""Interface of evaluators: candidates in, results out, in whatever order they finish."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from optex_core.errors import ProtocolError, format_traceback
from optex_core.types import (
    Array,
    CallCounts,
    Candidate,
    Context,
    EvaluationResult,
    ObjectiveProtocol,
    Perturbation,
    Task,
)


def run_evaluation(
    objective: ObjectiveProtocol, x: Array, context: Context, shift: Perturbation | None = None
) -> EvaluationResult:
    """Evaluate in this thread; whatever user code raises becomes the result's `error`.

    What is no Exception too: in a worker it would end the worker, and nobody would hear of it. The
    driver raises it (`raise_interrupt`).
    """
    counts, start = CallCounts(), time.perf_counter()
    try:
        if shift is None:
            return objective.evaluate(x, context, counts)
        composite: Any = objective  # `wrap_finite_differences` has asked it
        result: EvaluationResult = composite.evaluate_perturbed(x, context, shift, counts)
        return result
    except BaseException as error:
        seconds, text = time.perf_counter() - start, format_traceback(error)
        return EvaluationResult(counts.value, None, counts.nfev, counts.njev, seconds, error, text)


def is_interrupt(error: BaseException | None) -> bool:
    """True for what ends the run whatever its failure policy: what is no Exception."""
    return error is not None and not isinstance(error, Exception)


def raise_interrupt(results: Sequence[EvaluationResult]) -> None:
    """Raise the first interrupt among `results`, with the calls of all of them attached."""
    error = next((r.error for r in results if is_interrupt(r.error)), None)
    if error is not None:
        attach_call_counts(error, results)
        raise error


def attach_call_counts(error: BaseException, results: Iterable[Any]) -> None:
    """Note on `error` the calls (`nfev`, `njev`) of `results` that are lost with it."""
    counts = attached_call_counts(error)
    for result in results:
        counts = CallCounts(counts.nfev + result.nfev, counts.njev + result.njev)
    with contextlib.suppress(Exception):  # a frozen exception keeps nothing
        error.optex_calls = counts  # type: ignore[attr-defined]


def attached_call_counts(error: BaseException) -> CallCounts:
    """The calls that `attach_call_counts` has noted."""
    counts = getattr(error, "optex_calls", None)
    return counts if isinstance(counts, CallCounts) else CallCounts()


def by_id(results: Iterable[EvaluationResult]) -> list[EvaluationResult]:
    """Results in the order of their tasks."""
    return sorted(results, key=lambda r: r.task.id if r.task else -1)


class Evaluator(ABC):
    """Runs the evaluations of one objective; a context manager that closes itself.

    It holds no policy: its caller decides what to retry, what to drop and when to stop.
    """

    #: True where evaluations run while `next` waits; False where `next` itself evaluates.
    asynchronous: bool = False

    @property
    @abstractmethod
    def pending(self) -> int:
        """Number of submitted tasks that neither `next` nor `drain` has returned."""

    def submit(
        self, candidates: Sequence[Candidate], *, attempt: int = 0, deadline: float | None = None
    ) -> None:
        """Submit candidates, as tasks; none may have an id and attempt that are pending."""
        self.submit_tasks([Task(c.id, c, attempt, deadline) for c in candidates])

    @abstractmethod
    def submit_tasks(self, tasks: Sequence[Task]) -> None:
        """Submit tasks, which may be parts of evaluations."""

    @abstractmethod
    def next(self, timeout: float | None = None) -> list[EvaluationResult]:
        """Wait until at least one task has finished; return all that have, by id. An empty list
        if nothing that runs elsewhere has finished after `timeout` seconds.

        ProtocolError if nothing is pending, EvaluationError if the workers are lost; what user code
        raised, if it is no Exception.
        """

    def started(self) -> dict[tuple[int, int], float]:
        """Start times (`time.perf_counter`) of the tasks that run elsewhere, by (id, attempt).

        Exact for our own threads and processes, whose start-up does not count. For other pools the
        time when their future was first seen running: process pools and clusters call running what
        waits in their queue. Empty where `next` itself evaluates.
        """
        return {}

    def pop_lost(self) -> list[Task]:
        """Tasks that had begun and were lost with their worker, once for each loss."""
        return []

    def abandon(self, id: int, attempt: int) -> bool:  # noqa: A002  (as in `Candidate`)
        """Free the worker of a task that takes too long; True if it is ended and no longer pending.
        False if it runs on, or has just finished: its result still comes from `next`.
        """
        return False

    @abstractmethod
    def cancel(self) -> None:
        """Drop what has not started. What runs stays pending, but is not submitted again if it is
        lost with a worker.
        """

    def drain(self) -> list[EvaluationResult]:
        """Drop what has not started, wait for what runs, return its results by id."""
        self.cancel()
        results: list[EvaluationResult] = []
        while self.pending:
            results += self.next()
        return by_id(results)

    @abstractmethod
    def close(self) -> None:
        """End what was started here at once, without waiting; leave a user's pool as it is."""

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _need_pending(self) -> None:
        if not self.pending:
            raise ProtocolError("next() waits for evaluations, but none was submitted")
