"""Rastrigin's function: a bowl with a regular grid of local minima."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optex_core.problems.base import PROBLEMS, ClosedForm


@PROBLEMS.register
@dataclass(frozen=True, slots=True)
class Rastrigin(ClosedForm):
    """A quadratic bowl with a cosine on it: about 11^d local minima in the cube of the start.

    f(x) = 10 d + sum_i x_i^2 - 10 cos(2 pi x_i);  df/dx_i = 2 x_i + 20 pi sin(2 pi x_i). Minimum 0
    at 0; the gradient is (2 + 40 pi^2)-Lipschitz. The start is uniform on [-5.12, 5.12]^d; a
    descent ends in the local minimum at hand. (Rastrigin, Systems of extremal control, 1974; for d
    parameters Muehlenbein, Schomisch, Born, Parallel Computing 17, 1991.)
    """

    name = "rastrigin"
    rate = 0.05
    start_range = (-5.12, 5.12)

    def rows(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        angle = 2 * np.pi * X
        # 10 (1 - cos) summed, not 10 d - 10 sum cos: exactly 0 at the minimum.
        return (X**2 + 10 * (1 - np.cos(angle))).sum(1), 2 * X + 20 * np.pi * np.sin(angle)

    @property
    def lipschitz(self) -> float:
        return 2 + 40 * np.pi**2
