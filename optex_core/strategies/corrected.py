"""Predict, evaluate, correct: replay the window with the refitted estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from optex_core.strategies.base import STRATEGIES, Advance, Plan, Strategy, Told, View, prefix, walk


@STRATEGIES.register
@dataclass(frozen=True, slots=True)
class Corrected(Strategy):
    """N steps of FO-OPT from theta_t: the first with the true g_0, the rest with the mean refitted to the N new rows.

    The refitted mean interpolates true gradients near the path, so the optimizer's state has seen nearly true gradients only. No further evaluations.
    """

    name: ClassVar[str] = "corrected"

    def plan(self, view: View, memory: Any) -> Plan:
        posterior = view.posterior() if view.parallelism > 1 else None
        if posterior is None:
            return Plan([view.x])
        points, _, means = walk(view, posterior, view.parallelism)
        return Plan(view.realise(points)[0], [*means, None], len(points))

    def advance(self, view: View, memory: Any, plan: Plan, told: Sequence[Told | None]) -> Advance:
        first = told[0]
        assert first is not None
        x, state = view.step(view.x, first.gradient, view.state, value=first.value)
        steps = 1
        if prefix(told) > 1:
            view.expect(x)
        posterior = view.posterior() if prefix(told) > 1 else None
        if posterior is None:
            return Advance(x, state, memory)
        walker = view.walker(posterior, *view.entered(x, state), prefix(told) - 1)
        while steps < prefix(told) and walker.go():
            steps += 1
        (x,), (state,) = view.realise([walker.x], [walker.state])
        return Advance(x, state, memory, steps)
