"""The paper's ideal "Target": N true steps counted as one iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optex_core.strategies.base import STRATEGIES, Observations, Proposal, Strategy, Update
from optex_core.strategies.rollout import EngineView


@dataclass(frozen=True, slots=True)
class TargetState:
    """Steps taken within the iteration."""

    steps: int = 0


@STRATEGIES.register
@dataclass(frozen=True, slots=True)
class Target(Strategy):
    """N sequential steps with true gradients, one ask each, counted as one iteration.

    The upper limit that prediction approaches: "Target" in arXiv 2402.11427, section 6. No parallel
    method can reach it. The stopping criterion `target=` is another thing.
    """

    name: ClassVar[str] = "target"
    uses_history: ClassVar[bool] = False

    def init(self, view: EngineView) -> TargetState:
        return TargetState()

    def plan(self, view: EngineView, strategy_state: TargetState) -> Proposal:
        return Proposal([view.x], predicted_steps=view.parallelism)

    def advance(
        self,
        view: EngineView,
        strategy_state: TargetState,
        proposal: Proposal,
        observations: Observations,
    ) -> Update:
        first = self.usable(observations)[0]
        x, state = view.step(view.x, first.gradient, view.state, value=first.value)
        steps = strategy_state.steps + 1
        complete = steps >= view.parallelism
        return Update(x, state, TargetState(0 if complete else steps), complete=complete)
