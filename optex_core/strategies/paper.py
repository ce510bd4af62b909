"""The published method: advance from the end of the predicted path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optex_core._validation import one_of
from optex_core.strategies.base import STRATEGIES, Observations, Proposal, Strategy, Update
from optex_core.strategies.rollout import EngineView


@STRATEGIES.register
@dataclass(frozen=True, slots=True)
class Paper(Strategy):
    """theta_{t+1} = FO-OPT(z_j, g_j) with the predicted optimizer state at z_j.

    z_0 = theta_t and z_s = FO-OPT(z_{s-1}, mu(z_{s-1})). `testing.reference.optex` has the same as
    plain loops. The first iteration has no model and one point. The prior mean of the gradients is
    a constant; the paper's is zero: ``estimator=GradientEstimator(mean="zero")``.

    Parameters
    ----------
    selection : {"last", "value", "gradient_norm"}, default "last"
        j: the end of the path (the paper's choice), or the point with the lowest observed value or
        gradient norm.

    References
    ----------
    arXiv 2402.11427, algorithm 1; the selections are those of its ablation, figure 6(b).
    """

    name: ClassVar[str] = "paper"
    selection: str = "last"

    def __post_init__(self) -> None:
        one_of("selection", self.selection, ("last", "value", "gradient_norm"))

    @property
    def needs_values(self) -> bool:
        return self.selection == "value"

    def plan(self, view: EngineView, strategy_state: object) -> Proposal:
        path = view.predict(view.parallelism - 1, states=True)
        return Proposal.along(path)

    def select(self, observations: Observations) -> int:
        usable = self.usable(observations)
        if self.selection == "last" or len(usable) == 1:
            return len(usable) - 1
        if self.selection == "value":
            return min(range(len(usable)), key=lambda i: usable[i].value)
        return min(range(len(usable)), key=lambda i: usable[i].squared_norm)

    def advance(
        self,
        view: EngineView,
        strategy_state: object,
        proposal: Proposal,
        observations: Observations,
    ) -> Update:
        j = self.select(observations)
        z, state, one = proposal.points[j], proposal.state(j), self.usable(observations)[j]
        x, state = view.step(z, one.gradient, state, value=one.value)
        return Update(x, state, strategy_state, steps=j + 1)
