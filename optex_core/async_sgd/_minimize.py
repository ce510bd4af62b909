"""The public function `async_sgd.minimize`: two-level asynchronous SGD on one function."""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from optex_core._validation import (
    callable_,
    is_true,
    one_of,
    positive,
    real,
    reject_unknown_keywords,
)
from optex_core.async_sgd.burst_executors import BurstExecutor, BurstRunner, make_burst_executor
from optex_core.async_sgd.convergence import effective_step, estimate_smoothness, stability_cap
from optex_core.async_sgd.master import Master
from optex_core.async_sgd.records import BurstResult, BurstStatus, Push
from optex_core.async_sgd.resume import open_master
from optex_core.async_sgd.worker import Rate, Worker
from optex_core.async_sgd.worker_loop import LoopReport, LoopSettings, WorkerLoop
from optex_core.engine.settings_spec import to_spec
from optex_core.engine.stopping import Status
from optex_core.engine.trace import IterationRecord, Trace
from optex_core.errors import ArgumentError, CapabilityError, EvaluationError, describe
from optex_core.runs.failure_policy import attach_result, with_keyword_result
from optex_core.runs.progress import Progress
from optex_core.types import Array

if TYPE_CHECKING:
    from optex_core.async_sgd.result import AsyncResult

logger = logging.getLogger("optex_core")


