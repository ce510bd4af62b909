"""The Matern kernel of smoothness 3/2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optex_core.kernels.base import KERNELS, Kernel


@KERNELS.register
@dataclass(frozen=True, slots=True)
class Matern32(Kernel):
    """kappa(s) = (1 + r) exp(-r), r = sqrt(3 s): gradients that are once differentiable.

    References
    ----------
    Rasmussen, Williams, Gaussian Processes for Machine Learning, MIT Press 2006, equation 4.17.
    """

    name: ClassVar[str] = "matern32"

    def profile(self, s: np.ndarray) -> np.ndarray:
        r = np.sqrt(3.0 * s)
        return (1.0 + r) * np.exp(-r)

    def complement(self, s: np.ndarray) -> np.ndarray:
        r = np.sqrt(3.0 * s)
        # The direct form loses eps / r^2: below r = 0.02 the series is exact to 1e-16 relative (next term r^7 / 5760 against r^2 / 2).
        q = np.minimum(r, 0.02)
        series = q * q * (0.5 - q * (1 / 3 - q * (1 / 8 - q * (1 / 30 - q * (1 / 144 - q / 840)))))
        return np.where(r < 0.02, series, -np.expm1(-r) - r * np.exp(-r))
