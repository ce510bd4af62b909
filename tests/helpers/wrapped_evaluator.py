"""An evaluator around another one: what a test overrides to make one that misbehaves."""

from __future__ import annotations

from collections.abc import Sequence

from optex_core.execution.base import Evaluator
from optex_core.types import Candidate, EvaluationResult, Task


class EvaluatorWrapper(Evaluator):
    """Hands everything on to `inner`.

    Parameters
    ----------
    inner : Evaluator
    """

    def __init__(self, inner: Evaluator) -> None:
        self.inner = inner

    @property
    def pending(self) -> int:
        return self.inner.pending

    def submit(
        self, candidates: Sequence[Candidate], *, attempt: int = 0, deadline: float | None = None
    ) -> None:
        self.inner.submit(candidates, attempt=attempt, deadline=deadline)

    def submit_tasks(self, tasks: Sequence[Task]) -> None:
        self.inner.submit_tasks(tasks)

    def next(self, timeout: float | None = None) -> list[EvaluationResult]:
        return self.inner.next(timeout)

    def started(self) -> dict[tuple[int, int], float]:
        return self.inner.started()

    def cancel(self) -> None:
        self.inner.cancel()

    def close(self) -> None:
        self.inner.close()
