"""Evaluators that evaluate within `next`: one point, all points in one vectorized call, or all
points through a map-like. Nothing runs between two calls.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from optex_core._validation import short_repr
from optex_core.errors import EvaluationError, format_traceback
from optex_core.execution import base, programs
from optex_core.execution.workers.serialization import (
    SerializedObjective,
    SerializedResult,
    evaluate_point,
)
from optex_core.types import CallCounts, EvaluationResult, ObjectiveProtocol, Task


class SynchronousEvaluator(base.Evaluator):
    """Queue of tasks that wait until `next` evaluates them."""

    def __init__(self) -> None:
        self._waiting: list[Task] = []

    @property
    def pending(self) -> int:
        return len(self._waiting)

    def submit_tasks(self, tasks: Sequence[Task]) -> None:
        self._waiting.extend(tasks)

    def next(self, timeout: float | None = None) -> list[EvaluationResult]:
        """Evaluate what is due; `timeout` cannot interrupt it and is ignored."""
        self._need_pending()
        tasks = self._take()
        results = [replace(r, task=t) for r, t in zip(self._evaluate(tasks), tasks, strict=True)]
        base.raise_interrupt(results)
        return base.by_id(results)

    def cancel(self) -> None:
        self._waiting.clear()

    def close(self) -> None:
        self._waiting.clear()
        programs.release_guardian()

    def _take(self) -> list[Task]:
        """The tasks that the next call evaluates, by id: all of them."""
        tasks, self._waiting = sorted(self._waiting, key=lambda t: t.id), []
        return tasks

    @abstractmethod
    def _evaluate(self, tasks: list[Task]) -> Iterable[EvaluationResult]:
        """One result per task, in their order."""


class SerialEvaluator(SynchronousEvaluator):
    """Evaluates one candidate per call of `next`, so that its caller may stop in between."""

    def __init__(self, objective: ObjectiveProtocol) -> None:
        super().__init__()
        self._objective = objective

    def _take(self) -> list[Task]:
        return [self._waiting.pop(0)]

    def _evaluate(self, tasks: list[Task]) -> Iterable[EvaluationResult]:
        run, objective = base.run_evaluation, self._objective
        return [run(objective, t.candidate.x, t.context, t.perturbation) for t in tasks]


class BatchEvaluator(SynchronousEvaluator):
    """Evaluates all submitted candidates in one call of a vectorized objective.

    If that call raises, every candidate of the batch has failed with the same exception.
    `parallelism`, the largest batch, is told to objectives that compile for one size
    (``reserve_batch``).
    """

    def __init__(self, objective: ObjectiveProtocol, parallelism: int = 1) -> None:
        super().__init__()
        self._objective = objective
        reserve = getattr(objective, "reserve_batch", None)
        if callable(reserve):
            reserve(parallelism)

    def _evaluate(self, tasks: list[Task]) -> Iterable[EvaluationResult]:
        counts, start, n = CallCounts(), time.perf_counter(), len(tasks)
        points, contexts = [t.candidate.x for t in tasks], [t.context for t in tasks]
        try:
            return self._objective.evaluate_batch(points, contexts, counts)
        except BaseException as error:
            text, seconds = format_traceback(error), (time.perf_counter() - start) / n

            # Calls are rows: each failed row takes its share, the first ones the remainder.
            f, j = ([c // n + (i < c % n) for i in range(n)] for c in (counts.nfev, counts.njev))
            calls = zip(f, j, strict=True)
            return [EvaluationResult(None, None, *each, seconds, error, text) for each in calls]


class MapEvaluator(SynchronousEvaluator):
    """Evaluates all tasks in one call ``mapper(function, items)``; results come in their order."""

    def __init__(
        self, objective: ObjectiveProtocol, mapper: Callable[..., Iterable[object]]
    ) -> None:
        super().__init__()
        self._objective, self._mapper = SerializedObjective(objective), mapper

    def _evaluate(self, tasks: list[Task]) -> Iterable[EvaluationResult]:
        found: list[EvaluationResult] = []
        try:
            items = [(t.candidate.x, t.context, t.perturbation) for t in tasks]
            results = self._mapper(partial(_evaluate_item, self._objective), items)
            if not isinstance(results, Iterable):
                raise EvaluationError(
                    "the map-like given as workers must return an iterable of results, as "
                    f"map(function, items) does; got {short_repr(results)}"
                )
            for result in results:
                if not isinstance(result, SerializedResult):
                    raise EvaluationError(_wrong_map(len(tasks), short_repr(result)))
                found.append(result.result)
                if base.is_interrupt(result.result.error):
                    break  # the builtin map is lazy: the next point is not begun
        except BaseException as error:
            base.attach_call_counts(error, found)
            raise
        base.raise_interrupt(found)
        if len(found) != len(tasks):
            raise EvaluationError(_wrong_map(len(tasks), f"{len(found)} results"))
        return found


def _evaluate_item(objective: SerializedObjective, item: tuple[Any, ...]) -> SerializedResult:
    return evaluate_point(objective.objective, *item)


def _wrong_map(points: int, came: str) -> str:
    return (
        "the map-like given as workers must return what the function it is given returns, one "
        f"result per point in their order: {points} points gave {came}"
    )
