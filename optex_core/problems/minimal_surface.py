"""A minimal surface: slow, stiff modes that momentum needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from optex_core._validation import integer
from optex_core.errors import ArgumentError
from optex_core.problems.base import PROBLEMS, RowsProblem


@PROBLEMS.register
@dataclass(frozen=True, slots=True)
class MinimalSurface(RowsProblem):
    """The area of a graph over the unit square with given heights on its boundary.

    Piecewise linear on (m + 1)^2 cells of two triangles, d = m^2 inner heights; the boundary is
    +-2 sin(2 pi t) on two opposite sides and 2 sin(pi t) on the others. The start is
    standard normal.

    Parameters
    ----------
    d : int, default 64
        Number of inner heights, a square.
    """

    name = "minimal_surface"
    rate = 0.1
    d: int = 64

    def __post_init__(self) -> None:
        if math.isqrt(integer("d", self.d, low=1)) ** 2 != self.d:
            raise ArgumentError(f"d must be a square, got {self.d}")

    def rows(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        m = math.isqrt(self.d)
        t, h = np.linspace(0.0, 1.0, m + 2), 1.0 / (m + 1)
        u = np.zeros((len(X), m + 2, m + 2))
        u[:, 0], u[:, -1] = 2 * np.sin(2 * np.pi * t), -2 * np.sin(2 * np.pi * t)
        u[:, :, 0] = u[:, :, -1] = 2 * np.sin(np.pi * t)
        u[:, 1:-1, 1:-1] = X.reshape(len(X), m, m)
        G = np.zeros_like(u)
        a, b = u[:, 1:, :-1] - u[:, :-1, :-1], u[:, :-1, 1:] - u[:, :-1, :-1]
        lower = np.sqrt(1.0 + (a**2 + b**2) / h**2)
        a, b = 0.5 * a / lower, 0.5 * b / lower
        G[:, 1:, :-1] += a
        G[:, :-1, :-1] -= a + b
        G[:, :-1, 1:] += b
        a, b = u[:, 1:, 1:] - u[:, :-1, 1:], u[:, 1:, 1:] - u[:, 1:, :-1]
        upper = np.sqrt(1.0 + (a**2 + b**2) / h**2)
        a, b = 0.5 * a / upper, 0.5 * b / upper
        G[:, 1:, 1:] += a + b
        G[:, :-1, 1:] -= a
        G[:, 1:, :-1] -= b
        area = 0.5 * h * h * (lower + upper).sum((1, 2))
        return area, G[:, 1:-1, 1:-1].reshape(len(X), self.d)
