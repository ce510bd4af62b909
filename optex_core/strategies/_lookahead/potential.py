"""Gradient of a scalar process: its Jacobian is symmetric, so a secant tells of all directions."""

from __future__ import annotations

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs

from optex_core.strategies._lookahead.gradient_kriging import CURVATURES, near, secant_curvature

ROWS = 18
LENGTH_SCALES, NOISES = (1, 3, 10, 30), (1e-12, 1e-9, 1e-6)
#: Variance of the unknown constant mean.
CONSTANT = 100.0


class PotentialKriging:
    """Mean of the gradient of a process with kernel 1 / (1 + s / 2), from the nearest rows.

    H s known in one direction s tells s'H t for every t, which independent entries of the gradient
    cannot. In the span of the rows' points the covariance couples components (n q unknowns),
    outside it does not (n unknowns, many right sides).

    Parameters and the attribute `choice` are those of `GradientKriging`; n >= 4.
    """

    def __init__(self, X: np.ndarray, G: np.ndarray, last: int = -1) -> None:
        nearest = np.argsort((X * X).sum(1), kind="stable")[:ROWS]
        self.X, self.g, E = X[nearest], G[-1], G[nearest] - G[-1]
        X, n, p = self.X, len(nearest), X.shape[1]
        D = ((X[:, None] - X) ** 2).sum(2)
        median = float(np.median(D[D > 0])) if (D > 0).any() else 1.0
        s, T = np.linalg.svd(X, full_matrices=False)[1:]
        T = T[s > 1e-9 * s[0]]
        if not len(T):
            raise np.linalg.LinAlgError("all rows are at one point")
        q, A, top, best = len(T), X @ T.T, secant_curvature(X, G[nearest]), np.inf
        E_in = E @ T.T
        E_out, m = E - E_in @ T, min(p, 2 * n)  # X has no part outside
        known, c = np.stack([E_in.ravel(), A.ravel()]), CURVATURES * top
        for k in near(len(LENGTH_SCALES), last):
            length = LENGTH_SCALES[k]
            e = 1 / (1 + D / (2 * length**2 * median))
            U = (A[:, None] - A) / (length * np.sqrt(median))
            base = e**2 + CONSTANT
            K = -(2 * e**3)[..., None, None] * U[..., None] * U[:, :, None]
            K[..., np.arange(q), np.arange(q)] += base[..., None]
            K = K.transpose(0, 2, 1, 3).reshape(n * q, n * q)
            for noise in NOISES:
                inside, failed = dpotrf(K + noise * np.eye(n * q), lower=1)
                outside, failed_too = dpotrf(base + noise * np.eye(n), lower=1)
                if failed or failed_too:
                    continue
                det_in, det_out = (2 * np.log(np.diag(L)).sum() for L in (inside, outside))
                Z_in, Z_out = dpotrs(inside, known.T, lower=1)[0].T, dpotrs(outside, E_out, 1)[0]
                (aa, ab), (_, bb) = known @ Z_in.T
                misfit = aa - 2 * c * ab + c * c * bb  # of E - c X
                misfit = np.maximum(misfit, 1e-15 * aa) + max((E_out * Z_out).sum(), 0.0) + 1e-300
                score = n * m * np.log(misfit / (n * m)) + det_in + max(m - q, 0) * det_out
                i = int(np.argmin(score))
                if score[i] < best:
                    best, self.scale, self.c = score[i], length**2 * median, c[i]
                    self.choice = k
                    self.Z = (Z_in[0] - c[i] * Z_in[1]).reshape(n, q) @ T + Z_out
        if not np.isfinite(best):
            raise np.linalg.LinAlgError("no covariance of the rows is positive definite")

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """The mean gradient at `z`, shape (p,)."""
        U = z - self.X
        e = 1 / (1 + (U * U).sum(1) / (2 * self.scale))
        bend = (2 * e**3 * (U * self.Z).sum(1) / self.scale) @ U
        return self.g + self.c * z + (e**2 + CONSTANT) @ self.Z - bend
