"""The sphere: the easiest function there is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optex_core.problems.base import PROBLEMS, ClosedForm


@PROBLEMS.register
@dataclass(frozen=True, slots=True)
class Sphere(ClosedForm):
    """The squared norm.

    f(x) = sum_i x_i^2;  grad f = 2 x. Minimum 0 at 0; the gradient is 2-Lipschitz. The start is
    standard normal.
    """

    name = "sphere"
    optimizer = "sgd"
    rate = 0.1

    def rows(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.vecdot(X, X), 2 * X

    @property
    def lipschitz(self) -> float:
        return 2.0
