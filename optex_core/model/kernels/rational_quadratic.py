"""The rational quadratic kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optex_core._validation import positive
from optex_core.model.kernels.base import KERNELS, Kernel


@KERNELS.register
@dataclass(frozen=True, slots=True)
class RationalQuadratic(Kernel):
    """kappa(s) = (1 + s / (2 alpha))^(-alpha): a scale mixture of RBF kernels of many lengths.

    Parameters
    ----------
    alpha : float, default 1.0
        Positive; large values approach RBF.

    Rasmussen and Williams, equation 4.19.
    """

    name: ClassVar[str] = "rational_quadratic"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        positive("alpha", self.alpha)

    def profile(self, s: np.ndarray) -> np.ndarray:
        return np.exp(-self.alpha * np.log1p(s / (2.0 * self.alpha)))

    def complement(self, s: np.ndarray) -> np.ndarray:
        return -np.expm1(-self.alpha * np.log1p(s / (2.0 * self.alpha)))
