"""The queue of evaluators that evaluate in the thread which calls `next`: nothing runs between two
calls.
"""

from __future__ import annotations

from collections.abc import Sequence

from optex_core.execution.base import Evaluator, Task
from optex_core.execution.programs import runner as programs
from optex_core.types import Candidate


class WaitingEvaluator(Evaluator):
    """What is submitted waits until `next` takes it; a subclass has `next` alone."""

    def __init__(self) -> None:
        self._waiting: list[Task] = []

    @property
    def pending(self) -> int:
        return len(self._waiting)

    def submit(
        self, candidates: Sequence[Candidate], *, attempt: int = 0, deadline: float | None = None
    ) -> None:
        self._waiting.extend(Task(c, attempt, deadline) for c in candidates)

    def cancel(self) -> None:
        """Drop everything: nothing runs between two calls of `next`."""
        self._waiting.clear()

    def close(self) -> None:
        """Drop everything; a pool of the caller is left as it is."""
        self._waiting.clear()
        programs.detach_supervisor()

    def _take_all(self) -> list[Task]:
        """All that waits, by id."""
        self._need_pending()
        tasks, self._waiting = sorted(self._waiting, key=lambda t: t.candidate.id), []
        return tasks
