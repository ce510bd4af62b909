"""The radial basis function kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optex_core.model.kernels.base import KERNELS, Kernel


@KERNELS.register
@dataclass(frozen=True, slots=True)
class RBF(Kernel):
    """kappa(s) = exp(-s / 2): infinitely smooth gradients.

    Rasmussen and Williams, equation 4.9.
    """

    name: ClassVar[str] = "rbf"

    def profile(self, s: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * s)

    def complement(self, s: np.ndarray) -> np.ndarray:
        return -np.expm1(-0.5 * s)
