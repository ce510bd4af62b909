"""Evaluator of finite differences: the shifted points are tasks of their own, so that those of all
candidates of an iteration run concurrently.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optex_core.execution.base import Evaluator, attach_call_counts, by_id
from optex_core.types import (
    UNPERTURBED,
    Array,
    DifferenceScheme,
    EvaluationResult,
    ObjectiveProtocol,
    Perturbation,
    Task,
)


@dataclass(slots=True, eq=False)
class _PartialEvaluation:
    """Evaluation of which some calls are missing."""

    task: Task
    scheme: DifferenceScheme
    values: list[complex]
    missing: dict[int, int]  # id of the call -> index of its value
    failed: EvaluationResult | None = None
    nfev: int = 0
    njev: int = 0
    seconds: float = 0.0
    started_at: float | None = None

    def result(self) -> EvaluationResult:
        """The result, once nothing is missing."""
        value, gradient, error, traceback = None, None, None, ""
        if self.failed is None:
            value, gradient = self.scheme.assemble(self.values)
        else:
            error, traceback = self.failed.error, self.failed.traceback
        return EvaluationResult(
            value, gradient, self.nfev, self.njev, self.seconds, error, traceback, self.task
        )


class FiniteDifferenceEvaluator(Evaluator):
    """Submits the calls ``make_scheme(x)`` of an evaluation to `inner`, and assembles the gradient.

    All calls of one evaluation have its seed and its context. When one fails, those that wait are
    dropped and those that run are waited for, so that every call made is counted; the evaluation
    has then failed. `seconds` is the total time of its calls.
    """

    def __init__(self, make_scheme: Callable[[Array], DifferenceScheme], inner: Evaluator) -> None:
        self._make_scheme, self._inner = make_scheme, inner
        self.asynchronous = inner.asynchronous
        self._partial: dict[tuple[int, int], _PartialEvaluation] = {}
        self._calls: dict[int, _PartialEvaluation] = {}
        self._ids = itertools.count()
        self._complete: list[EvaluationResult] = []

    @property
    def pending(self) -> int:
        return len(self._partial) + len(self._complete)

    def submit_tasks(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            scheme = self._make_scheme(task.candidate.x)
            partial = self._partial[task.key] = _PartialEvaluation(task, scheme, [0j], {})
            self._submit(partial, (UNPERTURBED, *scheme.perturbations))

    def _submit(self, partial: _PartialEvaluation, shifts: Sequence[Perturbation]) -> None:
        """Submit the calls of a scheme; the first one, at x, may have been made before."""
        t, n = partial.task, 1 + len(partial.scheme.perturbations)
        calls = [Task(next(self._ids), t.candidate, t.attempt, t.deadline, s) for s in shifts]
        partial.values = [partial.values[0], *[0j] * (n - 1)]
        partial.missing = {call.id: n - len(calls) + i for i, call in enumerate(calls)}
        self._calls.update((call.id, partial) for call in calls)
        self._inner.submit_tasks(calls)

    def next(self, timeout: float | None = None) -> list[EvaluationResult]:
        self._need_pending()
        end = None if timeout is None else time.monotonic() + timeout
        while not self._complete and self._inner.pending:
            try:
                left = None if end is None else max(0.0, end - time.monotonic())
                results = self._inner.next(left)
            except BaseException as error:  # what is now left unfinished has made calls
                attach_call_counts(error, self._partial.values())
                raise
            for result in results:
                self._record(result)
            if not results:
                break
        complete, self._complete = self._complete, []
        return by_id(complete)

    def started(self) -> dict[tuple[int, int], float]:
        for (call, _), start in self._inner.started().items():
            partial = self._calls.get(call)
            if partial is not None:
                partial.started_at = min(start, partial.started_at or start)
        return {k: p.started_at for k, p in self._partial.items() if p.started_at is not None}

    def pop_lost(self) -> list[Task]:
        return self._inner.pop_lost()

    def abandon(self, id: int, attempt: int) -> bool:  # noqa: A002  (as in `Candidate`)
        partial = self._partial.get((id, attempt))
        if partial is None:
            return False
        for call in [c for c in partial.missing if self._inner.abandon(c, attempt)]:
            self._drop(partial, call)
        if partial.missing:
            return False
        del self._partial[partial.task.key]
        return True

    def cancel(self) -> None:
        """Drop what has not started; of what has, all calls are made: half are of no use."""
        running = {id(self._calls[c]) for c, _ in self._inner.started() if c in self._calls}
        dropped = [p for p in self._partial.values() if not p.nfev and id(p) not in running]
        everything = len(dropped) == len(self._partial)
        if everything:
            self._inner.cancel()
        for partial in dropped:
            for call in list(partial.missing):
                if not everything:
                    self._inner.abandon(call, partial.task.attempt)
                self._drop(partial, call)
            del self._partial[partial.task.key]

    def close(self) -> None:
        self._partial.clear()
        self._calls.clear()
        self._complete.clear()
        self._inner.close()

    def _drop(self, partial: _PartialEvaluation, call: int) -> None:
        partial.missing.pop(call, None)
        self._calls.pop(call, None)

    def _record(self, result: EvaluationResult) -> None:
        """Put the result of one call where it belongs."""
        assert result.task is not None
        call = result.task.id
        partial = self._calls.pop(call, None)
        if partial is None:  # dropped while it ran
            return
        index = partial.missing.pop(call)
        partial.nfev += result.nfev
        partial.njev += result.njev
        partial.seconds += result.seconds
        if result.gradient is not None:
            partial.values[index] = complex(*result.gradient)
        elif partial.failed is None:
            partial.failed = result
            running = {call for call, _ in self._inner.started()}
            for waiting in [c for c in partial.missing if c not in running]:
                if self._inner.abandon(waiting, partial.task.attempt):
                    self._drop(partial, waiting)
        if partial.missing or partial.task.key not in self._partial:
            return
        refined = None if partial.failed else partial.scheme.refined(partial.values)
        if refined is not None:
            partial.scheme = refined
            self._submit(partial, refined.perturbations)
            return
        del self._partial[partial.task.key]
        self._complete.append(partial.result())


def wrap_finite_differences(objective: ObjectiveProtocol, evaluator: Evaluator) -> Evaluator:
    """`evaluator`, behind a `FiniteDifferenceEvaluator` where an evaluation is several calls."""
    make_scheme = getattr(objective, "difference_scheme", None)  # other objectives have none
    if getattr(objective, "is_composite", False) and make_scheme is not None:
        return FiniteDifferenceEvaluator(make_scheme, evaluator)
    return evaluator
