"""The baseline: the optimizer alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from optex_core.strategies.base import STRATEGIES, Advance, Plan, Strategy, Told, View


@STRATEGIES.register
@dataclass(frozen=True, slots=True)
class Sequential(Strategy):
    """theta_{t+1} = FO-OPT(theta_t, g_t): one candidate a round, whatever the parallelism."""

    name: ClassVar[str] = "sequential"
    uses_history: ClassVar[bool] = False

    def plan(self, view: View, memory: Any) -> Plan:
        return Plan([view.x])

    def advance(self, view: View, memory: Any, plan: Plan, told: Sequence[Told | None]) -> Advance:
        first = told[0]
        assert first is not None
        x, state = view.step(view.x, first.gradient, view.state, value=first.value)
        return Advance(x, state, memory)
