"""The front door: one loop over ask, evaluate, tell and stop."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from optex_core._checks import callable_, choice, integer, known_keywords, nonnegative, positive, shown
from optex_core.adapters.objective import make_objective
from optex_core.backends.base import Backend
from optex_core.checkpoint import read, restore
from optex_core.engine import OptEx
from optex_core.errors import ArgumentError, ArgumentTypeError, CapabilityError, CheckpointError, EvaluationError, ObjectiveError
from optex_core.estimator import GradientEstimator
from optex_core.events import Failure
from optex_core.execution.base import Evaluator, Outcome
from optex_core.execution.executors import make_evaluator
from optex_core.execution.interrupts import Interrupts
from optex_core.progress import Progress
from optex_core.settings import needing_values, start_point
from optex_core.status import Status
from optex_core.strategies.base import Strategy
from optex_core.types import Candidate, FirstOrderOptimizer

if TYPE_CHECKING:
    from optex_core.result import Result

LOG = logging.getLogger("optex_core")


@known_keywords
def minimize(
    fun: Callable[..., Any] | None,
    x0: Any,
    args: tuple[Any, ...] = (),
    *,
    jac: Any = True,
    optimizer: str | FirstOrderOptimizer = "adam",
    parallelism: int = 4,
    strategy: str | Strategy = "auto",
    estimator: GradientEstimator | None = None,
    workers: Any = None,
    vectorized: bool = False,
    bounds: Any = None,
    backend: str | Backend = "auto",
    x_scale: Any = None,
    maxiter: int | None = None,
    gtol: float | None = None,
    ftol: float | None = None,
    xtol: float | None = None,
    target: float | None = None,
    max_time: float | None = None,
    max_evals: int | None = None,
    callback: Callable[..., Any] | None = None,
    progress: Any = False,
    rng: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    tag: str | None = None,
    on_error: str | Callable[[Failure], str] = "raise",
    max_retries: int = 3,
    max_failures: int | None = None,
    timeout: float | None = None,
    quorum: int | None = None,
    grace: float | None = None,
) -> Result:
    """Minimize a function of several variables, evaluating several gradients at once.

    Parameters
    ----------
    fun : callable or None
        ``fun(x, *args) -> (value, gradient)`` with ``jac=True``, else ``-> value``; None for a gradient alone. A keyword-only parameter ``seed``,
        or a parameter ``ctx``, is given.
    x0 : array_like, shape (d,)
        The start.
    args : tuple, default ()
        Further arguments of `fun` and `jac`.
    jac : True, callable or {"2-point", "3-point", "cs"}, default True
        Where the gradient comes from.
    optimizer : str or object, default "adam"
        The first-order rule.
    parallelism : int, default 4
        N: how many gradients are evaluated at once.
    strategy : str or Strategy, default "auto"
        "auto", "verified", "corrected", "paper"; baselines "sequential", "target", "data_parallel", "repeat_last", "line_search".
    estimator : GradientEstimator or None, default None
        The settings of the gradient estimate.
    workers : None, int, str, executor or map-like, default None
        What runs the evaluations: this thread, so many processes, "threads", any ``concurrent.futures.Executor``, ``map``.
    vectorized : bool, default False
        True: `fun` takes (n, d) and returns (n,) and (n, d).
    bounds : scipy.optimize.Bounds or pairs, optional
        Steps are projected onto them.
    backend : str, default "auto"
        "numpy", "numba", "cupy", or "auto".
    x_scale : float or array_like, shape (d,), optional
        Units of the parameters.
    maxiter, gtol, ftol, xtol, target, max_time, max_evals : optional
        Stopping criteria; none given: maxiter = 1000 and gtol = 1e-6. See `strategies.stopping.Criteria`.
    callback : callable, optional
        ``callback(intermediate_result)`` after each iteration, with the result at theta_k, k = 1, 2, ...; StopIteration (or returning True) stops.
    progress : bool or callable, default False
        True: a progress line on standard error (tqdm where installed, on a terminal). A callable gets each intermediate result.
    rng : int, Generator or None, default None
        The run's seed.
    checkpoint : path-like, optional
        Saves the run there, every `checkpoint_every` iterations and at the end.
    checkpoint_every : int, optional
        Default: 1.
    resume : bool, default False
        Continue from `checkpoint` if it exists.
    tag : str, optional
        Names the problem; a checkpoint with another tag is refused.
    on_error : {"raise", "drop", "retry"} or callable, default "raise"
        What to do when an evaluation fails; a callable gets the Failure and returns one of the three.
    max_retries : int, default 3
        How often one point is tried again.
    max_failures : int, optional
        More failures in all end the run.
    timeout : float, optional
        Seconds of running after which an evaluation counts as failed. With the plain executors the slot stays busy until it returns; evaluations in
        this thread cannot be interrupted, and are not.
    quorum : int, optional
        Close a round when so many gradients are in, the iterate's own among them; late ones still enter the history.
    grace : float, optional
        Seconds to wait for the rest after the quorum is reached, default 0.

    Returns
    -------
    Result
        A `scipy.optimize.OptimizeResult` with typed attributes.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For an argument that cannot work.
    ObjectiveError
        When `fun` returns something of the wrong shape or type.
    EvaluationError
        When the evaluation at the iterate itself fails; under ``on_error="raise"`` the user's own exception. ``.partial_result`` holds the result so
        far.

    References
    ----------
    Shu, Fang, He, Yu, OptEx, NeurIPS 2024, arXiv 2402.11427.

    Examples
    --------
    >>> import optex_core as ox
    >>> res = ox.minimize(lambda x: (x @ x, 2 * x), [3.0, -4.0], optimizer=ox.SGD(0.1), gtol=1e-6)
    >>> res.success
    True
    """
    x = start_point(x0)
    if fun is None and not callable(jac):
        raise ArgumentError("fun=None needs jac=callable, the gradient; got jac=" + shown(jac))
    policy = _Policy(on_error, max_retries, max_failures, timeout, quorum, grace)
    if callback is not None:
        callable_("callback", callback)
    if policy.quorum is not None and policy.quorum > integer("parallelism", parallelism, low=1):
        raise ArgumentError(f"quorum must be at most parallelism={parallelism}, got {quorum}")
    saved = _saved(checkpoint, checkpoint_every, resume)
    if saved is not None and rng is None:
        rng = int(saved[0]["seed"])
    engine = OptEx(
        x, optimizer=optimizer, parallelism=parallelism, strategy=strategy, estimator=estimator, backend=backend, bounds=bounds,
        x_scale=x_scale, maxiter=maxiter, gtol=gtol, ftol=ftol, xtol=xtol, target=target, max_time=max_time, max_evals=max_evals, rng=rng, tag=tag,
    )  # fmt: skip
    if fun is None and (needs := needing_values(engine.settings)):
        raise CapabilityError(f"{' and '.join(needs)} needs values, but fun=None gives gradients only; pass fun, or leave it out")
    if saved is not None:
        if engine.settings.seed != saved[0]["seed"]:
            raise CheckpointError(f"{checkpoint} was made with rng={saved[0]['seed']}, here it is {rng}; leave rng out to continue it")
        restore(engine, *saved, str(checkpoint))
    low, high = engine.settings.low, engine.settings.high
    inside = None if low is None else (low, high)
    objective = make_objective(fun, args=args, jac=jac, x0=engine.state.x, vectorized=vectorized, bounds=inside)
    if parallelism > 1 and workers is None and not vectorized:
        LOG.info("parallelism=%d without workers: the %d gradients of a round run one after another in this thread", parallelism, parallelism)
    with make_evaluator(objective, workers, vectorized=vectorized, parallelism=parallelism) as evaluator:
        return _Driver(engine, evaluator, policy, callback, Progress(progress), checkpoint, checkpoint_every or 1).run()


class _Policy:
    """What to do with failures and stragglers, checked once."""

    def __init__(self, on_error: Any, max_retries: Any, max_failures: Any, timeout: Any, quorum: Any, grace: Any) -> None:
        self.on_error = on_error if callable(on_error) else choice("on_error", on_error, ("raise", "drop", "retry"))
        self.max_retries = integer("max_retries", max_retries, low=0)
        self.max_failures = None if max_failures is None else integer("max_failures", max_failures, low=0)
        self.timeout = None if timeout is None else positive("timeout", timeout)
        self.quorum = None if quorum is None else integer("quorum", quorum, low=1)
        if grace is not None and quorum is None:
            raise ArgumentError("grace needs quorum: it is the time to wait for the rest once the quorum is in; pass quorum=")
        self.grace = 0.0 if grace is None else nonnegative("grace", grace)

    def decide(self, failure: Failure) -> str:
        """raise, drop or retry."""
        if not callable(self.on_error):
            return self.on_error
        return choice("the answer of on_error", self.on_error(failure), ("raise", "drop", "retry"))


class _Driver:
    """The loop: hand out what the engine asks for, tell it what comes back, keep the clock."""

    def __init__(
        self,
        engine: OptEx,
        evaluator: Evaluator,
        policy: _Policy,
        callback: Callable[..., Any] | None,
        progress: Progress,
        checkpoint: Any,
        every: int,
    ) -> None:
        self.engine, self.evaluator, self.policy = engine, evaluator, policy
        self.callback = _by_name(callback)
        self.progress, self.checkpoint, self.every = progress, checkpoint, every
        self.begin = time.perf_counter()
        self.saved = engine.state.nit
        engine.on_iterate = self._report
        self.raised: BaseException | None = None
        self.out: set[tuple[int, int]] = set()  # (id, attempt) of what was submitted and is awaited
        self.since: dict[tuple[int, int], float] = {}  # when it was first seen to run
        self.expired: set[tuple[int, int]] = set()  # given up, but still running
        self.interrupts = Interrupts()
        self.spent = self.own = 0.0  # seconds of an iteration, which may take several asks

    def run(self) -> Result:
        engine = self.engine
        try:
            with self.progress, self.interrupts:
                while not engine.stop(self._elapsed()):
                    self._round()
        except KeyboardInterrupt:
            engine.abort(Status.INTERRUPTED)
        except BaseException as error:
            _attach(error, engine)
            try:
                self._save()
            except (OSError, CheckpointError) as second:  # the first error is the news
                error.add_note(f"optex_core: the run could not be saved either: {second}")
            raise
        self._save()
        result = engine.result()
        if self.raised is not None or engine.status in (Status.FAILED, Status.TOO_MANY_FAILURES):
            self._raise(result)
        return result

    def _elapsed(self) -> float:
        return time.perf_counter() - self.begin

    def _round(self) -> None:
        """One ask, all its tells."""
        engine, evaluator = self.engine, self.evaluator
        begin, rows = time.perf_counter(), len(engine.trace)
        candidates = engine.ask()
        if not candidates:
            return
        own = time.perf_counter() - begin
        self._submit(candidates, 0)
        quorate: float | None = None
        this = engine.round
        while engine.round is this and not engine.stop(self._elapsed()):
            if not evaluator.pending:
                break
            wait = self._wait(quorate)
            with self.interrupts.allowed():
                outcomes = evaluator.next(wait)
            start = time.perf_counter()
            for outcome in outcomes:
                self._take(outcome)
            self._expire()
            own += time.perf_counter() - start
            r = engine.round
            if self.policy.quorum is not None and r is not None and r.done[0] and sum(r.done) >= min(self.policy.quorum, len(r.done)):
                quorate = quorate if quorate is not None else time.perf_counter()
                if not all(r.done) and time.perf_counter() - quorate >= self.policy.grace:
                    engine.close_round()
        if engine.stop():
            # What has not started is dropped; what runs is waited for, so that the counters are honest.
            for outcome in self._drain():
                self._take(outcome)
        self.spent, self.own = self.spent + time.perf_counter() - begin, self.own + own
        if len(engine.trace) > rows:
            engine.note_time(self.spent, self.own)
            self.spent = self.own = 0.0
        if self.checkpoint is not None and engine.state.nit - self.saved >= self.every:
            self._save()

    def _drain(self) -> list[Outcome]:
        if not self.expired:
            return self.evaluator.drain()
        outcomes: list[Outcome] = []
        while self.evaluator.pending > len(self.expired):  # what was given up may never return
            outcomes += self.evaluator.next()
            self.expired.difference_update((o.candidate.id, o.attempt) for o in outcomes)
        return outcomes

    def _submit(self, candidates: Sequence[Candidate], attempt: int) -> None:
        self.out.update((c.id, attempt) for c in candidates)
        self.evaluator.submit(candidates, attempt=attempt, deadline=self.policy.timeout)

    def _wait(self, quorate: float | None) -> float | None:
        """Seconds to wait for the next outcome: until the grace or the next timeout ends."""
        now, ends = time.perf_counter(), []
        if quorate is not None:
            ends.append(quorate + self.policy.grace)
        if self.policy.timeout is not None:
            self._watch(now)
            ends += [since + self.policy.timeout for since in self.since.values()]
            if len(self.since) < len(self.out):  # some may start unseen
                ends.append(now + self.policy.timeout)
        limit = self.engine.settings.criteria.max_time
        if limit is not None:
            ends.append(self.begin + limit)
        return max(min(ends) - now, 0.0) if ends else None

    # -- outcomes -------------------------------------------------------------------------------------------------------------------

    def _take(self, outcome: Outcome) -> None:
        engine, c, key = self.engine, outcome.candidate, (outcome.candidate.id, outcome.attempt)
        self.since.pop(key, None)
        if key not in self.out:  # it was given up before; what it cost still counts
            self.expired.discard(key)
            engine.state.nfev += outcome.nfev
            engine.state.njev += outcome.njev
            return
        self.out.discard(key)
        if isinstance(outcome.error, ObjectiveError):
            engine.state.nfev += outcome.nfev
            engine.state.njev += outcome.njev
            raise outcome.error
        engine.stop(self._elapsed())  # before the tell: a time limit keeps theta where its value is known
        message = self._fault(outcome)
        late = engine.round is None or c.iteration != engine.state.nit or engine.state.finished
        if message and not late and self._again(c, outcome.attempt, message, outcome.error, outcome.traceback, outcome.nfev, outcome.njev):
            return
        counts: dict[str, Any] = {"nfev": outcome.nfev, "njev": outcome.njev, "seconds": outcome.seconds}
        if outcome.error is not None or outcome.evaluation is None:
            engine.tell(c.id, error=outcome.error or EvaluationError("the evaluation gave nothing"), **counts)
        else:
            engine.tell(c.id, gradient=outcome.evaluation.gradient, value=outcome.evaluation.value, **counts)
        if self._too_many(0):
            engine.abort(Status.TOO_MANY_FAILURES)

    def _again(self, c: Candidate, attempt: int, message: str, error: BaseException | None, text: str, nfev: int, njev: int) -> bool:
        """Decide about a failed evaluation; True if it is tried again."""
        engine = self.engine
        decision = self.policy.decide(Failure(c.id, c.iteration, c.slot, c.seed, c.x, message, error, text, attempt))
        if decision == "retry" and attempt < self.policy.max_retries and not self._too_many(1) and self._affords(njev):
            engine.report_attempt(c.id, error, message, attempt=attempt, nfev=nfev, njev=njev)
            self._submit([c], attempt + 1)
            return True
        if decision == "raise" and engine.round is not None and c is engine.round.candidates[0]:
            self.raised = error
        return False

    def _fault(self, outcome: Outcome) -> str:
        """ "" or why the outcome is not usable."""
        if outcome.error is not None:
            return f"{type(outcome.error).__name__}: {outcome.error}"
        e = outcome.evaluation
        if e is None:
            return "the evaluation gave nothing"
        if e.value is not None and not math.isfinite(e.value):
            return f"the value is {e.value}"
        return "" if self.engine.backend.all_finite(e.gradient) else "the gradient is not finite"

    def _affords(self, njev: int) -> bool:
        """True if `max_evals` leaves room for one more try beside what is out already and the closing point."""
        limit, r = self.engine.settings.criteria.max_evals, self.engine.round
        if limit is None or r is None:
            return True
        out = len(r.done) - sum(r.done) - 1
        return self.engine.state.njev + njev + out + (not r.closing) < limit

    def _too_many(self, more: int) -> bool:
        limit = self.policy.max_failures
        return limit is not None and self.engine.state.failures + more > limit

    def _watch(self, now: float) -> None:
        """Note what has started: waiting for a free worker takes nothing of `timeout`."""
        for key in self.evaluator.started():
            if key in self.out:
                self.since.setdefault(key, now)

    def _expire(self) -> None:
        """Give up evaluations that run longer than `timeout`."""
        if self.policy.timeout is None:
            return
        now, r = time.perf_counter(), self.engine.round
        self._watch(now)
        for key in [key for key, since in self.since.items() if now - since >= self.policy.timeout]:
            del self.since[key]
            self.out.discard(key)
            self.expired.add(key)
            self.engine.state.deterministic = False
            for c in [] if r is None or r is not self.engine.round or self.engine.state.finished else self.engine.ask():
                if c.id == key[0]:
                    error = EvaluationError(f"the evaluation took longer than timeout={self.policy.timeout:g} s")
                    if not self._again(c, key[1], str(error), error, "", 0, 0):
                        self.engine.tell(c.id, error=error, nfev=0, njev=0)
                        if self._too_many(0):
                            self.engine.abort(Status.TOO_MANY_FAILURES)

    # -- reports --------------------------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        """Show theta_k, whose value has just become known; call the callback for k >= 1."""
        if self.callback is None and not self.progress.active:
            return
        intermediate = self.engine.result()
        self.progress.update(intermediate)
        if self.callback is None or intermediate.nit < 1:
            return
        try:
            stop = self.callback(intermediate)
        except StopIteration:
            stop = True
        if stop is True:
            self.engine.abort(Status.CALLBACK)

    def _save(self) -> None:
        if self.checkpoint is not None:
            self.engine.save(self.checkpoint)
            self.saved = self.engine.state.nit

    def _raise(self, result: Result) -> None:
        from optex_core.result import failure_at_iterate

        last = failure_at_iterate(self.engine) or self.engine.failures[-1]
        error = self.raised
        if error is None or self.engine.status is Status.TOO_MANY_FAILURES:
            error = EvaluationError(f"{result.message} After {result.nit} iterations and {result.njev} gradients.", last)
            error.__cause__ = last.error
        _attach(error, self.engine, result)
        raise error


def _attach(error: BaseException, engine: OptEx, result: Result | None = None) -> None:
    """Hang the result so far on what ends the run; an exception with slots cannot carry it, and says so in a note instead."""
    result = engine.result() if result is None else result
    try:
        error.partial_result = result  # type: ignore[attr-defined]
    except AttributeError:
        with contextlib.suppress(AttributeError):  # a frozen exception takes no note either; it must not be hidden by that
            error.add_note(f"optex_core: the run had reached {result.best_fun} after {result.nit} iterations; this exception cannot carry the result")


def _by_name(callback: Callable[..., Any] | None) -> Callable[[Any], Any] | None:
    """A callback that has a parameter ``intermediate_result`` gets it by name, as in SciPy; any other gets the result as its one argument."""
    if callback is None:
        return None
    try:
        named = "intermediate_result" in inspect.signature(callback).parameters
    except (TypeError, ValueError):  # a compiled callable without a signature
        named = False
    return (lambda result: callback(intermediate_result=result)) if named else callback


def _saved(checkpoint: Any, every: Any, resume: bool) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """The saved run to continue, None to start anew."""
    if checkpoint is None:
        if resume or every is not None:
            raise ArgumentError(f"{'resume=True' if resume else 'checkpoint_every'} needs checkpoint=, the file of the run")
        return None
    if every is not None:
        integer("checkpoint_every", every, low=1)
    if not isinstance(checkpoint, (str, os.PathLike)):
        raise ArgumentTypeError(f"checkpoint must be the path of a file, got {shown(checkpoint)}")
    folder = os.path.dirname(os.path.abspath(checkpoint))
    if not os.path.isdir(folder):  # found out now and not after the first iterations
        raise CheckpointError(f"cannot save to {os.fspath(checkpoint)}: the folder {folder} does not exist; create it first")
    if not os.path.exists(checkpoint):
        return None
    if not resume:
        raise CheckpointError(f"{checkpoint} exists already; pass resume=True to continue it, or another file name")
    return read(checkpoint)
