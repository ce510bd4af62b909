"""The sphere: the easiest function there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optex_core._validation import integer
from optex_core.problems._rows import RowsProblem
from optex_core.problems.base import PROBLEMS


@PROBLEMS.register
@dataclass(frozen=True, slots=True)
class Sphere(RowsProblem):
    """The squared norm.

    f(x) = sum_i x_i^2;  grad f = 2 x. Minimum 0 at 0; the gradient is 2-Lipschitz. The start is
    standard normal.

    Parameters
    ----------
    d : int, default 10
        Number of parameters, at least 1.
    """

    name: ClassVar[str] = "sphere"
    optimizer: ClassVar[str] = "sgd"
    rate: ClassVar[float] = 0.1
    d: int = 10

    def __post_init__(self) -> None:
        integer("d", self.d, low=1)

    def start(self, rng: int | np.random.Generator = 0) -> np.ndarray:
        return np.random.default_rng(rng).standard_normal(self.d)

    def rows(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.vecdot(X, X), 2 * X

    @property
    def minimum(self) -> float:
        return 0.0

    @property
    def minimizer(self) -> np.ndarray:
        return np.zeros(self.d)

    @property
    def lipschitz(self) -> float:
        return 2.0
