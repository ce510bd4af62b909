"""The Matern kernel of smoothness 5/2, the default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optex_core.model.kernels.base import KERNELS, Kernel, piecewise, power_series


@KERNELS.register
@dataclass(frozen=True, slots=True)
class Matern52(Kernel):
    """kappa(s) = (1 + r + r^2 / 3) exp(-r), r = sqrt(5 s): gradients that are twice differentiable.

    Rasmussen and Williams, equation 4.17.
    """

    name: ClassVar[str] = "matern52"

    def profile(self, s: np.ndarray) -> np.ndarray:
        r = np.sqrt(5.0 * s)
        return (1.0 + r + r * r / 3.0) * np.exp(-r)

    def complement(self, s: np.ndarray) -> np.ndarray:
        # The direct form loses eps / r^2 of relative accuracy, the series its terms from r^10 /
        # 172800 on: at r = 0.06 that is 2e-13 and 6e-15.
        return piecewise(np.sqrt(5.0 * s), 0.06, _series, _direct)


#: Of r^2 ... r^9 in 1 - kappa.
_TERMS = np.array([1 / 6, 0.0, -1 / 24, 1 / 45, -1 / 144, 1 / 630, -1 / 3456, 1 / 22680])


def _series(r: np.ndarray) -> np.ndarray:
    return r * power_series(r, _TERMS)


def _direct(r: np.ndarray) -> np.ndarray:
    m = -np.expm1(-r)  # 1 - exp(-r)
    return m - (r + r * r / 3.0) * (1.0 - m)
