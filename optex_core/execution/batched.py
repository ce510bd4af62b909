"""Evaluations of a vectorized callable: all that wait, in one call."""

from __future__ import annotations

import time

from optex_core.errors import format_traceback
from optex_core.execution.base import Outcome, Report, attach_call_counts
from optex_core.execution.waiting import WaitingEvaluator
from optex_core.types import CallCounts, ObjectiveProtocol


class BatchEvaluator(WaitingEvaluator):
    """Evaluates, in the thread that calls `next`, all submitted candidates in one call of user
    code.

    If that call raises, every candidate of the batch has failed with the same exception.

    Parameters
    ----------
    objective : Evaluable
        What to evaluate, with ``vectorized=True``.
    """

    def __init__(self, objective: ObjectiveProtocol) -> None:
        super().__init__()
        self._objective = objective

    def next(self, timeout: float | None = None) -> list[Outcome]:
        """Evaluate all that wait; `timeout` cannot interrupt it and is ignored."""
        tasks = self._take_all()
        counts, start = CallCounts(), time.perf_counter()
        try:
            evaluations = self._objective.evaluate_batch(
                [t.candidate.x for t in tasks], [t.context for t in tasks], counts
            )
            reports = [Report.of(e) for e in evaluations]
        except Exception as error:
            text, n = format_traceback(error), len(tasks)
            seconds = (time.perf_counter() - start) / n
            # Calls are rows: each failed row takes its share, the first ones what does not divide.
            reports = [
                Report(
                    None,
                    error,
                    text,
                    counts.nfev // n + (i < counts.nfev % n),
                    counts.njev // n + (i < counts.njev % n),
                    seconds,
                )
                for i in range(n)
            ]
        except BaseException as interrupt:
            attach_call_counts(interrupt, counts.nfev, counts.njev)
            raise
        return [r.outcome(t.candidate, t.attempt) for r, t in zip(reports, tasks, strict=True)]
