"""L-BFGS matrices in coordinates, and paths of virtual L-BFGS steps on a model of the gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg.lapack import dtrtrs

#: Pairs kept; growth of a step on the one before.
MEMORY, GROWTH = 50, 2.0
#: A pair counts if s'y exceeds this share of |s||y|.
CURVED = 1e-8


class LBFGSMatrix:
    """Inverse Hessian from pairs (s, y), with room for more.

    The two-loop recursion (Nocedal, Math. Comp. 35, 1980) as two triangular solves with
    R_ij = s_i'y_j, i <= j (Byrd, Nocedal, Schnabel, Math. Prog. 63, 1994, theorem 2.2).

    Parameters
    ----------
    S, Y : float arrays, shape (k, p)
        Oldest first; pairs without positive curvature are left out.
    room : int
        Pairs that can be added.
    """

    def __init__(self, S: np.ndarray, Y: np.ndarray, room: int) -> None:
        ok = (S * Y).sum(1) > CURVED * np.sqrt((S * S).sum(1) * (Y * Y).sum(1))
        S, Y = S[ok][-MEMORY:], Y[ok][-MEMORY:]
        k, p = len(S), S.shape[1]
        self.k = k
        self.S, self.Y = np.zeros((k + room, p)), np.zeros((k + room, p))
        self.R, self.YY = np.zeros((k + room, k + room)), np.zeros((k + room, k + room))
        self.S[:k], self.Y[:k], self.R[:k, :k], self.YY[:k, :k] = S, Y, S @ Y.T, Y @ Y.T

    def add(self, s: np.ndarray, y: np.ndarray) -> None:
        """Add a pair, if its curvature is positive."""
        k = self.k
        if s @ y > CURVED * np.sqrt((s @ s) * (y @ y)):
            self.S[k], self.Y[k] = s, y
            self.R[: k + 1, k] = self.S[: k + 1] @ y
            self.YY[: k + 1, k] = self.YY[k, : k + 1] = self.Y[: k + 1] @ y
            self.k += 1

    def direction(self, g: np.ndarray) -> np.ndarray:
        """H g; without pairs g, shortened to length 1."""
        if self.k == 0:
            return g * min(1.0, 1 / max(float(np.linalg.norm(g)), 1e-300))
        new = slice(max(0, self.k - MEMORY), self.k)
        S, Y, R, YY = self.S[new], self.Y[new], self.R[new, new], self.YY[new, new]
        a = dtrtrs(R, S @ g)[0]
        gamma = R[-1, -1] / YY[-1, -1]
        b = dtrtrs(R, np.diag(R) * a - gamma * (Y @ g - YY @ a), trans=1)[0]
        return gamma * (g - a @ Y) + b @ S


def path_matrix(X: np.ndarray, G: np.ndarray, mark: np.ndarray) -> LBFGSMatrix:
    """Pairs along the accepted path."""
    return LBFGSMatrix(np.diff(X[mark], axis=0), np.diff(G[mark], axis=0), 1)


def star_matrix(X: np.ndarray, G: np.ndarray, room: int) -> LBFGSMatrix:
    """Pairs (x - x_i, g - g_i) of all rows, the nearest last."""
    sq = (X * X).sum(1)
    order = [i for i in np.argsort(-sq, kind="stable") if sq[i] > 0]
    return LBFGSMatrix(-X[order], G[-1] - G[order], room)


def predicted_path(
    model: Callable[[np.ndarray], np.ndarray] | None,
    matrix: LBFGSMatrix,
    steps: int,
    g: np.ndarray,
    max_step: float,
    extent: float = np.inf,
) -> list[np.ndarray]:
    """Virtual L-BFGS steps from the origin with the model's gradients.

    Parameters
    ----------
    model : callable or None
        mu(z); None for a single step.
    matrix : LBFGSMatrix
        Gets the pairs of the path.
    steps : int
    g : float array, shape (p,)
        The true gradient at the origin.
    max_step : float
        Longest first step; each further one is at most GROWTH x the one before.
    extent : float
        Longest distance from the origin after the first step: the path ends before it is exceeded.

    Returns
    -------
    list of arrays, shape (p,)
        The origin first.
    """
    path, z, first = [np.zeros_like(g)], np.zeros_like(g), np.linalg.norm(g)
    while len(path) <= steps:
        q = matrix.direction(g)
        n = float(np.linalg.norm(q))
        if not np.isfinite(n) or n == 0:
            break
        if n > max_step:
            q, n = q * (max_step / n), max_step
        if len(path) > 1 and np.linalg.norm(z - q) > extent:
            break
        path.append(z - q)
        if len(path) > steps or model is None:
            break
        new = model(z - q)
        if not np.isfinite(new).all():
            path.pop()
            break
        matrix.add(-q, new - g)
        z, g, max_step = z - q, new, GROWTH * n
        if n < 1e-4 * np.linalg.norm(z) or np.linalg.norm(new) < 1e-6 * first:
            break
    return path
