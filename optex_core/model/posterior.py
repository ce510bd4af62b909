"""The gradient estimate at a point: posterior mean, weights and standard deviation.

Model (arXiv 2402.11427, section 4, with the extensions of this package): grad F ~ GP(mean, kappa I)
observed with noise. The posterior mean at x is one weighted sum of the gradients in the history,

    mu(x) = sum_i w_i g_i  [+ gamma / scale^2 (x - sum_i w_i theta_i) with the linear mean].

The total standard deviation is sqrt(d s^2 v(x)). The weights w, the variance factor v and the
amplitude d s^2 follow from T0 x T0 numbers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import numpy as np

from optex_core.backends.types import PosteriorArrays
from optex_core.model.history import History
from optex_core.model.kernels.base import get_kernel, traced_kernel
from optex_core.model.kriging import IllConditioned, KrigingSystem
from optex_core.model.likelihood import Hyperparameters, amplitude, pair_matrices
from optex_core.types import Array

if TYPE_CHECKING:
    from optex_core.model.estimator import GradientEstimator


@final
class Posterior:
    """The gradient estimate given the rows of a history.

    It reads the rows, at least one, when asked: it is valid until the next row is appended. In
    `settings` the prior mean is filled in; with `constant` it is fitted: the weights sum to one.
    """

    def __init__(
        self, settings: GradientEstimator, history: History, hyper: Hyperparameters
    ) -> None:
        self.settings, self.history, self.hyper = settings, history, hyper
        self.constant, self.n = settings.mean != "zero", history.n
        self.fallback = ""  # or why the estimate is one gradient everywhere
        self.kernel = get_kernel(settings.kernel)
        self.system: KrigingSystem | None = None  # None where the estimate is a fallback
        self._amplitude: float | None = None
        if hyper.length <= 0.0:
            self.fallback = "all rows coincide: the mean of their gradients is repeated"
        else:
            S = history.S[: self.n, : self.n]
            try:
                self.system = KrigingSystem(
                    self.kernel, S, hyper.length, hyper.noise, self.constant
                )
            except IllConditioned as error:
                self.fallback = f"{error}: the newest gradient is repeated"
        # gamma and lambda in use.
        self.curvature = 0.0 if self.system is None else hyper.curvature
        self.noise = hyper.noise if self.system is None else self.system.noise

    def mean(self, x: Array) -> Array:
        """mu(x), shape (d,), dtype of the gradients."""
        return self._mean(x, self.weights(x))

    def predict(self, x: Array) -> tuple[Array, float]:
        """mu(x) and its total standard deviation."""
        s = self._distances(x)
        w = self.weights_at(s)
        return self._mean(x, w), self._std(w, s)

    def std(self, x: Array) -> float:
        """sqrt(d s^2 v(x)) of the noise-free gradient, in units of |scale g|; 0 in a fallback."""
        s = self._distances(x)
        return self._std(self.weights_at(s), s)

    def weights(self, x: Array) -> np.ndarray:
        """The weights w, shape (n,), at `x`, shape (d,)."""
        return self.weights_at(self._distances(x))

    def weights_at(self, s: np.ndarray) -> np.ndarray:
        """The weights of a point at the squared kernel distances `s`, shape (n,)."""
        return self._fallback_weights() if self.system is None else self.system.weights(s)

    def _fallback_weights(self) -> np.ndarray:
        if self.hyper.length <= 0.0:
            return np.full(self.n, 1.0 / self.n)
        w = np.zeros(self.n)
        w[self.history.newest] = 1.0
        return w

    def _distances(self, x: Array) -> np.ndarray:
        return self.history.distances(x)

    def _std(self, w: np.ndarray, s: np.ndarray) -> float:
        return (
            0.0 if self.system is None else math.sqrt(self.amplitude * self.system.variance(s, w))
        )

    def _mean(self, x: Array, w: np.ndarray) -> Array:
        h, n = self.history, self.n
        anchor = h.newest if self.constant else None
        return h.backend.predict(h.X[:n], h.G[:n], w, anchor, x, self.curvature, h.scale)

    def export_arrays(self) -> PosteriorArrays | None:
        """The estimate as numbers for compiled steps; None where the kernel cannot be traced."""
        h, n, formula = self.history, self.n, traced_kernel(self.kernel, self.constant)
        if formula is None:
            return None
        if self.system is None:  # one set of weights everywhere
            fallback = self._fallback_weights()
            weight_map = 0.0, 0.0, 0.0, fallback, np.zeros(n), np.zeros((0, n))
        else:
            weight_map = self.system.weight_map()
        return PosteriorArrays(
            h.X[:n],
            h.G[:n],
            h.newest if self.constant else None,
            self.settings.mean == "linear",
            self.curvature,
            h.scale,
            None if h.dims is None else h.distances,
            formula,
            *weight_map,
            h.distances if h.caches_distances else None,
        )

    @property
    def amplitude(self) -> float:
        """d s^2: the squared deviation of the whole gradient from its mean, far from all rows.

        By restricted likelihood; 0 with one row.
        """
        if self._amplitude is None:
            self._amplitude = 0.0
            if self.system is not None and self.n > 1:
                gamma = self.hyper.curvature
                pairs = pair_matrices(self.history, gamma != 0.0)
                size = amplitude(pairs, self.system.basis, gamma, self.constant)
                self._amplitude = size / self.system.h0
        return self._amplitude

    @property
    def noise_variance(self) -> float:
        """lambda d s^2: the expected squared norm of scale x noise in an observed gradient."""
        return self.noise * self.amplitude
