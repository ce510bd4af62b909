"""The one loop over ask, evaluate, tell and stop: it hands out what the engine asks for and keeps
the clock.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from optex_core.backends.blas_threads import is_single_threaded
from optex_core.engine.diagnosis import diagnose
from optex_core.engine.optex import OptEx
from optex_core.engine.records import FailedEvaluation
from optex_core.engine.state import RoundState
from optex_core.engine.status import Status
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
from optex_core.runs.failure_policy import FailurePolicy
from optex_core.runs.journal import apply_record
from optex_core.runs.progress import Progress
from optex_core.types import UNPERTURBED, Candidate, EvaluationResult

if TYPE_CHECKING:
    from optex_core.engine.result import Result

logger = logging.getLogger("optex_core")

#: So many times `timeout` without anything running but what was given up: the workers of a pool
#: that is not ours are all held, and stay so.
MAX_BLOCKED_TIMEOUTS = 10.0
#: Seconds in which nothing has come back when the engine begins to work ahead: workers have begun
#: by then, and none waits for this thread's lock. Tried: begun so late that it ends as the
#: gradients come, for warm caches. Of 6.0 ms of our own work between gradients of 50 ms it saved 0
#: to 0.4, as much as runs differ, and on a busy machine they were there before it had begun.
ANTICIPATE_AFTER = 0.003


class EvaluationLoop:
    """The loop: hand out what the engine asks for, tell it what comes back, keep the clock."""

    def __init__(
        self,
        engine: OptEx,
        evaluator: Evaluator,
        policy: FailurePolicy,
        callback: Callable[..., Any] | None,
        progress: Progress,
        manager: CheckpointManager | None,
        min_nfev: bool = True,
    ) -> None:
        self.engine, self.evaluator, self.policy = engine, evaluator, policy
        self.callback = with_keyword_result(callback)
        self.progress, self.manager = progress, manager
        self.min_nfev = int(min_nfev)  # calls of a value that an evaluation makes at least
        # Where working ahead holds BLAS at one thread in this whole process, gradients in threads
        # beside it would depend on when.
        self.anticipates = evaluator.asynchronous and (
            evaluator.out_of_process or engine.machine.surrogate.unthreaded or is_single_threaded()
        )
        self.started_at = time.perf_counter()
        engine.on_iterate = self._report
        self.user_error: BaseException | None = None
        # (id, attempt) of what was submitted and is awaited
        self.outstanding: set[tuple[int, int]] = set()
        # given up, but still running where it cannot be ended
        self.expired: set[tuple[int, int]] = set()
        self.last_activity = self.started_at  # when something was last seen to run or to finish
        self.interrupts = DeferredInterrupt()
        # of a run that goes on: attempts are counted on
        self.attempts = Counter(f.id for f in engine.failures)
        # seconds of an iteration, which may take several asks
        self.iteration_seconds = self.overhead_seconds = 0.0
        # seconds within our own work that the callback, the progress and on_error took
        self.user_seconds = 0.0

    def run(self) -> Result:
        engine, whole = self.engine, True
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
        elif self.manager is not None:
            logger.warning(
                "interrupted within a step: %s is left as it was saved last, after %d "
                    "iterations; what was told since is in its journal",
                self.manager.path, self.manager.last_saved_iteration,
            )  # fmt: skip
            self.manager.close()
        result = engine.result()
        if advice := diagnose(engine.settings, engine.state, engine.trace):
            logger.warning(advice)
        if self.user_error is not None or engine.status in (
            Status.FAILED,
            Status.TOO_MANY_FAILURES,
        ):
            self._raise_failure(result)
        return result

    def _elapsed(self) -> float:
        return time.perf_counter() - self.started_at

    def _run_round(self) -> None:
        """One ask, all its tells."""
        engine, evaluator = self.engine, self.evaluator
        begin, rows = time.perf_counter(), len(engine.trace)
        candidates = engine.ask()
        if not candidates:
            return
        own = time.perf_counter() - begin
        for attempt in sorted({self.attempts[c.id] for c in candidates}):
            self._submit([c for c in candidates if self.attempts[c.id] == attempt], attempt)
        quorate: float | None = None
        this, given, ahead, waiting = engine.round, time.perf_counter(), 0.0, self.anticipates
        while engine.round is this and not engine.stop(self._elapsed()):
            if not evaluator.pending:
                break
            wait = self._wait(quorate)
            outcomes = self._next_results(
                min(ANTICIPATE_AFTER, ANTICIPATE_AFTER if wait is None else wait)
                if waiting
                else wait
            )
            if waiting and not outcomes:
                engine.anticipate()
                ahead = time.perf_counter() - given
            waiting, start = False, time.perf_counter()
            for outcome in outcomes:
                self._handle_result(outcome)
            if self.policy.timeout is not None:
                self._enforce_timeout(self.policy.timeout)
            own += time.perf_counter() - start
            r = engine.round
            if (
                self.policy.quorum is not None
                and r is not None
                and r.done[0]
                and sum(r.done) >= min(self.policy.quorum, len(r.done))
            ):
                quorate = quorate if quorate is not None else time.perf_counter()
                if not all(r.done) and time.perf_counter() - quorate >= self.policy.grace:
                    self._apply({"do": "close"})
        if engine.stop():
            self._drain()
        # it has worked ahead for longer than the gradients took
        if this is not None and this.seconds < ahead:
            own += ahead - this.seconds
        self.iteration_seconds, self.overhead_seconds = (
            self.iteration_seconds + time.perf_counter() - begin,
            self.overhead_seconds + max(own - self.user_seconds, 0.0),
        )
        self.user_seconds = 0.0
        if len(engine.trace) > rows:
            self._apply(
                {"do": "time", "spent": self.iteration_seconds, "own": self.overhead_seconds}
            )
            self.iteration_seconds = self.overhead_seconds = 0.0
        if self.manager is not None and not engine.state.finished and self.manager.save_due:
            self.manager.try_save()

    def _next_results(self, wait: float | None) -> list[EvaluationResult]:
        """Wait for outcomes, which an interrupt may end; the calls that it cuts off are counted."""
        try:
            with self.interrupts.interruptible():
                return self.evaluator.next(wait)
        except BaseException as error:
            lost = attached_call_counts(error)
            self._apply({"do": "count", "nfev": lost.nfev, "njev": lost.njev})
            raise
        finally:
            # it has made these calls at least, and they are made again
            for task in self.evaluator.pop_lost():
                nfev = self.min_nfev if task.perturbation is None else 1
                njev = int(task.perturbation in (None, UNPERTURBED))
                self._apply({"do": "count", "nfev": nfev, "njev": njev})

    def _drain(self) -> None:
        """Drop what has not started; wait for what runs, so that the counters are honest, until an
        interrupt says that this takes too long.
        """
        self.evaluator.cancel()
        try:
            while self.evaluator.pending > len(self.expired):  # what was given up may never return
                for outcome in self._next_results(self._wait(None)):
                    self._handle_result(outcome)
                if self.policy.timeout is not None:
                    self._enforce_timeout(self.policy.timeout)
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

    def _wait(self, quorate: float | None) -> float | None:
        """Seconds to wait for the next outcome: until the grace or the next timeout ends."""
        now, ends = time.perf_counter(), []
        if quorate is not None:
            ends.append(quorate + self.policy.grace)
        if self.policy.timeout is not None:
            running = [
                since for key, since in self.evaluator.started().items() if key in self.outstanding
            ]
            ends += [since + self.policy.timeout for since in running]
            if len(running) < len(self.outstanding):  # some may start unseen
                ends.append(now + self.policy.timeout)
        limit = self.engine.settings.criteria.max_time
        if limit is not None and not self.engine.state.finished:
            ends.append(self.started_at + limit)
        return max(min(ends) - now, 0.0) if ends else None

    # -- outcomes ----------------------------------------------------------------------------------

    def _handle_result(self, outcome: EvaluationResult) -> None:
        engine, c, key = self.engine, outcome.candidate, (outcome.candidate.id, outcome.attempt)
        # it was given up before, and counted as what it costs at least
        if key not in self.outstanding:
            self.expired.discard(key)
            self._apply(
                {
                    "do": "count",
                    "nfev": max(outcome.nfev - self.min_nfev, 0),
                    "njev": max(outcome.njev - 1, 0),
                }
            )
            return
        self.outstanding.discard(key)
        if isinstance(outcome.error, ObjectiveError):
            self._apply({"do": "count", "nfev": outcome.nfev, "njev": outcome.njev})
            raise outcome.error
        # before the tell: a time limit keeps theta where its value is known
        engine.stop(self._elapsed())
        message = self._failure_reason(outcome)
        late = engine.round is None or c.iteration != engine.state.nit or engine.state.finished
        if (
            message
            and not late
            and self._retry(
                c,
                outcome.attempt,
                message,
                outcome.error,
                outcome.traceback,
                outcome.nfev,
                outcome.njev,
            )
        ):
            return
        record = {
            "do": "tell",
            "id": c.id,
            "nfev": outcome.nfev,
            "njev": outcome.njev,
            "seconds": outcome.seconds,
            "value": outcome.value,
        }
        if outcome.error is not None:
            self._apply(record | {"traceback": outcome.traceback}, error=outcome.error)
        else:
            if c.slot == 0 and not late:
                self._use_as_closing_point(c, outcome.njev)
            self._apply(record, outcome.gradient)
        if self._exceeds_max_failures(0):
            engine.abort(Status.TOO_MANY_FAILURES)

    def _retry(
        self,
        c: Candidate,
        attempt: int,
        message: str,
        error: BaseException | None,
        text: str,
        nfev: int,
        njev: int,
        timed: bool = False,
    ) -> bool:
        """Decide about a failed evaluation; True if it is tried again."""
        engine = self.engine
        decision = self._call_user(
            self.policy.decide,
            FailedEvaluation(c.id, c.iteration, c.slot, c.seed, c.x, message, error, text, attempt),
        )
        r, left = engine.round, self._remaining_evaluations(njev)
        if (
            decision == "retry"
            and attempt < self.policy.max_retries
            and not self._exceeds_max_failures(1)
            and left >= 1
            and r is not None
        ):
            # The last evaluation of the budget is the closing one. A retry of theta_t is that too;
            # a proxy gives way to it.
            last, proxy = left < 2 and not r.closing, not _is_iterate(c, r)
            if last and proxy:
                return False
            record = {
                "do": "attempt",
                "id": c.id,
                "message": message,
                "attempt": attempt,
                "nfev": nfev,
                "njev": njev,
                "traceback": text,
            }
            self._apply(record | {"timed": timed}, error=error)
            if last and c.slot:  # in the middle of an iteration of several asks, which ends here
                self._apply({"do": "shorten"})
            else:
                self._submit([c], attempt + 1)
            return True
        if decision == "raise" and engine.round is not None and _is_iterate(c, engine.round):
            self.user_error = error
        return False

    def _failure_reason(self, outcome: EvaluationResult) -> str:
        """ "" or why the outcome is not usable; what is not finite is left to ``tell``, which looks
        anyway, unless it may be tried again.
        """
        if outcome.error is not None:
            return describe(outcome.error)
        if self.policy.on_error in ("raise", "drop"):
            return ""
        if outcome.value is not None and not math.isfinite(outcome.value):
            return f"the value is {outcome.value}"
        finite = self.engine.backend.all_finite(outcome.gradient)
        return "" if finite else "the gradient is not finite"

    def _remaining_evaluations(self, njev: int) -> float:
        """What `max_evals` leaves when the outcome at hand (`njev` gradients) and all that is out
        besides it are counted.
        """
        engine = self.engine
        limit, r = engine.settings.criteria.max_evals, engine.round
        if limit is None or r is None:
            return math.inf
        return limit - engine.state.njev - njev - (len(r.done) - sum(r.done) - 1) - len(engine.late)

    def _use_as_closing_point(self, c: Candidate, njev: int) -> None:
        """Make theta_t's evaluation the closing one where retries have taken what the budget had
        kept for that: it is the same point and seed.
        """
        r = self.engine.round
        if (
            r is not None
            and not r.closing
            and _is_iterate(c, r)
            and self._remaining_evaluations(njev) < 1
        ):
            self._apply({"do": "closing"})

    def _exceeds_max_failures(self, more: int) -> bool:
        limit = self.policy.max_failures
        return limit is not None and self.engine.state.failures + more > limit

    def _enforce_timeout(self, timeout: float) -> None:
        """Give up evaluations that run longer than `timeout`; waiting for a free worker, or for one
        to start, takes nothing of it.
        """
        now = time.perf_counter()
        running = {
            key: since for key, since in self.evaluator.started().items() if key in self.outstanding
        }
        if running or not self.expired:
            self.last_activity = now
        elif self.outstanding and now - self.last_activity > MAX_BLOCKED_TIMEOUTS * timeout:
            raise EvaluationError(
                f"{len(self.expired)} evaluations that took longer than "
                f"timeout={timeout:g} s hold all workers, which are the caller's and cannot be "
                f"ended from here, and {len(self.outstanding)} wait behind them; with "
                f"workers=<number of processes> such workers are replaced"
            )
        for (id_, attempt), since in running.items():
            if now - since >= timeout:
                self._abandon(id_, attempt, timeout)

    def _abandon(self, id_: int, attempt: int, timeout: float) -> None:
        engine, r = self.engine, self.engine.round
        self.outstanding.discard((id_, attempt))
        if not self.evaluator.abandon(id_, attempt):
            self.expired.add((id_, attempt))
        # What it has called at least: it may have been killed, and `max_evals` is a cap.
        error, nfev, njev = (
            EvaluationError(f"the evaluation took longer than timeout={timeout:g} s"),
            self.min_nfev,
            1,
        )
        c = (
            None
            if r is None or engine.state.finished
            else next((c for c in engine.ask() if c.id == id_), None)
        )
        if c is not None and self._retry(c, attempt, str(error), error, "", nfev, njev, timed=True):
            return
        counts = {"nfev": nfev, "njev": njev, "timed": True}
        if c is None and id_ not in engine.late:
            self._apply({"do": "count", **counts})
        else:
            self._apply({"do": "tell", "id": id_, "traceback": "", **counts}, error=error)
            if self._exceeds_max_failures(0):
                engine.abort(Status.TOO_MANY_FAILURES)

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
        if stop is True:
            self.engine.abort(Status.CALLBACK)

    def _call_user(self, call: Callable[[Any], Any], about: Any) -> Any:
        """Call what is the user's, or shows something to the user: its time is not our own work."""
        start = time.perf_counter()
        try:
            return call(about)
        except KeyboardInterrupt:  # such calls are made where the state is whole
            self.interrupts.state_is_consistent = True
            raise
        finally:
            self.user_seconds += time.perf_counter() - start

    def _apply(
        self, record: dict[str, Any], gradient: Any = None, error: BaseException | None = None
    ) -> None:
        if self.manager is not None:
            self.manager.apply(record, gradient, error)
        else:
            apply_record(self.engine, record, gradient, error)

    def _save_and_close(self, error: BaseException | None = None) -> None:
        """Save what there is; after `error` that has ended the run, what else goes wrong is a note
        to it.
        """
        manager = self.manager
        if manager is None:
            return
        try:
            if manager.has_unsaved_changes:
                manager.save()
        except (OSError, CheckpointError, ProtocolError) as second:
            advice = (
                f"what was told since the last save is in its journal; when {manager.path} "
                f"can be written, run again with resume=True"
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

        last = (
            failure_at_iterate(self.engine.state, self.engine.failures) or self.engine.failures[-1]
        )
        error = self.user_error
        if error is None or self.engine.status is Status.TOO_MANY_FAILURES:
            limit = self.policy.max_failures
            why = (
                f" max_failures={limit} allows no further one."
                if limit is not None and self.engine.state.failures >= limit
                else ""
            )
            error = EvaluationError(
                f"{result.message}{why} After {result.nit} iterations and {result.njev} gradients.",
                last,
            )
            error.__cause__ = last.error
        attach_result(error, result)
        raise error


def _is_iterate(c: Candidate, r: RoundState) -> bool:
    """True if the candidate is theta_t itself, whose failure can end the run."""
    return not r.iterate_evaluated and c is r.candidates[0]


def attach_result(error: BaseException, result: Any) -> None:
    """Hang the result so far on what ends the run; an exception with slots cannot carry it, and
    says so in a note instead.
    """
    try:
        error.partial_result = result  # type: ignore[attr-defined]
    except AttributeError:
        # a frozen exception takes no note either; it must not be hidden by that
        with contextlib.suppress(AttributeError):
            error.add_note(
                f"optex_core: the run had reached {result.best_fun} after {result.nit} "
                f"iterations; this exception cannot carry the result"
            )


def with_keyword_result(callback: Callable[..., Any] | None) -> Callable[[Any], Any] | None:
    """A callback that has a parameter ``intermediate_result`` gets it by name, as in SciPy; any
    other gets the result as its one argument.
    """
    if callback is None:
        return None
    try:
        named = "intermediate_result" in inspect.signature(callback).parameters
    except (TypeError, ValueError):  # a compiled callable without a signature
        named = False
    return (lambda result: callback(intermediate_result=result)) if named else callback
