"""The front door `async_sgd.minimize`: arguments are checked, master, worker and executor are made,
the loop runs.
"""

from __future__ import annotations

import inspect
import logging
import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from optex_core._validation import (
    boolean,
    callable_,
    integer,
    one_of,
    positive,
    real,
    reject_unknown_keywords,
    short_repr,
)
from optex_core.adapters.objective import Objective
from optex_core.async_sgd.checkpoint import has_saved_run, start_log
from optex_core.async_sgd.convergence import effective_step, estimate_smoothness, stability_cap
from optex_core.async_sgd.hogwild import full_value_and_gradient
from optex_core.async_sgd.master import Master
from optex_core.async_sgd.push_log import PushLog
from optex_core.async_sgd.records import Push, Receipt
from optex_core.async_sgd.worker import Worker
from optex_core.async_sgd.worker_loop import LoopReport, LoopSettings, WorkerLoop
from optex_core.async_sgd.workers.burst_runner import BurstRunner
from optex_core.async_sgd.workers.factory import make_burst_executor
from optex_core.engine.checkpoint import to_spec
from optex_core.engine.npz_file import check_filename, check_writable
from optex_core.engine.records import IterationRecord
from optex_core.engine.settings import as_x0, resolve_seed
from optex_core.engine.status import Status
from optex_core.engine.trace import Trace
from optex_core.errors import ArgumentError, CapabilityError, CheckpointError
from optex_core.runs.progress import Progress
from optex_core.types import CallCounts, Context

if TYPE_CHECKING:
    from optex_core.async_sgd.result import AsyncResult

logger = logging.getLogger("optex_core")

#: The seed of the closing evaluation belongs to no burst.
_CLOSING_SLOT = 0


