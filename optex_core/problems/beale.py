"""Beale's function of two parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optex_core.problems.base import PROBLEMS, RowsProblem


@PROBLEMS.register
@dataclass(frozen=True, slots=True)
class Beale(RowsProblem):
    """Steep walls in the corners and a long flat valley between them; d = 2.

    f(x, y) = sum_{k=1..3} (c_k - x (1 - y^k))^2, c = (1.5, 2.25, 2.625). Minimum 0 at (3, 1/2). The
    start is the standard one, (1, 1). (Problem 5 of More, Garbow, Hillstrom, ACM TOMS 7, 1981.)
    """

    name = "beale"
    rate = 0.1

    @property
    def d(self) -> int:
        return 2

    def start(self, rng: int | np.random.Generator = 0) -> np.ndarray:
        return np.ones(2)

    def rows(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = X[:, :1], X[:, 1:]
        k = np.arange(1, 4)
        residual = np.array((1.5, 2.25, 2.625)) - x * (1 - y**k)
        G = np.empty_like(X)
        G[:, 0] = 2 * (residual * (y**k - 1)).sum(1)
        G[:, 1] = 2 * (residual * (x * k * y ** (k - 1))).sum(1)
        return (residual**2).sum(1), G

    @property
    def minimum(self) -> float:
        return 0.0

    @property
    def minimizer(self) -> np.ndarray:
        return np.array((3.0, 0.5))
