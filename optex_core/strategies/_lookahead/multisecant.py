"""Multisecant model of the Hessian at x, with exact trust-region steps."""

from __future__ import annotations

import numpy as np

from optex_core.strategies._lookahead.gradient_kriging import secant_curvature

#: A pair is used if this share of its direction is orthogonal to those used before.
ORTHOGONAL = 0.1


class MultisecantModel:
    """H s = y on measured directions, the nearest rows first; damped elsewhere; indefinite allowed.

    Parameters
    ----------
    X, G : float arrays, shape (n, p)
        Coordinates, the last row at the origin.
    """

    def __init__(self, X: np.ndarray, G: np.ndarray) -> None:
        g, sq, p, k = G[-1], (X * X).sum(1), X.shape[1], 0
        order = [i for i in np.argsort(sq, kind="stable") if sq[i] > 0]
        D, Y = np.zeros((min(len(order), p), p)), np.zeros((min(len(order), p), p))
        for i in order:
            s, y = X[i] / np.sqrt(sq[i]), (G[i] - g) / np.sqrt(sq[i])
            for _ in range(2):
                c = D[:k] @ s
                s, y = s - c @ D[:k], y - c @ Y[:k]
            n = np.linalg.norm(s)
            if n > ORTHOGONAL and k < len(D):
                D[k], Y[k], k = s / n, y / n, k + 1
        D, Y = D[:k], Y[:k]
        C = Y @ D.T
        values, V = np.linalg.eigh((C + C.T) / 2)
        D, Y = V.T @ D, V.T @ Y
        K = Y - (Y @ D.T) @ D  # what the measured directions say of the others
        gamma = secant_curvature(X[-9:], G[-9:], 1e6) or 1.0
        top = max(float(np.abs(values).max(initial=0)), gamma)
        f, positive = np.zeros(k), values > 0
        size = np.maximum((K * K).sum(1)[positive], 1e-300)
        f[positive] = np.minimum(1 / values[positive], 2 * top / size)
        M = (D.T * values) @ D + D.T @ K + K.T @ D + gamma * (np.eye(p) - D.T @ D) + (K.T * f) @ K
        self.values, self.V = np.linalg.eigh((M + M.T) / 2)
        self.top, self.g = top, self.V.T @ g

    def step(self, radius: float) -> tuple[np.ndarray, float]:
        """The trust-region step, shape (p,), and the fall of the value that the model expects."""
        mu = 0.0
        interior = self.values[0] > 1e-14 * self.top
        if not interior or np.linalg.norm(self.g / self.values) > radius:
            low = max(0.0, -float(self.values[0]))
            a, b = 1e-14 * self.top, float(np.linalg.norm(self.g)) / radius + 1e-300
            for _ in range(50):
                m = float(np.sqrt(a * b))
                long = np.linalg.norm(self.g / (self.values + low + m)) > radius
                a, b = (m, b) if long else (a, m)
            mu = low + b
        s = self.g / (self.values + mu)
        return -self.V @ s, float(s @ self.g - 0.5 * s @ (self.values * s))
