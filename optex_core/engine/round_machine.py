"""The course of a run: a round is opened, its evaluations come in, it is closed and theta moves on,
until something ends the run.

What comes here has been checked: only the optimizer, `on_iterate` and a strategy, which may be a
user's, can raise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from optex_core.backends.base import Backend
from optex_core.backends.blas_threads import blas_single_threaded
from optex_core.engine.candidates import make_candidate
from optex_core.engine.records import FailedEvaluation, IterationRecord
from optex_core.engine.settings import Settings
from optex_core.engine.state import RoundState, merge_rows
from optex_core.engine.status import Status
from optex_core.engine.stopping import status_of
from optex_core.engine.surrogate import Surrogate
from optex_core.engine.trace import Trace
from optex_core.engine.validation import make_failure
from optex_core.strategies.base import Observation, Proposal
from optex_core.types import Array, Candidate


class RoundMachine(Surrogate):
    """A run in its rounds, with the trace that they leave.

    Parameters
    ----------
    settings : Settings
    x : array, shape (d,)
        theta_0.
    backend : Backend

    Attributes
    ----------
    on_iterate : callable or None
        As `OptEx` says.
    """

    def __init__(self, settings: Settings, x: Array, backend: Backend) -> None:
        super().__init__(settings, x, backend)
        self.trace = Trace()
        self.rows: list[IterationRecord] = []  # of an iteration that takes more than one ask
        self.failures: list[FailedEvaluation] = []
        self.late: dict[int, Candidate] = {}
        self.on_iterate: Callable[[], None] | None = None
        self._norm = math.nan

    def _open(self, spent: int | None = None) -> None:
        """Plan a round; `spent` gradients are told or on their way, which the budget counts."""
        spent = self.state.njev + len(self.late) if spent is None else spent
        s, criteria = self.state, self.settings.criteria
        left = math.inf if criteria.max_evals is None else criteria.max_evals - spent
        if left < 1:
            self._finish({"max_evals": criteria.max_evals})
            return
        if left == 1 and s.slot:
            self._complete()  # the budget shortens the iteration
        # at the start, or after a file from a longer run
        if criteria.maxiter is not None and s.nit >= criteria.maxiter and not s.slot:
            s.reasons["maxiter"] = criteria.maxiter
            s.closing = True
        # The last evaluation of the budget is kept for the closing point: the value and gradient of
        # the result are known.
        closing = s.closing or left == 1
        with blas_single_threaded(self._numbers), self.backend.ignore_fp_warnings():
            plan = (
                Proposal([s.x]) if closing else self.settings.strategy.plan(self._view(), s.memory)
            )
        points = plan.points if closing else plan.points[: int(min(left - 1, len(plan.points)))]
        candidates = [self._make_candidate(x, s.slot + i) for i, x in enumerate(points)]
        self.round = RoundState(
            plan,
            candidates,
            [None] * len(plan.points),
            [False] * len(candidates),
            opened=spent,
            closing=closing,
        )

    def _make_candidate(self, x: Array, slot: int) -> Candidate:
        return make_candidate(self.settings, self.state.nit, slot, self.backend.read_only(x))

    def _settle(self, index: int, told: Observation | None, seconds: float | None) -> None:
        r, s = self.round, self.state
        assert r is not None
        r.settle(index, told, seconds, self._view)
        if index == 0 and told is None and not s.finished:
            raised = self.failures[-1].error is not None
            self._finish({(Status.FAILED if raised else Status.DIVERGED).key: True})
        elif (
            index == 0
            and told is not None
            and s.slot == 0
            and (r.closing or not self.settings.strategy.averages_gradients)
        ):
            self._arrive(told.value, told.gradient)
        if not s.finished and all(r.done):
            self._close()

    def _arrive(self, value: float, gradient: Array) -> None:
        """The value and gradient of theta_t are known: check the criteria that read them."""
        s, criteria = self.state, self.settings.criteria
        s.value, s.gradient, s.arrived, self._norm = value, gradient, True, math.nan
        fired: dict[str, Any] = dict(criteria.at_iterate(value, s.previous, self.gradient_norm()))
        r = self.round
        assert r is not None
        if r.closing and criteria.max_evals is not None and criteria.max_evals - r.opened <= 1:
            fired["max_evals"] = criteria.max_evals
        if fired or r.closing or s.finished:
            self._finish(fired, alone=r.closing or not self.settings.strategy.averages_gradients)
        if self.on_iterate is not None:
            self.on_iterate()

    def gradient_norm(self) -> float:
        """max |g| at theta_t, of the projected gradient theta - P(theta - g) under bounds; nan
        while unknown.
        """
        if self.state.gradient is not None and math.isnan(self._norm):
            self._norm = self._bounds.gradient_norm(self.state.x, self.state.gradient)
        return self._norm

    def _close(self) -> None:
        r, s, backend = self.round, self.state, self.backend
        assert r is not None
        strategy = self.settings.strategy
        if strategy.averages_gradients and not s.arrived:
            usable = [t for t in r.told if t is not None]
            first = usable[0].value  # around it, so that the mean of equal values is that value
            self._arrive(
                first + sum(t.value - first for t in usable) / len(usable),
                backend.mean([t.gradient for t in usable]),
            )
            if s.finished:
                return
        with blas_single_threaded(self._numbers), self.backend.ignore_fp_warnings():
            view = self._view()
            believed = strategy.filter_observations(view, r.plan, r.told)
            if self.history is not None and not r.recorded:
                self._record_arrivals(
                    [
                        (x, told.gradient)
                        for x, told in zip(r.plan.points, believed, strict=False)
                        if told is not None
                    ]
                )
            # What follows runs the optimizer, which may be a user's and may raise: asking again
            # then closes the round without recording twice.
            r.recorded = True
            row, believed = (
                self._row(r),
                r.release_gradients(believed, strategy.required_gradients(view, believed)),
            )
            step = strategy.advance(view, s.memory, r.plan, believed)
            step_norm = math.sqrt(backend.squared_distance(step.x, s.x, self.settings.scale))
        if not (math.isfinite(step_norm) or backend.all_finite(step.x)):
            self._finish({Status.DIVERGED.key: True})
            return
        row.accepted, row.note = (
            step.steps,
            "; ".join(note for note in (step.note, self._note) if note),
        )
        row.step_norm = step_norm
        row.length_scale, row.noise, row.curvature = self._hyper_row()
        s.deterministic = s.deterministic and not step.depends_on_timing
        s.nsteps += step.steps
        s.origin = s.x if s.origin is None else s.origin
        s.memory, s.x, s.optimizer = step.strategy_state, step.x, step.state
        s.value, s.gradient, s.arrived, self._norm = math.nan, None, False, math.nan
        self.round, self._note, self._seen = None, "", None
        self.rows.append(row)
        if step.complete:
            self._complete()
        else:
            s.slot += 1

    def _merged(self) -> IterationRecord:
        """The row of the iteration, which may have taken several asks."""
        row = merge_rows(self.rows)
        if len(self.rows) > 1:
            assert self.state.origin is not None
            row.step_norm = math.sqrt(
                self.backend.squared_distance(self.state.x, self.state.origin, self.settings.scale)
            )
        return row

    def _complete(self) -> None:
        """Theta_{t+1} is reached."""
        s, backend = self.state, self.backend
        row = self._merged()
        self.trace.append(row)
        self.rows.clear()
        s.slot, s.nit, s.origin, s.previous = 0, s.nit + 1, None, row.value
        size = math.nan
        if self.settings.criteria.xtol is not None:
            size = math.sqrt(
                backend.squared_distance(
                    s.x, backend.zeros(len(s.x), self.dtype), self.settings.scale
                )
            )
        fired = self.settings.criteria.at_step(row.step_norm, size, s.nit)
        if fired:
            s.reasons.update(fired)
            s.closing = True

    def _row(self, r: RoundState, alone: bool = False) -> IterationRecord:
        """The row of the round as it stands; `alone`: of theta_t only, as others are told or not
        depending on what executes them.
        """
        s = self.state
        return IterationRecord(
            s.nit,
            value=s.value,
            gradient_norm=self.gradient_norm(),
            evaluations=1 if alone else r.evaluations,
            window=r.plan.predicted_steps,
            prediction_error=r.prediction_error(self._view(), alone),
            slowest=r.seconds,
        )

    def _finish(self, reasons: dict[str, Any], alone: bool = False) -> None:
        s, r = self.state, self.round
        s.reasons.update(reasons)
        s.finished = True
        if len(self.trace) and self.trace.iteration[-1] == s.nit:
            return
        if self.rows:  # within an iteration of several asks
            self.trace.append(self._merged())
        elif r is not None and s.arrived:
            row = self._row(r, alone)
            row.window = row.accepted = 0
            self.trace.append(row)

    def _fail(
        self,
        c: Candidate,
        message: str,
        error: BaseException | None,
        attempt: int | None = None,
        *,
        value: float = math.nan,
        text: str | None = None,
    ) -> None:
        tried = sum(f.id == c.id for f in self.failures) if attempt is None else attempt
        self.failures.append(make_failure(c, message, error, tried, value, text))
        self.state.failures += 1

    def _arrive_late(self, candidate: Candidate, told: Observation | None) -> None:
        del self.late[candidate.id]
        if told is not None and self.history is not None:
            self.arrivals.append((candidate.x, told.gradient))

    @property
    def status(self) -> Status:
        """Why the run ended, RUNNING while it has not."""
        return status_of(self.state.reasons) if self.state.finished else Status.RUNNING
