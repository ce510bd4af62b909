"""The trivial control: proxies that repeat the last true gradient."""

from __future__ import annotations

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
    usable_prefix,
)
from optex_core.types import Array


@dataclass(frozen=True, slots=True)
class RepeatLastState:
    """The newest true gradient, shape (d,); None before the first."""

    gradient: Array | None = None


@STRATEGIES.register
@dataclass(frozen=True, slots=True)
class RepeatLast(Strategy):
    """As `paper`, with the last true gradient in place of the estimate: what prediction has to
    beat.
    """

    name: ClassVar[str] = "repeat_last"
    uses_history: ClassVar[bool] = False

    def init(self, view: EngineView) -> RepeatLastState:
        return RepeatLastState()

    def plan(self, view: EngineView, strategy_state: RepeatLastState) -> Proposal:
        points, states = [view.x], [view.state]
        predictions: list[Array | None] = [strategy_state.gradient]
        while strategy_state.gradient is not None and len(points) < view.parallelism:
            x, state = view.step(points[-1], strategy_state.gradient, states[-1], trusted=False)
            if not view.backend.all_finite(x):
                break
            points.append(x)
            states.append(state)
            predictions.append(strategy_state.gradient)
        return Proposal(points, predictions, len(points), states)

    def advance(
        self,
        view: EngineView,
        strategy_state: RepeatLastState,
        proposal: Proposal,
        observations: Sequence[Observation | None],
    ) -> Update:
        j = usable_prefix(observations) - 1
        last = observations[j]
        assert last is not None
        x, state = view.step(proposal.points[j], last.gradient, proposal.cache[j], value=last.value)
        return Update(x, state, RepeatLastState(last.gradient), j + 1)
