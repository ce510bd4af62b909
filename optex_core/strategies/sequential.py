"""The baseline: the optimizer alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optex_core.strategies.base import STRATEGIES, Observations, Proposal, Strategy, Update
from optex_core.strategies.rollout import EngineView


@STRATEGIES.register
@dataclass(frozen=True, slots=True)
class Sequential(Strategy):
    """theta_{t+1} = FO-OPT(theta_t, g_t): one candidate an iteration, whatever the parallelism."""

    name: ClassVar[str] = "sequential"
    uses_history: ClassVar[bool] = False

    def plan(self, view: EngineView, strategy_state: object) -> Proposal:
        return Proposal([view.x])

    def advance(
        self,
        view: EngineView,
        strategy_state: object,
        proposal: Proposal,
        observations: Observations,
    ) -> Update:
        first = self.usable(observations)[0]
        x, state = view.step(view.x, first.gradient, view.state, value=first.value)
        return Update(x, state, strategy_state)
