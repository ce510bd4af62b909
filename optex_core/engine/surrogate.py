"""What a run knows of its function: the rows of the history and the estimator fitted to them, as
strategies are shown it.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

from optex_core.backends.base import Backend
from optex_core.backends.blas_threads import (
    MAX_ROWS_UNTHREADED,
    MAX_ROWS_UNTHREADED_SUBSPACE,
    blas_single_threaded,
)
from optex_core.engine.bounds import BoxConstraints
from optex_core.engine.candidates import candidate_seed
from optex_core.engine.settings import Settings, make_history
from optex_core.engine.state import RoundState, State
from optex_core.model.estimator import Posterior, fit_hyperparameters, precompute_likelihood_grid
from optex_core.model.history import History
from optex_core.model.likelihood import LikelihoodGrid
from optex_core.optimizers._bound import bind_optimizer
from optex_core.optimizers.wrappers import Projected
from optex_core.strategies._subspace.tracker import SubspacePosterior, SubspaceView, make_tracker
from optex_core.strategies.base import EngineView
from optex_core.types import Array


class Surrogate:
    """The state of a run with its history, its fitted estimator and the view that strategies decide
    by.

    Parameters
    ----------
    settings : Settings
    x : array, shape (d,)
        theta_0, within the bounds; on the backend's device.
    backend : Backend
    """

    def __init__(self, settings: Settings, x: Array, backend: Backend) -> None:
        self.settings, self.backend, self.dtype = settings, backend, x.dtype
        low, high = settings.low, settings.high
        self._bounds = BoxConstraints(low, high, backend)
        rule = (
            settings.optimizer
            if low is None or high is None
            else Projected(settings.optimizer, low, high)
        )
        self._stepper = bind_optimizer(rule, backend)
        self.history: History | None = None
        if settings.strategy.uses_history and settings.parallelism > 1:
            self.history = make_history(settings, len(x), self.dtype, backend)
        self.tracker = make_tracker(self._stepper, self.history, settings.parallelism)
        rows = 0 if self.history is None else self.history.capacity
        self.unthreaded, few = (
            rows <= MAX_ROWS_UNTHREADED,
            rows
            <= (MAX_ROWS_UNTHREADED_SUBSPACE if self.tracker is not None else MAX_ROWS_UNTHREADED),
        )
        # Matrices of many rows are shared out among threads however few parameters there are.
        self._numbers = rows * max(len(x), 0 if few else rows) if backend.blas or not few else 0
        self.round: RoundState | None = None
        # late gradients and the user's, which enter the history with the next round
        self.arrivals: list[tuple[Array, Array]] = []
        self._seen: EngineView | None = None
        self._posterior: Posterior | None = None
        self._ahead: LikelihoodGrid | None = None
        self._overhead, self._note = 0.0, ""
        self.state = State(x, self._stepper.init(x), None)
        self.state.memory = settings.strategy.init(self._view())

    def _view(self) -> EngineView:
        s, made = self.state, self._seen
        if (
            made is not None
            and made.x is s.x
            and made.state is s.optimizer
            and made.overhead == self._overhead
        ):
            return made
        step = self._stepper.step if self.tracker is None else self.tracker.step
        # A view that holds the engine that keeps it would keep the memory of a run that is over
        # until Python looks for cycles.
        own, scale = weakref.ref(self), self.settings.scale
        given = (
            self.settings.parallelism,
            s.x,
            s.optimizer,
            step,
            lambda: own().posterior(),
            self.backend,
            scale,
            self._bounds.project,
            self._overhead,
        )  # type: ignore[union-attr]
        if self.tracker is not None:
            self._seen = SubspaceView(*given, tracker=self.tracker)
        else:
            self._seen = EngineView(
                *given,
                self._stepper.fused_steps,
                *([] if self.history is None else [self.history.prefetch_distances]),
            )
        return self._seen

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_seen": None}  # a copy has views of its own

    def posterior(self) -> Posterior | None:
        """The estimator fitted to the history as it is now; None while there are no rows. Fitted
        once per round.
        """
        h, s = self.history, self.state
        if h is None or not h.n:
            return None
        if self.round is None and self.tracker is None:
            h.prefetch_distances(s.x)  # for a plan: its steps begin there
        if s.fitted != h.total:
            s.hyper, self._note = fit_hyperparameters(
                self.settings.estimator, h, s.hyper, self._ahead
            )
            s.fitted, self._ahead = h.total, None
            self._posterior = None
        if self._posterior is None:
            given = (self.settings.estimator, h, s.hyper)
            self._posterior = (
                Posterior(*given)
                if self.tracker is None
                else SubspacePosterior(*given, basis=self.tracker.basis)
            )
            self._note = self._posterior.fallback or self._note
        return self._posterior

    def anticipate(self) -> None:
        """Do now what the open round's end will need of its points alone: for a driver that waits
        for gradients. No bit depends on it.
        """
        r, keeper = self.round, self.history if self.tracker is None else self.tracker
        if r is None or r.closing or self.state.finished:
            return
        for slot in range(self.settings.parallelism):
            candidate_seed(self.settings.seed, self.state.nit + 1, slot)
        if keeper is None:
            return
        with (
            blas_single_threaded(0 if self.unthreaded else self._numbers),
            self.backend.ignore_fp_warnings(),
        ):
            S = keeper.distances_after(
                [*(x for x, _ in self.arrivals), *r.plan.points[: len(r.candidates)]]
            )
            self._ahead = (
                None
                if S is None
                else precompute_likelihood_grid(self.settings.estimator, S, self.state.hyper)
            )

    def _record_arrivals(self, told: Sequence[tuple[Array, Array]] = ()) -> None:
        """Append what came late or from the user, then the pairs of the round."""
        assert self.history is not None
        pairs = [*self.arrivals, *told]
        if self.tracker is not None:
            self.tracker.extend(pairs)
        else:
            self.history.extend(pairs)
        self.arrivals.clear()

    def _hyper_row(self) -> tuple[float, float, float]:
        if self._posterior is None:
            return math.nan, math.nan, math.nan
        return self.state.hyper.length, self._posterior.noise, self.state.hyper.curvature
