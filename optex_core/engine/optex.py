"""The ask/tell engine: no clock, thread or process; deterministic given what it is told.

A round: `ask` gives 1 to N points (the iterate theta_t is slot 0), `tell` takes their gradients in
any order, the last one closes the round and the strategy advances theta. A run ends with one
final evaluation at the last iterate, so that its value and gradient are known.

`OptEx` validates arguments. The course of a round is in `round_machine.RoundMachine.advance`, the
model of the gradient in `surrogate.Surrogate`.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from numpy.typing import ArrayLike

from optex_core._validation import integer, nonnegative, reject_unknown_keywords, short_repr
from optex_core.backends import get_backend
from optex_core.backends.base import Backend
from optex_core.engine.round_machine import RoundMachine
from optex_core.engine.settings import (
    BoxConstraints,
    Settings,
    as_bounds,
    as_scale,
    as_x0,
    choose_strategy,
    resolve_seed,
    value_consumers,
)
from optex_core.engine.state import EngineState, FailedEvaluation, RoundState
from optex_core.engine.stopping import Criteria, Status
from optex_core.engine.trace import Trace
from optex_core.engine.validation import as_gradient, as_observations, as_value, nonfinite_reason
from optex_core.errors import (
    ArgumentError,
    ArgumentTypeError,
    CapabilityError,
    ProtocolError,
    message_of,
)
from optex_core.model.estimator import GradientEstimator
from optex_core.optimizers.base import get_optimizer
from optex_core.optimizers.lbfgs import LBFGS
from optex_core.strategies.auto import Auto
from optex_core.strategies.base import Observation, Strategy
from optex_core.types import Candidate, FirstOrderOptimizer

if TYPE_CHECKING:
    from optex_core.engine.result import Result

logger = logging.getLogger("optex_core")

#: Candidates of one round: a limit of memory, far above any number of workers.
MAX_PARALLELISM = 100_000

P = ParamSpec("P")
T = TypeVar("T")


def _locked(method: Callable[Concatenate[OptEx, P], T]) -> Callable[Concatenate[OptEx, P], T]:
    """Run the method under the engine's lock: results may be told from done-callbacks."""

    @functools.wraps(method)
    def locked(self: OptEx, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._lock:
            return method(self, *args, **kwargs)

    return locked


class OptEx:
    """The ask/tell engine of OptEx. Its methods may be called from several threads.

    Parameters
    ----------
    x0 : array_like, shape (d,)
        The start. float32 and float64 are kept, integers become float64, a scalar has length 1.
        A CuPy array keeps everything on its GPU.
    optimizer : str, object or None, default None
        None: `LBFGS`, without a learning rate; where evaluations do not repeat or no values are
        told, gradients are averaged and a parameter-free rule takes the steps. Else the first-order
        rule: a name, an object such as ``SGD(0.1, momentum=0.9)``, or anything with ``init(x)`` and
        ``step(x, g, state)``.
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
        When to stop; see `optex_core.engine.stopping.Criteria`, and its defaults.
    rng : int, Generator or None, default None
        The run's seed; None draws one, which `result().seed` tells.
    tag : str, optional
        Names the problem in saved runs.

    Attributes
    ----------
    settings : Settings
        Everything that decides the run besides the gradients.
    state : EngineState
        Arrays and numbers: what a saved run holds.

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

    @reject_unknown_keywords
    def __init__(
        self,
        x0: ArrayLike,
        *,
        optimizer: str | FirstOrderOptimizer | None = None,
        parallelism: int = 4,
        strategy: str | Strategy = "auto",
        estimator: GradientEstimator | None = None,
        backend: str | Backend = "auto",
        bounds: object = None,
        x_scale: ArrayLike | None = None,
        maxiter: int | None = None,
        gtol: float | None = None,
        ftol: float | None = None,
        xtol: float | None = None,
        target: float | None = None,
        max_time: float | None = None,
        max_evals: int | None = None,
        rng: object = None,
        tag: str | None = None,
    ) -> None:
        x = as_x0(x0)
        backend = get_backend(backend, x)
        x = backend.copy_in(x, x.dtype)
        low, high = as_bounds(bounds, x, backend)
        x = BoxConstraints(low, high, backend).project(x)
        if estimator is not None and not isinstance(estimator, GradientEstimator):
            raise ArgumentTypeError(
                "estimator must be an optex_core.GradientEstimator(kernel=..., ...), "
                f"got {short_repr(estimator)}"
            )
        if tag is not None and not isinstance(tag, str):
            raise ArgumentTypeError(f"tag must be a string, got {short_repr(tag)}")
        parallelism = integer("parallelism", parallelism, low=1, high=MAX_PARALLELISM)
        rule = LBFGS() if optimizer is None else get_optimizer(optimizer)
        chosen = choose_strategy(strategy, rule)
        automatic = strategy == "auto" or isinstance(strategy, Auto)
        if estimator is not None and automatic and not chosen.uses_history:
            logger.warning(
                "estimator= is not read by `%s`, which 'auto' takes for this optimizer: its models"
                " have no such settings; give a first-order optimizer such as ox.Adam(1e-2), whose"
                " gradients are predicted by the estimator",
                chosen.name,
            )
        criteria = Criteria(maxiter, gtol, ftol, xtol, target, max_time, max_evals)
        settings = Settings(
            optimizer=rule,
            parallelism=parallelism,
            strategy=chosen,
            estimator=(estimator or GradientEstimator()).with_defaults(
                parallelism, chosen.prior_mean, len(x)
            ),
            criteria=criteria.completed(),
            seed=resolve_seed(rng),
            low=low,
            high=high,
            scale=as_scale(x_scale, x, backend),
            tag=tag,
        )
        self._lock = threading.RLock()
        self.settings, self.backend = settings, backend
        self.machine = RoundMachine(settings, x, backend)
        self.state: EngineState = self.machine.state
        self._value_consumers = value_consumers(settings)

    def __getstate__(self) -> dict[str, object]:
        return {name: part for name, part in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _lock=threading.RLock())

    # -- the parts of a run, to read --------------------------------------------------------------

    @property
    def round(self) -> RoundState | None:
        """The round whose evaluations are pending."""
        return self.machine.round

    @property
    def trace(self) -> Trace:
        """One row per iteration."""
        return self.machine.trace

    @property
    def failures(self) -> list[FailedEvaluation]:
        """Every failed evaluation."""
        return self.machine.failures

    @property
    def status(self) -> Status:
        """Why the run ended; RUNNING while it has not."""
        return self.machine.status

    # -- the protocol -----------------------------------------------------------------------------

    @_locked
    def ask(self) -> list[Candidate]:
        """Give the points whose gradients are wanted now: 1 to N, none when the run is finished.

        Asking again gives what is still pending.
        """
        machine = self.machine
        if self.round is not None and all(self.round.done) and not self.state.finished:
            machine.advance()  # `on_iterate` raised before the round could be closed
        if self.round is None and not self.state.finished:
            machine.advance()
        r = self.round
        return [] if r is None or self.state.finished else r.pending

    @_locked
    def tell(
        self,
        id: int,  # noqa: A002  (the public name)
        *,
        gradient: ArrayLike | None = None,
        value: object = None,
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
            In place of the gradient: why there is none. At the iterate itself (slot 0) this ends
            the run, elsewhere the point is dropped. A `value` beside it counts for the best point.
        seconds : float, optional
            How long the evaluation took.
        nfev, njev : int, optional
            How many calls it took, by default one each (nfev 0 without a value).
        traceback : str, optional
            Where `error` was raised, if not in this process.

        Raises
        ------
        ProtocolError, ArgumentError, ArgumentTypeError, CapabilityError
            For an id that was told already or never asked, a gradient or value of the wrong shape
            or type, or no value where something reads values; nothing is changed.
        """
        machine = self.machine
        s, backend = machine.state, machine.backend
        candidate, index = machine.find_candidate(id)
        observed, reason = None, ""
        number = math.nan if value is None else as_value(value)
        calls = int(value is not None) if nfev is None else integer("nfev", nfev, low=0)
        gradients = 1 if njev is None else integer("njev", njev, low=0)
        seconds = None if seconds is None else nonnegative("seconds", seconds)
        if error is not None and gradient is not None:
            raise ArgumentError(f"tell({id}) got a gradient and an error; pass one of them")
        if error is None:
            if gradient is None:
                raise ArgumentTypeError(
                    f"tell({id}) needs a gradient of shape {s.x.shape}, or error=exception"
                )
            if value is None and self._value_consumers:
                readers = " and ".join(self._value_consumers)
                raise CapabilityError(
                    f"{readers} needs values, but tell({id}) gave a gradient only; pass value="
                )
            g = as_gradient(gradient, s.x, backend)
            observed = Observation(g, backend.dot(g, g), number)
            finite = value is None or math.isfinite(number)
            if not (finite and math.isfinite(observed.squared_norm)):
                reason = nonfinite_reason(observed, value is not None, backend)
        elif not isinstance(error, BaseException):
            raise ArgumentTypeError(f"error must be an exception, got {short_repr(error)}")
        # All checks are done: from here on the state changes.
        s.nfev += calls
        s.njev += gradients
        if observed is None or reason:
            message = reason or message_of(error)
            machine.fail(candidate, message, error, value=number, text=traceback)
            observed = None
        # The numbers of an evaluation that is not finite are not trusted; a value beside an error
        # was told on purpose.
        if value is not None and not reason and number < s.best_value:
            s.best_value, s.best_x = number, candidate.x
            known = observed is not None and self.settings.strategy.returns_best(s.strategy_state)
            s.best_gradient = observed.gradient if observed is not None and known else None
        if index is None:
            machine.observe_late(candidate, observed)
        else:
            machine.observe(index, observed, seconds)

    @_locked
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
        """Count a failed attempt at a point that stays pending: it will be tried again."""
        candidate, _ = self.machine.find_candidate(id)
        self.state.nfev += nfev
        self.state.njev += njev
        self.machine.fail(candidate, message, error, attempt, text=traceback)

    @_locked
    def shorten(self) -> None:
        """End the iteration at the pending point, whose evaluation becomes the final one."""
        if self.round is not None and self.state.first_slot:
            self.machine.round = None
            self.machine.end_iteration()

    @_locked
    def make_final(self) -> None:
        """Let theta_t end the run: retries took what `max_evals` kept for the final evaluation."""
        r, limit = self.round, self.settings.criteria.max_evals
        if r is not None and limit is not None:
            r.is_final, r.evaluations_at_open = True, limit - 1

    @_locked
    def stop(self, elapsed: float | None = None) -> dict[str, float]:
        """Tell what ended the run, such as ``{"gtol": 1e-7}``; ``{}`` while it is running.

        A run whose time is up is ended here: the engine has no clock of its own.

        Parameters
        ----------
        elapsed : float, optional
            Seconds since the start, on the driver's clock; compared with `max_time`.
        """
        s, limit = self.state, self.settings.criteria.max_time
        timed = elapsed is not None and limit is not None and not s.finished
        if timed and nonnegative("elapsed", elapsed) >= limit:  # type: ignore[operator]
            s.deterministic = False
            self.machine.end_run({"max_time": limit})
        return dict(s.reasons) if s.finished else {}

    @_locked
    def abort(self, status: Status) -> None:
        """End the run from outside, with CALLBACK, INTERRUPTED or TOO_MANY_FAILURES."""
        if not self.state.finished:
            averages = self.machine.averages_gradients
            iterate_only = status is Status.CALLBACK and not averages
            self.machine.end_run({status.key: True}, iterate_only=iterate_only)

    @_locked
    def close_round(self) -> None:
        """Close the round without what is still pending; it may be told later, as data.

        ProtocolError if no round is open or the iterate itself (slot 0) is still pending.
        """
        r = self.round
        if r is None or not (r.done[0] or (r.iterate_evaluated and any(r.done))):
            raise ProtocolError(
                "close_round needs an open round whose slot 0 has been told; ask and tell first"
            )
        for i, c in enumerate(r.candidates):
            if not r.done[i]:
                self.machine.late[c.id] = c
                r.done[i] = True
                self.state.deterministic = False
        self.machine.advance()

    @_locked
    def add_observations(self, X: ArrayLike, G: ArrayLike) -> None:
        """Enter gradients `G` known at points `X`, both of shape (n, d), oldest first, into the
        history: a warm start. CapabilityError if the strategy keeps none.
        """
        surrogate = self.machine.surrogate
        if surrogate.history is None:
            name, N = self.settings.strategy.name, self.settings.parallelism
            raise CapabilityError(
                f"strategy {name!r} with parallelism={N} keeps no history, "
                "so it cannot take observations"
            )
        surrogate.pending.extend(as_observations(X, G, self.state.x, self.backend))
        if self.round is None:
            surrogate.record()

    @_locked
    def result(self) -> Result:
        """The result so far, at any moment."""
        from optex_core.engine.result import make_result  # loads scipy.optimize: 0.5 s

        return make_result(self.machine)

    @_locked
    def note_time(self, seconds: float, overhead: float) -> None:
        """Tell the seconds of the round that was closed last, and those of our own work in them."""
        self.trace.set_last_timing(seconds, overhead)
        self.machine.surrogate.overhead = overhead / max(seconds - overhead, 1e-9)

    @_locked
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file, atomically; `load` continues with the same bits."""
        from optex_core.engine import checkpoint, checkpoint_file

        checkpoint_file.write_checkpoint(path, *checkpoint.dump(self.machine))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        optimizer: str | FirstOrderOptimizer | None = None,
        strategy: str | Strategy | None = None,
        estimator: GradientEstimator | None = None,
        **criteria: object,
    ) -> OptEx:
        """Read the engine that `save` wrote.

        `optimizer`, `strategy` and `estimator` are passed again where a file cannot hold them (a
        callable schedule, a user's own object); an error names them. `criteria` replace the saved
        ones: ``maxiter=2000``. CheckpointError if the file is missing, damaged or foreign.
        """
        from optex_core.engine import checkpoint, checkpoint_file

        header, arrays = checkpoint_file.read_checkpoint(path)
        given = {"optimizer": optimizer, "strategy": strategy, "estimator": estimator}
        arguments = checkpoint.engine_arguments(header, arrays, given, criteria)
        engine = cls(**arguments)
        checkpoint.restore(engine.machine, header, arrays, str(path))
        return engine
