"""Rosenbrock's curved valley."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optex_core.problems.base import PROBLEMS, ClosedForm


@PROBLEMS.register
@dataclass(frozen=True, slots=True)
class Rosenbrock(ClosedForm):
    """A narrow curved valley with a flat floor, in the coupled form for d parameters.

    f(x) = sum_{i<d} 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2. Minimum 0 at (1, ..., 1); from d = 4
    there is a local minimum near (-1, 1, ..., 1). The start is uniform on [-1, 1]^d; d is at least
    2. (Rosenbrock, The Computer Journal 3, 1960.)
    """

    name = "rosenbrock"
    rate = 0.05
    min_d = 2
    start_range = (-1, 1)
    minimizer_entry = 1.0

    def rows(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        left = X[:, :-1]
        climb, miss = X[:, 1:] - left**2, 1 - left
        G = np.zeros_like(X)
        G[:, :-1] = -400 * left * climb - 2 * miss
        G[:, 1:] += 200 * climb
        return 100 * np.vecdot(climb, climb) + (miss**2).sum(1), G
