"""Probes: points whose secants widen the known space."""

from __future__ import annotations

import numpy as np

#: Distance of a probe from the expected next point, in units of its distance from x.
DISTANCE = 0.3


def probe_points(
    X: np.ndarray, G: np.ndarray, points: list[np.ndarray], N: int, most: int
) -> list[np.ndarray]:
    """Points beside the expected next one, orthogonal to all rows, where recent gradients point.

    Parameters
    ----------
    X, G : float arrays, shape (n, p)
        Coordinates, the last row at the origin.
    points : list of arrays
        The expected next point, and others that are evaluated.
    N : int
        Gradients of the last two rounds are read.
    most : int

    Returns
    -------
    list of arrays, shape (p,)
        The directions that the limit of the next rounds needs first (a block Krylov space).
    """
    z, Q = points[0], np.vstack([X[:-1], *points])
    sizes = np.maximum(np.linalg.norm(Q, axis=1), 1e-300)
    s, V = np.linalg.svd(Q / sizes[:, None], full_matrices=False)[1:]
    V = V[s > 1e-8 * s[0]]
    R = (G - G[-1])[-2 * N : -1]
    size = np.linalg.norm(R, axis=1)
    for _ in range(2):
        R = R - (R @ V.T) @ V
    new = np.linalg.norm(R, axis=1) > 1e-7 * size
    if not new.any():
        return []
    R = R[new] / np.linalg.norm(R[new], axis=1)[:, None]
    s, V = np.linalg.svd(R, full_matrices=False)[1:]
    V = V[s > 1e-3 * s[0]][:most]
    return [z - np.copysign(DISTANCE * np.linalg.norm(z), v @ G[-1]) * v for v in V]
