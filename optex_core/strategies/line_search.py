"""The baseline that spends its evaluations on the length of the step.

The line search of `lookahead` with one gradient a round is in `_lookahead/wolfe_search.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from optex_core.strategies.base import STRATEGIES, Observations, Proposal, Strategy, Update
from optex_core.strategies.rollout import EngineView
from optex_core.types import Array


@dataclass(frozen=True, slots=True)
class LineSearchState:
    """theta_t - theta_{t-1}, shape (d,); None before the first step."""

    step: Array | None = None


@STRATEGIES.register
@dataclass(frozen=True, slots=True)
class LineSearch(Strategy):
    """z_j = theta_t + j (theta_t - theta_{t-1}), j = 0..N-1; one step from the lowest value.

    A baseline of the authors' release of arXiv 2402.11427, with the optimizer's own step.
    """

    name: ClassVar[str] = "line_search"
    uses_history: ClassVar[bool] = False

    @property
    def needs_values(self) -> bool:
        return True

    def init(self, view: EngineView) -> LineSearchState:
        return LineSearchState()

    def plan(self, view: EngineView, strategy_state: LineSearchState) -> Proposal:
        points = [view.x]
        if strategy_state.step is not None:
            for j in range(1, view.parallelism):
                point = view.backend.axpy(float(j), strategy_state.step, view.x)
                point = view.project(point)
                if not view.backend.all_finite(point):
                    break
                points.append(point)
        return Proposal(points, predicted_steps=len(points))

    def select(self, observations: Observations) -> int:
        values = [math.inf if one is None else one.value for one in observations]
        return values.index(min(values))

    def advance(
        self,
        view: EngineView,
        strategy_state: LineSearchState,
        proposal: Proposal,
        observations: Observations,
    ) -> Update:
        j = self.select(observations)
        best = observations[j]
        assert best is not None
        x, state = view.step(proposal.points[j], best.gradient, view.state, value=best.value)
        return Update(x, state, LineSearchState(view.backend.axpy(-1.0, view.x, x)))
