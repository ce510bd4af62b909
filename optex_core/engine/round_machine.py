"""The course of a run: rounds of Algorithm 1 until a criterion fires.

`RoundMachine.advance` is one round on one page: `ask` opens the round with it, the last `tell`
closes it. The reference implementation beside it is
`optex_core.testing.reference.optex.ReferenceOptEx`. To follow a round of `paper`, open these files:

1. this one: plan, evaluate, record, step;
2. `engine/surrogate.py`: the history, and the fit to it when `posterior` is first asked for;
3. `strategies/paper.py`: which points are evaluated, and which gradient the step is taken with;
4. `strategies/rollout.py`: z_s = FO-OPT(z_{s-1}, mu(z_{s-1})), in `EngineView.predict`,
   `PlainRollout.step` and `ArraySpace`; records (`Proposal`, `Update`) are in `strategies/base.py`;
5. `model/posterior.py`: mu as a weighted sum of the gradients in the history.

For every number: `model/estimator.py` (the fit), `model/kriging.py` (the weights),
`model/likelihood.py` (length and noise), `model/history.py` (distances), `optimizers/adam.py`
(FO-OPT), a file of `model/kernels`. Two faster ways give the same path: several operations in one
compiled loop (`FusedRollout`; elementwise rules on Numba), and coefficients over the history in
place of vectors (`strategies/_subspace`; SGD with many parameters).

Arguments have been validated by `OptEx`. Only the optimizer, the strategy and `on_iterate`, which
may be a user's, can raise here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from optex_core.backends.base import Backend
from optex_core.engine.settings import BoxConstraints, Settings
from optex_core.engine.state import (
    EngineState,
    FailedEvaluation,
    RoundState,
    candidate_seed,
    find_candidate,
)
from optex_core.engine.stopping import Status, status_of
from optex_core.engine.surrogate import Surrogate
from optex_core.engine.trace import IterationRecord, Trace
from optex_core.engine.validation import squares_overflow
from optex_core.errors import format_traceback
from optex_core.optimizers._on_backend import bind_optimizer
from optex_core.optimizers.wrappers import Projected
from optex_core.strategies.base import Observation, Observations, Proposal, Update
from optex_core.types import Array, Candidate


class RoundMachine:
    """Rounds of a run: proposed here, evaluated by the caller, recorded and closed here.

    `x` is theta_0, within the bounds and on the backend's device.
    """

    def __init__(self, settings: Settings, x: Array, backend: Backend) -> None:
        self.settings, self.backend = settings, backend
        low, high = settings.low, settings.high
        self.bounds = BoxConstraints(low, high, backend)
        rule = settings.optimizer
        if low is not None and high is not None:
            rule = Projected(rule, low, high)
        optimizer = bind_optimizer(rule, backend)
        self.state = EngineState(x, optimizer.init(x), None)
        self.surrogate = Surrogate(settings, self.state, optimizer, self.bounds, backend)
        self.state.strategy_state = settings.strategy.init(self.surrogate.view())
        self.round: RoundState | None = None  # whose evaluations are pending
        self.trace = Trace()  # one row per iteration
        self.rows: list[IterationRecord] = []  # of an iteration that takes more than one ask
        self.failures: list[FailedEvaluation] = []
        self.late: dict[int, Candidate] = {}  # of closed rounds: they may still be told
        #: Called when the value and gradient of theta_t have become known and theta has not moved.
        self.on_iterate: Callable[[], None] | None = None
        self.reported = -1  # the iterate of which a run that was continued had called it
        self._gradient_norm = math.nan

    def advance(self, spent: int | None = None) -> None:
        """Go on with one round of Algorithm 1 (arXiv 2402.11427) as far as observations allow.

        Without an open round, open one; with all evaluations of the open one told, close it.
        `spent` is the number of gradients that `max_evals` counts as used, by default those told
        or pending.
        """
        s, surrogate, strategy = self.state, self.surrogate, self.settings.strategy
        r = self.round
        if r is None:
            spent = s.njev + len(self.late) if spent is None else spent
            if self._ends_before_round(spent):
                return
            with surrogate.computing():
                # Lines 3 to 5: fit the model to the history, predict optimizer steps from theta_t.
                final = self._is_final(spent)
                view = surrogate.view_for_plan()
                proposal = Proposal([s.x]) if final else strategy.plan(view, s.strategy_state)
            # Line 6: N gradients at once; the caller evaluates them and tells them in any order.
            self._open(proposal, spent, final)
        elif not s.finished and all(r.done) and not self._ends_at_average(r):
            with surrogate.computing():
                view = surrogate.view()  # it fits when asked: to the new rows, too
                # Outliers and failed evaluations are left out of the model.
                kept = r.filter_observations(strategy)
                selected = strategy.select(kept)
                # Line 7: the pairs (z_j, g_j) enter the history.
                self._record(r, kept, selected)
                # Line 8: theta_{t+1} and the optimizer's state there.
                row = self._row(r)
                kept = r.release_gradients(kept, selected)
                update = strategy.advance(view, s.strategy_state, r.proposal, kept)
                row.step_norm = self._distance(update.x, s.x)
            self._move(update, row)

    # -- opening a round --------------------------------------------------------------------------

    def _remaining(self, spent: int) -> float:
        """Gradients that `max_evals` leaves."""
        limit = self.settings.criteria.max_evals
        return math.inf if limit is None else limit - spent

    def _ends_before_round(self, spent: int) -> bool:
        """Finish the run if the budget has no round left."""
        s, criteria, left = self.state, self.settings.criteria, self._remaining(spent)
        if left < 1:
            self.end_run({"max_evals": criteria.max_evals})
            return True
        if left == 1 and s.first_slot:
            self.end_iteration()  # the budget shortens the iteration
        if criteria.maxiter is not None and s.nit >= criteria.maxiter and not s.first_slot:
            # At the start, or after a file from a longer run.
            s.reasons["maxiter"] = criteria.maxiter
            s.ends_at_iterate = True
        if (
            s.ends_at_iterate and s.iterate_evaluated
        ):  # no final evaluation: value and gradient are known
            self.end_run({})
        return s.finished

    def _is_final(self, spent: int) -> bool:
        """True if theta_t alone is evaluated, so that the result has its value and gradient."""
        s = self.state
        return s.ends_at_iterate or (self._remaining(spent) == 1 and not s.iterate_evaluated)

    def _open(self, proposal: Proposal, spent: int, final: bool) -> None:
        s, points = self.state, proposal.points
        if not final:
            kept_back = 0 if s.iterate_evaluated else 1  # for the final evaluation
            points = points[: int(min(self._remaining(spent) - kept_back, len(points)))]
        # Slot 0 is that of theta_t.
        first = max(s.first_slot, 1) if s.iterate_evaluated else s.first_slot
        candidates = [self.make_candidate(x, first + i) for i, x in enumerate(points)]
        self.round = RoundState(proposal, candidates, spent, final, s.iterate_evaluated)

    def make_candidate(self, x: Array, slot: int) -> Candidate:
        """The candidate at `x` in slot `slot` of this iteration."""
        settings, nit = self.settings, self.state.nit
        seed = partial(candidate_seed, settings.seed, nit, slot)
        id_ = self._first_id() + slot
        return Candidate(id_, self.backend.read_only(x), seed, nit, slot)

    def _first_id(self) -> int:
        """The id of slot 0 in this iteration."""
        strategy = self.settings.strategy
        return self.state.nit * (self.settings.parallelism + int(strategy.reuses_observations))

    # -- observations -----------------------------------------------------------------------------

    def find_candidate(self, id: int) -> tuple[Candidate, int | None]:  # noqa: A002
        """The pending candidate called `id`; its place in the open round, None for a late one."""
        first = self._first_id() + self.state.first_slot
        return find_candidate(id, self.round, self.late, first)

    def observe(self, index: int, observed: Observation | None, seconds: float | None) -> None:
        """Take the evaluation in place `index` of the open round; None where it is not usable."""
        r, s = self.round, self.state
        assert r is not None
        r.observe(index, observed, seconds, self.surrogate.space)
        if index == 0 and not r.iterate_evaluated:
            averages = self.averages_gradients and not r.is_final
            if observed is None and not s.finished:
                raised = self.failures[-1].error is not None
                self.end_run({(Status.FAILED if raised else Status.DIVERGED).key: True})
            elif observed is not None and s.first_slot == 0 and not averages:
                self.record_iterate(observed.value, observed.gradient)
        if not s.finished and all(r.done):
            self.advance()

    @property
    def averages_gradients(self) -> bool:
        """True if value and gradient of theta_t are means over the evaluations there."""
        return self.settings.strategy.averages_gradients(self.state.strategy_state)

    def record_iterate(self, value: float, gradient: Array) -> None:
        """Take value and gradient of theta_t, and end the run if a criterion fires on them."""
        s, r, criteria = self.state, self.round, self.settings.criteria
        s.value, s.gradient, s.value_known, self._gradient_norm = value, gradient, True, math.nan
        fired: dict[str, Any] = criteria.at_iterate(value, s.previous_value, self.gradient_norm())
        final = r is not None and r.is_final
        if squares_overflow(gradient, self.backend):
            # Optimizers that divide by |g| stand still there, which is no convergence.
            for name in ("ftol", "xtol"):
                fired.pop(name, None)
                s.reasons.pop(name, None)
            final = final and bool(s.reasons or self._last_evaluation(r))
            s.ends_at_iterate = final
            if r is not None:
                r.is_final = final
        if final and self._last_evaluation(r):
            fired["max_evals"] = criteria.max_evals
        if fired or final or s.finished:
            iterate_only = final or not self.averages_gradients
            self.end_run(fired, iterate_only=iterate_only)
        if self.on_iterate is not None and self.reported != s.nit:
            self.on_iterate()

    def _last_evaluation(self, r: RoundState | None) -> bool:
        return r is not None and self._remaining(r.evaluations_at_open) <= 1

    def observe_late(self, candidate: Candidate, observed: Observation | None) -> None:
        """Keep what a candidate of a closed round brought for the history."""
        del self.late[candidate.id]
        if observed is not None and self.surrogate.history is not None:
            self.surrogate.pending.append((candidate.x, observed.gradient))

    def fail(
        self,
        c: Candidate,
        message: str,
        error: BaseException | None,
        attempt: int | None = None,
        *,
        value: float = math.nan,
        text: str | None = None,
    ) -> None:
        """Note a failed evaluation; attempts are counted where the caller does not, and `text`, the
        traceback, is that of `error` where it is not given.
        """
        tried = sum(f.id == c.id for f in self.failures) if attempt is None else attempt
        if text is None:
            text = "" if error is None else format_traceback(error)
        where = c.id, c.iteration, c.slot, c.seed, c.x
        self.failures.append(FailedEvaluation(*where, message, error, text, tried, value))
        self.state.failures += 1

    # -- closing a round --------------------------------------------------------------------------

    def _ends_at_average(self, r: RoundState) -> bool:
        """Where value and gradient are means of the round, take them; True if that ends the run."""
        s = self.state
        if self.averages_gradients and not s.value_known:
            path = r.proposal.path
            at = [0] * len(r.observations) if path is None else path.at
            usable = [t for i, t in zip(at, r.observations, strict=False) if t and i == 0]
            first = usable[0].value  # around it, so that the mean of equal values is that value
            value = first + sum(t.value - first for t in usable) / len(usable)
            self.record_iterate(value, self.backend.average([t.gradient for t in usable]))
        return s.finished

    def _record(self, r: RoundState, kept: Observations, selected: int | None) -> None:
        # What follows runs the optimizer, which may raise: the round is then closed once more,
        # without recording twice.
        if not r.recorded:
            if selected is not None and r.proposal.path is not None:
                r.proposal.path.retain_state(selected)
            pairs = zip(r.recorded_points, kept, strict=False)
            self.surrogate.record([(x, one.gradient) for x, one in pairs if one is not None])
        r.recorded = True

    def _move(self, update: Update, row: IterationRecord) -> None:
        """Go to theta_{t+1}."""
        s, surrogate = self.state, self.surrogate
        if not (math.isfinite(row.step_norm) or self.backend.all_finite(update.x)):
            self.end_run({Status.DIVERGED.key: True})
            return
        row.accepted = update.steps
        row.note = "; ".join(note for note in (update.note, surrogate.note) if note)
        row.length_scale, row.noise, row.curvature = surrogate.fitted()
        s.deterministic = s.deterministic and not update.depends_on_timing
        s.nsteps += update.steps
        moved = update.x is not s.x
        s.iteration_start = s.x if s.iteration_start is None else s.iteration_start
        s.strategy_state, s.x, s.optimizer_state = update.strategy_state, update.x, update.state
        stays = update.observation is not None and not update.complete
        if not stays:
            s.value, s.gradient, s.value_known = math.nan, None, False
            self._gradient_norm = math.nan
        s.iterate_evaluated = update.observation is not None
        self.round = None
        surrogate.note = ""
        self.rows.append(row)
        if update.complete:
            self.end_iteration(moved)
        else:
            s.first_slot += 1
        if update.observation is not None and update.complete:
            self.record_iterate(update.observation.value, update.observation.gradient)
        if update.stalled and not s.finished:
            self.end_run({Status.STALLED.key: True})

    def _merged_row(self) -> IterationRecord:
        """The row of the iteration: of several asks the first values and the sums of counts."""
        rows, start = self.rows, self.state.iteration_start
        if len(rows) == 1 or start is None:
            return rows[0]
        return replace(
            rows[0],
            evaluations=sum(r.evaluations for r in rows),
            accepted=sum(r.accepted for r in rows),
            slowest=sum(r.slowest for r in rows),
            step_norm=self._distance(self.state.x, start),
        )

    def end_iteration(self, moved: bool = True) -> None:
        """End the iteration: the row of the trace, and the criteria that read the step; where theta
        has not `moved`, a round that found nothing lower is no convergence.
        """
        s, backend, criteria = self.state, self.backend, self.settings.criteria
        row = self._merged_row()
        self.trace.append(row)
        self.rows.clear()
        s.first_slot, s.nit, s.iteration_start = 0, s.nit + 1, None
        s.previous_value = row.value if moved else math.nan
        size = math.nan
        if criteria.xtol is not None and moved:
            size = self._distance(s.x, backend.zeros(len(s.x), s.x.dtype))
        fired = criteria.at_step(row.step_norm, size, s.nit)
        if fired:
            s.reasons.update(fired)
            s.ends_at_iterate = True

    def _row(self, r: RoundState, iterate_only: bool = False) -> IterationRecord:
        """The row of the round as it stands; of theta_t with `iterate_only`, where the workers
        decide which others were told.
        """
        s = self.state
        return IterationRecord(
            s.nit,
            value=s.value,
            gradient_norm=self.gradient_norm(),
            evaluations=1 if iterate_only else r.evaluations,
            window=r.proposal.predicted_steps,
            prediction_error=r.prediction_error(self.surrogate.space, iterate_only),
            slowest=r.seconds,
        )

    def end_run(self, reasons: dict[str, Any], iterate_only: bool = False) -> None:
        """End the run for `reasons`; `iterate_only` as in `_row`."""
        s, r = self.state, self.round
        s.reasons.update(reasons)
        if not {"failed", "diverged"}.isdisjoint(reasons):
            # The point where a criterion fired has no finite value and gradient: no convergence.
            s.reasons = {
                name: s.reasons[name] for name in s.reasons if not Status[name.upper()].success
            }
        s.finished = True
        if len(self.trace) and self.trace[-1].iteration == s.nit:
            return
        if self.rows:  # within an iteration of several asks
            self.trace.append(self._merged_row())
        elif s.value_known:
            row = (
                IterationRecord(s.nit, s.value, self.gradient_norm())
                if r is None
                else self._row(r, iterate_only)
            )
            row.window = row.accepted = 0
            self.trace.append(row)

    # -- quantities -------------------------------------------------------------------------------

    def gradient_norm(self) -> float:
        """max |g| at theta_t, of the projected gradient under bounds; nan while unknown."""
        s = self.state
        if s.gradient is not None and math.isnan(self._gradient_norm):
            self._gradient_norm = self.bounds.gradient_norm(s.x, s.gradient)
        return self._gradient_norm

    def _distance(self, a: Array, b: Array) -> float:
        """|a - b| in units of the parameters."""
        return math.sqrt(self.backend.squared_distance(a, b, self.settings.scale))

    @property
    def status(self) -> Status:
        """Why the run ended; RUNNING while it has not."""
        return status_of(self.state.reasons) if self.state.finished else Status.RUNNING
