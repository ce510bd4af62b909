"""Evaluators that evaluate within `next`: one point, all points in one vectorized call, or all
points through a map-like. Nothing runs between two calls.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from optex_core._validation import short_repr
from optex_core.errors import EvaluationError, format_traceback
from optex_core.execution.base import (
    Evaluator,
    attach_call_counts,
    by_id,
    is_interrupt,
    raise_interrupt,
    run_evaluation,
)
from optex_core.execution.programs import runner
from optex_core.execution.workers.serialization import (
    SerializedObjective,
    SerializedResult,
    run_serialized,
)
from optex_core.types import (
    Array,
    CallCounts,
    Context,
    EvaluationResult,
    ObjectiveProtocol,
    Perturbation,
    Task,
)


class SynchronousEvaluator(Evaluator):
    """Queue of tasks that wait until `next` evaluates them; a `timeout` cannot interrupt it."""

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
        raise_interrupt(results)
        return by_id(results)

    def cancel(self) -> None:
        self._waiting.clear()

    def close(self) -> None:
        self._waiting.clear()
        runner.release_guardian()

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
        return [
            run_evaluation(self._objective, t.candidate.x, t.context, t.perturbation) for t in tasks
        ]


class BatchEvaluator(SynchronousEvaluator):
    """Evaluates all submitted candidates in one call of a vectorized objective.

    If that call raises, every candidate of the batch has failed with the same exception.

    Parameters
    ----------
    objective : ObjectiveProtocol
        With ``vectorized=True``.
    parallelism : int
        The largest batch; told to objectives that compile for one size (``reserve_batch``).
    """

    def __init__(self, objective: ObjectiveProtocol, parallelism: int = 1) -> None:
        super().__init__()
        self._objective = objective
        reserve = getattr(objective, "reserve_batch", None)
        if callable(reserve):
            reserve(parallelism)

    def _evaluate(self, tasks: list[Task]) -> Iterable[EvaluationResult]:
        counts, start, n = CallCounts(), time.perf_counter(), len(tasks)
        try:
            return self._objective.evaluate_batch(
                [t.candidate.x for t in tasks], [t.context for t in tasks], counts
            )
        except BaseException as error:
            text, seconds = format_traceback(error), (time.perf_counter() - start) / n
            # Calls are rows: each failed row takes its share, the first ones the remainder.
            return [
                EvaluationResult(
                    None,
                    None,
                    counts.nfev // n + (i < counts.nfev % n),
                    counts.njev // n + (i < counts.njev % n),
                    seconds,
                    error,
                    text,
                )
                for i in range(n)
            ]


class MapEvaluator(SynchronousEvaluator):
    """Evaluates all submitted tasks in one call of a map-like.

    Parameters
    ----------
    objective : ObjectiveProtocol
    mapper : callable
        ``mapper(function, items)`` returns the results in the order of the items: the builtin
        `map`, ``multiprocessing.Pool().map``.
    """

    def __init__(self, objective: ObjectiveProtocol, mapper: Callable[..., Iterable[Any]]) -> None:
        super().__init__()
        self._function = _RunItem(SerializedObjective(objective))
        self._mapper = mapper

    def _evaluate(self, tasks: list[Task]) -> Iterable[EvaluationResult]:
        found: list[EvaluationResult] = []
        items = [(t.candidate.x, t.context, t.perturbation) for t in tasks]
        try:
            results = self._mapper(self._function, items)
            if not isinstance(results, Iterable):
                raise EvaluationError(
                    "the map-like given as workers must return an iterable of results, as "
                    f"map(function, items) does; got {short_repr(results)}"
                )
            for serialized in results:
                if not isinstance(serialized, SerializedResult):
                    raise EvaluationError(_wrong_map(len(tasks), short_repr(serialized)))
                found.append(serialized.result)
                if is_interrupt(serialized.result.error):
                    break  # the builtin map is lazy: the next point is not begun
        except BaseException as error:
            attach_call_counts(error, found)
            raise
        raise_interrupt(found)
        if len(found) != len(tasks):
            raise EvaluationError(_wrong_map(len(tasks), f"{len(found)} results"))
        return found


class _RunItem:
    """Takes one item, as map-likes want; a class, since the standard pickler refuses closures."""

    def __init__(self, objective: SerializedObjective) -> None:
        self._objective = objective

    def __call__(self, item: tuple[Array, Context, Perturbation | None]) -> SerializedResult:
        return run_serialized(self._objective, *item)


def _wrong_map(points: int, came: str) -> str:
    return (
        "the map-like given as workers must return what the function it is given returns, "
        f"one result per point in their order: {points} points gave {came}"
    )
