"""Evaluations that are many calls: the shifted points of a difference as tasks of their own, all of
a round in one concurrent batch.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optex_core.execution.base import Evaluator, Outcome, attach_call_counts
from optex_core.types import (
    Array,
    Candidate,
    DifferenceScheme,
    Evaluation,
    ObjectiveProtocol,
    StencilCandidate,
)


@dataclass(slots=True)
class _PartialEvaluation:
    """An evaluation on its way: what is missing, and what has come."""

    candidate: Candidate
    attempt: int
    scheme: DifferenceScheme
    values: list[complex]
    missing: dict[int, int]  # id of the call -> place of its value
    deadline: float | None = None
    failed: Outcome | None = None
    nfev: int = 0
    njev: int = 0
    seconds: float = 0.0
    started_at: float | None = None

    @property
    def key(self) -> tuple[int, int]:
        return self.candidate.id, self.attempt

    def outcome(self) -> Outcome:
        """What it has come to, once nothing is missing."""
        failed = self.failed
        if failed is not None:
            return Outcome(
                self.candidate,
                None,
                failed.error,
                failed.traceback,
                self.nfev,
                self.njev,
                self.seconds,
                self.attempt,
            )
        value, gradient = self.scheme.assemble(self.values)
        evaluation = Evaluation(value, gradient, self.nfev, self.njev, self.seconds)
        return Outcome(
            self.candidate, evaluation, None, "", self.nfev, self.njev, self.seconds, self.attempt
        )


class FiniteDifferenceEvaluator(Evaluator):
    """Submits every call of an evaluation to another evaluator, and puts them together again.

    All calls of one evaluation have its seed, and its context but for the point. When one fails,
    those that wait are dropped and those that run are waited for, so that every call made is
    counted; the evaluation has then failed. `seconds` is the time of all its calls together.

    Parameters
    ----------
    make_scheme : callable
        ``make_scheme(x)``: the calls of the evaluation at x.
    inner : Evaluator
        Runs them.
    """

    def __init__(self, make_scheme: Callable[[Array], DifferenceScheme], inner: Evaluator) -> None:
        self._make_scheme, self._inner = make_scheme, inner
        self.asynchronous, self.out_of_process = inner.asynchronous, inner.out_of_process
        self._partial: dict[tuple[int, int], _PartialEvaluation] = {}
        self._calls: dict[int, _PartialEvaluation] = {}
        self._ids = itertools.count()
        self._complete: list[Outcome] = []

    @property
    def pending(self) -> int:
        return len(self._partial) + len(self._complete)

    def submit(
        self, candidates: Sequence[Candidate], *, attempt: int = 0, deadline: float | None = None
    ) -> None:
        for c in candidates:
            scheme = self._make_scheme(c.x)
            partial = _PartialEvaluation(c, attempt, scheme, [0j], {}, deadline)
            self._partial[partial.key] = partial
            self._submit(partial, [None, *scheme.perturbations])

    def _submit(
        self, partial: _PartialEvaluation, perturbations: Sequence[tuple[int, complex] | None]
    ) -> None:
        """Submit the calls of a scheme; its first one, at x itself, may have been made before."""
        c, n = partial.candidate, len(partial.scheme.perturbations)
        parts = [
            StencilCandidate(next(self._ids), c.x, c.seed, c.iteration, c.slot, c.id, perturbation)
            for perturbation in perturbations
        ]
        partial.values = [partial.values[0], *[0j] * n]
        partial.missing = {p.id: n + 1 - len(parts) + i for i, p in enumerate(parts)}
        self._calls.update((p.id, partial) for p in parts)
        self._inner.submit(parts, attempt=partial.attempt, deadline=partial.deadline)

    def next(self, timeout: float | None = None) -> list[Outcome]:
        self._need_pending()
        end = None if timeout is None else time.monotonic() + timeout
        while not self._complete and self._inner.pending:
            try:
                outcomes = self._inner.next(
                    None if end is None else max(0.0, end - time.monotonic())
                )
            except BaseException as interrupt:  # the calls of what is now left unfinished were made
                attach_call_counts(
                    interrupt,
                    sum(g.nfev for g in self._partial.values()),
                    sum(g.njev for g in self._partial.values()),
                )
                raise
            for outcome in outcomes:
                self._record(outcome)
            if not outcomes:
                break
        whole, self._complete = self._complete, []
        return sorted(whole, key=lambda o: o.candidate.id)

    def started(self) -> dict[tuple[int, int], float]:
        for (call, _), start in self._inner.started().items():
            partial = self._calls.get(call)
            if partial is not None:
                partial.started_at = (
                    start if partial.started_at is None else min(start, partial.started_at)
                )
        return {key: g.started_at for key, g in self._partial.items() if g.started_at is not None}

    def pop_lost(self) -> list[Candidate]:
        return self._inner.pop_lost()

    def abandon(self, id: int, attempt: int) -> bool:  # noqa: A002  (as in `Candidate`)
        partial = self._partial.get((id, attempt))
        if partial is None:
            return False
        ended = [call for call in partial.missing if self._inner.abandon(call, attempt)]
        for call in ended:
            self._drop(partial, call)
        if partial.missing:
            return False
        del self._partial[partial.key]
        return True

    def cancel(self) -> None:
        """Drop what has not started; of what has, all calls are made: half a difference is of no
        use.
        """
        running = {
            self._calls[call].key for call, _ in self._inner.started() if call in self._calls
        }
        kept = [g for g in self._partial.values() if g.nfev or g.key in running]
        if not kept:
            self._inner.cancel()
        for partial in [g for g in self._partial.values() if g not in kept]:
            for call in list(partial.missing):
                if kept:
                    self._inner.abandon(call, partial.attempt)
                self._drop(partial, call)
            del self._partial[partial.key]

    def close(self) -> None:
        self._partial.clear()
        self._calls.clear()
        self._complete.clear()
        self._inner.close()

    def _drop(self, partial: _PartialEvaluation, call: int) -> None:
        partial.missing.pop(call, None)
        self._calls.pop(call, None)

    def _record(self, outcome: Outcome) -> None:
        """Put one call's outcome where it belongs."""
        partial = self._calls.pop(outcome.candidate.id, None)
        if partial is None:  # dropped while it ran
            return
        place = partial.missing.pop(outcome.candidate.id)
        partial.nfev += outcome.nfev
        partial.njev += outcome.njev
        partial.seconds += outcome.seconds
        if outcome.evaluation is not None:
            real, imaginary = outcome.evaluation.gradient
            partial.values[place] = complex(real, imaginary)
        elif partial.failed is None:
            partial.failed = outcome
            running = {call for call, _ in self._inner.started()}
            for call in [c for c in partial.missing if c not in running]:
                if self._inner.abandon(call, partial.attempt):
                    self._drop(partial, call)
        if partial.missing or partial.key not in self._partial:
            return
        refined = None if partial.failed else partial.scheme.refined(partial.values)
        if refined is not None:
            partial.scheme = refined
            self._submit(partial, refined.perturbations)
            return
        del self._partial[partial.key]
        self._complete.append(partial.outcome())


def wrap_finite_differences(objective: ObjectiveProtocol, evaluator: Evaluator) -> Evaluator:
    """`evaluator`, behind a `FiniteDifferenceEvaluator` where the objective's evaluations are many
    calls.
    """
    # an objective of another kind need not have it
    make_scheme = getattr(objective, "difference_scheme", None)
    composite = getattr(objective, "is_composite", False)
    return (
        FiniteDifferenceEvaluator(make_scheme, evaluator)
        if composite and make_scheme is not None
        else evaluator
    )