@reject_unknown_keywords
def minimize(
    fun: object,
    x0: object,
    args: tuple[object, ...] = (),
    *,
    jac: object = True,
    rate: Rate = 0.01,
    parallelism: int = 4,
    cores: int = 1,
    inner_steps: int = 10,
    workers: object = None,
    step: object = 1.0,
    batch: int = 1,
    max_delay: int | None = None,
    on_late: str = "reject",
    smoothness: object = None,
    maxiter: int | None = None,
    max_evals: int | None = None,
    target: float | None = None,
    max_time: float | None = None,
    callback: Callable[..., object] | None = None,
    progress: Any = False,
    rng: object = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    log: str | os.PathLike[str] | None = None,
    resume: bool = False,
    tag: str | None = None,
    on_error: str = "raise",
    max_failures: int | None = None,
    timeout: float | None = None,
) -> AsyncResult:
    """Minimize by two-level asynchronous SGD: N workers push sums of B steps to a master, p cores
    of each share a copy of the parameters.

    Parameters
    ----------
    fun : callable, SparseSamples, DenseSamples or None
        As for `optex_core.minimize`, ``fun(x, *args) -> (value, gradient)``; a keyword-only `seed`
        chooses the sample or mini-batch. Or compiled samples, which cores then work on without
        locks.
    x0 : array_like, shape (d,)
        The start.
    args, jac
        As for `optex_core.minimize`.
    rate : float or callable, default 0.01
        (inner learning rate) gamma, by which a worker multiplies each gradient, or a schedule
        ``version -> gamma``.
    parallelism, cores : int, default 4 and 1
        N, the number of workers, and p, threads of each.
    inner_steps : int, default 10
        (a number) B, steps of a burst, over all cores: computing against communicating.
    workers : None, int, "threads", "processes", executor or Dask client, default None
        Where they run; None: in turn in this thread, which repeats bit for bit. See
        `async_sgd.run`.
    step, batch, max_delay, on_late, tag
        As for `async_sgd.Master`: eta, the outer step size, by which the master multiplies a push;
        M, pushes to one update; D, the largest staleness, and the treatment of later pushes; the
        name of the problem in saved files.
    smoothness : float, "estimate" or None, default None
        L: with it, the step a L is compared with the largest that is stable at the staleness that
        occurs, and a run above it says so. "estimate" takes |H| at the start, for 9 gradients.
    maxiter : int, optional
        Updates of the master, as ``res.nit`` counts them.
    max_evals : int, optional
        Gradients in accepted pushes, rounded up to whole bursts; at least 1.
    target : float, optional
        End when the mean value of the last N pushes is at most this.
    max_time : float, optional
        Seconds; bursts that run then are not waited for. None of these given: maxiter = 1000.
    callback : callable, optional
        ``callback(intermediate_result)`` after each push; StopIteration (or returning True) stops,
        as in `optex_core.minimize`.
    progress, rng
        As for `optex_core.minimize`.
    checkpoint, checkpoint_every : path-like and int, optional
        Saves the master there, every `checkpoint_every` (default 100) pushes and at the end.
    log : path-like, optional
        The push log: every push is written to it before it counts, so a run resumed from it has
        all that was ever accepted. It grows by one vector per push. One process writes to it.
    resume : bool, default False
        Continue from `log`, else from `checkpoint`, if it exists, with the same settings, `rate`
        among them. Parts of the data that were handed out are handed out again; with one worker the
        result is bitwise identical to that of an uninterrupted run. ``nfev`` and ``njev`` continue
        from the pushes applied.
    on_error : {"raise", "drop"}, default "raise"
        The meaning of an exception of `fun`: the end of the run, or a lost burst.
    max_failures, timeout
        As for `async_sgd.run`.

    Returns
    -------
    AsyncResult
        With ``.delays``, ``.push_trace``, ``.lost``, ``.stable`` and ``.closing``. ``x`` is the
        last iterate. ``fun`` and ``jac`` are evaluated there by a worker, under `timeout`: one
        sample for a stochastic `fun`, all of them for compiled samples; nan where that fails.

    Raises
    ------
    ArgumentError, ArgumentTypeError, CapabilityError, CheckpointError
        For arguments that cannot work, and files that cannot be continued.
    Exception
        The error of `fun`, under ``on_error="raise"``; ``.partial_result`` holds the result so far.
        What is no Exception ends the run in any case.

    References
    ----------
    Mohamad, Alamri, Bouchachia, Machine Learning 2022, arXiv 2210.02882.

    Examples
    --------
    >>> import numpy as np
    >>> import optex_core as ox
    >>> def fun(x, *, seed):  # a noisy gradient
    ...     noise = np.random.default_rng(seed).standard_normal(x.shape)
    ...     return 0.5 * x @ x, x + 0.1 * noise
    >>> res = ox.async_sgd.minimize(fun, np.full(10, 5.0), rate=0.02, maxiter=200, rng=0)
    >>> bool(res.fun < 0.1), int(res.delays.max()), res.njev
    (True, 3, 2001)
    """
    worker = Worker(fun, args, jac=jac, rate=rate, inner_steps=inner_steps, cores=cores)
    if target is not None and not worker.has_value:
        raise CapabilityError(
            "target needs values, but fun=None gives gradients only; pass fun, or leave target out"
        )
    if all(limit is None for limit in (maxiter, max_evals, target, max_time)):
        maxiter = 1000
    settings = LoopSettings(
        parallelism, maxiter, max_evals, max_time, timeout, on_error, max_failures
    )
    if callback is not None:
        callback = with_keyword_result(callable_("callback", callback, "the result so far"))
    bar = Progress(progress, _progress_text)
    target = None if target is None else real("target", target)
    if isinstance(smoothness, str):
        one_of("smoothness", smoothness, ("estimate",))
    elif smoothness is not None:
        smoothness = positive("smoothness", smoothness)
    options = {"step": step, "batch": batch, "max_delay": max_delay, "on_late": on_late, "tag": tag}
    files = checkpoint, checkpoint_every, log, resume
    metadata = {"rate": to_spec(rate), **worker.metadata}
    executor = make_burst_executor(BurstRunner(worker), workers, parallelism, timeout)
    # The master last, since it may create a file.
    with closing(executor), open_master(x0, files, rng, metadata, options) as master:
        saves = checkpoint, checkpoint_every or 100
        run = _AsyncRun(master, worker, executor, settings, target, callback, bar, *saves)
        return run.run(smoothness)


def _progress_text(result: AsyncResult, seconds: float) -> str:
    history, delays = result.history, result.delays
    recent = history.value[-20:].mean() if len(history) else math.nan
    speed = result.njev / max(seconds, 1e-9)
    parts = [f"update {result.nit}", f"value {recent:.6g}", f"{speed:.3g} gradients/s"]
    if len(delays):
        parts.append(f"staleness {delays[-20:].mean():.3g} (largest {delays.max()})")
    if result.lost:
        parts.append(f"lost {len(result.lost)}")
    return "  ".join(parts)


