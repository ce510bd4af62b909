"""Evaluations through a map-like: ``map(function, items)``, as SciPy's ``workers`` takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from optex_core._validation import short_repr
from optex_core.errors import EvaluationError
from optex_core.execution.base import Outcome, attach_call_counts
from optex_core.execution.waiting import WaitingEvaluator
from optex_core.execution.workers.serialization import (
    SerializedObjective,
    SerializedReport,
    run_serialized,
)
from optex_core.types import Array, Context, ObjectiveProtocol


class _RunItem:
    """Takes one item, as map-likes want; a class, since the standard pickler refuses closures."""

    def __init__(self, parcel: SerializedObjective) -> None:
        self._objective = parcel

    def __call__(self, item: tuple[Array, Context]) -> SerializedReport:
        return run_serialized(self._objective, *item)


class MapEvaluator(WaitingEvaluator):
    """Evaluates all submitted candidates in one call of a map-like, which is all that can be asked
    of one.

    Parameters
    ----------
    objective : Evaluable
        What to evaluate.
    mapper : callable
        ``mapper(function, items)`` returns the results in the order of the items: the builtin
        `map`, ``multiprocessing.Pool().map``.
    """

    def __init__(self, objective: ObjectiveProtocol, mapper: Callable[..., Iterable[Any]]) -> None:
        super().__init__()
        self._function = _RunItem(SerializedObjective(objective))
        self._mapper = mapper

    def next(self, timeout: float | None = None) -> list[Outcome]:
        """Evaluate all that wait; `timeout` cannot interrupt it and is ignored."""
        tasks = self._take_all()
        serialized: list[Any] = []
        try:
            results = self._mapper(self._function, [(t.candidate.x, t.context) for t in tasks])
            if not isinstance(results, Iterable):
                raise EvaluationError(
                    f"the map-like given as workers must return an iterable of "
                    f"results, as map(function, items) does; got {short_repr(results)}"
                )
            serialized.extend(results)
        except BaseException as interrupt:
            # the builtin map gives one result at a time: those that came were evaluated
            reports = [s.report for s in serialized if isinstance(s, SerializedReport)]
            attach_call_counts(
                interrupt, sum(r.nfev for r in reports), sum(r.njev for r in reports)
            )
            raise
        other = next((s for s in serialized if not isinstance(s, SerializedReport)), None)
        if len(serialized) != len(tasks) or other is not None:
            came = f"{len(serialized)} results" if other is None else short_repr(other)
            raise EvaluationError(
                "the map-like given as workers must return what the function it is "
                "given returns, one result per point in their order: "
                f"{len(tasks)} points gave {came}"
            )
        return [
            s.report.outcome(t.candidate, t.attempt) for s, t in zip(serialized, tasks, strict=True)
        ]
