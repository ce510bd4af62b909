"""Evaluations of a vectorized callable: all that wait, in one call."""

from __future__ import annotations

import time
from collections.abc import Sequence

from optex_core.execution.base import Evaluator, Outcome, Report, Task, charge, format_error
from optex_core.types import Candidate, Counts, Evaluable


class BatchEvaluator(Evaluator):
    """Evaluates, in the thread that calls `next`, all submitted candidates in one call of user code.

    If that call raises, every candidate of the batch has failed with the same exception.

    Parameters
    ----------
    objective : Evaluable
        What to evaluate, with ``vectorized=True``.
    """

    def __init__(self, objective: Evaluable) -> None:
        self._objective = objective
        self._waiting: list[Task] = []

    @property
    def pending(self) -> int:
        return len(self._waiting)

    def submit(self, candidates: Sequence[Candidate], *, attempt: int = 0, deadline: float | None = None) -> None:
        self._waiting.extend(Task(c, attempt, deadline) for c in candidates)

    def next(self, timeout: float | None = None) -> list[Outcome]:
        """Evaluate all that wait; `timeout` cannot interrupt it and is ignored."""
        self._need_pending()
        tasks, self._waiting = sorted(self._waiting, key=lambda t: t.candidate.id), []
        counts, start = Counts(), time.perf_counter()
        try:
            evaluations = self._objective.evaluate_batch([t.candidate.x for t in tasks], [t.context for t in tasks], counts)
            reports = [Report.of(e) for e in evaluations]
        except Exception as error:
            text, n = format_error(error), len(tasks)
            seconds = (time.perf_counter() - start) / n
            # Calls are rows: each failed row takes its share, the first ones what does not divide.
            reports = [
                Report(None, error, text, counts.nfev // n + (i < counts.nfev % n), counts.njev // n + (i < counts.njev % n), seconds)
                for i in range(n)
            ]
        except BaseException as interrupt:
            charge(interrupt, counts.nfev, counts.njev)
            raise
        return [r.outcome(t.candidate, t.attempt) for r, t in zip(reports, tasks, strict=True)]

    def cancel(self) -> None:
        """Drop everything: nothing runs between two calls of `next`."""
        self._waiting.clear()

    def close(self) -> None:
        self._waiting.clear()
