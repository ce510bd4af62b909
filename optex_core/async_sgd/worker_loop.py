"""Loop of a run: idle workers pull, results are pushed, until a limit is reached."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from optex_core._validation import callable_, integer, is_true, one_of, positive, short_repr
from optex_core.async_sgd.burst_executors import BurstExecutor, BurstRunner, make_burst_executor
from optex_core.async_sgd.master import Master
from optex_core.async_sgd.records import BurstContext, BurstResult, BurstStatus, Pull, Push, Receipt
from optex_core.engine.stopping import Status
from optex_core.errors import ArgumentError, EvaluationError, ObjectiveError, describe
from optex_core.execution.deferred_interrupt import DeferredInterrupt
from optex_core.runs.failure_policy import with_keyword_result
from optex_core.types import Array

logger = logging.getLogger("optex_core")

#: Bursts of every worker lost in a row, without one accepted push between them, that end a run: the
#: cause is then the burst itself.
MAX_CONSECUTIVE_LOSSES = 10
#: Workers that may die in one evaluation outside of bursts: the second death is no accident.
MAX_EVALUATION_DEATHS = 2


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Limits of a run and the meaning of failures; attributes as the parameters of `run`."""

    parallelism: int
    maxiter: int | None
    max_evals: int | None
    max_time: float | None
    timeout: float | None
    on_error: str
    max_failures: int | None

    def __post_init__(self) -> None:
        integer("parallelism", self.parallelism, low=1)
        for name, low in (("maxiter", 0), ("max_evals", 1), ("max_failures", 0)):
            if getattr(self, name) is not None:
                integer(name, getattr(self, name), low=low)
        for name in ("max_time", "timeout"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        one_of("on_error", self.on_error, ("raise", "drop"))


@dataclass(frozen=True, slots=True)
class LoopReport:
    """State of a run: the result of `run`, and the argument of its callback."""

    master: Master
    status: Status  # why the run ended; RUNNING in a callback
    seconds: float  # wall-clock time of this call
    pushes: int  # accepted in this call
    gradients: int  # applied in this call
    lost: int  # bursts of this call without an accepted push
    abandoned: int  # bursts that were still running at the end and were not waited for
    deterministic: bool  # True where the order of pushes depends on no clock
    push: Push | None = field(default=None, repr=False)  # just received; None at the end
    receipt: Receipt | None = None  # the master's answer to it
    error: BaseException | None = None  # of the burst that ended the run

    @property
    def mean_delay(self) -> float:
        """Mean staleness of the pushes applied so far, nan if none."""
        delays = self.master.push_trace.delay
        return float(delays.mean()) if len(delays) else float("nan")

    @property
    def max_delay(self) -> int:
        """Largest staleness of the pushes applied so far, 0 if none."""
        return int(self.master.push_trace.delay.max(initial=0))


def run(
    master: Master,
    burst: Callable[..., object],
    *,
    parallelism: int = 4,
    workers: object = None,
    maxiter: int | None = None,
    max_evals: int | None = None,
    max_time: float | None = None,
    timeout: float | None = None,
    on_error: str = "raise",
    max_failures: int | None = None,
    callback: Callable[..., object] | None = None,
) -> LoopReport:
    """Let workers pull from, and push to, a master up to a number of updates or gradients.

    Parameters
    ----------
    master : Master
        Holds the parameters; may have been used before, and may be used again afterwards.
    burst : callable
        ``burst(v, ctx) -> Push``, see `async_sgd.Burst`.
    parallelism : int, default 4
        N, the number of workers, each with one burst at a time.
    workers : None, int, "threads", "processes", executor or Dask client, default None
        Where they run. None: this thread, in turn, which repeats bit for bit. A name: N threads or
        processes. A number of processes. Any `concurrent.futures.Executor`, or a
        ``distributed.Client``.
    maxiter, max_evals : int, optional
        End when the master has made so many updates (`Master.version`), or has accepted pushes of
        so many gradients, over its whole life.
    max_time, timeout : float, optional
        Seconds after which the run ends, without waiting for bursts; seconds of running after which
        a burst is given up and its worker replaced (not with ``workers=None``).
    on_error : {"raise", "drop"}, default "raise"
        The meaning of an exception of a burst: the end of the run, or a lost burst, never tried
        again. Dead workers, refused pushes and timeouts are lost bursts in any case, whose part of
        the work (``ctx.part``) is handed out again where `BurstStatus` says so.
    max_failures : int, optional
        More lost bursts end the run. Without it, ten for each worker in a row do.
    callback : callable, optional
        ``callback(intermediate_result)`` after each push, with a `LoopReport`; StopIteration (or
        returning True) stops, as in `optex_core.minimize`.

    Examples
    --------
    >>> import numpy as np
    >>> from optex_core.async_sgd import Master, Push, run
    >>> def burst(v, ctx):
    ...     noise = np.random.default_rng(ctx.seed).standard_normal(v.shape)
    ...     return Push.steps(0.1 * (v + 0.1 * noise))
    >>> master = Master(np.full(3, 5.0), rng=0)
    >>> report = run(master, burst, parallelism=4, maxiter=200)
    >>> report.max_delay, master.version, bool(abs(master.x).max() < 0.5)
    (3, 200, True)
    """
    if not isinstance(master, Master):
        raise ArgumentError(f"run needs a Master, got {short_repr(master)}")
    settings = LoopSettings(
        parallelism, maxiter, max_evals, max_time, timeout, on_error, max_failures
    )
    if callback is not None:
        callback = with_keyword_result(callable_("callback", callback, "the result so far"))
    if all(end is None for end in (maxiter, max_evals, max_time, callback)):
        raise ArgumentError(
            "run would never end: give maxiter=, max_evals=, max_time= or a callback that stops it"
        )
    executor = make_burst_executor(BurstRunner(burst), workers, parallelism, timeout)
    with contextlib.closing(executor):
        report = WorkerLoop(master, executor, settings, callback).run()
    if report.error is not None:
        raise report.error
    return report


class WorkerLoop:
    """One run of a master over a burst executor."""

    def __init__(
        self,
        master: Master,
        executor: BurstExecutor,
        settings: LoopSettings,
        callback: Callable[[LoopReport], object] | None,
        burst_gradients: int = 1,
    ) -> None:
        self.master, self.executor, self.settings = master, executor, settings
        self.callback = callback
        self._status = Status.RUNNING
        self._error: BaseException | None = None
        self._consecutive_losses = self._lost = self._abandoned = 0
        self._idle = list(range(settings.parallelism))
        self._workers: dict[int, int] = {}  # burst -> worker
        self._max_push_gradients = burst_gradients  # of one push so far
        self._evaluations = 0
        counts = master.state.counts
        self._before = counts["accepted"], counts["gradients"]
        self._max_pushes: int | None = None
        if settings.maxiter is not None:
            left = settings.maxiter - master.version
            self._max_pushes = counts["applied"] + left * master.settings.batch
        self._begin = time.perf_counter()

    def run(self) -> LoopReport:
        """Run to the end; the error of a burst is in the report."""
        self._begin = time.perf_counter()
        with DeferredInterrupt() as interrupts:
            try:
                while not self._finished():
                    self._start_idle()
                    if not self.executor.pending:
                        self._status = Status.MAXITER
                        break
                    with interrupts.interruptible():
                        results = self.executor.next(self._wait_seconds(self.settings.max_time))
                    for result in results:
                        self._on_result(result)
                        if self._status is not Status.RUNNING:
                            break
                    self._check_timeouts()
            except KeyboardInterrupt:
                if not interrupts.state_is_consistent:
                    raise
                self._status = Status.INTERRUPTED
            finally:  # also after an error of a callback: nothing stays open that nobody will push
                self._abandon()
        return self._report()

    def evaluate(self, v: Array, seed: int) -> BurstResult:
        """Value and gradient at `v` (`Worker.evaluate`) where bursts run, under their timeout.

        It is no push. A worker that dies is replaced once. An error that is no Exception is raised.
        """
        for _ in range(MAX_EVALUATION_DEATHS):
            self._evaluations += 1
            context = BurstContext(-self._evaluations, 0, seed, self.master.version)
            self.executor.submit(Pull(v, context, evaluation=True))
            result = self._wait_for(context.id)
            if result.error is not None and not isinstance(result.error, Exception):
                raise result.error
            if result.failure is not BurstStatus.WORKER:
                return result
        died = f"its worker died, {MAX_EVALUATION_DEATHS} times in a row"
        error = EvaluationError(died)
        return BurstResult(-self._evaluations, error=error, failure=BurstStatus.WORKER)

    def _wait_for(self, evaluation: int) -> BurstResult:
        timeout = self.settings.timeout
        while True:
            for result in self.executor.next(self._wait_seconds()):
                if result.id == evaluation:
                    return result
            if timeout is not None and evaluation in self.executor.overdue(timeout):
                self.executor.give_up(evaluation)
                error = EvaluationError(f"it ran for more than {timeout:g} s")
                return BurstResult(evaluation, error=error, failure=BurstStatus.TIMEOUT)

    def _report(self, push: Push | None = None, receipt: Receipt | None = None) -> LoopReport:
        counts = self.master.state.counts
        return LoopReport(
            self.master,
            self._status,
            time.perf_counter() - self._begin,
            counts["accepted"] - self._before[0],
            counts["gradients"] - self._before[1],
            self._lost,
            self._abandoned,
            not self.executor.background and self.settings.max_time is None,
            push,
            receipt,
            self._error,
        )

    def _finished(self) -> bool:
        s, state = self.settings, self.master.state
        if self._status is Status.RUNNING:
            if self._max_pushes is not None and state.counts["accepted"] >= self._max_pushes:
                self._status = Status.MAXITER
            elif s.max_evals is not None and state.gradients >= s.max_evals:
                self._status = Status.MAX_EVALS
            elif s.max_time is not None and time.perf_counter() - self._begin >= s.max_time:
                self._status = Status.MAX_TIME
        return self._status is not Status.RUNNING

    def _start_idle(self) -> None:
        """Idle workers pull, as many as the limits and the master allow."""
        s, state = self.settings, self.master.state
        while self._idle:
            out = len(self._workers)
            accepted = state.counts["accepted"] + out
            if self._max_pushes is not None and accepted >= self._max_pushes:
                return
            expected = state.gradients + out * self._max_push_gradients
            if s.max_evals is not None and out and expected >= s.max_evals:
                return
            pull = self.master.pull(self._idle[0])
            if pull is None:
                return
            self._workers[pull.id] = self._idle.pop(0)
            self.executor.submit(pull)

    def _wait_seconds(self, max_time: float | None = None) -> float | None:
        limits = [] if self.settings.timeout is None else [0.25, self.settings.timeout / 4]
        if max_time is not None:
            limits.append(max(0.0, max_time - (time.perf_counter() - self._begin)))
        return min(limits, default=None)

    def _on_result(self, result: BurstResult) -> None:
        self._idle.append(self._workers.pop(result.id))
        if result.push is None:
            self._on_failure(result)
            return
        try:
            receipt = self.master.push(result.id, result.push)
        except ObjectiveError as error:
            # A burst that returns the wrong thing is a bug and no failed burst: it ends the run
            # whatever on_error says.
            self.master.fail(result.id, BurstStatus.ERROR, str(error))
            self._error, self._status = error, Status.FAILED
            return
        if receipt.accepted:
            self._consecutive_losses = 0
            self._max_push_gradients = max(self._max_push_gradients, result.push.gradients)
        else:
            logger.warning("%s", receipt.reason)
            diverged = receipt.status is BurstStatus.NOT_FINITE
            self._count_lost(Status.DIVERGED if diverged else Status.TOO_MANY_FAILURES)
        if self.callback is not None:
            try:
                if is_true(self.callback(self._report(result.push, receipt))):
                    self._status = Status.CALLBACK
            except StopIteration:
                self._status = Status.CALLBACK

    def _on_failure(self, result: BurstResult) -> None:
        if result.failure is BurstStatus.WORKER:
            message = f"the worker died in burst {result.id}"
            self.master.fail(result.id, BurstStatus.WORKER, message)
            logger.warning(
                "a worker died; its burst %d is lost, a new one takes its place", result.id
            )
        else:
            error = result.error or EvaluationError(f"burst {result.id} gave nothing")
            self.master.fail(result.id, BurstStatus.ERROR, describe(error), result.traceback)
            if type(error) is KeyboardInterrupt:  # Ctrl-C in this thread, where bursts run serially
                raise error
            is_bug = isinstance(error, ObjectiveError) or not isinstance(error, Exception)
            if self.settings.on_error == "raise" or is_bug:
                self._error, self._status = error, Status.FAILED
        self._count_lost(Status.TOO_MANY_FAILURES)

    def _count_lost(self, status: Status) -> None:
        self._lost += 1
        self._consecutive_losses += 1
        s = self.settings
        if s.max_failures is None:
            too_many = self._consecutive_losses >= MAX_CONSECUTIVE_LOSSES * s.parallelism
        else:
            too_many = self._lost > s.max_failures
        if too_many and self._status is Status.RUNNING:
            self._status = status

    def _check_timeouts(self) -> None:
        """Give up bursts that take too long."""
        if self.settings.timeout is None:
            return
        for burst_id in self.executor.overdue(self.settings.timeout):
            self.executor.give_up(burst_id)
            message = f"burst {burst_id} ran for more than {self.settings.timeout:g} s"
            self.master.fail(burst_id, BurstStatus.TIMEOUT, message)
            self._idle.append(self._workers.pop(burst_id))
            logger.warning("%s; its worker is replaced", message)
            self._count_lost(Status.TOO_MANY_FAILURES)

    def _abandon(self) -> None:
        self._abandoned = len(self._workers)
        self.executor.abandon()
        for burst_id in self._workers:
            message = "the run ended before the burst did"
            self.master.fail(burst_id, BurstStatus.ABANDONED, message)
        self._workers.clear()
        self.master.flush()
