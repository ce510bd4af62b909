"""The published method: advance from the end of the predicted chain."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from optex_core._validation import one_of
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
class Paper(Strategy):
    """theta_{t+1} = FO-OPT(z_j, g_j) with the proxy's optimizer state, z_s = FO-OPT(z_{s-1},
    mu(z_{s-1})).

    Parameters
    ----------
    selection : {"last", "value", "gradient_norm"}, default "last"
        j: the end of the chain (the paper's choice), or the point with the lowest value or gradient
        norm told.

    References
    ----------
    Shu, Fang, He, Yu, OptEx, NeurIPS 2024, arXiv 2402.11427, algorithm 1; the selections are those
    of its ablation, figure 6(b).
    """

    name: ClassVar[str] = "paper"
    selection: str = "last"

    def __post_init__(self) -> None:
        one_of("selection", self.selection, ("last", "value", "gradient_norm"))

    @property
    def needs_values(self) -> bool:
        return self.selection == "value"

    def plan(self, view: EngineView, strategy_state: Any) -> Proposal:
        posterior = view.posterior() if view.parallelism > 1 else None
        if posterior is None:
            return Proposal([view.x])
        points, states, means = rollout_path(view, posterior, view.parallelism)
        arrays, _ = view.materialize(points, states[-1:])
        return Proposal(arrays, [*means, None], len(points), states)

    def filter_observations(
        self, view: EngineView, proposal: Proposal, observations: Sequence[Observation | None]
    ) -> Sequence[Observation | None]:
        # the state there is made now, while the rows that it is a sum of are all in the history
        if proposal.cache is not None:
            j = self._chosen(view, observations)
            # the same predictions and steps again give the same bits: no row of the round is in the
            # history yet
            if proposal.cache[j] is None:
                posterior = view.posterior()
                assert posterior is not None
                rollout = view.rollout(posterior, view.x, view.state, j)
                for _ in range(j):
                    rollout.step()
                proposal.cache[j] = rollout.state
            proposal.cache[j : j + 1] = view.materialize([], proposal.cache[j : j + 1])[1]
        return observations

    def required_gradients(
        self, view: EngineView, observations: Sequence[Observation | None]
    ) -> Collection[int]:
        return (self._chosen(view, observations),)

    def _chosen(self, view: EngineView, observations: Sequence[Observation | None]) -> int:
        """j, by what was told before the first failure."""
        usable = [one for one in observations[: usable_prefix(observations)] if one is not None]
        if self.selection == "last" or len(usable) == 1:
            return len(usable) - 1
        if self.selection == "value":
            return min(range(len(usable)), key=lambda i: usable[i].value)
        return min(range(len(usable)), key=lambda i: usable[i].squared_norm)

    def advance(
        self,
        view: EngineView,
        strategy_state: Any,
        proposal: Proposal,
        observations: Sequence[Observation | None],
    ) -> Update:
        j = self._chosen(view, observations)
        one = observations[j]
        assert one is not None
        state = view.state if proposal.cache is None else proposal.cache[j]
        x, state = view.step(proposal.points[j], one.gradient, state, value=one.value)
        return Update(x, state, strategy_state, j + 1)
