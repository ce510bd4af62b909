"""Inverse p-th roots of symmetric positive semi-definite matrices, A^(-1/p), each with the true
residual by which it is judged.

Notes
-----
On a 2-core CPU one `eigh` of 256 x 256 in float64 takes 7 to 12 ms, a coupled Newton iteration 145:
the CPU decomposes, and only a GPU, quick at products and slow at eigenproblems, iterates. NumPy's
`eigh`, unlike SciPy's, releases the GIL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from optex_core.errors import ArgumentError
from optex_core.types import Array

#: A root is accepted when max |X^p A - I|, in float64, is at most this. Roots that a Newton
#: iteration called converged (its own residual 2e-7) were 11 % wrong in float32 at condition 1e8;
#: in float64 an honest root has 1e-9 at the condition of 1e6 that a ridge of 1e-6 allows.
RESIDUAL_TOLERANCE = 1e-3
#: Eigenvalues below so many n eps of the largest are raised to that: rounding leaves so few digits
#: of them that no residual could tell a right root from a wrong one (at 0.5 the residuals of a
#: rank-one matrix were 0.1 to 0.4, at 500 they are 2e-4).
EIGENVALUE_FLOOR_IN_EPS = 500.0
#: Steps of the Newton iteration after its smallest eigenvalue has come near 1.
NEWTON_POLISH_STEPS = 7
#: The smallest ridge for a matrix stored in precision eps. With 1e-9 and float32 30 of 128
#: eigenvalues of a rank-16 matrix were negative, and their noise was amplified.
MIN_RIDGE_IN_EPS = 8.0


@dataclass(frozen=True, slots=True)
class InverseRoots:
    """Inverse roots X = (A + r I)^(-1/p) of a stack of matrices."""

    matrices: Array  # (K, n, n), float64, symmetric and finite; the identity where there is none
    residuals: np.ndarray  # (K,), max |X^p (A + r I) - I| of the matrices themselves, or inf
    accepted: np.ndarray  # (K,), bool: the residual is within the tolerance


def inverse_roots(stack: Array, p: float, *, ridge: float = 1e-6) -> InverseRoots:
    """Inverse p-th roots of `stack`, shape (K, n, n), by eigendecomposition in float64 on the CPU;
    p > 0 need be no integer.

    (A + ridge lambda_max I)^(-1/p) = V diag(l^(-1/p)) V', l the eigenvalues with the ridge. The
    bits of a root do not depend on what else is in the stack. A matrix that is not finite, that
    LAPACK cannot decompose, or whose root misses the tolerance, is marked and never raises.
    """
    A, exponents, usable = _scaled(np, np.asarray(stack, dtype=np.float64))
    K, n = A.shape[:2]
    try:
        values, vectors = np.linalg.eigh(A)
    except np.linalg.LinAlgError:  # one is enough to lose the whole stack
        values, vectors = np.ones((K, n)), np.broadcast_to(np.eye(n), A.shape).copy()
        for i in np.flatnonzero(usable):
            try:
                values[i], vectors[i] = np.linalg.eigh(A[i])
            except np.linalg.LinAlgError:
                usable[i] = False
    top = np.maximum(values[:, -1:], 0.0)
    wanted = values + ridge * top
    floor = EIGENVALUE_FLOOR_IN_EPS * n * np.finfo(np.float64).eps
    lifted = np.maximum(wanted, floor * top)
    lifted[~(lifted > 0.0)] = 1.0  # negative semi-definite: the residual tells
    half = vectors * (lifted ** (-0.5 / p))[:, None, :]
    X = half @ half.swapaxes(-1, -2)  # symmetric to the last bit
    # The matrix whose root it is: with the ridge, and what was below rounding raised.
    A[:, np.arange(n), np.arange(n)] += ridge * top
    raised = lifted - wanted
    raised[raised > 1.1 * floor * lifted[:, -1:]] = 0.0  # indefinite: the residual tells
    for i in np.flatnonzero((raised > 0.0).any(1)):
        A[i] += (vectors[i] * raised[i]) @ vectors[i].T
    residuals = _residuals(np, X, A, p)
    residuals[~usable] = np.inf
    return _finished(np, X, residuals, exponents, p)


def newton_roots(xp: ModuleType, stack: Array, p: int, *, ridge: float = 1e-6) -> InverseRoots:
    """The same by the coupled Newton iteration, products alone, for stacks on a GPU; `xp` is the
    array library. Needs ridge > 0.

    X <- X T, M <- T^p M with T = ((p + 1) I - M) / p, from M = z A, X = z^(1/p) I (Guo and Higham,
    SIAM J. Matrix Anal. Appl. 28, 2006, equation 3.2). The number of steps follows from the
    condition that the ridge allows, so that nothing is read back from the device before the end:
    the smallest eigenvalue mu of M grows by ((p + 1) / p)^p a step. Never started from an earlier
    root: after a drift of 1e-4 that converged to a root 15 % wrong, since an earlier root does not
    commute with the new matrix. lambda_max is bounded by |A^16|_F^(1/16), at most n^(1/32) above
    it, so the ridge is up to a quarter larger than that of `inverse_roots`.
    """
    if ridge <= 0.0:
        raise ArgumentError(
            "newton_roots needs ridge > 0: it bounds the condition, and so the number of steps"
        )
    A, exponents, usable = _scaled(xp, xp.asarray(stack, dtype=np.float64))
    n = A.shape[-1]
    eye = xp.eye(n)
    power, log_top = A, xp.zeros(len(A))
    for k in range(1, 5):
        power = power @ power
        size = xp.sqrt((power * power).sum((1, 2)))
        size = xp.where(size > 0.0, size, 1.0)
        power = power / size[:, None, None]
        log_top = 2.0 * log_top + xp.log(size)
        exponent = 2.0**k
    top = xp.exp(log_top / exponent)
    A = A + (ridge * top)[:, None, None] * eye
    z = 1.0 / ((1.0 + ridge) * top)  # the eigenvalues of M start in (0, 1]
    M, X = z[:, None, None] * A, (z ** (1.0 / p))[:, None, None] * eye
    steps = math.ceil(math.log(1.0 / ridge + 1.0) / (p * math.log1p(1.0 / p))) + NEWTON_POLISH_STEPS
    # a matrix that is not positive semi-definite overflows, and its residual tells
    with np.errstate(all="ignore"):
        for _ in range(steps):
            T = ((p + 1) * eye - M) / p
            X = X @ T
            M = _power(T, p) @ M
            M = (M + M.swapaxes(-1, -2)) / 2
    X = (X + X.swapaxes(-1, -2)) / 2
    residuals = _residuals(xp, X, A, p)
    residuals = xp.where(usable, residuals, np.inf)
    return _finished(xp, X, residuals, exponents, p)


def _scaled(xp: ModuleType, stack: Array) -> tuple[Array, Array, Array]:
    """The matrices times powers of two that bring their largest entry to 1/2 ... 1 (exact), the
    exponents, and which of them are finite.
    """
    top = xp.abs(stack).max((1, 2)) if stack.shape[-1] else xp.zeros(len(stack))
    usable = xp.isfinite(top)
    _, exponents = xp.frexp(xp.where(usable, top, 1.0))
    exponents = xp.where(top > 0.0, exponents, 0)
    # The zero matrix says nothing about directions: it is taken as the identity.
    clean = xp.where((usable & (top > 0.0))[:, None, None], stack, xp.eye(stack.shape[-1]))
    # In two steps, since 2^1073 is no float64; `ldexp` takes ten times as long (n = 256: 0.6 ms, a
    # decomposition 8.5).
    first = -exponents // 2
    clean *= xp.ldexp(xp.ones(len(clean)), first)[:, None, None]
    clean *= xp.ldexp(xp.ones(len(clean)), -exponents - first)[:, None, None]
    return clean, exponents, usable


def _power(X: Array, p: float) -> Array:
    """X^p of symmetric X by repeated squaring, or by eigenvectors for other than integers."""
    if p != int(p):
        values, vectors = np.linalg.eigh(X)
        power: Array = (vectors * (values**p)[:, None, :]) @ vectors.swapaxes(-1, -2)
        return power
    result, p = None, int(p)
    while True:
        if p & 1:
            result = X if result is None else result @ X
        p >>= 1
        if not p:
            assert result is not None
            return result
        X = X @ X.swapaxes(-1, -2)  # NumPy sees that it is symmetric, and computes half of it


def _residuals(xp: ModuleType, X: Array, A: Array, p: float) -> Array:
    with np.errstate(all="ignore"):  # what overflows is no root, and is told by its residual
        found = (
            xp.abs(_power(X, p) @ A - xp.eye(A.shape[-1])).max((1, 2))
            if A.shape[-1]
            else xp.zeros(len(A))
        )
    return xp.where(xp.isnan(found), np.inf, found)


def _finished(
    xp: ModuleType, X: Array, residuals: Array, exponents: Array, p: float
) -> InverseRoots:
    """Undo the scaling, (2^e A)^(-1/p) = 2^(-e/p) A^(-1/p), within the range of float64."""
    if len(X) and X.shape[-1]:
        X = xp.where((residuals < np.inf)[:, None, None], X, xp.eye(X.shape[-1]))
        room = 1020.0 - xp.ceil(xp.log2(xp.maximum(xp.abs(X).max((1, 2)), 1.0)))
        X = X * (2.0 ** xp.minimum(-exponents / p, room))[:, None, None]
    host = np.asarray(residuals.get() if hasattr(residuals, "get") else residuals)
    return InverseRoots(X, host, host <= RESIDUAL_TOLERANCE)
