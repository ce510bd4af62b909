"""The Matern kernel of smoothness 5/2, the default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optex_core.kernels.base import KERNELS, Kernel


@KERNELS.register
@dataclass(frozen=True, slots=True)
class Matern52(Kernel):
    """kappa(s) = (1 + r + r^2 / 3) exp(-r), r = sqrt(5 s): gradients that are twice differentiable.

    References
    ----------
    Rasmussen, Williams, Gaussian Processes for Machine Learning, MIT Press 2006, equation 4.17; used by arXiv 2402.11427.
    """

    name: ClassVar[str] = "matern52"

    def profile(self, s: np.ndarray) -> np.ndarray:
        r = np.sqrt(5.0 * s)
        return (1.0 + r + r * r / 3.0) * np.exp(-r)

    def complement(self, s: np.ndarray) -> np.ndarray:
        r = np.sqrt(5.0 * s)
        # r^2/6 - r^4/24 + r^5/45 - r^6/144 + r^7/630 - r^8/3456 + r^9/22680: the direct form loses eps / r^2 of relative accuracy.
        q = np.minimum(r, 0.06)
        series = q * q * (1 / 6 - q * q * (1 / 24 - q * (1 / 45 - q * (1 / 144 - q * (1 / 630 - q * (1 / 3456 - q / 22680))))))
        return np.where(r < 0.06, series, -np.expm1(-r) - (r + r * r / 3.0) * np.exp(-r))
