"""Reference implementation of the method on one page: a round of `paper`, `corrected` and
`verified` as plain loops, every estimate solved anew in 50 digits by `kriging`.

Tests hold the package to it, and a user whose run surprises can ask it what should have been.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
from numpy.typing import ArrayLike

from optex_core.model.estimator import GradientEstimator
from optex_core.model.likelihood import Hyperparameters
from optex_core.strategies import trust_window as rules
from optex_core.testing.reference.kriging import Kriging, hyperparameters
from optex_core.types import Array, FirstOrderOptimizer

#: The true gradient at a point, or None where the evaluation fails.
Gradient = Callable[[Array], Array | None]


@dataclass
class ReferenceOptEx:
    """A run as plain loops: the optimizer a black box, every estimate solved anew."""

    x: Array  # x0, then theta_t
    optimizer: FirstOrderOptimizer  # FO-OPT, with ``init(x)`` and ``step(x, g, state)``
    parallelism: int  # N, at least 2
    settings: GradientEstimator  # with `history` and `mean`; `kernel_dims` None and `every` 1
    scale: ArrayLike | None = None  # shape (d,)
    rows: list[tuple[Array, Array]] = field(default_factory=list)  # oldest first
    hyper: Hyperparameters = field(default_factory=Hyperparameters)
    window: int = 0  # S, for `verified`
    steps: int = 0  # of the last round

    def __post_init__(self) -> None:
        """Begin at x0."""
        self.x = np.array(self.x, dtype=np.float64)
        self.state, self.window = self.optimizer.init(self.x), self.parallelism

    def estimate(self) -> Callable[[Array], Array]:
        """mu as a function, fitted to the rows; the mean gradient while all rows coincide."""
        X, G = (np.array(side) for side in zip(*self.rows, strict=True))
        self.hyper = h = hyperparameters(self.settings, X, G, self.hyper, self.scale)
        if h.length <= 0.0:
            return lambda _: G.mean(0)
        settings, prior = self.settings, self.settings.mean or "constant"
        return Kriging(
            settings.kernel, X, G, h.length, h.noise, prior, h.curvature, self.scale
        ).mean

    def _record(self, pairs: list[tuple[Array, Array | None]]) -> None:
        assert self.settings.history is not None
        kept = [*self.rows, *((x, g) for x, g in pairs if g is not None)]
        self.rows = kept[-self.settings.history :]

    def _rollout(self, steps: int) -> tuple[list[Array], list[object]]:
        """z_0 .. z_{steps-1} by estimated gradients, and the optimizer's states there."""
        points, states = [self.x], [self.state]
        if self.rows:
            mu = self.estimate()
            for _ in range(steps - 1):
                x, state = self.optimizer.step(points[-1], mu(points[-1]), states[-1])
                points.append(x)
                states.append(state)
        return points, states

    def _observe(self, gradient: Gradient) -> tuple[list[Array], list[object], list[Array]]:
        """Evaluate and record z_0 .. z_{N-1}; points, states, and gradients before a failure."""
        points, states = self._rollout(self.parallelism)
        observed = [gradient(z) for z in points]
        self._record(list(zip(points, observed, strict=True)))
        usable = [g for g in takewhile(lambda g: g is not None, observed) if g is not None]
        self.steps = len(usable)
        return points, states, usable

    def paper(self, gradient: Gradient) -> None:
        """One round: theta_{t+1} = FO-OPT(z_j, g_j), j the last slot before the first failure."""
        points, states, usable = self._observe(gradient)
        j = self.steps - 1
        self.x, self.state = self.optimizer.step(points[j], usable[j], states[j])

    def corrected(self, gradient: Gradient) -> None:
        """One round: the first step with g_0, the others with the estimate of the new rows too."""
        _, _, usable = self._observe(gradient)
        x, state = self.optimizer.step(self.x, usable[0], self.state)
        if self.steps > 1:
            mu = self.estimate()
            for _ in range(self.steps - 1):
                x, state = self.optimizer.step(x, mu(x), state)
        self.x, self.state = x, state

    def verified(self, gradient: Gradient) -> None:
        """One round: predict S steps, evaluate N of them, replay while |y_j - z_j| <= 0.6 max |z_i
        - theta_t|; then S grows or shrinks.
        """
        first, cold, N = not self.rows, len(self.rows) <= 1, self.parallelism
        most = min(self.window, rules.COLD_START_WINDOW) if cold else self.window
        points, _ = self._rollout(most)
        at = sorted({round(i) for i in np.linspace(0, len(points) - 1, min(N, len(points)))})
        observed = [gradient(points[i]) for i in at]
        g0 = observed[0]
        assert g0 is not None
        usable = 1
        while usable < len(observed) and _accepted(observed[usable], g0):
            usable += 1
        self._record([(points[i], g) for i, g in zip(at[:usable], observed[:usable], strict=True)])
        start, last = self.x, at[usable - 1] + 1
        x, state = self.optimizer.step(start, g0, self.state)
        self.steps, reach = 1, 0.0
        if not first:
            mu = self.estimate()
            while self.steps < last:
                reach = max(reach, self._distance(points[self.steps], start))
                if self._distance(x, points[self.steps]) > rules.TRUST_RADIUS * reach:
                    break
                x, state = self.optimizer.step(x, mu(x), state)
                self.steps += 1
            if self.steps >= len(points):
                self.window = min(
                    rules.MAX_WINDOW_PER_SLOT * N,
                    math.ceil(rules.GROWTH * self.window),
                )
            else:
                self.window = max(N, math.ceil(rules.SLACK * self.steps))
        self.x, self.state = x, state

    def _distance(self, a: Array, b: Array) -> float:
        return float(np.linalg.norm((a - b) / (1.0 if self.scale is None else self.scale)))


def _accepted(gradient: Array | None, first: Array) -> bool:
    limit = rules.OUTLIER_FACTOR * float(np.linalg.norm(first))
    return gradient is not None and float(np.linalg.norm(gradient)) <= limit
