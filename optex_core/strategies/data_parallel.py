"""The baseline that every parallel machine already has: N gradients at one point, averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from optex_core.strategies.base import (
    STRATEGIES,
    EngineView,
    Observation,
    Proposal,
    Strategy,
    Update,
)


@STRATEGIES.register
@dataclass(frozen=True, slots=True)
class DataParallel(Strategy):
    """theta_{t+1} = FO-OPT(theta_t, mean of N gradients at theta_t, each with a seed of its own).

    References
    ----------
    Shallue et al., Measuring the effects of data parallelism on neural network training, JMLR
    20:112, 2019, arXiv 1811.03600.
    """

    name: ClassVar[str] = "data_parallel"
    uses_history: ClassVar[bool] = False
    averages_gradients: ClassVar[bool] = True

    def plan(self, view: EngineView, strategy_state: Any) -> Proposal:
        return Proposal([view.x] * view.parallelism)

    def advance(
        self,
        view: EngineView,
        strategy_state: Any,
        proposal: Proposal,
        observations: Sequence[Observation | None],
    ) -> Update:
        usable = [one for one in observations if one is not None]
        gradient = (
            usable[0].gradient
            if len(usable) == 1
            else view.backend.mean([one.gradient for one in usable])
        )
        value = usable[0].value + sum(one.value - usable[0].value for one in usable) / len(usable)
        x, state = view.step(view.x, gradient, view.state, value=value)
        return Update(x, state, strategy_state)
