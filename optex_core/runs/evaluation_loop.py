"""Evaluation loop of a run: ask, evaluate, tell, stop, with a clock and a failure policy."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from optex_core._validation import is_true
from optex_core.engine.diagnosis import diagnose
from optex_core.engine.optex import OptEx
from optex_core.engine.state import FailedEvaluation, RoundState
from optex_core.engine.stopping import Status
from optex_core.errors import (
    CheckpointError,
    EvaluationError,
    ObjectiveError,
    ProtocolError,
    describe,
)
from optex_core.execution.base import Evaluator, attached_call_counts
from optex_core.execution.deferred_interrupt import DeferredInterrupt
from optex_core.runs.checkpoint_manager import CheckpointManager
from optex_core.runs.failure_policy import FailurePolicy, attach_result, with_keyword_result
from optex_core.runs.journal import Record, apply_record
from optex_core.runs.progress import Progress
from optex_core.types import UNPERTURBED, Array, Candidate, EvaluationResult

if TYPE_CHECKING:
    from optex_core.engine.result import Result

logger = logging.getLogger("optex_core")

#: Timeouts in a row without anything running but abandoned evaluations, after which the workers of
#: the caller's pool count as blocked for good.
MAX_BLOCKED_TIMEOUTS = 10.0

S = TypeVar("S")
T = TypeVar("T")


class EvaluationLoop:
    """Runs an engine on an evaluator: submits candidates, tells results, keeps the clock.

    `callback` is that of `optex_core.minimize`; with `has_value` every evaluation calls the
    objective for its value at least once.
    """

    def __init__(
        self,
        engine: OptEx,
        evaluator: Evaluator,
        policy: FailurePolicy,
        callback: Callable[..., object] | None,
        progress: Progress,
        manager: CheckpointManager | None,
        has_value: bool = True,
    ) -> None:
        self.engine, self.evaluator, self.policy = engine, evaluator, policy
        self.callback = None if callback is None else with_keyword_result(callback)
        self.progress, self.manager = progress, manager
        self.min_nfev = int(has_value)
        engine.machine.on_iterate = self._report
        self.user_error: BaseException | None = None
        #: (id, attempt) of what is awaited, and of what was abandoned but still runs.
        self.outstanding: set[tuple[int, int]] = set()
        self.expired: set[tuple[int, int]] = set()
        self.interrupts = DeferredInterrupt()
        self.attempts = Counter(f.id for f in engine.failures)  # a continued run counts on
        #: Seconds of the iteration, which may take several asks; the user's are those within the
        #: overhead that callback, progress and on_error took.
        self.iteration_seconds = self.overhead_seconds = self.user_seconds = 0.0
        #: When the run began, and when something was last seen to run or to finish.
        self.started_at = self.last_activity = time.perf_counter()

    def run(self) -> Result:
        """Run until the engine stops.

        EvaluationError if the evaluation at the iterate failed, or too many did; under
        ``on_error="raise"`` what the objective raised.
        """
        engine, manager, whole = self.engine, self.manager, True
        try:
            with self.progress, self.interrupts:
                while not engine.stop(self._elapsed()):
                    self._run_round()
        except BaseException as error:
            if type(error) is not KeyboardInterrupt:  # a user's class derived from it is an error
                attach_result(error, engine.result())
                self._save_and_close(error)
                raise
            whole = self.interrupts.state_is_consistent
            engine.abort(Status.INTERRUPTED)
        if whole:
            self._save_and_close()
        elif manager is not None:
            logger.warning(
                "interrupted within a step: %s is left as it was saved last, after %d iterations;"
                " what was told since is in its journal",
                manager.path, manager.last_saved_iteration,
            )  # fmt: skip
            manager.close()
        result = engine.result()
        if advice := diagnose(engine.settings, engine.state, engine.trace):
            logger.warning(advice)
        failed = engine.status in (Status.FAILED, Status.TOO_MANY_FAILURES)
        if self.user_error is not None or failed:
            self._raise_failure(result)
        return result

    def _elapsed(self) -> float:
        return time.perf_counter() - self.started_at

    def _run_round(self) -> None:
        """One ask, all its tells."""
        engine, begin, rows = self.engine, time.perf_counter(), len(self.engine.trace)
        candidates = engine.ask()
        if not candidates:
            return
        overhead = time.perf_counter() - begin
        for attempt in sorted({self.attempts[c.id] for c in candidates}):
            self._submit([c for c in candidates if self.attempts[c.id] == attempt], attempt)
        overhead += self._collect(engine.round)
        if engine.stop():
            self._drain()
        self.iteration_seconds += time.perf_counter() - begin
        self.overhead_seconds += max(overhead - self.user_seconds, 0.0)
        self.user_seconds = 0.0
        if len(engine.trace) > rows:
            spent, own = self.iteration_seconds, self.overhead_seconds
            self._apply({"do": "time", "spent": spent, "own": own})
            self.iteration_seconds = self.overhead_seconds = 0.0
        if self.manager is not None and not engine.state.finished and self.manager.save_due:
            self.manager.try_save()

    def _collect(self, this: RoundState | None) -> float:
        """Tell results until the round is closed; the seconds of overhead."""
        engine, overhead, quorum_at = self.engine, 0.0, None
        while engine.round is this and not engine.stop(self._elapsed()) and self.evaluator.pending:
            results = self._next_results(self._wait(quorum_at))
            start = time.perf_counter()
            self._handle(results)
            overhead += time.perf_counter() - start
            if self._has_quorum():
                now = time.perf_counter()
                quorum_at = now if quorum_at is None else quorum_at
                if now - quorum_at >= self.policy.grace:
                    self._apply({"do": "close"})
        return overhead

    def _has_quorum(self) -> bool:
        """True if the open round may be closed without the rest."""
        r, quorum = self.engine.round, self.policy.quorum
        if quorum is None or r is None or all(r.done) or not (r.done[0] or r.iterate_evaluated):
            return False
        return sum(r.done) >= min(quorum, len(r.done))

    def _next_results(self, wait: float | None) -> list[EvaluationResult]:
        """Wait for results, which an interrupt may end; the calls that it cuts off are counted."""
        try:
            with self.interrupts.interruptible():
                return self.evaluator.next(wait)
        except BaseException as error:
            lost = attached_call_counts(error)
            self._count(lost.nfev, lost.njev)
            raise
        finally:
            for task in self.evaluator.pop_lost():  # called once at least, and submitted again
                nfev = self.min_nfev if task.perturbation is None else 1
                self._count(nfev, int(task.perturbation in (None, UNPERTURBED)))

    def _handle(self, results: Sequence[EvaluationResult]) -> None:
        for result in results:
            self._handle_result(result)
        if self.policy.timeout is not None:
            self._enforce_timeout(self.policy.timeout)

    def _drain(self) -> None:
        """Drop what has not started and wait for what runs, for the counters."""
        self.evaluator.cancel()
        try:
            while self.evaluator.pending > len(self.expired):  # the abandoned may never return
                self._handle(self._next_results(self._wait(None)))
        except KeyboardInterrupt as error:
            own = type(error) is not KeyboardInterrupt  # of the user's
            if own or not self.interrupts.state_is_consistent:
                raise
            logger.warning(
                "interrupted: %d evaluations are not waited for, and not counted",
                self.evaluator.pending,
            )
            self.evaluator.close()

    def _submit(self, candidates: Sequence[Candidate], attempt: int) -> None:
        if self.manager is not None:
            self.manager.reserve(len(candidates))
        self.outstanding.update((c.id, attempt) for c in candidates)
        self.evaluator.submit(candidates, attempt=attempt, deadline=self.policy.timeout)

    def _running(self) -> dict[tuple[int, int], float]:
        """When the awaited evaluations that run were started, by (id, attempt)."""
        started = self.evaluator.started()
        return {key: since for key, since in started.items() if key in self.outstanding}

    def _wait(self, quorum_at: float | None) -> float | None:
        """Seconds to wait for the next result: until the grace or the next timeout ends."""
        now, ends, timeout = time.perf_counter(), [], self.policy.timeout
        if quorum_at is not None:
            ends.append(quorum_at + self.policy.grace)
        if timeout is not None:
            running = self._running()
            ends += [since + timeout for since in running.values()]
            if len(running) < len(self.outstanding):  # some may start unseen
                ends.append(now + timeout)
        limit = self.engine.settings.criteria.max_time
        if limit is not None and not self.engine.state.finished:
            ends.append(self.started_at + limit)
        return max(min(ends) - now, 0.0) if ends else None

    # -- results -----------------------------------------------------------------------------------

    def _handle_result(self, result: EvaluationResult) -> None:
        engine, c = self.engine, result.candidate
        key = c.id, result.attempt
        if key not in self.outstanding:  # abandoned before, and counted as one call
            self.expired.discard(key)
            self._count(max(result.nfev - self.min_nfev, 0), max(result.njev - 1, 0))
            return
        self.outstanding.discard(key)
        if isinstance(result.error, ObjectiveError):
            self._count(result.nfev, result.njev)
            raise result.error
        engine.stop(self._elapsed())  # before the tell: max_time keeps theta where it is known
        message = self._failure_reason(result)
        late = engine.round is None or c.iteration != engine.state.nit or engine.state.finished
        if message and not late and self._retry(c, result.attempt, message, result):
            return
        record = {
            "id": c.id, "nfev": result.nfev, "njev": result.njev, "seconds": result.seconds,
            "value": result.value,
        }  # fmt: skip
        if result.error is not None:
            self._tell(record | {"traceback": result.traceback}, error=result.error)
            return
        if c.slot == 0 and not late:
            self._use_as_final(c, result.njev)
        self._tell(record, result.gradient)

    def _failure_reason(self, result: EvaluationResult) -> str:
        """Why a result is not usable, or "".

        What is not finite is left to ``tell``, which looks anyway, unless it may be tried again.
        """
        if result.error is not None:
            return describe(result.error)
        if self.policy.on_error in ("raise", "drop"):
            return ""
        value, g = result.value, result.gradient
        if value is not None and not math.isfinite(value):
            return f"the value is {value}"
        finite = g is not None and self.engine.backend.all_finite(g)
        return "" if finite else "the gradient is not finite"

    def _retry(
        self,
        c: Candidate,
        attempt: int,
        message: str,
        result: EvaluationResult,
        timed: bool = False,
    ) -> bool:
        """Decide about a failed evaluation; True if it is tried again."""
        error, traceback = result.error, result.traceback
        failure = FailedEvaluation(
            c.id, c.iteration, c.slot, c.seed, c.x, message, error, traceback, attempt
        )
        decision = self._call_user(self.policy.decide, failure)
        r, left = self.engine.round, self._remaining_evaluations(result.njev)
        if r is None:
            return False
        if decision == "raise" and _is_iterate(c, r):
            self.user_error = error
        allowed = attempt < self.policy.max_retries and not self._exceeds_max_failures(1)
        if decision != "retry" or not allowed or left < 1:
            return False
        # The last evaluation of the budget is the final one. A retry of theta_t is that too; a
        # proxy gives way to it.
        last = left < 2 and not r.is_final
        if last and not _is_iterate(c, r):
            return False
        record = {
            "do": "attempt", "id": c.id, "message": message, "attempt": attempt,
            "nfev": result.nfev, "njev": result.njev, "traceback": traceback, "timed": timed,
        }  # fmt: skip
        self._apply(record, error=error)
        if last and c.slot:  # in the middle of an iteration of several asks, which ends here
            self._apply({"do": "shorten"})
        else:
            self._submit([c], attempt + 1)
        return True

    def _remaining_evaluations(self, njev: int) -> float:
        """What `max_evals` leaves beside a result of `njev` gradients and all that is pending."""
        engine, r = self.engine, self.engine.round
        limit = engine.settings.criteria.max_evals
        if limit is None or r is None:
            return math.inf
        pending = len(r.pending) - 1 + len(engine.machine.late)
        return limit - engine.state.njev - njev - pending

    def _use_as_final(self, c: Candidate, njev: int) -> None:
        """Close with theta_t's evaluation where retries took what the budget kept for that."""
        r = self.engine.round
        last = r is not None and not r.is_final and _is_iterate(c, r)
        if last and self._remaining_evaluations(njev) < 1:
            self._apply({"do": "closing"})

    def _exceeds_max_failures(self, more: int) -> bool:
        limit = self.policy.max_failures
        return limit is not None and self.engine.state.failures + more > limit

    def _tell(
        self, record: Record, gradient: Array | None = None, error: BaseException | None = None
    ) -> None:
        self._apply({"do": "tell", **record}, gradient, error)
        if self._exceeds_max_failures(0):
            self.engine.abort(Status.TOO_MANY_FAILURES)

    def _enforce_timeout(self, timeout: float) -> None:
        """Abandon evaluations that run longer than `timeout`, their start and waiting left out."""
        now, running = time.perf_counter(), self._running()
        if running or not self.expired:
            self.last_activity = now
        elif self.outstanding and now - self.last_activity > MAX_BLOCKED_TIMEOUTS * timeout:
            raise EvaluationError(
                f"{len(self.expired)} evaluations that took longer than timeout={timeout:g} s hold"
                " all workers, which are the caller's and cannot be ended from here, and"
                f" {len(self.outstanding)} wait behind them; with workers=<number of processes>"
                " such workers are replaced"
            )
        for (id_, attempt), since in running.items():
            if now - since >= timeout:
                self._abandon(id_, attempt, timeout)

    def _abandon(self, id_: int, attempt: int, timeout: float) -> None:
        engine = self.engine
        self.outstanding.discard((id_, attempt))
        if not self.evaluator.abandon(id_, attempt):
            self.expired.add((id_, attempt))
        # What it has called at least: it may have been killed, and `max_evals` is a cap.
        error = EvaluationError(f"the evaluation took longer than timeout={timeout:g} s")
        result = EvaluationResult(None, None, self.min_nfev, 1, error=error)
        running = engine.round is not None and not engine.state.finished
        c = next((c for c in engine.ask() if c.id == id_), None) if running else None
        if c is not None and self._retry(c, attempt, str(error), result, timed=True):
            return
        counts = {"nfev": self.min_nfev, "njev": 1, "timed": True}
        if c is None and id_ not in engine.machine.late:
            self._apply({"do": "count", **counts})
        else:
            self._tell({"id": id_, "traceback": "", **counts}, error=error)

    def _count(self, nfev: int, njev: int) -> None:
        """Count calls whose result nobody waits for."""
        self._apply({"do": "count", "nfev": nfev, "njev": njev})

    def _apply(
        self, record: Record, gradient: Array | None = None, error: BaseException | None = None
    ) -> None:
        if self.manager is not None:
            self.manager.apply(record, gradient, error)
        else:
            apply_record(self.engine, record, gradient, error)

    # -- reports -----------------------------------------------------------------------------------

    def _report(self) -> None:
        """Show theta_k, whose value has just become known; call the callback for k >= 1."""
        due, called = self.progress.due(), self.callback is not None and self.engine.state.nit > 0
        if not due and not called:
            return
        intermediate = self.engine.result()
        if due:
            self._call_user(self.progress.update, intermediate)
        if self.callback is None or not called:
            return
        try:
            stop = self._call_user(self.callback, intermediate)
        except StopIteration:
            stop = True
        if is_true(stop):
            self.engine.abort(Status.CALLBACK)

    def _call_user(self, call: Callable[[S], T], about: S) -> T:
        """Call what is the user's, or shows something to the user: its time is no overhead."""
        start = time.perf_counter()
        try:
            return call(about)
        except KeyboardInterrupt:  # such calls are made where the state is whole
            self.interrupts.state_is_consistent = True
            raise
        finally:
            self.user_seconds += time.perf_counter() - start

    def _save_and_close(self, error: BaseException | None = None) -> None:
        """Save what there is; after `error`, which ends the run, a further one is a note to it."""
        manager = self.manager
        if manager is None:
            return
        try:
            if manager.has_unsaved_changes:
                manager.save()
        except (OSError, CheckpointError, ProtocolError) as second:
            advice = (
                f"what was told since the last save is in its journal; when {manager.path} can be"
                " written, run again with resume=True"
            )
            if error is None:
                second.add_note(f"optex_core: {advice}")
                attach_result(second, self.engine.result())
                raise
            error.add_note(f"optex_core: the run could not be saved either ({second}); {advice}")
        finally:
            manager.close()

    def _raise_failure(self, result: Result) -> None:
        from optex_core.engine.result import failure_at_iterate

        engine, error, limit = self.engine, self.user_error, self.policy.max_failures
        last = failure_at_iterate(engine.state, engine.failures) or engine.failures[-1]
        if error is None or engine.status is Status.TOO_MANY_FAILURES:
            reached = limit is not None and engine.state.failures >= limit
            more = f" max_failures={limit} allows no further one." if reached else ""
            after = f"After {result.nit} iterations and {result.njev} gradients."
            error = EvaluationError(f"{result.message}{more} {after}", last)
            error.__cause__ = last.error
        attach_result(error, result)
        raise error


def _is_iterate(c: Candidate, r: RoundState) -> bool:
    """True if the candidate is theta_t itself, whose failure can end the run."""
    return not r.iterate_evaluated and c is r.candidates[0]
