"""Orthogonal bases of eigenvectors, from scratch or by one step from the basis before."""

from __future__ import annotations

import numpy as np

from optex_core.optimizers._kronecker.matrix_roots import InverseRoots
from optex_core.types import Array


def eigenbases(stack: Array, before: Array, *, tolerance: float) -> InverseRoots:
    """Bases Q whose columns are near eigenvectors of `stack`, shape (K, n, n), float64, largest
    eigenvalue first.

    Where `before` is zero: the eigenvectors. Else one step of the power iteration, the orthogonal
    factor of A Q', with the columns of Q' = `before` in the order of falling diag(Q'^T A Q'). The
    residual is max |Q^T Q - I|; a matrix that is not finite or that LAPACK cannot decompose is
    marked and never raises. The bits of a basis do not depend on what else is in the stack.

    References
    ----------
    Vyas et al., SOAP: improving and stabilizing Shampoo using Adam, arXiv 2409.11321, algorithm 4.
    """
    A, n = np.array(stack), stack.shape[-1]
    eye = np.eye(n)
    usable = np.isfinite(A).all((1, 2)) & np.isfinite(before).all((1, 2))
    top = np.abs(A).max((1, 2), initial=0.0)
    Q = np.broadcast_to(eye, A.shape).copy()
    # A basis has no scale: entries of size one neither overflow nor vanish in the products.
    _, exponents = np.frexp(np.where(usable & (top > 0.0), top, 1.0))
    for i in np.flatnonzero(usable & (top > 0.0)):
        scaled = np.ldexp(A[i], -exponents[i])
        try:
            if before[i].any():
                AQ = scaled @ before[i]
                order = np.argsort(-np.einsum("ij,ij->j", before[i], AQ), kind="stable")
                Q[i] = np.linalg.qr(AQ[:, order])[0]
            else:
                Q[i] = np.linalg.eigh(scaled)[1][:, ::-1]
        except np.linalg.LinAlgError:
            usable[i] = False
    with np.errstate(all="ignore"):
        residuals = np.abs(Q.swapaxes(-1, -2) @ Q - eye).max((1, 2), initial=0.0)
    residuals = np.where(usable & np.isfinite(residuals), residuals, np.inf)
    return InverseRoots(Q, residuals, residuals <= tolerance)
