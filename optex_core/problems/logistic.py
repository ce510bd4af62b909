"""Logistic regression on drawn data."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from optex_core._validation import integer
from optex_core.problems.base import PROBLEMS, RowsProblem, set_derived


@PROBLEMS.register
@dataclass(frozen=True, slots=True)
class Logistic(RowsProblem):
    """Regularised logistic regression, strongly convex.

    f(x) = mean_i log(1 + exp(-y_i a_i' x)) + 1/2 10^-3 |x|^2. The rows a_i of A are normal with
    standard deviation 3 / sqrt(d), the labels y = sign(A w + e / 2) with w and e standard normal.
    The gradient is Lipschitz with |A|_2^2 / (4 n) + 10^-3. The start is 0.

    Parameters
    ----------
    d : int, default 300
        Number of parameters, at least 1.
    n : int, default 200
        Number of data, at least 1.
    seed : int, default 0
        Draws the data.
    """

    name = "logistic"
    rate = 0.05
    start_scale = 0.0
    d: int = 300
    n: int = 200
    seed: int = 0
    data: np.ndarray = field(init=False, repr=False, compare=False)
    labels: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        d, n = integer("d", self.d, low=1), integer("n", self.n, low=1)
        rng = np.random.default_rng(integer("seed", self.seed, low=0))
        data = rng.standard_normal((n, d)) / np.sqrt(d) * 3
        labels = np.sign(data @ rng.standard_normal(d) + 0.5 * rng.standard_normal(n))
        set_derived(self, data=data, labels=labels)

    def rows(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        Z = -self.labels * (X @ self.data.T)
        S = 0.5 * (1 + np.tanh(0.5 * Z))  # the sigmoid of Z without overflow
        values = np.logaddexp(0, Z).mean(1) + np.vecdot(0.5e-3 * X, X)
        return values, (-self.labels * S) @ self.data / self.n + 1e-3 * X

    @property
    def lipschitz(self) -> float:
        return float(np.linalg.norm(self.data, 2)) ** 2 / (4 * self.n) + 1e-3
