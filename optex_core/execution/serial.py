"""Evaluations in the caller's thread, one at a time."""

from __future__ import annotations

from optex_core.execution.base import Outcome, run_evaluation
from optex_core.execution.waiting import WaitingEvaluator
from optex_core.types import ObjectiveProtocol


class SerialEvaluator(WaitingEvaluator):
    """Evaluates in the thread that calls `next`, exactly one candidate per call, so that the driver
    may stop in between.

    Parameters
    ----------
    objective : Evaluable
        What to evaluate.
    """

    def __init__(self, objective: ObjectiveProtocol) -> None:
        super().__init__()
        self._objective = objective

    def next(self, timeout: float | None = None) -> list[Outcome]:
        """Evaluate the next candidate; `timeout` cannot interrupt it and is ignored."""
        self._need_pending()
        task = self._waiting.pop(0)
        return [
            run_evaluation(self._objective, task.candidate.x, task.context).outcome(
                task.candidate, task.attempt
            )
        ]
