"""Predict a long window, evaluate some of it, refit, replay while it can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from optex_core._validation import integer, positive
from optex_core.strategies.base import (
    STRATEGIES,
    EngineView,
    Observation,
    Proposal,
    Strategy,
    Update,
    equally_spaced,
    means_at,
    rollout_path,
    usable_prefix,
)
from optex_core.strategies.trust_window import (
    COLD_START_WINDOW,
    TRUST_RADIUS,
    corrected_rollout,
    next_window,
    truncate_outliers,
)


@dataclass(frozen=True, slots=True)
class VerifiedState:
    """The memory.

    Attributes
    ----------
    steps : int
        S, the number of steps to predict.
    before : int
        Steps that the last round predicted, whose own work `EngineView.overhead` tells; 0 before
        the first.
    """

    steps: int
    before: int = 0


@STRATEGIES.register
@dataclass(frozen=True, slots=True)
class Verified(Strategy):
    """Replay with the refitted mean along the part of the window that the prediction did not miss
    by much; at worst one plain step.

    Predict S >= N steps, evaluate N true gradients at equally spaced ones (z_0 always), refit,
    replay: y_1 from the true g_0, then with the refitted mean while |y_j - z_j| <= 0.6 max |z_i -
    theta_t|. S grows by 1.5 up to 8 N when all was accepted, else becomes 1.2 x the accepted
    length, at least N. While the history has one row the window has 3 points; a gradient longer
    than 10 |g_0| ends what is recorded and replayed.

    Parameters
    ----------
    window : int or None, default None
        Given: S is held there, as far as `max_overhead` allows.
    max_overhead : float or None, default None
        Given: the window is no longer than what keeps our own work within this share of the
        gradients' time, but at least N. That work is taken to be proportional to the window: a
        round that predicted S' steps and took the share o allows S <= S' max_overhead / o; with a
        part that does not depend on S the windows come down, or up, to what is allowed and stay
        there. (Halving the window after a round that had taken too long swung between 0.75 and 1.5
        times the share.) Runs then depend on timing, and say so. `minimize` measures both times;
        whoever drives `OptEx` tells them by `note_time`. None: no clock has any influence.
    trust : float, default 0.6
        The factor of the test above.

    Notes
    -----
    Not in the paper. Measured: 15 noise-free problems, 4.4 x (N = 2) and 5.3 x (N = 5) fewer rounds
    than the optimizer alone.
    """

    name: ClassVar[str] = "verified"
    rejects_outliers: ClassVar[bool] = True
    mean: ClassVar[str] = "linear"
    window: int | None = None
    max_overhead: float | None = None
    trust: float = TRUST_RADIUS

    def __post_init__(self) -> None:
        if self.window is not None:
            # steps are counted in floats where a path is spread
            integer("window", self.window, low=1, high=2**53)
        positive("trust", self.trust)
        if self.max_overhead is not None:
            positive("max_overhead", self.max_overhead)

    def init(self, view: EngineView) -> VerifiedState:
        return VerifiedState(self.window or view.parallelism)

    def plan(self, view: EngineView, strategy_state: VerifiedState) -> Proposal:
        posterior = view.posterior() if view.parallelism > 1 else None
        if posterior is None:
            return Proposal([view.x])
        points, _, means = rollout_path(
            view,
            posterior,
            strategy_state.steps
            if posterior.n > 1
            else min(strategy_state.steps, COLD_START_WINDOW),
        )
        at = equally_spaced(len(points), view.parallelism)
        return Proposal(
            view.materialize([points[i] for i in at])[0],
            means_at(posterior, points, means, at),
            len(points),
            (points, at),
        )

    def filter_observations(
        self, view: EngineView, proposal: Proposal, observations: Sequence[Observation | None]
    ) -> Sequence[Observation | None]:
        return truncate_outliers(observations)

    def advance(
        self,
        view: EngineView,
        strategy_state: VerifiedState,
        proposal: Proposal,
        observations: Sequence[Observation | None],
    ) -> Update:
        first = observations[0]
        assert first is not None
        x, state = view.step(view.x, first.gradient, view.state, value=first.value)
        if proposal.cache is None:
            return Update(x, state, VerifiedState(strategy_state.steps, 1))
        path, at = proposal.cache
        last = at[usable_prefix(observations) - 1] + 1
        view.prefetch_distances(x)
        posterior = view.posterior()
        assert posterior is not None  # the rows just evaluated are in it
        x, state, steps = corrected_rollout(view, posterior, x, state, path, last, trust=self.trust)
        window = self.window or next_window(
            strategy_state.steps, steps, steps >= len(path), view.parallelism, view.parallelism
        )
        most = self._most(view, strategy_state)
        kept = window if most is None else min(window, most)
        return Update(
            x, state, VerifiedState(kept, len(path)), steps, depends_on_timing=kept < window
        )

    def _most(self, view: EngineView, strategy_state: VerifiedState) -> int | None:
        """The longest window that `max_overhead` allows, by what the last round took; None where
        nothing is known or asked.
        """
        if self.max_overhead is None or not strategy_state.before or not view.overhead:
            return None
        return max(view.parallelism, int(strategy_state.before * self.max_overhead / view.overhead))
