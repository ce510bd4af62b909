"""Negative binomial regression on raw covariates: a likelihood of badly scaled parameters."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from optex_core._validation import integer
from optex_core.problems.base import PROBLEMS, RowsProblem, set_derived

#: Units of the covariates beside the constant.
UNITS = np.array([1.0, 1.0, 5.0, 0.5, 3.0, 10.0, 2.0, 0.3, 20.0])


@PROBLEMS.register
@dataclass(frozen=True, slots=True)
class NegativeBinomial(RowsProblem):
    """The mean negative log-likelihood of counts y with the log link, x = (10 coefficients, log of
    the dispersion).

    With mu = exp(A x) and a = 1 / dispersion: lgamma(a) + lgamma(y + 1) - lgamma(y + a) - a log a -
    y log mu + (y + a) log(a + mu). The start is 0. Far from it the exponential overflows.

    Parameters
    ----------
    n : int, default 1500
        Number of counts.
    seed : int, default 0
        Of the data.
    """

    name = "negative_binomial"
    rate = 0.03
    start_scale = 0.0
    n: int = 1500
    seed: int = 0
    A: np.ndarray = field(init=False, repr=False, compare=False)
    y: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        r = np.random.default_rng(integer("seed", self.seed, low=0))
        count = integer("n", self.n, low=1)
        columns = [np.abs(r.standard_normal(count)) * unit for unit in UNITS]
        A = np.column_stack([np.ones(count), *columns])
        slopes = r.standard_normal(10) * 0.5 / np.array([1.0, *UNITS])
        mu = np.exp(np.clip(A @ slopes, -4, 4))
        set_derived(self, A=A, y=r.poisson(mu * r.gamma(2.0, 0.5, count)).astype(float))

    @property
    def d(self) -> int:
        return 11

    def rows(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from scipy.special import digamma, gammaln

        y, eta, a = self.y, X[:, :10] @ self.A.T, np.exp(-X[:, 10:])
        mu = np.exp(eta)
        terms = gammaln(y + a) - gammaln(a) - gammaln(y + 1) + a * np.log(a) + y * eta
        terms -= (y + a) * np.log(a + mu)
        slopes = (y - mu) * a / (a + mu)
        shapes = digamma(y + a) - digamma(a) + np.log(a) + 1 - np.log(a + mu) - (y + a) / (a + mu)
        G = np.column_stack([-slopes @ self.A / self.n, (shapes * a).mean(1)])
        return -terms.mean(1), G
