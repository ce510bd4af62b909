"""The Matern kernel of smoothness 3/2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optex_core.model.kernels.base import KERNELS, Kernel, piecewise, power_series


@KERNELS.register
@dataclass(frozen=True, slots=True)
class Matern32(Kernel):
    """kappa(s) = (1 + r) exp(-r), r = sqrt(3 s): gradients that are once differentiable.

    Rasmussen and Williams, equation 4.17.
    """

    name: ClassVar[str] = "matern32"

    def profile(self, s: np.ndarray) -> np.ndarray:
        r = np.sqrt(3.0 * s)
        return (1.0 + r) * np.exp(-r)

    def complement(self, s: np.ndarray) -> np.ndarray:
        # The direct form loses eps / r^2 of relative accuracy, the series its terms from r^8 / 5760
        # on: they meet at r = 0.02.
        return piecewise(np.sqrt(3.0 * s), 0.02, _series, _direct)


#: Of r^2 ... r^7 in 1 - kappa.
_TERMS = np.array([1 / 2, -1 / 3, 1 / 8, -1 / 30, 1 / 144, -1 / 840])


def _series(r: np.ndarray) -> np.ndarray:
    return r * power_series(r, _TERMS)


def _direct(r: np.ndarray) -> np.ndarray:
    m = -np.expm1(-r)  # 1 - exp(-r)
    return m - r * (1.0 - m)
