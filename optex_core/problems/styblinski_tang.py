"""The function of Styblinski and Tang: a separable quartic with two wells a coordinate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optex_core.problems.base import PROBLEMS, ClosedForm

#: The least root of 4 t^3 - 32 t + 5, the derivative of one term.
WELL = -2.903534027771177


@PROBLEMS.register
@dataclass(frozen=True, slots=True)
class StyblinskiTang(ClosedForm):
    """Separable, with 2^d local minima.

    f(x) = 1/2 sum_i x_i^4 - 16 x_i^2 + 5 x_i;  df/dx_i = 2 x_i^3 - 16 x_i + 5/2. Minimum about
    -39.16617 d where every x_i is about -2.903534. The start is uniform on [-5, 5]^d.
    (Styblinski, Tang, Neural Networks 3, 1990.)
    """

    name = "styblinski_tang"
    rate = 0.05
    start_range = (-5, 5)
    minimizer_entry = WELL

    def rows(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        square = X**2
        return 0.5 * (square**2 - 16 * square + 5 * X).sum(1), (2 * square - 16) * X + 2.5

    @property
    def minimum(self) -> float:
        return self.d * 0.5 * (WELL**4 - 16 * WELL**2 + 5 * WELL)
