"""Evaluations that are many calls: the shifted points of a difference as tasks of their own, all of a round in one concurrent batch."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optex_core.execution.base import Evaluator, Outcome, attach_call_counts
from optex_core.types import Array, Candidate, DifferenceScheme, Evaluation, ObjectiveProtocol, StencilCandidate


@dataclass(slots=True)
class _Gathering:
    """An evaluation on its way: what is missing, and what has come."""

    candidate: Candidate
    attempt: int
    spread: DifferenceScheme
    values: list[complex]
    missing: dict[int, int]  # id of the call -> place of its value
    failed: Outcome | None = None
    nfev: int = 0
    njev: int = 0
    seconds: float = 0.0
    begun: float | None = None

    @property
    def key(self) -> tuple[int, int]:
        return self.candidate.id, self.attempt

    def outcome(self) -> Outcome:
        """What it has come to, once nothing is missing."""
        failed = self.failed
        if failed is not None:
            return Outcome(self.candidate, None, failed.error, failed.traceback, self.nfev, self.njev, self.seconds, self.attempt)
        value, gradient = self.spread.assemble(self.values)
        evaluation = Evaluation(value, gradient, self.nfev, self.njev, self.seconds)
        return Outcome(self.candidate, evaluation, None, "", self.nfev, self.njev, self.seconds, self.attempt)


class SpreadEvaluator(Evaluator):
    """Submits every call of an evaluation to another evaluator, and puts them together again.

    All calls of one evaluation have its seed, and its context but for the point. When one fails, those that wait are dropped and those that run
    are waited for, so that every call made is counted; the evaluation has then failed. `seconds` is the time of all its calls together.

    Parameters
    ----------
    spread : callable
        ``spread(x)``: the calls of the evaluation at x.
    inner : Evaluator
        Runs them.
    """

    def __init__(self, spread: Callable[[Array], DifferenceScheme], inner: Evaluator) -> None:
        self._spread, self._inner = spread, inner
        self.asynchronous, self.out_of_process = inner.asynchronous, inner.out_of_process
        self._gatherings: dict[tuple[int, int], _Gathering] = {}
        self._calls: dict[int, _Gathering] = {}
        self._ids = itertools.count()
        self._whole: list[Outcome] = []

    @property
    def pending(self) -> int:
        return len(self._gatherings) + len(self._whole)

    def submit(self, candidates: Sequence[Candidate], *, attempt: int = 0, deadline: float | None = None) -> None:
        for c in candidates:
            spread = self._spread(c.x)
            perturbations = [None, *spread.perturbations]
            parts = [StencilCandidate(next(self._ids), c.x, c.seed, c.iteration, c.slot, c.id, perturbation) for perturbation in perturbations]
            gathering = _Gathering(c, attempt, spread, [0j] * len(perturbations), {p.id: i for i, p in enumerate(parts)})
            self._gatherings[gathering.key] = gathering
            self._calls.update((p.id, gathering) for p in parts)
            self._inner.submit(parts, attempt=attempt, deadline=deadline)

    def next(self, timeout: float | None = None) -> list[Outcome]:
        self._need_pending()
        end = None if timeout is None else time.monotonic() + timeout
        while not self._whole and self._inner.pending:
            try:
                outcomes = self._inner.next(None if end is None else max(0.0, end - time.monotonic()))
            except BaseException as interrupt:  # the calls of what is now left unfinished were made
                attach_call_counts(interrupt, sum(g.nfev for g in self._gatherings.values()), sum(g.njev for g in self._gatherings.values()))
                raise
            for outcome in outcomes:
                self._take(outcome)
            if not outcomes:
                break
        whole, self._whole = self._whole, []
        return sorted(whole, key=lambda o: o.candidate.id)

    def started(self) -> dict[tuple[int, int], float]:
        for (call, _), since in self._inner.started().items():
            gathering = self._calls.get(call)
            if gathering is not None:
                gathering.begun = since if gathering.begun is None else min(since, gathering.begun)
        return {key: g.begun for key, g in self._gatherings.items() if g.begun is not None}

    def pop_lost(self) -> list[Candidate]:
        return self._inner.pop_lost()

    def abandon(self, id: int, attempt: int) -> bool:  # noqa: A002  (as in `Candidate`)
        gathering = self._gatherings.get((id, attempt))
        if gathering is None:
            return False
        ended = [call for call in gathering.missing if self._inner.abandon(call, attempt)]
        for call in ended:
            self._drop(gathering, call)
        if gathering.missing:
            return False
        del self._gatherings[gathering.key]
        return True

    def cancel(self) -> None:
        """Drop what has not begun; of what has, all calls are made: half a difference is of no use."""
        running = {self._calls[call].key for call, _ in self._inner.started() if call in self._calls}
        kept = [g for g in self._gatherings.values() if g.nfev or g.key in running]
        if not kept:
            self._inner.cancel()
        for gathering in [g for g in self._gatherings.values() if g not in kept]:
            for call in list(gathering.missing):
                if kept:
                    self._inner.abandon(call, gathering.attempt)
                self._drop(gathering, call)
            del self._gatherings[gathering.key]

    def close(self) -> None:
        self._gatherings.clear()
        self._calls.clear()
        self._whole.clear()
        self._inner.close()

    def _drop(self, gathering: _Gathering, call: int) -> None:
        gathering.missing.pop(call, None)
        self._calls.pop(call, None)

    def _take(self, outcome: Outcome) -> None:
        """Put one call's outcome where it belongs."""
        gathering = self._calls.pop(outcome.candidate.id, None)
        if gathering is None:  # dropped while it ran
            return
        place = gathering.missing.pop(outcome.candidate.id)
        gathering.nfev += outcome.nfev
        gathering.njev += outcome.njev
        gathering.seconds += outcome.seconds
        if outcome.evaluation is not None:
            real, imaginary = outcome.evaluation.gradient
            gathering.values[place] = complex(real, imaginary)
        elif gathering.failed is None:
            gathering.failed = outcome
            running = {call for call, _ in self._inner.started()}
            for call in [c for c in gathering.missing if c not in running]:
                if self._inner.abandon(call, gathering.attempt):
                    self._drop(gathering, call)
        if not gathering.missing and self._gatherings.pop(gathering.key, None) is not None:
            self._whole.append(gathering.outcome())


def spread_evaluator(objective: ObjectiveProtocol, evaluator: Evaluator) -> Evaluator:
    """`evaluator`, behind a `SpreadEvaluator` where the objective's evaluations are many calls."""
    spread = getattr(objective, "spread", None)  # an objective of another kind need not have it
    many = getattr(objective, "many_calls", False)
    return SpreadEvaluator(spread, evaluator) if many and spread is not None else evaluator
