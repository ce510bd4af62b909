"""Predict, evaluate, correct: replay the window with the refitted estimate."""

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
    rollout_path,
    usable_prefix,
)


@STRATEGIES.register
@dataclass(frozen=True, slots=True)
class Corrected(Strategy):
    """N steps of FO-OPT from theta_t: the first with the true g_0, the rest with the mean refitted
    to the N new rows.

    The refitted mean interpolates true gradients near the path, so the optimizer's state has seen
    nearly true gradients only. No further evaluations.
    """

    name: ClassVar[str] = "corrected"

    def plan(self, view: EngineView, strategy_state: Any) -> Proposal:
        posterior = view.posterior() if view.parallelism > 1 else None
        if posterior is None:
            return Proposal([view.x])
        points, _, means = rollout_path(view, posterior, view.parallelism)
        return Proposal(view.materialize(points)[0], [*means, None], len(points))

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
        steps = 1
        if usable_prefix(observations) > 1:
            view.prefetch_distances(x)
        posterior = view.posterior() if usable_prefix(observations) > 1 else None
        if posterior is None:
            return Update(x, state, strategy_state)
        rollout = view.rollout(posterior, *view.lift(x, state), usable_prefix(observations) - 1)
        while steps < usable_prefix(observations) and rollout.step():
            steps += 1
        (x,), (state,) = view.materialize([rollout.x], [rollout.state])
        return Update(x, state, strategy_state, steps)
