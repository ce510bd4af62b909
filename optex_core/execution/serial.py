"""Evaluations in the caller's thread, one at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from optex_core.execution.base import Evaluator, Outcome, Task, run
from optex_core.types import Candidate, Evaluable


class SerialEvaluator(Evaluator):
    """Evaluates in the thread that calls `next`, exactly one candidate per call, so that the driver may stop in between.

    Parameters
    ----------
    objective : Evaluable
        What to evaluate.
    """

    def __init__(self, objective: Evaluable) -> None:
        self._objective = objective
        self._waiting: deque[Task] = deque()

    @property
    def pending(self) -> int:
        return len(self._waiting)

    def submit(self, candidates: Sequence[Candidate], *, attempt: int = 0, deadline: float | None = None) -> None:
        self._waiting.extend(Task(c, attempt, deadline) for c in candidates)

    def next(self, timeout: float | None = None) -> list[Outcome]:
        """Evaluate the next candidate; `timeout` cannot interrupt it and is ignored."""
        self._need_pending()
        task = self._waiting.popleft()
        return [run(self._objective, task.candidate.x, task.context).outcome(task.candidate, task.attempt)]

    def cancel(self) -> None:
        """Drop everything: nothing runs between two calls of `next`."""
        self._waiting.clear()

    def close(self) -> None:
        self._waiting.clear()
