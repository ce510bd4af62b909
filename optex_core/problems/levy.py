"""Levy's function: a bowl with waves that grow outwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optex_core._validation import integer
from optex_core.problems._rows import RowsProblem
from optex_core.problems.base import PROBLEMS


@PROBLEMS.register
@dataclass(frozen=True, slots=True)
class Levy(RowsProblem):
    """A multimodal bowl; its curvature grows without bound, so the gradient has no global Lipschitz
    constant.

    f(x) = sin^2(pi w_1) + sum_{i<d} (w_i - 1)^2 (1 + 10 sin^2(pi w_i + 1)) + (w_d - 1)^2 (1 +
    sin^2(2 pi w_d)), w_i = 1 + (x_i - 1) / 4. Minimum 0 at (1, ..., 1). The start is uniform on
    [-10, 10]^d.

    Parameters
    ----------
    d : int, default 10
        Number of parameters, at least 1.

    References
    ----------
    Levy, Montalvo, The tunneling algorithm for the global minimization of functions, SIAM J. Sci.
    Stat. Comput. 6, 1985.
    """

    name: ClassVar[str] = "levy"
    rate: ClassVar[float] = 0.1
    d: int = 10

    def __post_init__(self) -> None:
        integer("d", self.d, low=1)

    def start(self, rng: int | np.random.Generator = 0) -> np.ndarray:
        return np.random.default_rng(rng).uniform(-10, 10, self.d)

    def rows(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # w - 1: the waves are written in it, which makes f(minimizer) and its gradient exactly 0
        V = (X - 1) / 4
        inner, last = V[:, :-1], V[:, -1]
        phase = np.pi * (inner + 1) + 1
        bump, wave = 1 + 10 * np.sin(phase) ** 2, 1 + np.sin(2 * np.pi * last) ** 2
        values = np.sin(np.pi * V[:, 0]) ** 2 + (inner**2 * bump).sum(1) + last**2 * wave
        G = np.empty_like(V)
        G[:, :-1] = 2 * inner * bump + inner**2 * 10 * np.pi * np.sin(2 * phase)
        G[:, -1] = 2 * last * wave + last**2 * 2 * np.pi * np.sin(4 * np.pi * last)
        G[:, 0] += np.pi * np.sin(2 * np.pi * V[:, 0])
        return values, G / 4

    @property
    def minimum(self) -> float:
        return 0.0

    @property
    def minimizer(self) -> np.ndarray:
        return np.ones(self.d)
