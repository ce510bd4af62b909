"""The Matern kernel of smoothness 1/2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optex_core.model.kernels.base import KERNELS, Kernel


@KERNELS.register
@dataclass(frozen=True, slots=True)
class Matern12(Kernel):
    """kappa(s) = exp(-r), r = sqrt(s): continuous gradients that are nowhere differentiable.

    Rasmussen and Williams, equation 4.18.
    """

    name: ClassVar[str] = "matern12"

    def profile(self, s: np.ndarray) -> np.ndarray:
        return np.exp(-np.sqrt(s))

    def complement(self, s: np.ndarray) -> np.ndarray:
        return -np.expm1(-np.sqrt(s))
