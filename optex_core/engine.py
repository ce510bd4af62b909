"""The engine: ask and tell. It knows no clock, thread or process, and is deterministic given what it is told.

A round: `ask` hands out 1 to N points (the iterate theta_t is slot 0), `tell` takes their gradients in any order, the last one closes the round and
the strategy advances theta. A run ends with one closing point at the last iterate, so that its value and gradient are known.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from optex_core._blas import ROWS, SUMS, single_threaded
from optex_core._checks import integer, known_keywords, nonnegative, shown
from optex_core.backends import get_backend
from optex_core.backends.base import Backend
from optex_core.box import Box
from optex_core.candidates import find_candidate, make_candidate
from optex_core.errors import ArgumentError, ArgumentTypeError, CapabilityError, ProtocolError
from optex_core.estimator import GradientEstimator, Posterior, grid_ahead, tuned
from optex_core.events import Failure, Round
from optex_core.history import History
from optex_core.incoming import failure_of, fault_of, gradient_of, number_of, observations_of
from optex_core.optimizers.base import get_optimizer
from optex_core.optimizers.stepping import make_stepper
from optex_core.optimizers.wrappers import Projected
from optex_core.records import OpenRound, State, merged
from optex_core.settings import Settings, bounds_of, criteria_of, history_of, needing_values, run_seed, scale_of, start_point
from optex_core.status import Status
from optex_core.strategies.affine import AffinePosterior, AffineView, make_ledger
from optex_core.strategies.base import Plan, Strategy, Told, View, get_strategy
from optex_core.strategies.stopping import status_of
from optex_core.trace import Trace
from optex_core.tuning import Grid
from optex_core.types import Array, Candidate, FirstOrderOptimizer

if TYPE_CHECKING:
    from optex_core.result import Result


class OptEx:
    """The ask/tell engine of OptEx.

    Parameters
    ----------
    x0 : array_like, shape (d,)
        The start; float32 and float64 are kept, integers become float64, a scalar has length 1. A CuPy array keeps everything on its GPU.
    optimizer : str or object, default "adam"
        The first-order rule: a name, an object such as ``SGD(0.1, momentum=0.9)``, or anything with ``init(x)`` and ``step(x, g, state)``.
    parallelism : int, default 4
        N, the most gradients asked for at once.
    strategy : str or Strategy, default "auto"
    estimator : GradientEstimator or None, default None
    backend : str, default "auto"
        "auto", "numpy", "numba" or "cupy".
    bounds : scipy.optimize.Bounds or pairs, optional
        Steps are projected onto them.
    x_scale : float or array_like, shape (d,), optional
        Units of the parameters: distances are taken in x / x_scale.
    maxiter, gtol, ftol, xtol, target, max_time, max_evals : optional
        When to stop; see `strategies.stopping.Criteria`. None given: maxiter = 1000 and gtol = 1e-6.
    rng : int, Generator or None, default None
        The run's seed; None draws one, which `result().seed` tells.
    tag : str, optional
        Names the problem in saved runs.

    Attributes
    ----------
    on_iterate : callable or None
        Called without arguments, inside ``tell``, when the value and gradient of theta_t have become known and theta has not moved on yet.

    Examples
    --------
    >>> import optex_core as ox
    >>> engine = ox.OptEx([3.0, -4.0], optimizer=ox.SGD(0.1), parallelism=2, rng=0, gtol=1e-3)
    >>> while not engine.stop():
    ...     for c in engine.ask():
    ...         engine.tell(c.id, gradient=2.0 * c.x, value=float(c.x @ c.x))
    >>> engine.result().success
    True

    References
    ----------
    Shu, Fang, He, Yu, OptEx, NeurIPS 2024, arXiv 2402.11427, algorithm 1.
    """

    @known_keywords
    def __init__(
        self,
        x0: Any,
        *,
        optimizer: str | FirstOrderOptimizer = "adam",
        parallelism: int = 4,
        strategy: str | Strategy = "auto",
        estimator: GradientEstimator | None = None,
        backend: str | Backend = "auto",
        bounds: Any = None,
        x_scale: Any = None,
        maxiter: int | None = None,
        gtol: float | None = None,
        ftol: float | None = None,
        xtol: float | None = None,
        target: float | None = None,
        max_time: float | None = None,
        max_evals: int | None = None,
        rng: Any = None,
        tag: str | None = None,
    ) -> None:
        x = start_point(x0)
        self.backend = get_backend(backend, x)
        weakref.finalize(self, self.backend.release).atexit = False
        x = self.backend.copy_in(x, x.dtype)
        self.dtype = x.dtype
        low, high = bounds_of(bounds, x, self.backend)
        x = Box(low, high, self.backend).project(x)
        if estimator is not None and not isinstance(estimator, GradientEstimator):
            raise ArgumentTypeError(f"estimator must be an optex_core.GradientEstimator(kernel=..., ...), got {shown(estimator)}")
        if tag is not None and not isinstance(tag, str):
            raise ArgumentTypeError(f"tag must be a string, got {shown(tag)}")
        parallelism = integer("parallelism", parallelism, low=1)
        chosen = get_strategy(strategy)
        criteria = criteria_of(maxiter=maxiter, gtol=gtol, ftol=ftol, xtol=xtol, target=target, max_time=max_time, max_evals=max_evals)
        self.settings = Settings(
            optimizer=get_optimizer(optimizer),
            parallelism=parallelism,
            strategy=chosen,
            estimator=(estimator or GradientEstimator()).completed(parallelism, chosen.mean, len(x)),
            criteria=criteria.completed(),
            seed=run_seed(rng),
            low=low,
            high=high,
            scale=scale_of(x_scale, x, self.backend),
            tag=tag,
        )
        self._needs, self._box = needing_values(self.settings), Box(low, high, self.backend)
        rule = self.settings.optimizer if low is None or high is None else Projected(self.settings.optimizer, low, high)
        self._stepper = make_stepper(rule, self.backend)
        self.history: History | None = None
        if chosen.uses_history and parallelism > 1:
            self.history = history_of(self.settings, len(x), self.dtype, self.backend)
        self.ledger = make_ledger(self._stepper, self.history, parallelism)
        rows = 0 if self.history is None else self.history.capacity
        self.unthreaded, few = rows <= ROWS, rows <= (SUMS if self.ledger is not None else ROWS)
        # Matrices of many rows are shared out among threads however few parameters there are.
        self._numbers = rows * max(len(x), 0 if few else rows) if self.backend.blas or not few else 0
        self.trace = Trace()
        self.rows: list[Round] = []  # of an iteration that takes more than one ask
        self.failures: list[Failure] = []
        self.round: OpenRound | None = None
        self.late: dict[int, Candidate] = {}
        self.arrivals: list[tuple[Array, Array]] = []
        self._seen: View | None = None
        self._posterior: Posterior | None = None
        self._ahead: Grid | None = None
        self.on_iterate: Callable[[], None] | None = None
        self.saves = 0  # how often a driver has saved it: names the journal that goes on from a file
        self.began: int | None = None  # a mark of x0, where a driver keeps the run on disk: one that is continued says that another is not used
        self._overhead, self._norm, self._note = 0.0, math.nan, ""
        self.state = State(x, self._stepper.init(x), None)
        self.state.memory = chosen.start(self._view())

    # -- the protocol ---------------------------------------------------------------------------------------------------------------

    def ask(self) -> list[Candidate]:
        """The points whose gradients are wanted now: 1 to N of them; none when the run is finished. Asking again gives what is still pending."""
        if self.state.finished:
            return []
        if self.round is not None and all(self.round.done):  # `on_iterate` raised before the round could be closed
            self._close()
        if self.round is None:
            self._open()
        if self.round is None or self.state.finished:
            return []
        return [c for c, done in zip(self.round.candidates, self.round.done, strict=True) if not done]

    def tell(
        self,
        id: int,  # noqa: A002  (the public name)
        gradient: Any = None,
        value: Any = None,
        *,
        error: BaseException | None = None,
        seconds: float | None = None,
        nfev: int | None = None,
        njev: int | None = None,
        traceback: str | None = None,
    ) -> None:
        """Hand in one evaluation; candidates may be told in any order.

        Parameters
        ----------
        id : int
            ``Candidate.id``.
        gradient : array_like, shape (d,)
            Copied; cast to the dtype of x0.
        value : float, optional
            The value there.
        error : BaseException, optional
            In place of the gradient: why there is none. At the iterate itself (slot 0) this ends the run, elsewhere the point is dropped. A `value`
            told with it is one that was found all the same: it counts for the best point.
        seconds : float, optional
            How long the evaluation took.
        nfev, njev : int, optional
            How many calls it took, by default one each (nfev 0 without a value).
        traceback : str, optional
            Where `error` was raised, as text, if it came from another process; else it is taken from `error`.

        Raises
        ------
        ProtocolError
            For an id that was told already or never asked; nothing is changed.
        ArgumentError, ArgumentTypeError
            For a gradient or value of the wrong shape or type; nothing is changed.
        CapabilityError
            If there is no value but something reads values.
        """
        candidate, index = self._candidate(id)
        told, reason = None, ""
        number = math.nan if value is None else number_of(value)
        calls = int(value is not None) if nfev is None else integer("nfev", nfev, low=0)
        gradients = 1 if njev is None else integer("njev", njev, low=0)
        seconds = None if seconds is None else nonnegative("seconds", seconds)
        if error is not None and gradient is not None:
            raise ArgumentError(f"tell({id}) got a gradient and an error; pass one of them")
        if error is None:
            if gradient is None:
                raise ArgumentTypeError(f"tell({id}) needs a gradient of shape {self.state.x.shape}, or error=exception")
            if value is None and self._needs:
                raise CapabilityError(f"{' and '.join(self._needs)} needs values, but tell({id}) gave a gradient only; pass value=")
            g = gradient_of(gradient, self.state.x, self.backend)
            told = Told(g, self.backend.dot(g, g), number)
            if not (math.isfinite(told.square) and (value is None or math.isfinite(number))):
                reason = fault_of(told, value is not None, self.backend)
        elif not isinstance(error, BaseException):
            raise ArgumentTypeError(f"error must be an exception, got {shown(error)}")
        # All checks are done: from here on the state changes.
        s = self.state
        s.nfev += calls
        s.njev += gradients
        if told is None or reason:
            self._fail(candidate, reason or str(error) or type(error).__name__, error, value=number, text=traceback)
            told = None
        # The numbers of an evaluation that is not finite are not trusted; a value beside an error was told on purpose.
        if value is not None and not reason and number < s.best:
            s.best, s.best_x = number, candidate.x
        if index is None:
            self._arrive_late(candidate, told)
            return
        self._settle(index, told, seconds)

    def report_attempt(
        self,
        id: int,  # noqa: A002
        error: BaseException | None,
        message: str,
        *,
        attempt: int,
        nfev: int,
        njev: int,
        traceback: str | None = None,
    ) -> None:
        """Count a failed attempt at a point that will be tried again: it goes to `failures`, the point stays pending."""
        candidate, _ = self._candidate(id)
        self.state.nfev += nfev
        self.state.njev += njev
        self._fail(candidate, message, error, attempt, text=traceback)

    def shorten(self) -> None:
        """End the iteration at the point whose gradient is asked for: the budget has one evaluation left, which becomes the closing one."""
        if self.round is not None and self.state.slot:
            self.round = None
            self._complete()

    def make_closing(self) -> None:
        """Let the open round end the run with theta_t, where retries have taken what `max_evals` had kept for that: it is the same point and seed."""
        r, limit = self.round, self.settings.criteria.max_evals
        if r is not None and limit is not None:
            r.closing, r.opened = True, limit - 1

    def stop(self, elapsed: float | None = None) -> dict[str, Any]:
        """Why the run is finished: ``{}`` while it is running, else the settings that fired, such as ``{"gtol": 1e-7}``.

        Parameters
        ----------
        elapsed : float, optional
            Seconds since the start, on the driver's clock; compared with `max_time`.
        """
        s, limit = self.state, self.settings.criteria.max_time
        if elapsed is not None and limit is not None and not s.finished and nonnegative("elapsed", elapsed) >= limit:
            s.deterministic = False
            self._finish({"max_time": limit})
        return dict(s.reasons) if s.finished else {}

    def abort(self, status: Status) -> None:
        """End the run from outside, with CALLBACK, INTERRUPTED or TOO_MANY_FAILURES as the reason."""
        if not self.state.finished:
            self._finish({status.reason: True}, alone=status is Status.CALLBACK and not self.settings.strategy.averages)

    def close_round(self) -> None:
        """Close the round without what is still pending; the stragglers' gradients may be told later and enter the history as data.

        Raises
        ------
        ProtocolError
            If no round is open or the iterate itself (slot 0) is still pending.
        """
        if self.round is None or not self.round.done[0]:
            raise ProtocolError("close_round needs an open round whose slot 0 has been told; ask and tell first")
        for c, done in zip(self.round.candidates, self.round.done, strict=True):
            if not done:
                self.late[c.id] = c
                self.state.deterministic = False
        self._close()

    def add_observations(self, X: Any, G: Any) -> None:
        """Warm start: gradients `G` known at points `X`, both of shape (n, d), oldest first, enter the history.

        Raises
        ------
        CapabilityError
            If the strategy keeps no history.
        """
        if self.history is None:
            who = f"strategy {self.settings.strategy.name!r} with parallelism={self.settings.parallelism}"
            raise CapabilityError(f"{who} keeps no history, so it cannot take observations")
        self.arrivals.extend(observations_of(X, G, self.state.x, self.backend))
        if self.round is None:
            self._record_arrivals()

    def anticipate(self) -> None:
        """Do now what the open round's end will need of its points alone: for a driver that waits for gradients. No bit depends on it."""
        r, keeper = self.round, self.history if self.ledger is None else self.ledger
        if r is None or r.closing or keeper is None or self.state.finished:
            return
        with single_threaded(0 if self.unthreaded else self._numbers), self.backend.hushed():
            S = keeper.foreseen([*(x for x, _ in self.arrivals), *r.plan.points[: len(r.candidates)]])
            self._ahead = None if S is None else grid_ahead(self.settings.estimator, S, self.state.hyper)

    def result(self) -> Result:
        """The result so far, at any moment."""
        from optex_core.result import make_result  # loads scipy.optimize, which takes 0.5 s: not on import

        return make_result(self)

    def note_time(self, seconds: float, overhead: float) -> None:
        """A driver's clock for the round that was closed last: wall-clock seconds, and seconds of our own work in them."""
        self.trace.time_last(seconds, overhead)
        gradients = max(seconds - overhead, 1e-9)
        self._overhead = overhead / gradients

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file, atomically; `load` continues with the same bits. No pickle."""
        from optex_core.checkpoint import save

        if self.round is not None and self.round.recorded:
            raise ProtocolError("the optimizer failed while a round was being closed: such a state cannot be saved, an earlier file is kept")
        save(self, path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        optimizer: str | FirstOrderOptimizer | None = None,
        strategy: str | Strategy | None = None,
        estimator: GradientEstimator | None = None,
        **criteria: Any,
    ) -> OptEx:
        """The engine that `save` wrote.

        Parameters
        ----------
        path : path-like
        optimizer, strategy, estimator : optional
            What a file cannot hold (a callable schedule, a user's own object) is passed again; an error names it.
        **criteria
            New stopping criteria in place of the saved ones, such as ``maxiter=2000``.
        """
        from optex_core.checkpoint import load

        return load(path, optimizer=optimizer, strategy=strategy, estimator=estimator, criteria=criteria)

    # -- a round --------------------------------------------------------------------------------------------------------------------

    def _view(self) -> View:
        s, made = self.state, self._seen
        if made is not None and made.x is s.x and made.state is s.optimizer and made.overhead == self._overhead:
            return made
        step = self._stepper.step if self.ledger is None else self.ledger.step
        # A view that holds the engine that keeps it would keep the memory of a run that is over until Python looks for cycles.
        own, scale = weakref.ref(self), self.settings.scale
        given = (self.settings.parallelism, s.x, s.optimizer, step, lambda: own().posterior(), self.backend, scale, self._box.project, self._overhead)  # type: ignore[union-attr]
        self._seen = View(*given, self._stepper.chain) if self.ledger is None else AffineView(*given, ledger=self.ledger)
        return self._seen

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_seen": None}  # a copy has views of its own

    def posterior(self) -> Posterior | None:
        """The estimator fitted to the history as it is now; None while there are no rows. Fitted once per round."""
        h, s = self.history, self.state
        if h is None or not h.n:
            return None
        if s.fitted != h.total:
            s.hyper, self._note = tuned(self.settings.estimator, h, s.hyper, self._ahead)
            s.fitted, self._ahead = h.total, None
            self._posterior = None
        if self._posterior is None:
            given = (self.settings.estimator, h, s.hyper)
            self._posterior = Posterior(*given) if self.ledger is None else AffinePosterior(*given, span=self.ledger.span)
            self._note = self._posterior.fallback or self._note
        return self._posterior

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
        if criteria.maxiter is not None and s.nit >= criteria.maxiter and not s.slot:  # at the start, or after a file from a longer run
            s.reasons["maxiter"] = criteria.maxiter
            s.closing = True
        # The last evaluation of the budget is kept for the closing point: the value and gradient of the result are known.
        closing = s.closing or left == 1
        with single_threaded(self._numbers), self.backend.hushed():
            plan = Plan([s.x]) if closing else self.settings.strategy.plan(self._view(), s.memory)
        points = plan.points if closing else plan.points[: int(min(left - 1, len(plan.points)))]
        candidates = [self._make_candidate(x, s.slot + i) for i, x in enumerate(points)]
        self.round = OpenRound(plan, candidates, [None] * len(plan.points), [False] * len(candidates), opened=spent, closing=closing)

    def _make_candidate(self, x: Array, slot: int) -> Candidate:
        return make_candidate(self.settings, self.state.nit, slot, self.backend.read_only(x))

    def _candidate(self, id: int) -> tuple[Candidate, int | None]:  # noqa: A002
        """The candidate and its place in the open round, None for a late one."""
        return find_candidate(id, self.round, self.late, self.state.nit * self.settings.parallelism + self.state.slot)

    def _settle(self, index: int, told: Told | None, seconds: float | None) -> None:
        r, s = self.round, self.state
        assert r is not None
        r.settle(index, told, seconds, self._view())
        if index == 0 and told is None and not s.finished:
            raised = self.failures[-1].error is not None
            self._finish({(Status.FAILED if raised else Status.DIVERGED).reason: True})
        elif index == 0 and told is not None and s.slot == 0 and (r.closing or not self.settings.strategy.averages):
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
            self._finish(fired, alone=r.closing or not self.settings.strategy.averages)
        if self.on_iterate is not None:
            self.on_iterate()

    def gradient_norm(self) -> float:
        """max |g| at theta_t, of the projected gradient theta - P(theta - g) under bounds; nan while unknown."""
        if self.state.gradient is not None and math.isnan(self._norm):
            self._norm = self._box.gradient_norm(self.state.x, self.state.gradient)
        return self._norm

    def _close(self) -> None:
        r, s, backend = self.round, self.state, self.backend
        assert r is not None
        strategy = self.settings.strategy
        if strategy.averages and not s.arrived:
            usable = [t for t in r.told if t is not None]
            first = usable[0].value  # around it, so that the mean of equal values is that value
            self._arrive(first + sum(t.value - first for t in usable) / len(usable), backend.mean([t.gradient for t in usable]))
            if s.finished:
                return
        with single_threaded(self._numbers), self.backend.hushed():
            believed = strategy.believed(self._view(), r.plan, r.told)
            if self.history is not None and not r.recorded:
                self._record_arrivals([(x, told.gradient) for x, told in zip(r.plan.points, believed, strict=False) if told is not None])
            # What follows runs the optimizer, which may be a user's and may raise: asking again then closes the round without recording twice.
            r.recorded = True
            row, believed = self._row(r), r.let_go(believed, strategy.reads(self._view(), believed))
            step = strategy.advance(self._view(), s.memory, r.plan, believed)
        step_norm = math.sqrt(backend.squared_distance(step.x, s.x, self.settings.scale))
        if not (math.isfinite(step_norm) or backend.all_finite(step.x)):
            self._finish({Status.DIVERGED.reason: True})
            return
        row.accepted, row.note = step.steps, "; ".join(note for note in (step.note, self._note) if note)
        row.step_norm = step_norm
        row.length_scale, row.noise, row.curvature = self._hyper_row()
        s.deterministic = s.deterministic and not step.timed
        s.nsteps += step.steps
        s.origin = s.x if s.origin is None else s.origin
        s.memory, s.x, s.optimizer = step.memory, step.x, step.state
        s.value, s.gradient, s.arrived, self._norm = math.nan, None, False, math.nan
        self.round, self._note, self._seen = None, "", None
        self.rows.append(row)
        if step.complete:
            self._complete()
        else:
            s.slot += 1

    def _merged(self) -> Round:
        """The row of the iteration, which may have taken several asks."""
        row = merged(self.rows)
        if len(self.rows) > 1:
            assert self.state.origin is not None
            row.step_norm = math.sqrt(self.backend.squared_distance(self.state.x, self.state.origin, self.settings.scale))
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
            size = math.sqrt(backend.squared_distance(s.x, backend.zeros(len(s.x), self.dtype), self.settings.scale))
        fired = self.settings.criteria.at_step(row.step_norm, size, s.nit)
        if fired:
            s.reasons.update(fired)
            s.closing = True

    def _row(self, r: OpenRound, alone: bool = False) -> Round:
        """The row of the round as it stands; `alone`: of theta_t only, as others are told or not depending on what executes them."""
        s = self.state
        return Round(
            s.nit,
            value=s.value,
            gradient_norm=self.gradient_norm(),
            evaluations=1 if alone else r.evaluations,
            window=r.plan.window,
            prediction_error=r.prediction_error(self._view(), alone),
            slowest=r.seconds,
        )

    def _hyper_row(self) -> tuple[float, float, float]:
        if self._posterior is None:
            return math.nan, math.nan, math.nan
        return self.state.hyper.length, self._posterior.noise, self.state.hyper.curvature

    def _record_arrivals(self, told: Sequence[tuple[Array, Array]] = ()) -> None:
        """Append what came late or from the user, then the pairs of the round."""
        assert self.history is not None
        pairs = [*self.arrivals, *told]
        if self.ledger is not None:
            self.ledger.record(pairs)
        else:
            self.history.extend(pairs)
        self.arrivals.clear()

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

    # -- failures ---------------------------------------------------------------------------------------------------------------

    def _fail(
        self, c: Candidate, message: str, error: BaseException | None, attempt: int | None = None, *, value: float = math.nan, text: str | None = None
    ) -> None:
        tried = sum(f.id == c.id for f in self.failures) if attempt is None else attempt
        self.failures.append(failure_of(c, message, error, tried, value, text))
        self.state.failures += 1

    def _arrive_late(self, candidate: Candidate, told: Told | None) -> None:
        del self.late[candidate.id]
        if told is not None and self.history is not None:
            self.arrivals.append((candidate.x, told.gradient))

    @property
    def status(self) -> Status:
        """Why the run ended, RUNNING while it has not."""
        return status_of(self.state.reasons) if self.state.finished else Status.RUNNING
