"""The Matern kernel of smoothness 3/2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optex_core.kernels.base import KERNELS, Kernel, spliced


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
        # The direct form loses eps / r^2 of relative accuracy, the series its terms from r^8 / 5760 on: they meet at r = 0.02.
        return spliced(np.sqrt(3.0 * s), 0.02, _series, _direct)


def _series(r: np.ndarray) -> np.ndarray:
    return r * r * (0.5 - r * (1 / 3 - r * (1 / 8 - r * (1 / 30 - r * (1 / 144 - r / 840)))))


def _direct(r: np.ndarray) -> np.ndarray:
    m = -np.expm1(-r)  # 1 - exp(-r)
    return m - r * (1.0 - m)
