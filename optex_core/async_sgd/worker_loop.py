"""The one loop: idle workers pull, what ends is pushed, until the run is over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from optex_core._validation import callable_, integer, one_of, positive, short_repr
from optex_core.async_sgd.master import Master
from optex_core.async_sgd.records import Push, Receipt
from optex_core.async_sgd.workers.base import BurstExecutor
from optex_core.async_sgd.workers.burst_runner import BurstResult, BurstRunner
from optex_core.async_sgd.workers.factory import make_burst_executor
from optex_core.engine.status import Status
from optex_core.errors import ArgumentError, EvaluationError, ObjectiveError
from optex_core.execution.deferred_interrupt import DeferredInterrupt

logger = logging.getLogger("optex_core")

#: So many bursts of every worker lost in a row, without one accepted push between them, end a run:
#: the cause is then the burst itself.
MAX_CONSECUTIVE_LOSSES = 10


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """When a run ends and what failures mean; attributes as the parameters of `run`."""

    parallelism: int
    pushes: int | None
    gradients: int | None
    max_time: float | None
    timeout: float | None
    on_error: str
    max_failures: int | None


@dataclass(frozen=True, slots=True)
class LoopReport:
    """How a run went.

    Attributes
    ----------
    status : Status
        Why it ended.
    seconds : float
        Wall clock of this call.
    busy : float
        Seconds that bursts took, summed over workers, as far as they came back.
    pushes, gradients : int
        Accepted in this call.
    lost : int
        Bursts without an accepted push in this call.
    abandoned : int
        Bursts that were still running at the end and were not waited for.
    mean_delay : float
        Over the pushes applied so far, nan if none.
    max_delay : int
        The same.
    deterministic : bool
        True where the order of pushes depends on no clock.
    error : Exception or None
        What a burst raised, where that ended the run.
    """

    status: Status
    seconds: float
    busy: float
    pushes: int
    gradients: int
    lost: int
    abandoned: int
    mean_delay: float
    max_delay: int
    deterministic: bool
    error: Exception | None = None


def run(
    master: Master,
    burst: Callable[..., Any],
    *,
    parallelism: int = 4,
    workers: Any = None,
    pushes: int | None = None,
    gradients: int | None = None,
    max_time: float | None = None,
    timeout: float | None = None,
    on_error: str = "raise",
    max_failures: int | None = None,
    callback: Callable[[Master, Push, Receipt], Any] | None = None,
) -> LoopReport:
    """Let workers pull from, and push to, a master until so many pushes or gradients are in.

    Parameters
    ----------
    master : Master
        Holds the parameters; may have been used before, and may be used again afterwards.
    burst : callable
        ``burst(v, version, seed, ctx) -> Push``, see `async_sgd.Burst`; with ``spawn(worker,
        seed)`` every worker gets its own.
    parallelism : int, default 4
        N: how many workers there are, each with one burst at a time.
    workers : None, int, "threads", "processes", executor or Dask client, default None
        Where they run. None: this thread, in turn, which repeats bit for bit. A name: N threads or
        processes. A number of processes. Any `concurrent.futures.Executor`, or a
        ``distributed.Client``.
    pushes, gradients : int, optional
        End when the master has accepted so many in all, over its whole life, so that a resumed run
        ends where it would have.
    max_time : float, optional
        Seconds; bursts that still run are then not waited for.
    timeout : float, optional
        Seconds of running after which a burst is given up and its worker replaced; not with
        ``workers=None``.
    on_error : {"raise", "drop"}, default "raise"
        What an exception of a burst means: the end of the run, or a lost burst. Its seed is never
        tried again. Dead workers, refused pushes and timeouts are lost bursts in any case.
    max_failures : int, optional
        More lost bursts end the run. Without it, ten for each worker in a row do.
    callback : callable, optional
        ``callback(master, push, receipt)`` after each push; StopIteration, or returning True, ends
        the run.

    Returns
    -------
    Report

    Raises
    ------
    Exception
        What a burst raised, under ``on_error="raise"``; the master holds everything accepted
        before.
    ArgumentError, ArgumentTypeError
        For an argument that cannot work.

    Examples
    --------
    >>> import numpy as np
    >>> from optex_core.async_sgd import Master, Push, run
    >>> def burst(v, version, seed, ctx):
    ...     noise = np.random.default_rng(seed).standard_normal(v.shape)
    ...     return Push.steps(0.1 * (v + 0.1 * noise))
    >>> master = Master(np.full(3, 5.0), rng=0)
    >>> report = run(master, burst, parallelism=4, pushes=200)
    >>> report.max_delay, master.version, bool(abs(master.x).max() < 0.5)
    (3, 200, True)
    """
    if not isinstance(master, Master):
        raise ArgumentError(f"run needs a Master, got {short_repr(master)}")
    settings = LoopSettings(
        integer("parallelism", parallelism, low=1),
        None if pushes is None else integer("pushes", pushes, low=0),
        None if gradients is None else integer("gradients", gradients, low=0),
        None if max_time is None else positive("max_time", max_time),
        None if timeout is None else positive("timeout", timeout),
        one_of("on_error", on_error, ("raise", "drop")),
        None if max_failures is None else integer("max_failures", max_failures, low=0),
    )
    if callback is not None:
        callable_("callback", callback, "the master", "the push", "the receipt")
    if all(end is None for end in (pushes, gradients, max_time, callback)):
        raise ArgumentError(
            "run would never end: give pushes=, gradients=, max_time= or a callback that stops it"
        )
    with make_burst_executor(BurstRunner(burst), workers, settings.parallelism) as executor:
        if settings.timeout is not None and not executor.background:
            raise ArgumentError(
                "timeout needs workers that run in the background, got workers=None: "
                "pass 'threads', 'processes' or a pool"
            )
        report = WorkerLoop(master, executor, settings, callback).run()
    if report.error is not None:
        raise report.error
    return report


class WorkerLoop:
    """One run of a master over a burst executor.

    Parameters
    ----------
    master : Master
    executor : BurstExecutor
    settings : Settings
    callback : callable or None
        As for `run`.
    """

    def __init__(
        self,
        master: Master,
        executor: BurstExecutor,
        settings: LoopSettings,
        callback: Callable[..., Any] | None,
    ) -> None:
        self.master, self.executor, self.settings, self.callback = (
            master,
            executor,
            settings,
            callback,
        )
        self._error: Exception | None = None
        self._status: Status | None = None
        self._consecutive_losses = self._lost = 0
        self._busy = 0.0
        self._idle: list[int] = list(range(settings.parallelism))
        self._workers: dict[int, int] = {}
        self._max_push_gradients = 1  # gradients of one push, as seen so far

    def run(self) -> LoopReport:
        """Run to the end; what a burst raised is in the report."""
        before = self.master.counts
        begin = time.perf_counter()
        with DeferredInterrupt() as interrupts:
            try:
                while not self._finished(time.perf_counter() - begin):
                    self._start_idle()
                    if not self.executor.pending:
                        break
                    with interrupts.interruptible():
                        ended = self.executor.next(self._wait_seconds(begin))
                    for done in ended:
                        self._on_result(done)
                        if self._status is not None:
                            break
                    self._check_timeouts()
            except KeyboardInterrupt:
                if not interrupts.state_is_consistent:
                    raise
                self._status = Status.INTERRUPTED
            finally:
                # whatever ends the run, a callback's error too: nothing stays open that nobody will
                # push
                abandoned = list(self._workers)
                for job in abandoned:
                    self.master.fail(job, "abandoned", "the run ended before the burst did")
                self.master.flush()
        after, delays = self.master.counts, self.master.push_trace.delay
        return LoopReport(
            self._status or Status.MAXITER,
            time.perf_counter() - begin,
            self._busy,
            after["accepted"] - before["accepted"],
            after["gradients"] - before["gradients"],
            self._lost,
            len(abandoned),
            float(delays.mean()) if len(delays) else float("nan"),
            int(delays.max()) if len(delays) else 0,
            not self.executor.background and self.settings.max_time is None,
            self._error,
        )

    def _finished(self, elapsed: float) -> bool:
        s = self.settings
        if self._status is None:
            if s.pushes is not None and self.master.state.counts["accepted"] >= s.pushes:
                self._status = Status.MAXITER
            elif s.gradients is not None and self._gradients() >= s.gradients:
                self._status = Status.MAX_EVALS
            elif s.max_time is not None and elapsed >= s.max_time:
                self._status = Status.MAX_TIME
        return self._status is not None

    def _gradients(self) -> int:
        return self.master.state.counts["gradients"] + sum(
            p.gradients for _, p in self.master.state.received.values()
        )

    def _start_idle(self) -> None:
        """Idle workers pull, as many as the budget and the master allow."""
        s = self.settings
        while self._idle:
            out = len(self._workers)
            if s.pushes is not None and self.master.state.counts["accepted"] + out >= s.pushes:
                return
            if (
                s.gradients is not None
                and out
                and self._gradients() + out * self._max_push_gradients >= s.gradients
            ):
                return
            job = self.master.pull(self._idle[0])
            if job is None:
                return
            self._workers[job.id] = self._idle.pop(0)
            self.executor.submit(job)

    def _wait_seconds(self, begin: float) -> float | None:
        s = self.settings
        limits = (
            [] if s.max_time is None else [max(0.0, s.max_time - (time.perf_counter() - begin))]
        )
        if s.timeout is not None:
            limits.append(min(0.25, s.timeout / 4))
        return min(limits, default=None)

    def _on_result(self, done: BurstResult) -> None:
        worker = self._workers.pop(done.job)
        self._idle.append(worker)
        self._busy += done.seconds
        if done.push is None:
            self._on_failure(done)
            return
        try:
            receipt = self.master.push(done.job, done.push)
        except ObjectiveError as error:
            # A burst that returns the wrong thing is a bug and no failed burst: it ends the run
            # whatever on_error says.
            self.master.fail(done.job, "error", str(error))
            self._error, self._status = error, Status.FAILED
            return
        if receipt.accepted:
            self._consecutive_losses = 0
            self._max_push_gradients = max(self._max_push_gradients, done.push.gradients)
        else:
            logger.warning("%s", receipt.reason)
            self._count_lost(
                Status.DIVERGED if "finite" in receipt.reason else Status.TOO_MANY_FAILURES
            )
        if self.callback is not None:
            try:
                if self.callback(self.master, done.push, receipt):
                    self._status = Status.CALLBACK
            except StopIteration:
                self._status = Status.CALLBACK

    def _on_failure(self, done: BurstResult) -> None:
        if done.lost:
            self.master.fail(done.job, "worker", f"the worker died in burst {done.job}")
            logger.warning(
                "a worker died; its burst %d is lost, a new one takes its place", done.job
            )
        else:
            error = (
                done.error
                if done.error is not None
                else EvaluationError(f"burst {done.job} gave nothing")
            )
            self.master.fail(done.job, "error", f"{type(error).__name__}: {error}", done.traceback)
            if self.settings.on_error == "raise" or isinstance(error, ObjectiveError):
                self._error, self._status = error, Status.FAILED
        self._count_lost(Status.TOO_MANY_FAILURES)

    def _count_lost(self, status: Status) -> None:
        self._lost += 1
        self._consecutive_losses += 1
        s = self.settings
        many = s.max_failures is not None and self._lost > s.max_failures
        if self._status is None and (
            many
            or (
                s.max_failures is None
                and self._consecutive_losses >= MAX_CONSECUTIVE_LOSSES * s.parallelism
            )
        ):
            self._status = status

    def _check_timeouts(self) -> None:
        """Give up bursts that take too long."""
        if self.settings.timeout is None:
            return
        for job in self.executor.overdue(self.settings.timeout):
            for lost in (job, *self.executor.give_up(job)):
                kind, why = ("timeout", f"burst {job} ran for more than {self.settings.timeout:g} s") if lost == job else (
                    "worker", f"burst {lost} waited behind burst {job}, whose worker was ended")  # fmt: skip
                self.master.fail(lost, kind, why)
                self._idle.append(self._workers.pop(lost))
                logger.warning("%s; its worker is replaced", why)
                self._count_lost(Status.TOO_MANY_FAILURES)


def histogram_text(delays: np.ndarray) -> str:
    """Delays as a line: ``0: 12, 1: 80, 2: 8``."""
    return (
        ", ".join(f"{delay}: {count}" for delay, count in enumerate(np.bincount(delays)) if count)
        if len(delays)
        else "none"
    )