@reject_unknown_keywords
def minimize(
    fun: Any,
    x0: Any,
    args: tuple[Any, ...] = (),
    *,
    jac: Any = True,
    rate: float | Callable[[int], float] = 0.01,
    parallelism: int = 4,
    cores: int = 1,
    inner_steps: int = 10,
    workers: Any = None,
    step: Any = 1.0,
    batch: int = 1,
    max_delay: int | None = None,
    on_late: str = "reject",
    smoothness: Any = None,
    maxiter: int | None = None,
    max_evals: int | None = None,
    target: float | None = None,
    max_time: float | None = None,
    callback: Callable[..., Any] | None = None,
    progress: Any = False,
    rng: Any = None,
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
    of each share a copy.

    Parameters
    ----------
    fun : callable, SparseSamples, DenseSamples or None
        As for `optex_core.minimize`, ``fun(x, *args) -> (value, gradient)``; a keyword-only `seed`
        chooses the sample or mini-batch. Or compiled samples, which cores then work on without
        locks.
    x0 : array_like, shape (d,)
        The start.
    args : tuple, default ()
        Further arguments of `fun` and `jac`.
    jac : True, callable or {"2-point", "3-point", "cs"}, default True
        Where the gradient comes from.
    rate : float or callable, default 0.01
        gamma, the inner step, or a schedule ``version -> gamma``.
    parallelism : int, default 4
        N, how many workers there are.
    cores : int, default 1
        p, how many threads a worker has.
    inner_steps : int, default 10
        B, gradients to a push, over all cores: the dial between computing and communicating.
    workers : None, int, "threads", "processes", executor or Dask client, default None
        Where they run; None: in turn in this thread, which repeats bit for bit. See
        `async_sgd.run`.
    step : float or callable, default 1.0
        eta, the outer step: a number, a rule of `async_sgd.step_rules`, or ``(version, delay) ->
        eta``.
    batch : int, default 1
        M, pushes to one update.
    max_delay : int or None, default None
        D, the largest delay.
    on_late : {"reject", "damp", "wait"}, default "reject"
        What becomes of later pushes; see `Master`.
    smoothness : float, "estimate" or None, default None
        L: with it, the step a L is held against the largest that is stable at the delays that
        occur, and a run above it says so, with the cap. "estimate" takes |H| at the start, for 9
        gradients.
    maxiter : int, optional
        Pushes to accept.
    max_evals : int, optional
        Gradients to accept, rounded up to whole pushes of `inner_steps`; at least 1.
    target : float, optional
        End when the mean value of the last N pushes is at most this.
    max_time : float, optional
        Seconds; bursts that run then are not waited for. None of these given: maxiter = 1000.
    callback : callable, optional
        ``callback(intermediate_result)`` after each push; StopIteration, or returning True, ends
        the run.
    progress : bool or callable, default False
        As for `optex_core.minimize`.
    rng : int, Generator or None, default None
        The run's seed.
    checkpoint : path-like, optional
        Saves the master there, every `checkpoint_every` pushes and at the end.
    checkpoint_every : int, optional
        Default: 100.
    log : path-like, optional
        The push log: every push is in it before it counts, so a run resumed from it has all that
        was ever accepted. It grows by one vector per push.
    resume : bool, default False
        Go on from `log`, else from `checkpoint`, if it exists, with the same settings, `rate` among
        them. Bursts that were out are lost; with one worker the bits are those of an uninterrupted
        run. ``nfev`` and ``njev`` go on from what was applied.
    tag : str, optional
        Names the problem; a file with another tag is refused.
    on_error : {"raise", "drop"}, default "raise"
        What an exception of `fun` means: the end of the run, or a lost burst.
    max_failures : int, optional
        More lost bursts end the run; without it, ten for each worker in a row.
    timeout : float, optional
        Seconds after which a burst is given up and its worker replaced; not with ``workers=None``.

    Returns
    -------
    AsyncResult
        With ``.delays``, ``.push_trace``, ``.lost`` beside what `optex_core.Result` has. ``x`` is
        the last iterate, and ``fun``, ``jac`` are evaluated there: one sample for a stochastic
        `fun`, all of them for compiled samples.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For an argument that cannot work.
    CapabilityError
        For arguments that do not fit together.
    CheckpointError
        For a file that cannot be continued.
    Exception
        What `fun` raised, under ``on_error="raise"``; ``.partial_result`` holds the result so far.

    References
    ----------
    Mohamad, Alamri, Bouchachia, Scaling up stochastic gradient descent for non-convex optimisation,
    Machine Learning 2022, arXiv 2210.02882.

    Examples
    --------
    >>> import numpy as np
    >>> import optex_core as ox
    >>> def fun(x, *, seed):  # a noisy gradient
    ...     noise = np.random.default_rng(seed).standard_normal(x.shape)
    ...     return 0.5 * x @ x, x + 0.1 * noise
    >>> res = ox.async_sgd.minimize(fun, np.full(10, 5.0), rate=0.02, parallelism=4, maxiter=200, rng=0)
    >>> bool(res.fun < 0.1), int(res.delays.max()), res.njev
    (True, 3, 2001)
    """
    worker = Worker(fun, args, jac=jac, rate=rate, inner_steps=inner_steps, cores=cores)
    valued = not isinstance(worker.objective, Objective) or worker.objective.has_value
    if target is not None and not valued:
        raise CapabilityError(
            "target needs values, but fun=None gives gradients only; pass fun, or leave target out"
        )
    pushes = _budget(maxiter, max_evals, inner_steps, none=target is None and max_time is None)
    settings = LoopSettings(
        integer("parallelism", parallelism, low=1),
        pushes,
        None,
        None if max_time is None else positive("max_time", max_time),
        None if timeout is None else positive("timeout", timeout),
        one_of("on_error", on_error, ("raise", "drop")),
        None if max_failures is None else integer("max_failures", max_failures, low=0),
    )
    metadata = {"rate": to_spec(rate)}
    master = _master(
        x0,
        checkpoint,
        checkpoint_every,
        log,
        resume,
        rng,
        metadata,
        step=step,
        batch=batch,
        max_delay=max_delay,
        on_late=on_late,
        tag=tag,
    )
    try:
        run = _AsyncRun(
            master,
            worker,
            settings,
            target,
            callback,
            Progress(progress, _progress_text),
            checkpoint,
            checkpoint_every or 100,
            smoothness,
        )
        if max_evals is not None and pushes != maxiter:
            run.max_evals = max_evals
        with make_burst_executor(BurstRunner(worker), workers, settings.parallelism) as executor:
            if settings.timeout is not None and not executor.background:
                raise CapabilityError(
                    "timeout needs workers that run in the background, got "
                    "workers=None; pass 'threads', 'processes' or a pool"
                )
            return run.run(executor)
    finally:
        master.close()


def _budget(maxiter: Any, max_evals: Any, inner_steps: int, *, none: bool) -> int | None:
    limits = [] if maxiter is None else [integer("maxiter", maxiter, low=0)]
    if max_evals is not None:
        limits.append(-(-integer("max_evals", max_evals, low=1) // inner_steps))
    return min(limits) if limits else 1000 if none else None


def _master(
    x0: Any,
    checkpoint: Any,
    every: Any,
    log: Any,
    resume: Any,
    rng: Any,
    metadata: dict[str, Any],
    **settings: Any,
) -> Master:
    for name, path in (("checkpoint", checkpoint), ("log", log)):
        if path is not None and not isinstance(path, PushLog):
            check_filename(name, path, "." * 14)  # as long as the endings of temporary files
            if name == "checkpoint":
                check_writable(path)
    if every is not None:
        integer("checkpoint_every", every, low=1)
        if checkpoint is None:
            raise ArgumentError("checkpoint_every needs checkpoint=, the file of the run")
    if boolean("resume", resume) and checkpoint is None and log is None:
        raise ArgumentError("resume=True needs log= or checkpoint=, the file of the run")
    new = Master(x0, rng=rng, **settings)  # checks all settings before any file is touched
    path = log.path if isinstance(log, PushLog) else log
    source = next((p for p in (path, checkpoint) if has_saved_run(p)), None)
    new.metadata = metadata
    if source is None:
        if log is not None:
            new.attach_log(start_log(new, log))
        return new
    if not resume:
        raise CheckpointError(
            f"{source} exists already; pass resume=True to continue it, or another file name"
        )
    sync = isinstance(log, PushLog) and log.sync
    old = (
        Master.resume(source, sync=sync, **settings)
        if source == path
        else Master.load(source, **settings)
    )
    for name, value in metadata.items():  # files of earlier versions do not say
        if old.metadata.setdefault(name, value) != value:
            raise CheckpointError(
                f"{source} was made with {name}={old.metadata[name]}, here it is "
                f"{value}; pass the same, or use other files"
            )
    if log is not None and source != path:
        raise CheckpointError(
            f"{source} can be continued, but the log {path} does not exist: leave log "
            f"out, or begin anew with other files"
        )
    if rng is not None and old.settings.seed != resolve_seed(rng):
        raise CheckpointError(
            f"{source} was made with rng={old.settings.seed}, here it is "
            f"{short_repr(rng)}; leave rng out to continue it"
        )
    if as_x0(x0).shape != old.x.shape:
        raise CheckpointError(
            f"{source} holds {len(old.x)} parameters, x0 has shape {np.shape(x0)}"
        )
    return old


def _pass_by_name(callback: Callable[..., Any]) -> Callable[..., Any]:
    """SciPy's rule: a callback with a parameter ``intermediate_result`` gets it by that name."""
    try:
        named = "intermediate_result" in inspect.signature(callback).parameters
    except (TypeError, ValueError):  # compiled callables have no signature
        named = False
    return (lambda result: callback(intermediate_result=result)) if named else callback


def _progress_text(result: AsyncResult, seconds: float) -> str:
    """The progress line."""
    history, delays = result.history, result.delays
    recent = history.value[-20:].mean() if len(history) else math.nan
    parts = [
        f"update {result.nit}",
        f"value {recent:.6g}",
        f"{result.njev / max(seconds, 1e-9):.3g} gradients/s",
    ]
    if len(delays):
        parts.append(f"delay {delays[-20:].mean():.3g} (largest {delays.max()})")
    if result.lost:
        parts.append(f"lost {len(result.lost)}")
    return "  ".join(parts)


class _AsyncRun:
    """One call of `minimize`: the loop's callback, which keeps the history, and what is made of it."""

    def __init__(
        self,
        master: Master,
        worker: Worker,
        settings: LoopSettings,
        target: Any,
        callback: Any,
        progress: Progress,
        checkpoint: Any,
        every: int,
        smoothness: Any,
    ) -> None:
        self.master, self.worker, self.settings = master, worker, settings
        self.target = None if target is None else real("target", target)
        self.callback = (
            None
            if callback is None
            else _pass_by_name(callable_("callback", callback, "the result so far"))
        )
        self.progress, self.checkpoint, self.every = progress, checkpoint, every
        self.nfev, self.njev = master.counts["nfev"], 0
        self.reached = False
        self.max_evals: int | None = None  # where it, and not maxiter, is what limits the pushes
        self.trace = Trace()
        push_trace = master.push_trace.to_arrays()  # of a resumed run
        for version, value, gradients in zip(
            push_trace["version"], push_trace["value"], push_trace["gradients"], strict=True
        ):
            self.trace.append(
                IterationRecord(
                    int(version),
                    value=float(value),
                    evaluations=int(gradients),
                    accepted=int(gradients),
                    window=int(gradients),
                )
            )
            self.njev += int(gradients)
        self.recent: list[float] = []
        self.smoothness = self._smoothness(smoothness)
        self.last = time.perf_counter()

    def run(self, executor: Any) -> AsyncResult:
        """Run to the end, evaluate there, and report."""
        with self.progress:
            report = WorkerLoop(self.master, executor, self.settings, self._on_push).run()
        if self.checkpoint is not None:
            self.master.save(self.checkpoint)
        result = self._result(report)
        if report.error is not None:
            report.error.partial_result = result  # type: ignore[attr-defined]
            raise report.error
        return result

    def _on_push(self, master: Master, push: Push, receipt: Receipt) -> bool:
        self.njev += push.gradients
        self.nfev += int(push.report.get("nfev", 0))
        if not receipt.accepted:
            return False
        now = time.perf_counter()
        steps = max(1, push.gradients)
        gamma = self.worker.gamma(receipt.version)
        norm = float(np.max(np.abs(push.b))) / (gamma * steps) if push.b.size else 0.0
        self.trace.append(IterationRecord(receipt.version, value=push.value, gradient_norm=norm, evaluations=push.gradients, accepted=steps, window=steps,
                                seconds=now - self.last))  # fmt: skip
        self.last = now
        accepted = master.state.counts["accepted"]
        if self.checkpoint is not None and accepted % self.every == 0:
            master.save(self.checkpoint)
        if self.target is not None:
            self.recent = [*self.recent, push.value][-self.settings.parallelism :]
            self.reached = (
                len(self.recent) == self.settings.parallelism
                and sum(self.recent) / len(self.recent) <= self.target
            )
        if self.progress.due():
            self.progress.update(self._result(None))
        return self.reached or bool(self.callback is not None and self.callback(self._result(None)))

    def _result(self, report: LoopReport | None) -> AsyncResult:
        from optex_core.async_sgd.result import AsyncResult

        master, status = self.master, Status.RUNNING if report is None else report.status
        if self.reached:
            status = Status.TARGET
        elif status is Status.MAXITER and self.max_evals is not None:
            status = Status.MAX_EVALS
        value, gradient = math.nan, np.full_like(master.x, math.nan)
        if status in (Status.MAXITER, Status.MAX_EVALS, Status.TARGET, Status.CALLBACK):
            value, gradient = self._evaluated()
        elif len(self.trace):
            value = float(self.trace.value[-1])
        delays = master.push_trace.delay if report is not None else np.zeros(0, np.int64)
        mean = float(delays.mean()) if len(delays) else 0.0
        cap, a = stability_cap(mean), math.nan
        if self.smoothness is not None and report is not None:
            a = effective_step(
                self.worker.gamma(master.version),
                self.smoothness,
                self.worker.inner_steps,
                self._eta(),
            )
        return AsyncResult(
            x=np.array(master.x),
            fun=value,
            jac=gradient,
            nit=master.version,
            nfev=self.nfev,
            njev=self.njev,
            success=status.success,
            status=status,
            message=self._message(status, delays, a, cap),
            best_x=np.array(master.x),
            best_fun=value,
            nsteps=master.state.counts["gradients"],
            seed=master.settings.seed,
            deterministic=report is None or (report.deterministic and self.worker.cores == 1),
            stop={} if report is None else {status.key: self._setting(status)},
            history=self.trace.snapshot(),
            failures=[],
            push_trace=master.push_trace,
            lost=list(master.lost),
            stable_step=cap,
            step=a,
            abandoned=0 if report is None else report.abandoned,
        )

    def _eta(self) -> float:
        etas = self.master.push_trace.eta
        return float(etas.mean()) if len(etas) else 1.0

    def _setting(self, status: Status) -> Any:
        s = self.settings
        known = {
            Status.MAXITER: s.pushes,
            Status.MAX_EVALS: self.max_evals,
            Status.TARGET: self.target,
            Status.MAX_TIME: s.max_time,
        }
        return known.get(
            status,
            len(self.master.lost)
            if status in (Status.TOO_MANY_FAILURES, Status.DIVERGED)
            else True,
        )

    def _message(self, status: Status, delays: np.ndarray, a: float, cap: float) -> str:
        if status is Status.RUNNING:
            return status.message
        text = status.message
        if status in (Status.MAXITER, Status.MAX_EVALS):
            name = "maxiter" if status is Status.MAXITER else f"max_evals={self.max_evals}"
            text = f"So many pushes were accepted as {name} allows: {self.settings.pushes}."
        if self.master.lost and status in (Status.TOO_MANY_FAILURES, Status.DIVERGED):
            text += (
                f" {len(self.master.lost)} bursts were lost, the last: "
                f"{self.master.lost[-1].message}."
            )
        if len(delays):
            text += f" Delays: mean {delays.mean():.3g}, largest {delays.max()}."
        if a > cap:
            warning = (
                f"The step a L = {a:.3g} is above the largest that is stable at the "
                f"mean delay {delays.mean():.3g}: "
                f"2 sin(pi / (2 (2 D + 1))) = {cap:.3g}; lower rate or inner_steps by "
                f"a factor of {a / cap:.2g}, use fewer workers, or max_delay"
            )
            logger.warning("%s", warning)
            text += f" {warning}."
        elif status is Status.DIVERGED and len(delays):
            text += (
                f" At that mean delay a burst is stable up to rate * inner_steps * L = "
                f"{cap:.3g}; pass smoothness=L to have it checked."
            )
        return text

    def _evaluated(self) -> tuple[float, np.ndarray]:
        """Value and gradient at the last iterate; counted."""
        objective, x = self.worker.objective, self.master.x
        if not isinstance(objective, Objective):
            value, gradient = full_value_and_gradient(objective, x)
            self.nfev, self.njev = self.nfev + objective.n, self.njev + objective.n
            return float(value), gradient
        counts = CallCounts()
        try:
            found = objective.evaluate(
                x,
                Context(
                    self.master.state.issued,
                    self.master.settings.seed,
                    self.master.version,
                    _CLOSING_SLOT,
                ),
                counts,
            )
        except Exception as error:
            if self.settings.on_error == "raise":
                raise
            logger.warning("the closing evaluation failed: %s: %s", type(error).__name__, error)
            return math.nan, np.full_like(x, math.nan)
        finally:
            self.nfev, self.njev = self.nfev + counts.nfev, self.njev + counts.njev
        return math.nan if found.value is None else float(found.value), found.gradient

    def _smoothness(self, smoothness: Any) -> float | None:
        if smoothness is None:
            return None
        if isinstance(smoothness, str):
            one_of("smoothness", smoothness, ("estimate",))
        else:
            return positive("smoothness", smoothness)
        found = estimate_smoothness(self._gradient, self.master.x)
        if not (math.isfinite(found) and found > 0):
            raise ArgumentError(
                f"smoothness='estimate' found no curvature at the start ({found}); "
                f"pass a number, or leave it out"
            )
        logger.info("smoothness at the start: %.4g", found)
        return found

    def _gradient(self, x: np.ndarray) -> np.ndarray:
        objective = self.worker.objective
        if not isinstance(objective, Objective):
            self.nfev, self.njev = self.nfev + objective.n, self.njev + objective.n
            return full_value_and_gradient(objective, x)[1]
        counts = CallCounts()
        try:
            gradient: np.ndarray = objective.evaluate(
                x, Context(0, self.master.settings.seed, 0, 0), counts
            ).gradient
        finally:
            self.nfev, self.njev = self.nfev + counts.nfev, self.njev + counts.njev
        return gradient
