"""Length scale, noise and curvature by restricted likelihood, from T0 x T0 numbers alone.

With P the projection that removes the fitted mean and R = GG' - gamma (G Th' + Th G') +
gamma^2 Th Th' the residual Gram matrix, the score is

    m log(trace(P R) / m) + logdet A + log(1'A^-1 1),   m = n - 1,

-2/d times the log restricted likelihood, up to constants. In the contrast basis of kriging.py it is

    m log(sum_k r_k / (S_k + rho) / m) + sum_k log(S_k + rho),
    r_k = -1/2 v_k'(E - 2 gamma M + gamma^2 D) v_k,

so that every noise and every curvature costs O(n) once a length is decomposed. With zero mean m = n
and r_k = v_k'GG'v_k.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optex_core.model.history import History, strictly_lower
from optex_core.model.kernels.base import Kernel
from optex_core.model.kriging import eigendecompositions

#: Candidate length scales, in medians of the distances between rows.
LENGTH_GRID = np.array([0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0])
#: Candidate rho, noise over typical contrast: 1e-12 is a noise-free function, 100 is pure noise.
NOISE_GRID = np.array(
    [1e-12, 1e-10, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0]
)
#: Candidate curvatures of the linear mean, in units of the largest secant curvature.
CURVATURE_GRID = np.array([0.0, 0.1, 0.3, 1.0])
#: Rounding error of a gradient in units of eps |g|, below which a noise is not accepted: 4 to 20
#: covers sums over d.
GRADIENT_ROUNDING = 8.0


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """The tuned numbers: state of the estimator."""

    length: float = 0.0  # length scale in units of theta / scale; 0 before the first fit
    noise: float = 0.0  # lambda, noise / amplitude
    curvature: float = 0.0  # gamma of the linear mean, in units of gradient / parameter
    age: int = 0  # fits since the last search


@dataclass(frozen=True, slots=True)
class PairMatrices:
    """The pair matrices of the valid rows, as `History` describes them."""

    S: np.ndarray
    D: np.ndarray
    E: np.ndarray
    M: np.ndarray
    squared_norms: np.ndarray
    order: np.ndarray  # rows from oldest to newest
    eps: float  # of the gradients' dtype


def pair_matrices(history: History, linear: bool = True) -> PairMatrices:
    """The pair matrices of a history; D and M, which only `linear` needs, may be zeros."""
    h, n = history, history.n
    zeros = np.zeros((n, n))
    D, M = (h.D[:n, :n], h.M[:n, :n]) if linear else (zeros, zeros)
    eps = float(np.finfo(h.G.dtype).eps)
    norms, order = h.squared_norms[:n], h.chronological_order()
    return PairMatrices(h.S[:n, :n], D, h.E[:n, :n], M, norms, order, eps)


def median_distance(S: np.ndarray) -> float:
    """The median over the positive distances between rows; 0 if there is none."""
    distances = np.sqrt(S[strictly_lower(len(S))])
    distances = distances[distances > 0.0]
    if not len(distances):
        return 0.0
    # `numpy.median` takes 60 us, five times as long.
    low, high = (len(distances) - 1) // 2, len(distances) // 2
    distances.partition((low, high))
    return float(distances[low] + distances[high]) / 2.0


def secant_curvature(pairs: PairMatrices) -> float:
    """The largest |dg|^2 / (dg . dtheta) over consecutive rows with dg.dtheta > 1e-12 |dg||dtheta|;
    0 if none curves upwards.
    """
    i, j = pairs.order[:-1], pairs.order[1:]
    E, M, D = pairs.E[i, j], pairs.M[i, j], pairs.D[i, j]
    good = (1e-12 * np.sqrt(E * D) < M) & np.isfinite(E)
    return float(np.max(E[good] / M[good])) if good.any() else 0.0


def residual_gram(
    pairs: PairMatrices, basis: np.ndarray, curvatures: np.ndarray, constant: bool
) -> np.ndarray:
    """r_k for every curvature: shape (L, C, m) from a basis of shape (L, n, m); clipped at zero."""

    def diagonal(X: np.ndarray) -> np.ndarray:
        return np.asarray((X @ basis * basis).sum(1))

    if not constant:
        gram = 0.5 * (pairs.squared_norms[:, None] + pairs.squared_norms[None] - pairs.E)
        return np.maximum(diagonal(gram), 0.0)[:, None]
    r = -0.5 * diagonal(pairs.E)[:, None]
    if len(curvatures) > 1 or curvatures[0]:
        g = curvatures[:, None]
        r = r + g * diagonal(pairs.M)[:, None] - 0.5 * g * g * diagonal(pairs.D)[:, None]
    return np.maximum(r, 0.0)


def maximize_reml(
    kernel: Kernel,
    pairs: PairMatrices,
    *,
    constant: bool,
    linear: bool,
    length: float | None,
    noise: float | None,
) -> Hyperparameters | None:
    """The best (length, noise, curvature) on the grid for n >= 2 rows.

    The prior mean is zero if not `constant`; `linear` adds gamma (x - sum w_i theta_i). A given
    `length` or `noise` is held fixed. None if no candidate is usable: all rows coincide, or all
    gradients are equal to within rounding.
    """
    median = median_distance(pairs.S)
    if median == 0.0:
        return None
    lengths = LENGTH_GRID * median if length is None else np.array([length])
    try:
        values, basis, h0 = eigendecompositions(kernel, pairs.S, lengths, constant)
    except np.linalg.LinAlgError:
        return None  # the caller keeps the previous values and reports it
    noises = NOISE_GRID[None] if noise is None else noise / h0[:, None]  # (L or 1, R), as rho
    noises = np.maximum(noises, 10 * len(pairs.S) * np.finfo(np.float64).eps * values[:, -1:])
    shifted = np.maximum(values, 0.0)[:, :, None] + noises[:, None]  # (L, m, R)
    top = secant_curvature(pairs) if linear else 0.0
    curvatures = CURVATURE_GRID * top if top > 0.0 else np.zeros(1)
    m = shifted.shape[1]
    # (L, C, R): d s^2 h0
    amplitude = residual_gram(pairs, basis, curvatures, constant) @ (1.0 / shifted) / m
    with np.errstate(divide="ignore"):
        score = m * np.log(amplitude) + np.log(shifted).sum(1)[:, None]
    # A noise below the rounding error of the gradients themselves is an artefact.
    floor = (GRADIENT_ROUNDING * pairs.eps) ** 2 * pairs.squared_norms.max()
    plausible = (noise is not None) | (amplitude * noises[:, None] >= floor)
    score = np.where((amplitude > 0.0) & plausible & np.isfinite(score), score, np.inf)
    best = int(np.argmin(score))
    if not np.isfinite(score.flat[best]):
        return None
    i, j, k = np.unravel_index(best, score.shape)
    found = float(lengths[i]), float(noises[i, k] * h0[i]), float(curvatures[j])
    return Hyperparameters(*found)


def amplitude(pairs: PairMatrices, basis: np.ndarray, curvature: float, constant: bool) -> float:
    """d s^2 h0: the squared norm of a typical deviation of the whole gradient from its mean."""
    r = residual_gram(pairs, basis[None], np.array([curvature]), constant)[0, 0]
    return float(np.sum(r) / len(r))
