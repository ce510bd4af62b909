"""Griewank's function: a wide bowl with a product of cosines on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optex_core._validation import integer
from optex_core.problems._rows import RowsProblem
from optex_core.problems.base import PROBLEMS


@PROBLEMS.register
@dataclass(frozen=True, slots=True)
class Griewank(RowsProblem):
    """A bowl whose local minima all coordinates make together.

    f(x) = 1 + sum_i x_i^2 / 4000 - prod_i cos(x_i / sqrt(i)). Minimum 0 at 0. The gradient is
    Lipschitz with 1/2000 + sum_i 1/i: the Hessian of the product is at most u u' entry by entry,
    u_i = 1 / sqrt(i). The start is uniform on [-600, 600]^d.

    Parameters
    ----------
    d : int, default 10
        Number of parameters, at least 1.

    References
    ----------
    Griewank, Generalized descent for global optimization, J. Optim. Theory Appl. 34, 1981.
    """

    name: ClassVar[str] = "griewank"
    rate: ClassVar[float] = 10.0
    d: int = 10

    def __post_init__(self) -> None:
        integer("d", self.d, low=1)

    def start(self, rng: int | np.random.Generator = 0) -> np.ndarray:
        return np.random.default_rng(rng).uniform(-600, 600, self.d)

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
    def minimum(self) -> float:
        return 0.0

    @property
    def minimizer(self) -> np.ndarray:
        return np.zeros(self.d)

    @property
    def lipschitz(self) -> float:
        return 1 / 2000 + float((1 / np.arange(1, self.d + 1)).sum())
