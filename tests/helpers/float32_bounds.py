"""Rounding of estimates from float32 rows: how far one may be from that of the same rows held as
float64, at the same point.

Distances, weights and sums are float64 whatever the dtype of the rows, and differences of numbers
of float32 are exact there. So only three things may differ: the order of sums, the kernel's own
last digits, and the rounding of what is returned. With u = 2^-24 (half of float32's eps), v =
2^-53, beta = 1 / (smallest eigenvalue of the kriging system B, lambda included), h0 and r as there,
and delta the relative change of one entry of H (sums of d positive terms, and kernels that evaluate
1 - kappa to 2e-13),

    delta      =  2 (d + 8) v + 4e-13
    |dw|_2    <=  2 beta (delta + 10 n v) (|H / h0|_F |w - 1/n|_2 + (|H1/n|_2 + |h|_2) / h0)
                  + delta |w|_2
    |d mu_k|  <=  u |mu_k| + |dw|_2 sqrt(sum_i (g_ik - g_rk)^2)
                  + 2 (n + 4) v (sum_i |w_i| |g_ik - g_rk| + |g_rk|)

to first order, from d(B^-1) = -B^-1 dB B^-1 and w - 1/n = Q B^-1 Q'(H1/n - h) / h0. With zero mean
K = 1 - H takes the place of H / h0, and g_r that of zero. The linear mean adds |d gamma| |x - sum w
theta| + gamma |dw|_2 sqrt(sum_i (theta_ik - theta_rk)^2), with |d gamma| <= 4 delta gamma max
sqrt(E D) / M over the secants that it is read from.

Between close rows and with little noise beta is large: at lambda = 1e-6 the second term still is
far below u. Distances summed in float32 make delta 1e-7, and the bound is missed by a factor of 10
to 1e6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from optex_core.model.kernels.base import get_kernel
from optex_core.model.kriging import eigendecompositions
from optex_core.model.posterior import Posterior

#: Unit roundoff of float64, and what two evaluations of 1 - kappa may differ by: their series is
#: spliced at a border (kernels/matern52.py).
V, KERNEL = 2.0**-53, 4e-13


@dataclass(frozen=True, slots=True)
class RoundingBound:
    """What rounding may change."""

    weights: float  # of w, Euclidean norm
    mean: np.ndarray  # shape (d,): of each entry of mu
    beta: float  # 1 / (smallest eigenvalue of the system)


def float32_bound(
    posterior: Posterior, X: np.ndarray, G: np.ndarray, x: np.ndarray, dtype: DTypeLike = np.float32
) -> RoundingBound:
    """The bound above for an estimate at the float64 point `x` that is returned in `dtype`.

    The posterior is the float64 twin's, without a scale of the parameters; `X` and `G`, shape (n,
    d), are its rows, oldest first.
    """
    n, d = X.shape
    constant = posterior.settings.mean != "zero"
    length, noise, gamma = posterior.hyper.length, posterior.noise, posterior.hyper.curvature
    w, mean = posterior.weights(x), posterior.mean(x)
    kernel = get_kernel(posterior.settings.kernel)
    s, S = ((X - x) ** 2).sum(1), ((X[:, None] - X[None]) ** 2).sum(2)
    delta = 2.0 * (d + 8) * V + KERNEL
    values, _, h0 = (
        part[0] for part in eigendecompositions(kernel, S, np.array([length]), constant)
    )
    beta = 1.0 / (max(values.min(), 0.0) + noise / h0)
    size = np.linalg.norm
    if constant:
        H, h = kernel.complement(S / length**2) / h0, kernel.complement(s / length**2) / h0
        lever = size(H) * size(w - 1.0 / n) + size(H.mean(1)) + size(h)
    else:
        lever = n * size(w) + np.sqrt(n)
    weights = float(2.0 * beta * (delta + 10 * n * V) * lever + delta * size(w))
    base_g, base_x = (G[-1], X[-1]) if constant else (np.zeros(d), np.zeros(d))
    steps = np.abs(G - base_g)
    bound = 0.5 * float(np.finfo(dtype).eps) * np.abs(mean) + weights * size(steps, axis=0)
    bound = bound + 2.0 * (n + 4) * V * (np.abs(w) @ steps + np.abs(base_g))
    if gamma:
        moves = np.abs(X - base_x)
        lever = np.abs(x - w @ X)
        bound = bound + gamma * (
            4.0 * delta * _secants(X, G) * lever + weights * size(moves, axis=0)
        )
        bound = bound + 2.0 * (n + 4) * V * gamma * (np.abs(w) @ moves + np.abs(x) + np.abs(base_x))
    return RoundingBound(weights, bound, float(beta))


def _secants(X: np.ndarray, G: np.ndarray) -> float:
    """The largest sqrt(E D) / M of the secants that count."""
    dx, dg = np.diff(X, axis=0), np.diff(G, axis=0)
    E, D, M = (dg**2).sum(1), (dx**2).sum(1), (dg * dx).sum(1)
    good = 1e-12 * np.sqrt(E * D) < M
    return float(np.max(np.sqrt(E[good] * D[good]) / M[good], initial=1.0))
