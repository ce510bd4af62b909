"""Levy's function: a bowl with waves that grow outwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optex_core.problems.base import PROBLEMS, ClosedForm


@PROBLEMS.register
@dataclass(frozen=True, slots=True)
class Levy(ClosedForm):
    """A multimodal bowl; its curvature grows without bound, so the gradient has no global Lipschitz
    constant.

    f(x) = sin^2(pi w_1) + sum_{i<d} (w_i - 1)^2 (1 + 10 sin^2(pi w_i + 1)) + (w_d - 1)^2 (1 +
    sin^2(2 pi w_d)), w_i = 1 + (x_i - 1) / 4. Minimum 0 at (1, ..., 1). The start is uniform on
    [-10, 10]^d. (Levy, Montalvo, SIAM J. Sci. Stat. Comput. 6, 1985.)
    """

    name = "levy"
    rate = 0.1
    start_range = (-10, 10)
    minimizer_entry = 1.0

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
