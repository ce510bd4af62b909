"""Griewank's function: a wide bowl with a product of cosines on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optex_core.problems.base import PROBLEMS, ClosedForm


@PROBLEMS.register
@dataclass(frozen=True, slots=True)
class Griewank(ClosedForm):
    """A bowl whose local minima all coordinates make together.

    f(x) = 1 + sum_i x_i^2 / 4000 - prod_i cos(x_i / sqrt(i)). Minimum 0 at 0. The gradient is
    Lipschitz with 1/2000 + sum_i 1/i: the Hessian of the product is at most u u' entry by entry,
    u_i = 1 / sqrt(i). The start is uniform on [-600, 600]^d. (Griewank, J. Optim. Theory Appl. 34,
    1981.)
    """

    name = "griewank"
    rate = 10.0
    start_range = (-600, 600)

    def rows(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        root = np.sqrt(np.arange(1, self.d + 1))
        cos, sin = np.cos(X / root), np.sin(X / root)
        # The product of all the others from both sides: dividing the whole product by one cosine
        # fails where that is zero.
        before, after = np.ones_like(X), np.ones_like(X)
        np.cumprod(cos[:, :-1], axis=1, out=before[:, 1:])
        after[:, :-1] = np.cumprod(cos[:, :0:-1], axis=1)[:, ::-1]
        values = (X**2).sum(1) / 4000 + (1 - before[:, -1] * cos[:, -1])
        return values, X / 2000 + sin / root * before * after

    @property
    def lipschitz(self) -> float:
        return 1 / 2000 + float((1 / np.arange(1, self.d + 1)).sum())
