"""The baseline that spends its evaluations on the length of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from optex_core.strategies.base import (
    STRATEGIES,
    EngineView,
    Observation,
    Proposal,
    Strategy,
    Update,
)
from optex_core.types import Array


@dataclass(frozen=True, slots=True)
class LineSearchState:
    """theta_t - theta_{t-1}, shape (d,); None before the first step."""

    step: Array | None = None


@STRATEGIES.register
@dataclass(frozen=True, slots=True)
class LineSearch(Strategy):
    """z_j = theta_t + j (theta_t - theta_{t-1}), j = 0..N-1; the lowest value wins and the
    optimizer steps from there.

    References
    ----------
    The `run_line_search` baseline of the authors' release of arXiv 2402.11427, with the optimizer's
    own step in place of lr x gradient.
    """

    name: ClassVar[str] = "line_search"
    uses_history: ClassVar[bool] = False

    @property
    def needs_values(self) -> bool:
        return True

    def init(self, view: EngineView) -> LineSearchState:
        return LineSearchState()

    def plan(self, view: EngineView, strategy_state: LineSearchState) -> Proposal:
        if strategy_state.step is None:
            return Proposal([view.x])
        points = [view.x]
        for j in range(1, view.parallelism):
            point = view.project(view.backend.axpy(float(j), strategy_state.step, view.x))
            if not view.backend.all_finite(point):
                break
            points.append(point)
        return Proposal(points, predicted_steps=len(points))

    def advance(
        self,
        view: EngineView,
        strategy_state: LineSearchState,
        proposal: Proposal,
        observations: Sequence[Observation | None],
    ) -> Update:
        values = [math.inf if one is None else one.value for one in observations]
        j = values.index(min(values))
        best = observations[j]
        assert best is not None
        x, state = view.step(proposal.points[j], best.gradient, view.state, value=best.value)
        return Update(x, state, LineSearchState(view.backend.axpy(-1.0, view.x, x)))
