"""The engine: ask and tell. It knows no clock, thread or process, and is deterministic given what
it is told.

A round: `ask` hands out 1 to N points (the iterate theta_t is slot 0), `tell` takes their gradients
in any order, the last one closes the round and the strategy advances theta. A run ends with one
closing point at the last iterate, so that its value and gradient are known.

This is the door: what comes is checked here. What a round does with it is in rounds.py, what a run
learns from it in knowledge.py.
"""

from __future__ import annotations

import math
import os
import weakref
from typing import TYPE_CHECKING, Any

from optex_core._validation import integer, nonnegative, reject_unknown_keywords, short_repr
from optex_core.backends import get_backend
from optex_core.backends.base import Backend
from optex_core.engine.bounds import BoxConstraints
from optex_core.engine.candidates import find_candidate
from optex_core.engine.round_machine import RoundMachine
from optex_core.engine.settings import (
    Settings,
    as_bounds,
    as_criteria,
    as_scale,
    as_x0,
    resolve_seed,
    value_consumers,
)
from optex_core.engine.status import Status
from optex_core.engine.validation import as_gradient, as_observations, as_value, nonfinite_reason
from optex_core.errors import ArgumentError, ArgumentTypeError, CapabilityError, ProtocolError
from optex_core.model.estimator import GradientEstimator
from optex_core.optimizers.base import get_optimizer
from optex_core.strategies.base import Observation, Strategy, get_strategy
from optex_core.types import Candidate, FirstOrderOptimizer

if TYPE_CHECKING:
    from optex_core.engine.result import Result