@dataclass
class _AsyncRun:
    """One call of `minimize`: a worker loop, its history, and the result."""

    master: Master
    worker: Worker
    executor: BurstExecutor
    settings: LoopSettings
    target: float | None
    callback: Callable[[AsyncResult], object] | None
    progress: Progress
    checkpoint: str | os.PathLike[str] | None
    checkpoint_every: int

    def __post_init__(self) -> None:
        steps = self.worker.inner_steps
        self.loop = WorkerLoop(self.master, self.executor, self.settings, self._on_push, steps)
        self.smoothness: float | None = None
        self.target_reached = False
        self.recent_values: deque[float] = deque(maxlen=self.settings.parallelism)
        self.trace = Trace()
        self.nfev, self.njev = self.master.counts["nfev"], 0
        rows = self.master.push_trace  # of a resumed run
        for version, value, gradients in zip(rows.version, rows.value, rows.gradients, strict=True):
            self._record(int(version), float(value), int(gradients))
            self.njev += int(gradients)
        self.last_push = 0.0

    def run(self, smoothness: float | str | None) -> AsyncResult:
        """Run to the end, save, evaluate there, and report."""
        self.smoothness = self._estimate() if isinstance(smoothness, str) else smoothness
        self.last_push = time.perf_counter()
        with self.progress:
            report = self.loop.run()
        self._save()
        status, error, final = report.status, report.error, None
        if self.target_reached:
            status = Status.TARGET
        if status in (Status.MAXITER, Status.MAX_EVALS, Status.TARGET, Status.CALLBACK):
            try:
                final = self._evaluate(self.master.x)
            except KeyboardInterrupt as interrupt:
                if type(interrupt) is not KeyboardInterrupt:  # the user's own
                    raise
                status = Status.INTERRUPTED
            else:
                if self.settings.on_error == "raise" and final.failure is BurstStatus.ERROR:
                    error = final.error
        result = self._result(status, report, final)
        if error is not None:
            attach_result(error, result)
            raise error
        return result

    def _save(self, every: int = 1) -> None:
        if self.checkpoint is not None and self.master.state.counts["accepted"] % every == 0:
            self.master.save(self.checkpoint)

    def _on_push(self, report: LoopReport) -> bool:
        push, receipt = report.push, report.receipt
        assert push is not None and receipt is not None  # noqa: PT018
        self._count(push)
        if not receipt.accepted:
            return False
        now, gamma = time.perf_counter(), self.worker.gamma(receipt.version)
        norm = float(np.abs(push.b).max(initial=0.0)) / (gamma * max(1, push.gradients))
        figures = {"gradient_norm": norm, "seconds": now - self.last_push}
        self._record(receipt.version, push.value, push.gradients, **figures)
        self.last_push = now
        self._save(self.checkpoint_every)
        if self.target is not None:
            self.recent_values.append(push.value)
            n = len(self.recent_values)
            full = n == self.settings.parallelism
            self.target_reached = full and sum(self.recent_values) / n <= self.target
        if self.progress.due():
            self.progress.update(self._result(Status.RUNNING))
        if self.target_reached or self.callback is None:
            return self.target_reached
        return is_true(self.callback(self._result(Status.RUNNING)))

    def _record(self, version: int, value: float, gradients: int, **figures: Any) -> None:
        figures |= dict.fromkeys(("accepted", "window"), max(1, gradients))
        self.trace.append(IterationRecord(version, value=value, evaluations=gradients, **figures))

    def _count(self, push: Push) -> None:
        self.njev += push.gradients
        self.nfev += int(push.report.get("nfev", 0))

    def _evaluate(self, x: Array) -> BurstResult:
        """Value and gradient at `x`, where bursts run; counted."""
        result = self.loop.evaluate(x, self.master.settings.seed)
        if result.push is not None:
            self._count(result.push)
        return result

    def _estimate(self) -> float:
        """The smoothness at the start."""

        def gradient(x: Array) -> Array:
            result = self._evaluate(x)
            if result.push is None:
                raise result.error or EvaluationError("an evaluation gave nothing")
            return result.push.b

        found = estimate_smoothness(gradient, self.master.x)
        if not (math.isfinite(found) and found > 0):
            raise ArgumentError(
                f"smoothness='estimate' found no curvature at the start ({found}); pass a number, "
                "or leave it out"
            )
        logger.info("smoothness at the start: %.4g", found)
        return found

    def _result(
        self, status: Status, report: LoopReport | None = None, final: BurstResult | None = None
    ) -> AsyncResult:
        """The result so far, or with `report` that of the whole run."""
        from optex_core.async_sgd.result import AsyncResult

        master, push = self.master, None if final is None else final.push
        value, gradient = math.nan, cast(Array, np.full_like(master.x, math.nan))
        if push is not None:
            value, gradient = push.value, push.b
        elif final is None and len(self.trace):
            value = float(self.trace.value[-1])
        delays = np.zeros(0) if report is None else master.push_trace.delay
        cap, step = stability_cap(float(delays.mean()) if len(delays) else 0.0), math.nan
        if self.smoothness is not None and report is not None:
            eta = float(master.push_trace.eta.mean()) if len(delays) else 1.0
            gamma = self.worker.gamma(master.version)
            step = effective_step(gamma, self.smoothness, self.worker.inner_steps, eta)
        message = self._message(status, delays, step, cap)
        if final is not None and final.error is not None:
            failure = f"The final evaluation failed: {describe(final.error)}."
            logger.warning("%s", failure)
            message += f" {failure}"
        known = push is not None and math.isfinite(value) and bool(np.isfinite(gradient).all())
        return AsyncResult(
            x=np.array(master.x),
            fun=value,
            jac=gradient,
            nit=master.version,
            nfev=self.nfev,
            njev=self.njev,
            success=status.success and known,
            status=status,
            message=message,
            best_x=np.array(master.x),
            best_fun=value,
            nsteps=master.state.counts["gradients"],
            seed=master.settings.seed,
            deterministic=report is None or (report.deterministic and self.worker.cores == 1),
            stop={} if report is None else {status.key: self._limit(status)},
            history=self.trace.snapshot(),
            failures=[],
            push_trace=master.push_trace,
            lost=list(master.lost),
            stable_step=cap,
            step=step,
            closing=None if final is None else final.failure or BurstStatus.ACCEPTED,
            abandoned=0 if report is None else report.abandoned,
        )

    def _limit(self, status: Status) -> Any:
        """The setting that ended the run."""
        if status in (Status.TOO_MANY_FAILURES, Status.DIVERGED):
            return len(self.master.lost)
        s = self.settings
        limits = {Status.MAXITER: s.maxiter, Status.MAX_EVALS: s.max_evals}
        return {**limits, Status.TARGET: self.target, Status.MAX_TIME: s.max_time}.get(status, True)

    def _message(self, status: Status, delays: np.ndarray, step: float, cap: float) -> str:
        text, lost = status.message, self.master.lost
        if status is Status.RUNNING:
            return text
        if lost and status in (Status.TOO_MANY_FAILURES, Status.DIVERGED):
            text += f" {len(lost)} bursts were lost, the last: {lost[-1].message}."
        if len(delays):
            text += f" Delays: mean {delays.mean():.3g}, largest {delays.max()}."
        if step > cap:
            warning = (
                f"The step a L = {step:.3g} is above the largest that is stable at the mean delay "
                f"{delays.mean():.3g}: 2 sin(pi / (2 (2 D + 1))) = {cap:.3g}; lower rate or "
                f"inner_steps by a factor of {step / cap:.2g}, use fewer workers, or max_delay"
            )
            logger.warning("%s", warning)
            text += f" {warning}."
        elif status is Status.DIVERGED and len(delays):
            text += (
                " At that mean delay a burst is stable up to rate * inner_steps * L = "
                f"{cap:.3g}; pass smoothness=L to have it checked."
            )
        return text
