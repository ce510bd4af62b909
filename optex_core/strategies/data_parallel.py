"""The baseline of every parallel machine: N gradients at one point, averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optex_core.strategies.base import STRATEGIES, Observations, Proposal, Strategy, Update
from optex_core.strategies.rollout import EngineView


@STRATEGIES.register
@dataclass(frozen=True, slots=True)
class DataParallel(Strategy):
    """theta_{t+1} = FO-OPT(theta_t, mean of N gradients at theta_t, each with its own seed).

    Shallue et al., Measuring the effects of data parallelism, JMLR 20:112, 2019, arXiv 1811.03600.
    """

    name: ClassVar[str] = "data_parallel"
    uses_history: ClassVar[bool] = False

    def averages_gradients(self, strategy_state: object) -> bool:
        return True

    def plan(self, view: EngineView, strategy_state: object) -> Proposal:
        return Proposal([view.x] * view.parallelism)

    def advance(
        self,
        view: EngineView,
        strategy_state: object,
        proposal: Proposal,
        observations: Observations,
    ) -> Update:
        usable = [one for one in observations if one is not None]
        gradients, first = [one.gradient for one in usable], usable[0].value
        gradient = gradients[0] if len(usable) == 1 else view.average(gradients)
        value = first + sum(one.value - first for one in usable) / len(usable)
        x, state = view.step(view.x, gradient, view.state, value=value)
        return Update(x, state, strategy_state)
