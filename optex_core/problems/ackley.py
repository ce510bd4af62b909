"""Ackley's function: nearly flat far out, many shallow local minima, a kink at the minimum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optex_core.problems.base import PROBLEMS, ClosedForm


@PROBLEMS.register
@dataclass(frozen=True, slots=True)
class Ackley(ClosedForm):
    """A funnel whose sides are covered with ripples.

    f(x) = 20 (1 - exp(-r / 5)) + e - exp(c), with r = sqrt(mean x_i^2) and c = mean cos(2 pi x_i).
    Minimum 0 at 0, where f has a kink like |x| (no Lipschitz gradient); 0, a subgradient, is
    returned there. The start is uniform on [-2, 2]^d. (Ackley, A connectionist machine for genetic
    hillclimbing, 1987; for d parameters Baeck, Schwefel, Evolutionary Computation 1, 1993.)
    """

    name = "ackley"
    # steps over the ripples: with 0.3 and less Adam stays at 4.9, with 0.5 it reaches 0.1
    rate = 0.5
    start_range = (-2, 2)

    def rows(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        angle = 2 * np.pi * X
        r = np.sqrt(np.mean(X**2, axis=1, keepdims=True))
        cone = np.exp(-r / 5)
        ripple = np.exp(np.cos(angle).mean(axis=1, keepdims=True))
        values = -20 * np.expm1(-r / 5) + (np.exp(1.0) - ripple)
        # x / r at x = 0 is 0 / 0; any r there gives the subgradient 0.
        slope = 4 * cone / np.where(r > 0, r, 1.0)
        return values[:, 0], (slope * X + 2 * np.pi * ripple * np.sin(angle)) / self.d
