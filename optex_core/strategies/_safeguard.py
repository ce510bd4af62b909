"""A safeguard: the unaccelerated optimizer beside the windows, and the return to it.

Safeguarded accelerations of a fixed-point iteration keep its plain step and take it where the
accelerated one is no better (Zhang, O'Donoghue, Boyd, SIAM J. Optim. 30, 2020, for Anderson's).
Here the plain iteration goes on as a sequence of its own, on one gradient an iteration.

Notes
-----
Measured on 30 noise-free problems at 0.3, 1 and 3 times a rate that suits, to three goals by the
best evaluated point. Slower than the optimizer alone (by 5 % and 3 iterations) without it: 11, 12,
10, 8 of 90 at N = 2, 4, 8, 16, at worst 0.22 times as fast; with it 4, 0, 0, 0, at worst 0.22 and
1.0. The speed-up at N = 2 goes from 3.38 to 3.33, at N = 4 from 3.75 to 3.97. A slot at all times
costs half of the gradients at N = 2: 2.78, but 0 of 30 slower. The numbers for N = 2 were fitted to
these problems; for N >= 3 nothing was.

Without values (rates 1 and 3): slower on 12 -> 1 of 60 at N = 4, 11 -> 7 at N = 2, where the
speed-up falls from 2.37 to 2.04.

Waiting 2, 3, 5 or a doubling number of iterations before the return: no difference. A return to the
windows' own lowest iterate: 3.75 -> 3.87 at N = 4, but slower at low rates. |mu - g| at the end of
the window as the test: 0.1 to 1.2 on problems where windows pay and where they do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from optex_core.strategies.base import Observation
from optex_core.strategies.rollout import EngineView
from optex_core.types import Array

#: From so many gradients an iteration on, one of them is always the undisturbed optimizer's.
ALWAYS_FROM = 3
#: With two it takes part only in doubt, which begins where a value rises above the lowest, and
#: after more than SHORT_IN_A_ROW windows of fewer than LONG_WINDOW steps. Doubt lasts FIRST_DOUBT
#: iterations; DOUBT_GROWTH times as many, at most LONGEST_DOUBT, after each in which it was ahead.
FIRST_DOUBT, DOUBT_GROWTH, LONGEST_DOUBT = 16, 4, 1024
SHORT_IN_A_ROW, LONG_WINDOW = 3, 4


@dataclass(frozen=True, slots=True)
class Safeguard:
    """The optimizer alone, and the lowest value of the windows since both stood at one point.

    With exact values and N >= 3 the lowest value of a run is never above that of the undisturbed
    optimizer after as many iterations: it always takes part.
    """

    #: Of the undisturbed optimizer, shape (d,), and its state there; None with one gradient an
    #: iteration.
    x: Any = None
    state: object = None
    apart: bool = False  # False while that is where the run is
    low: float = math.inf  # the lowest value of the windows' iterates since
    #: With two gradients: iterations to come in which it takes part; how many the next time;
    #: windows in a row that were short.
    doubt: int = 0
    patience: int = FIRST_DOUBT
    short: int = 0

    def restarted(self, x: Array, state: object) -> Safeguard:
        """The safeguard with both at one point."""
        if self.x is None:
            return self
        return replace(self, x=x, state=state, apart=False, low=math.inf)

    def evaluations(self, parallelism: int) -> int:
        """Gradients of an iteration that it takes, 0 or 1."""
        return int(self.apart and (parallelism >= ALWAYS_FROM or self.doubt > 0))

    def needs_step(self, parallelism: int) -> bool:
        """True if `advance` needs the plain step from theta_t."""
        return not self.apart or not self.evaluations(parallelism)

    def advance(
        self,
        view: EngineView,
        first: Observation,
        alone: Observation | None,
        plain: tuple[Array, object] | None,
        end: Array,
        steps: int,
    ) -> tuple[Safeguard, bool]:
        """The safeguard after an iteration, and whether the run goes on from it.

        `first` was observed at theta_t, `alone` at `x`, where it took part. `plain` is one step
        with the true gradient from theta_t, where `needs_step`. The window of `steps` steps ends at
        `end`.
        """
        short = self.short + 1 if steps < LONG_WINDOW else 0
        doubted = short > 0 and (self.patience > FIRST_DOUBT or short > SHORT_IN_A_ROW)
        kept = replace(self, short=short, doubt=max(self.doubt - 1, int(doubted)))
        N, value = view.parallelism, first.value
        if not self.apart:
            assert plain is not None
            kept = replace(kept, x=plain[0], state=plain[1], apart=plain[0] is not end)
            watched = kept.apart and not kept.evaluations(N)
            return replace(kept, low=value if watched else math.inf), False
        if not self.evaluations(N):  # two gradients, both the windows'
            if value > self.low:  # it goes on from before the window
                return replace(kept, low=math.inf, doubt=self.patience), False
            assert plain is not None
            low = math.inf if doubted else value
            return replace(kept, x=plain[0], state=plain[1], low=low), False
        low = min(self.low, value)
        if alone is None:
            return replace(kept, low=low), False
        own = alone.value
        if math.isnan(value):
            low, own, value = value_difference(view, first, self.x, alone), 0.0, 0.0
        x, state = view.step(self.x, alone.gradient, self.state, value=alone.value)
        if own < low:
            patience = min(DOUBT_GROWTH * self.patience, LONGEST_DOUBT)
            return replace(kept, doubt=patience, patience=patience).restarted(x, state), True
        doubt = kept.doubt if value < own else max(kept.doubt, 1)
        kept = replace(kept, x=x, state=state, doubt=doubt)
        return kept if math.isnan(first.value) else replace(kept, low=low), False


def value_difference(view: EngineView, first: Observation, x: Array, alone: Observation) -> float:
    """f(theta_t) - f(x) from the gradients there, by the trapezoidal rule: exact for quadratics."""
    between = view.backend.axpy(-1.0, x, view.x)
    slopes = view.backend.dot(first.gradient, between) + view.backend.dot(alone.gradient, between)
    return 0.5 * slopes
