"""Predict, evaluate, correct: the window again with the refitted estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optex_core.strategies.base import STRATEGIES, Observations, Proposal, Strategy, Update
from optex_core.strategies.rollout import EngineView


@STRATEGIES.register
@dataclass(frozen=True, slots=True)
class Corrected(Strategy):
    """N steps of FO-OPT from theta_t: the first with g_0, the others with the refitted mean.

    The mean refitted to the N new rows interpolates true gradients near the path, so the
    optimizer's state has seen nearly true gradients only. `testing.reference.optex` has the same as
    plain loops.
    """

    name: ClassVar[str] = "corrected"

    def plan(self, view: EngineView, strategy_state: object) -> Proposal:
        path = view.predict(view.parallelism - 1)
        return Proposal.along(path)

    def advance(
        self,
        view: EngineView,
        strategy_state: object,
        proposal: Proposal,
        observations: Observations,
    ) -> Update:
        usable = self.usable(observations)
        first = usable[0]
        x, state = view.step(view.x, first.gradient, view.state, value=first.value)
        rollout = view.rollout(len(usable) - 1, x, state)
        rollout.run()
        return Update(rollout.x, rollout.state, strategy_state, steps=1 + rollout.taken)
