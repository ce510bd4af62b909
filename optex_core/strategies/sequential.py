"""The baseline: the optimizer alone."""

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
class Sequential(Strategy):
    """theta_{t+1} = FO-OPT(theta_t, g_t): one candidate a round, whatever the parallelism."""

    name: ClassVar[str] = "sequential"
    uses_history: ClassVar[bool] = False

    def plan(self, view: EngineView, strategy_state: Any) -> Proposal:
        return Proposal([view.x])

    def advance(
        self,
        view: EngineView,
        strategy_state: Any,
        proposal: Proposal,
        observations: Sequence[Observation | None],
    ) -> Update:
        first = observations[0]
        assert first is not None
        x, state = view.step(view.x, first.gradient, view.state, value=first.value)
        return Update(x, state, strategy_state)
