"""The trivial control: proxies that repeat the last true gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optex_core.strategies.base import STRATEGIES, Observations, Proposal, Strategy, Update
from optex_core.strategies.rollout import EngineView
from optex_core.types import Array


@dataclass(frozen=True, slots=True)
class RepeatLastState:
    """The newest true gradient, shape (d,); None before the first."""

    gradient: Array | None = None


@STRATEGIES.register
@dataclass(frozen=True, slots=True)
class RepeatLast(Strategy):
    """As `Paper`, with the last true gradient for the estimate: what prediction has to beat."""

    name: ClassVar[str] = "repeat_last"
    uses_history: ClassVar[bool] = False

    def init(self, view: EngineView) -> RepeatLastState:
        return RepeatLastState()

    def plan(self, view: EngineView, strategy_state: RepeatLastState) -> Proposal:
        points, states, gradient = [view.x], [view.state], strategy_state.gradient
        while gradient is not None and len(points) < view.parallelism:
            x, state = view.step(points[-1], gradient, states[-1], trusted=False)
            if not view.backend.all_finite(x):
                break
            points.append(x)
            states.append(state)
        return Proposal(points, [gradient] * len(points), len(points), cache=states)

    def select(self, observations: Observations) -> int:
        return len(self.usable(observations)) - 1

    def advance(
        self,
        view: EngineView,
        strategy_state: RepeatLastState,
        proposal: Proposal,
        observations: Observations,
    ) -> Update:
        j = self.select(observations)
        last = self.usable(observations)[j]
        state = proposal.cache[j]
        x, state = view.step(proposal.points[j], last.gradient, state, value=last.value)
        return Update(x, state, RepeatLastState(last.gradient), j + 1)
