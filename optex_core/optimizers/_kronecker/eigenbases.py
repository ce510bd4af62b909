"""Orthogonal bases of eigenvectors, from scratch or by one step from the basis before."""

from __future__ import annotations

import numpy as np

from optex_core.optimizers._kronecker.matrix_roots import RESIDUAL_TOLERANCE, InverseRoots
from optex_core.types import Array

#: Relative to the largest eigenvalue; has the same eigenvectors.
SHIFT = 1e-7


def eigenbases(stack: Array, before: Array, *, floor: float) -> InverseRoots:
    """Bases Q whose columns are near eigenvectors of `stack`, shape (K, n, n), float64.

    Where `before` is zero: the eigenvectors, largest eigenvalue first. Else one step of the power
    iteration, the orthogonal factor of A Q', made orthogonal in the order of falling diag(Q'^T A
    Q'), Q' = `before`; each column has the place of the one that it comes from.

    Where A has rounding alone its vectors would be those of rounding. Of eigenvalues of at most
    `floor` n times the largest they are replaced by the coordinates that lie best in their space,
    made orthogonal; a step is one of A + SHIFT lambda I, which keeps the columns of `before` there.
    The residual is max |Q^T Q - I|; a matrix that is not finite or that LAPACK cannot decompose is
    marked and never raises. The bits of a basis do not depend on what else is in the stack.

    References
    ----------
    Vyas et al., SOAP: improving and stabilizing Shampoo using Adam, arXiv 2409.11321, algorithm 4.
    """
    n = stack.shape[-1]
    usable: np.ndarray = np.logical_and(
        np.isfinite(stack).all((1, 2)), np.isfinite(before).all((1, 2))
    )
    top = np.abs(stack).max((1, 2), initial=0.0)
    Q = np.broadcast_to(np.eye(n), stack.shape).copy()
    # A basis has no scale: entries of size one neither overflow nor vanish in the products.
    _, exponents = np.frexp(np.where(usable & (top > 0.0), top, 1.0))
    for i in np.flatnonzero(usable & (top > 0.0)):
        scaled = np.ldexp(stack[i], -exponents[i])
        try:
            if before[i].any():
                Q[i] = _stepped(scaled, before[i])
            else:
                Q[i] = _decomposed(scaled, floor)
        except np.linalg.LinAlgError:
            usable[i] = False
    residuals = np.abs(Q.swapaxes(-1, -2) @ Q - np.eye(n)).max((1, 2), initial=0.0)
    residuals = np.where(usable & np.isfinite(residuals), residuals, np.inf)
    return InverseRoots(Q, residuals, residuals <= RESIDUAL_TOLERANCE)


def _decomposed(A: np.ndarray, floor: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(A)
    Q: np.ndarray = vectors[:, ::-1]
    rank = int((values > floor * len(A) * values[-1]).sum())
    if rank < len(A):
        kernel = Q[:, rank:]
        Q = np.concatenate([Q[:, :rank], _spanned(kernel @ kernel.T, len(A) - rank)], axis=1)
    return Q


def _spanned(P: np.ndarray, rank: int) -> np.ndarray:
    """An orthonormal basis of what P projects to: its longest column, that of the rest, ..."""
    columns = []
    left = P.copy()
    for _ in range(rank):
        longest = left[:, np.argmax((left * left).sum(0))]
        columns.append(longest / np.linalg.norm(longest))
        left -= np.outer(columns[-1], columns[-1] @ left)
    return np.stack(columns, axis=1)


def _stepped(A: np.ndarray, before: np.ndarray) -> np.ndarray:
    AQ = A @ before
    values = np.einsum("ij,ij->j", before, AQ)
    AQ += SHIFT * values.max() * before
    order = np.argsort(-values, kind="stable")
    found = np.empty_like(AQ)
    found[:, order] = np.linalg.qr(AQ[:, order])[0]
    return found
