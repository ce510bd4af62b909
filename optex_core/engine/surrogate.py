"""Gradient history and fitted estimator of a run: the model that strategies plan with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from optex_core.backends.base import Backend
from optex_core.backends.blas_threads import (
    MAX_ROWS_UNTHREADED,
    MAX_ROWS_UNTHREADED_SUBSPACE,
    blas_single_threaded,
)
from optex_core.engine.settings import BoxConstraints, Settings, make_history
from optex_core.engine.state import EngineState
from optex_core.model.estimator import fit_hyperparameters
from optex_core.model.history import History
from optex_core.model.posterior import Posterior
from optex_core.optimizers._on_backend import OptimizerOnBackend
from optex_core.strategies._subspace.space import CoefficientSpace, make_space
from optex_core.strategies.rollout import EngineView
from optex_core.types import Array


class Surrogate:
    """The kriging model of the gradient, fitted to the newest rows of the history.

    `state` is read for the iterate and its optimizer state; hyperparameters are written to it.
    `optimizer` has the projection that bounds add.
    """

    def __init__(
        self,
        settings: Settings,
        state: EngineState,
        optimizer: OptimizerOnBackend,
        bounds: BoxConstraints,
        backend: Backend,
    ) -> None:
        self.settings, self.backend = settings, backend
        self._state, self._bounds = state, bounds
        d, dtype = len(state.x), state.x.dtype
        self.history: History | None = None  # where the strategy uses one, and N > 1
        if settings.strategy.uses_history and settings.parallelism > 1:
            self.history = make_history(settings, d, dtype, backend)
        self.space = make_space(
            optimizer, backend, self.history, settings.scale, settings.parallelism
        )
        self.tracker = self.space.tracker if isinstance(self.space, CoefficientSpace) else None
        #: (x, g) of late gradients and the user's observations, which enter with the next round.
        self.pending: list[tuple[Array, Array]] = []
        self.note = ""  # what is out of the ordinary in the fits of this round
        self.overhead = 0.0  # own time over the gradients' time in the last round, by the clock
        self._posterior: Posterior | None = None
        self._planned_with = False  # True if this iteration was planned with the posterior
        rows = 0 if self.history is None else self.history.capacity
        limit = MAX_ROWS_UNTHREADED if self.tracker is None else MAX_ROWS_UNTHREADED_SUBSPACE
        # Matrices of many rows are shared out among threads however few parameters there are.
        large = rows > limit
        self._numbers = rows * max(d, rows if large else 0) if backend.blas or large else 0

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Context of own arithmetic: no warnings, BLAS on one thread where sharing costs more."""
        with blas_single_threaded(self._numbers), self.backend.ignore_fp_warnings():
            yield

    def view(self) -> EngineView:
        """What a strategy sees of the run now."""
        s = self._state
        return EngineView(
            self.settings.parallelism,
            s.x,
            s.optimizer_state,
            self.posterior,
            self.space,
            self._bounds.project,
            self.overhead,
        )

    def view_for_plan(self) -> EngineView:
        """The view with which a round is planned: predictions begin at the iterate."""
        self._planned_with = False
        if self.history is not None and self.history.n:
            self.space.prefetch_distances(self._state.x)
        return self.view()

    def posterior(self) -> Posterior | None:
        """The estimator fitted to the history as it is now; None where it says nothing.

        Hyperparameters are fitted once for every state of the history.
        """
        h, s = self.history, self._state
        if h is None or not h.n:
            return None
        if (self._posterior is None or s.fitted_rows != h.total) and (error := h.range_error()):
            self._posterior, self.note = None, f"the optimizer alone: {error}"
            return None
        if s.fitted_rows != h.total:
            s.hyperparameters, self.note = fit_hyperparameters(
                self.settings.estimator, h, s.hyperparameters
            )
            s.fitted_rows, self._posterior = h.total, None
        if self._posterior is None:
            self._posterior = Posterior(self.settings.estimator, h, s.hyperparameters)
            self.note = self._posterior.fallback or self.note
        self._planned_with = True
        return self._posterior

    def record(self, pairs: Sequence[tuple[Array, Array]] = ()) -> None:
        """Append pending rows, then `pairs` of (point, gradient), to the history."""
        if self.history is None:
            return
        (self.tracker or self.history).extend([*self.pending, *pairs])
        self.pending.clear()

    def fitted(self) -> tuple[float, float, float]:
        """Length scale, noise and curvature of the fit that the iteration was planned with, for the
        trace; nan where it was planned with none.
        """
        if self._posterior is None or not self._planned_with:
            return math.nan, math.nan, math.nan
        fitted = self._state.hyperparameters
        return fitted.length, self._posterior.noise, fitted.curvature
