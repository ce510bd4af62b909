"""Kriging of the gradient for `lookahead`: Matern 5/2, a fitted constant and a linear mean.

The other strategies use `optex_core.model`, whose kernel and estimator a user may choose. This one
is fitted to all rows in every round, in coordinates of their span, on a grid of three settings.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

LENGTH_SCALES = (0.3, 1, 3, 10, 30, 100, 300)  # in median distances
NOISES = np.array((1e-13, 1e-11, 1e-9, 1e-7, 1e-5, 1e-3))  # relative to the mean contrast
CURVATURES = np.array((0.0, 0.1, 0.3, 1.0))  # in units of the largest secant curvature


def contrast(s: np.ndarray) -> np.ndarray:
    """1 - Matern 5/2 of the squared distance s, by its series where s is small."""
    r = np.sqrt(5 * np.maximum(s, 0))
    series = r * r / 6 - r**4 / 24 + r**5 / 45
    return np.where(r < 1e-2, series, 1 - (1 + r + r * r / 3) * np.exp(-r))


def secant_curvature(X: np.ndarray, G: np.ndarray, most: float = np.inf) -> float:
    """Largest |y|^2 / s'y of consecutive rows; pairs with |s||y| > `most` s'y do not count."""
    s, y = np.diff(X, axis=0), np.diff(G, axis=0)
    sy, yy = (s * y).sum(1), (y * y).sum(1)
    ok = sy > max(1e-12, 1 / most) * np.sqrt((s * s).sum(1) * yy)
    return float((yy[ok] / sy[ok]).max()) if ok.any() else 0.0


@lru_cache(maxsize=8)
def contrast_basis(n: int) -> np.ndarray:
    """Orthonormal basis of the vectors of length n whose sum is zero, shape (n, n - 1)."""
    basis = np.linalg.qr(np.c_[np.ones(n), np.eye(n)[:, : n - 1]])[0][:, 1:]
    basis.flags.writeable = False
    return basis


def near(grid: int, last: int) -> range:
    """Indices of a grid to try: all, or with a `last` choice that one and its neighbours."""
    return range(grid) if last < 0 else range(max(0, last - 1), min(grid, last + 2))


class GradientKriging:
    """Mean of the gradient field from all rows.

    mu(z) = g + sum_i w_i (g_i - g) + c (z - sum_i w_i x_i) with kriging weights w, sum w = 1.
    Length, noise and c maximise the restricted likelihood on a grid, in the contrast form of
    `optex_core.model.kriging`.

    Parameters
    ----------
    X, G : float arrays, shape (n, p)
        Coordinates, the last row at the origin.
    last : int
        The `choice` of the round before: it and its neighbours are tried; -1: all lengths.

    Attributes
    ----------
    choice : int
        Index of the length in LENGTH_SCALES.
    """

    def __init__(self, X: np.ndarray, G: np.ndarray, last: int = -1) -> None:
        n = self.n = len(X)
        self.X, self.g, self.E = X, G[-1], G - G[-1]
        P, GG, GC = X @ X.T, self.E @ self.E.T, self.E @ X.T
        GC, self.sq = (GC + GC.T) / 2, np.diag(P).copy()
        D = np.maximum(self.sq[:, None] + self.sq - 2 * P, 0)
        self.median = float(np.sqrt(np.median(D[D > 0]))) if (D > 0).any() else 1.0
        few = n <= 3
        c = (np.ones(1) if few else CURVATURES) * secant_curvature(X, G)
        noises = np.array([1e-9]) if few else NOISES
        Z, best = contrast_basis(n), np.inf
        for k in (LENGTH_SCALES.index(10),) if few else near(len(LENGTH_SCALES), last):
            length = LENGTH_SCALES[k]
            H = contrast(D / (self.median * length) ** 2)
            h0 = H.mean() or 1.0
            values, U = np.linalg.eigh(-Z.T @ H @ Z / h0)
            V, values = Z @ U, np.maximum(values, 0)
            a, b, p = ((V * (M @ V)).sum(0) for M in (GG, GC, P))
            v = values + noises[:, None]
            residual = np.maximum(a - 2 * c[:, None] * b + c[:, None] ** 2 * p, 0)
            t = residual @ (1 / v).T
            score = (n - 1) * np.log(np.maximum(t, 1e-300) / (n - 1)) + np.log(v).sum(1)
            score = np.where(t > 0, score, 1e300)
            i = np.unravel_index(int(np.argmin(score)), score.shape)
            if score[i] < best:
                best, self.length, self.c = score[i], self.median * length, c[i[0]]
                self.h0, self.V, self.v, self.row, self.choice = h0, V, v[i[1]], H.mean(1), k

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """mu(z), shape (p,)."""
        h = contrast((self.sq + z @ z - 2 * (self.X @ z)) / self.length**2)
        w = 1 / self.n + self.V @ ((self.V.T @ (self.row - h)) / self.v) / self.h0
        return self.g + w @ self.E + self.c * (z - w @ self.X)