class OptEx(RoundMachine):
    """The ask/tell engine of OptEx.

    Parameters
    ----------
    x0 : array_like, shape (d,)
        The start; float32 and float64 are kept, integers become float64, a scalar has length 1. A
        CuPy array keeps everything on its GPU.
    optimizer : str or object, default "adam"
        The first-order rule: a name, an object such as ``SGD(0.1, momentum=0.9)``, or anything with
        ``init(x)`` and ``step(x, g, state)``.
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
        When to stop; see `strategies.stopping.Criteria`. None given: maxiter = 1000 and gtol =
        1e-6.
    rng : int, Generator or None, default None
        The run's seed; None draws one, which `result().seed` tells.
    tag : str, optional
        Names the problem in saved runs.

    Attributes
    ----------
    on_iterate : callable or None
        Called without arguments, inside ``tell``, when the value and gradient of theta_t have
        become known and theta has not moved on yet.

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
        x = as_x0(x0)
        backend = get_backend(backend, x)
        weakref.finalize(self, backend.release).atexit = False
        x = backend.copy_in(x, x.dtype)
        low, high = as_bounds(bounds, x, backend)
        x = BoxConstraints(low, high, backend).project(x)
        if estimator is not None and not isinstance(estimator, GradientEstimator):
            raise ArgumentTypeError(
                f"estimator must be an optex_core.GradientEstimator(kernel=..., ...), "
                f"got {short_repr(estimator)}"
            )
        if tag is not None and not isinstance(tag, str):
            raise ArgumentTypeError(f"tag must be a string, got {short_repr(tag)}")
        parallelism = integer("parallelism", parallelism, low=1)
        chosen = get_strategy(strategy)
        criteria = as_criteria(
            maxiter=maxiter,
            gtol=gtol,
            ftol=ftol,
            xtol=xtol,
            target=target,
            max_time=max_time,
            max_evals=max_evals,
        )
        settings = Settings(
            optimizer=get_optimizer(optimizer),
            parallelism=parallelism,
            strategy=chosen,
            estimator=(estimator or GradientEstimator()).with_defaults(
                parallelism, chosen.mean, len(x)
            ),
            criteria=criteria.completed(),
            seed=resolve_seed(rng),
            low=low,
            high=high,
            scale=as_scale(x_scale, x, backend),
            tag=tag,
        )
        super().__init__(settings, x, backend)
        self._needs = value_consumers(settings)
        # how often a driver has saved it: names the journal that goes on from a file
        self.saves = 0
        # a mark of x0, where a driver keeps the run on disk: one that is continued says that
        # another is not used
        self.x0_checksum: int | None = None

    # -- the protocol
    # ---------------------------------------------------------------------------------------------------------------

    def ask(self) -> list[Candidate]:
        """The points whose gradients are wanted now: 1 to N of them; none when the run is finished.
        Asking again gives what is still pending.
        """
        if self.state.finished:
            return []
        # `on_iterate` raised before the round could be closed
        if self.round is not None and all(self.round.done):
            self._close()
        if self.round is None:
            self._open()
        if self.round is None or self.state.finished:
            return []
        return [
            c for c, done in zip(self.round.candidates, self.round.done, strict=True) if not done
        ]

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
            In place of the gradient: why there is none. At the iterate itself (slot 0) this ends
            the run, elsewhere the point is dropped. A `value` told with it is one that was found
            all the same: it counts for the best point.
        seconds : float, optional
            How long the evaluation took.
        nfev, njev : int, optional
            How many calls it took, by default one each (nfev 0 without a value).
        traceback : str, optional
            Where `error` was raised, as text, if it came from another process; else it is taken
            from `error`.

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
        number = math.nan if value is None else as_value(value)
        calls = int(value is not None) if nfev is None else integer("nfev", nfev, low=0)
        gradients = 1 if njev is None else integer("njev", njev, low=0)
        seconds = None if seconds is None else nonnegative("seconds", seconds)
        if error is not None and gradient is not None:
            raise ArgumentError(f"tell({id}) got a gradient and an error; pass one of them")
        if error is None:
            if gradient is None:
                raise ArgumentTypeError(
                    f"tell({id}) needs a gradient of shape {self.state.x.shape}, or error=exception"
                )
            if value is None and self._needs:
                raise CapabilityError(
                    f"{' and '.join(self._needs)} needs values, but tell({id}) gave a "
                    f"gradient only; pass value="
                )
            g = as_gradient(gradient, self.state.x, self.backend)
            told = Observation(g, self.backend.dot(g, g), number)
            if not (math.isfinite(told.squared_norm) and (value is None or math.isfinite(number))):
                reason = nonfinite_reason(told, value is not None, self.backend)
        elif not isinstance(error, BaseException):
            raise ArgumentTypeError(f"error must be an exception, got {short_repr(error)}")
        # All checks are done: from here on the state changes.
        s = self.state
        s.nfev += calls
        s.njev += gradients
        if told is None or reason:
            self._fail(
                candidate,
                reason or str(error) or type(error).__name__,
                error,
                value=number,
                text=traceback,
            )
            told = None
        # The numbers of an evaluation that is not finite are not trusted; a value beside an error
        # was told on purpose.
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
        """Count a failed attempt at a point that will be tried again: it goes to `failures`, the
        point stays pending.
        """
        candidate, _ = self._candidate(id)
        self.state.nfev += nfev
        self.state.njev += njev
        self._fail(candidate, message, error, attempt, text=traceback)

    def shorten(self) -> None:
        """End the iteration at the point whose gradient is asked for: the budget has one evaluation
        left, which becomes the closing one.
        """
        if self.round is not None and self.state.slot:
            self.round = None
            self._complete()

    def make_closing(self) -> None:
        """Let the open round end the run with theta_t, where retries have taken what `max_evals`
        had kept for that: it is the same point and seed.
        """
        r, limit = self.round, self.settings.criteria.max_evals
        if r is not None and limit is not None:
            r.closing, r.opened = True, limit - 1

    def stop(self, elapsed: float | None = None) -> dict[str, Any]:
        """Why the run is finished: ``{}`` while it is running, else the settings that fired, such
        as ``{"gtol": 1e-7}``.

        Parameters
        ----------
        elapsed : float, optional
            Seconds since the start, on the driver's clock; compared with `max_time`.
        """
        s, limit = self.state, self.settings.criteria.max_time
        if (
            elapsed is not None
            and limit is not None
            and not s.finished
            and nonnegative("elapsed", elapsed) >= limit
        ):
            s.deterministic = False
            self._finish({"max_time": limit})
        return dict(s.reasons) if s.finished else {}

    def abort(self, status: Status) -> None:
        """End the run from outside, with CALLBACK, INTERRUPTED or TOO_MANY_FAILURES as the reason."""
        if not self.state.finished:
            self._finish(
                {status.key: True},
                alone=status is Status.CALLBACK and not self.settings.strategy.averages_gradients,
            )

    def close_round(self) -> None:
        """Close the round without what is still pending; the stragglers' gradients may be told
        later and enter the history as data.

        Raises
        ------
        ProtocolError
            If no round is open or the iterate itself (slot 0) is still pending.
        """
        if self.round is None or not self.round.done[0]:
            raise ProtocolError(
                "close_round needs an open round whose slot 0 has been told; ask and tell first"
            )
        for c, done in zip(self.round.candidates, self.round.done, strict=True):
            if not done:
                self.late[c.id] = c
                self.state.deterministic = False
        self._close()

    def add_observations(self, X: Any, G: Any) -> None:
        """Warm start: gradients `G` known at points `X`, both of shape (n, d), oldest first, enter
        the history.

        Raises
        ------
        CapabilityError
            If the strategy keeps no history.
        """
        if self.history is None:
            who = (
                f"strategy {self.settings.strategy.name!r} with "
                f"parallelism={self.settings.parallelism}"
            )
            raise CapabilityError(f"{who} keeps no history, so it cannot take observations")
        self.arrivals.extend(as_observations(X, G, self.state.x, self.backend))
        if self.round is None:
            self._record_arrivals()

    def result(self) -> Result:
        """The result so far, at any moment."""
        # loads scipy.optimize, which takes 0.5 s: not on import
        from optex_core.engine.result import make_result

        return make_result(self)

    def note_time(self, seconds: float, overhead: float) -> None:
        """A driver's clock for the round that was closed last: wall-clock seconds, and seconds of
        our own work in them.
        """
        self.trace.set_last_timing(seconds, overhead)
        gradients = max(seconds - overhead, 1e-9)
        self._overhead = overhead / gradients

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file, atomically; `load` continues with the same bits. No pickle."""
        from optex_core.engine.checkpoint import save_engine

        if self.round is not None and self.round.recorded:
            raise ProtocolError(
                "the optimizer failed while a round was being closed: such a state "
                "cannot be saved, an earlier file is kept"
            )
        save_engine(self, path)

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
            What a file cannot hold (a callable schedule, a user's own object) is passed again; an
            error names it.
        **criteria
            New stopping criteria in place of the saved ones, such as ``maxiter=2000``.
        """
        from optex_core.engine.checkpoint import load_engine

        return load_engine(
            path, optimizer=optimizer, strategy=strategy, estimator=estimator, criteria=criteria
        )

    def _candidate(self, id: int) -> tuple[Candidate, int | None]:  # noqa: A002
        """The candidate and its place in the open round, None for a late one."""
        return find_candidate(
            id, self.round, self.late, self.state.nit * self.settings.parallelism + self.state.slot
        )
