"""Gradient of a scalar process: its Jacobian is symmetric, so a secant tells of all directions."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from optex_core.strategies._lookahead.kriging import CURVATURES, secant_curvature

ROWS = 18
LENGTHS, NOISES = (1, 3, 10, 30), (1e-12, 1e-9, 1e-6)
#: Variance of the unknown constant mean.
CONSTANT = 100.0


class PotentialKriging:
    """Mean of the gradient of a process with kernel 1 / (1 + s / 2), from the nearest rows.

    H s known in one direction s tells s'H t for every t, which independent entries of the gradient
    cannot. In the span of the rows' points the covariance couples components (n q unknowns),
    outside it does not (n unknowns, many right sides).

    Parameters
    ----------
    X, G : float arrays, shape (n, p), n >= 4
        Coordinates, the last row at the origin.
    """

    def __init__(self, X: np.ndarray, G: np.ndarray) -> None:
        near = np.argsort((X * X).sum(1), kind="stable")[:ROWS]
        self.X, self.g, E = X[near], G[-1], G[near] - G[-1]
        X, n, p = self.X, len(near), X.shape[1]
        D = ((X[:, None] - X) ** 2).sum(2)
        median = float(np.median(D[D > 0])) if (D > 0).any() else 1.0
        s, T = np.linalg.svd(X, full_matrices=False)[1:]
        T = T[s > 1e-9 * s[0]]
        q, A, top, best = len(T), X @ T.T, secant_curvature(X, G[near]), np.inf
        self.scale, self.c, self.Z = median, 0.0, np.zeros_like(X)
        for length in LENGTHS:
            e = 1 / (1 + D / (2 * length**2 * median))
            U = (A[:, None] - A) / (length * np.sqrt(median))
            base = e**2 + CONSTANT
            outer = U.transpose(0, 2, 1)[..., None] * U[:, None]
            K = base[:, None, :, None] * np.eye(q)[:, None] - (2 * e**3)[:, None, :, None] * outer
            K = K.reshape(n * q, n * q)
            for noise in NOISES:
                try:
                    inside = cho_factor(K + noise * np.eye(n * q))
                    outside = cho_factor(base + noise * np.eye(n))
                except np.linalg.LinAlgError:
                    continue
                det_in, det_out = (2 * np.log(np.diag(F[0])).sum() for F in (inside, outside))
                m = min(p, 2 * n)
                for c in CURVATURES * top:
                    R = E - c * X
                    Ra = R @ T.T
                    Rb = R - Ra @ T
                    Za = cho_solve(inside, Ra.ravel()).reshape(n, q)
                    Zb = cho_solve(outside, Rb)
                    misfit = max((Ra * Za).sum() + (Rb * Zb).sum(), 1e-300)
                    score = n * m * np.log(misfit / (n * m)) + det_in + max(m - q, 0) * det_out
                    if score < best:
                        best, self.scale, self.c = score, length**2 * median, c
                        self.Z = Za @ T + Zb

        if not np.isfinite(best):
            raise np.linalg.LinAlgError("no covariance of the rows is positive definite")

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """The mean gradient at `z`, shape (p,)."""
        U = z - self.X
        e = 1 / (1 + (U * U).sum(1) / (2 * self.scale))
        bend = (2 * e**3 * (U * self.Z).sum(1) / self.scale) @ U
        return self.g + self.c * z + (e**2 + CONSTANT) @ self.Z - bend
