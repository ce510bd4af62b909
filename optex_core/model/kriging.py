"""The T0 x T0 linear systems behind the estimator: weights and variances from squared distances.

With a fitted constant (or linear) prior mean only *contrasts* of rows matter, and working on them
loses no digits however long the length scale. With h = 1 - kappa, Q orthonormal with Q'1 = 0 and h0
a typical h,

    B = -Q'(H / h0)Q + rho I,   w(x) = 1/n + Q B^-1 Q'(H1/n - h(x)) / h0,   rho = lambda / h0.

This equals ordinary kriging, w = A^-1 k + (1 - 1'A^-1 k) / (1'u) u with A = K + lambda I and
u = A^-1 1. rho means the same at every length. With zero prior mean, w = A^-1 k.

Notes
-----
No inverse is formed: at n = 60, lambda = 1e-12 and lengths of 300 medians its one-step error was
3.5, of a factorisation 0.04. Eigenvalues come from `dsyevr`: the divide and conquer behind
`numpy.linalg.eigh` has threads of its own from 26 rows on (2 ms, but 220 on busy cores).
"""

from __future__ import annotations

from functools import cache, lru_cache
from types import ModuleType
from typing import final

import numpy as np

from optex_core.backends.blas_threads import refresh_libraries
from optex_core.errors import OptexError
from optex_core.model.kernels.base import Kernel

FLOAT64_EPS = float(np.finfo(np.float64).eps)

#: rho is raised by factors of ten, at most this often, before the system is given up.
MAX_JITTER_STEPS = 12


class IllConditioned(OptexError, ArithmeticError):
    """No jitter made the system usable; the estimator falls back on the newest gradient."""


@lru_cache(maxsize=1024)
def helmert_contrasts(n: int) -> np.ndarray:
    """Helmert's orthonormal basis of the contrasts, shape (n, n - 1). Read-only."""
    Q = np.zeros((n, n - 1))
    for j in range(1, n):
        Q[:j, j - 1] = 1.0
        Q[j, j - 1] = -j
        Q[:, j - 1] /= np.sqrt(j * (j + 1.0))
    Q.flags.writeable = False
    return Q


def mean_off_diagonal(H: np.ndarray) -> np.ndarray:
    """h0: the mean of H off its zero diagonal, over the last two axes; 1 where that is 0."""
    n = H.shape[-1]
    h0 = H.sum((-2, -1)) / max(n * (n - 1), 1)
    return np.where(h0 > 0.0, h0, 1.0)


def eigendecompositions(
    kernel: Kernel, S: np.ndarray, lengths: np.ndarray, constant: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigendecompositions of the noise-free system at L lengths, from squared distances (n, n).

    Returns ascending eigenvalues, shape (L, m), the basis in terms of the rows, shape (L, n, m),
    and h0, shape (L,); m = n - 1 in the contrast form (`constant`), else n.
    """
    scaled = S[None] / np.square(lengths)[:, None, None]
    if not constant:
        values, basis = _eigen(kernel.profile(scaled))
        return values, basis, np.ones(len(scaled))
    H = kernel.complement(scaled)
    h0 = mean_off_diagonal(H)
    Q = helmert_contrasts(H.shape[-1])
    values, basis = _eigen(Q.T @ (H * (-1.0 / h0)[:, None, None]) @ Q)
    return values, Q @ basis, h0


def _eigen(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending eigenvalues and eigenvectors of symmetric matrices, shapes (L, m), (L, m, m)."""
    if not np.isfinite(A).all():  # LAPACK may not return from these
        raise np.linalg.LinAlgError("eigenvalues of a matrix that is not finite")
    values, vectors = np.empty(A.shape[:2]), np.empty(A.shape)
    for i, one in enumerate(A):
        values[i], vectors[i], _, _, failed = lapack().dsyevr(one.T, lower=1)
        if failed:
            raise np.linalg.LinAlgError("no convergence of eigenvalues")
    return values, vectors


@cache
def lapack() -> ModuleType:
    """LAPACK's routines, imported on first use (0.2 s)."""
    from scipy.linalg import lapack as routines

    refresh_libraries()
    return routines


@final
class KrigingSystem:
    """The factorised system of n >= 1 rows at one length and noise, from their squared distances S.

    With `constant` the mean is fitted and weights sum to one, else it is zero. `noise` is lambda
    after any jitter, `rho` lambda / h0, and `basis`, shape (n, m), L^-T of Cholesky's factor of the
    system, in terms of the rows.
    """

    def __init__(
        self, kernel: Kernel, S: np.ndarray, length: float, noise: float, constant: bool
    ) -> None:
        self.n, self.constant, self.noise, self.jittered = len(S), constant, noise, False
        self._kernel, self._inverse = kernel, 1.0 / length**2
        if self.n == 1:
            return
        scaled, n = S * self._inverse, self.n
        self._H = kernel.complement(scaled) if constant else kernel.profile(scaled)
        self.h0 = 1.0
        if constant:  # as `mean_off_diagonal`
            self.h0 = float(np.add.reduce(self._H, (-2, -1))) / (n * (n - 1)) or 1.0
        self._factorize(noise / self.h0)
        self._center = np.add.reduce(self._H, 1) / self.n

    def _factorize(self, rho: float) -> None:
        """Cholesky's factor of the system (a third of the time of its eigenvalues), with jitter."""
        n = self.n
        if self.constant:
            Q = helmert_contrasts(n)
            system = Q.T.dot(self._H * (-1.0 / self.h0)).dot(Q)
        else:
            Q, system = np.eye(n), self._H.copy()
        # Rounding leaves eigenvalues uncertain by n eps times the largest, and the largest is at
        # most the trace: rho must dominate that, or the weights are noise themselves.
        m, routines = len(system), lapack()
        diagonal = system.diagonal().copy()
        floor = 10 * n * FLOAT64_EPS * float(np.add.reduce(diagonal))
        shifted = system.T  # in Fortran's order, as LAPACK wants it
        for _ in range(MAX_JITTER_STEPS + 1):
            if rho >= floor:
                shifted.ravel(order="K")[:: m + 1] = diagonal + rho
                factor, failed = routines.dpotrf(shifted, lower=1, clean=1)
                # A positive definite matrix leaves at least rho on the diagonal; less is an
                # indefinite one that just passed (weights of 1e8 with a box kernel on 12 points),
                # and nan, which LAPACK lets through, is no comparison at all.
                if not failed and np.minimum.reduce(factor.diagonal()) ** 2 >= 0.5 * rho:
                    break
            rho, self.jittered = max(10.0 * rho, floor), True
        else:
            raise IllConditioned(
                f"the {n} x {n} kernel matrix is not positive definite, even with "
                f"noise {rho:.2g} on its diagonal"
            )
        self.rho, self.noise = rho, rho * self.h0
        # B^-1 = L^-T L^-1: a predicted step costs two small products.
        self._transposed = routines.dtrtri(factor, lower=1)[0].dot(Q.T)
        self.basis = self._transposed.T
        self._scaled_basis = self.basis / self.h0

    def weights(self, s: np.ndarray) -> np.ndarray:
        """The weights w, shape (n,), of a query at the squared kernel distances `s`, shape (n,)."""
        scaled = s * self._inverse
        if self.constant:
            if self.n == 1:
                return np.ones(1)
            contrast = self._center - self._kernel.complement(scaled)
            return 1.0 / self.n + self._scaled_basis.dot(self._transposed.dot(contrast))
        kappa = self._kernel.profile(scaled)
        if self.n == 1:
            return kappa / (1.0 + self.noise)
        return self._scaled_basis.dot(self._transposed.dot(kappa))

    def weight_map(self) -> tuple[float, float, float, np.ndarray, np.ndarray, np.ndarray]:
        """`weights` as numbers: from `inverse` to `eigen_factor` as `PosteriorArrays` has them."""
        n, sign = self.n, -1.0 if self.constant else 1.0
        base = np.full(n, 1.0 / n if self.constant else 0.0)
        if n == 1:
            factor = np.ones((int(not self.constant), 1))
            return self._inverse, sign, 1.0 / (1.0 + self.noise), base, np.zeros(1), factor
        center = self._center if self.constant else np.zeros(n)
        return self._inverse, sign, 1.0 / self.h0, base, center, self._transposed

    def variance(self, s: np.ndarray, w: np.ndarray) -> float:
        """The variance factor v of the noise-free gradient for the weights of the same query.

        With zero mean v = 1 - k'A^-1 k; with the fitted mean v = 2 w'h - w'Hw + lambda w'w, which
        for the optimal w equals 1 - k'A^-1 k + (1 - 1'A^-1 k)^2 / (1'u).
        """
        scaled = s * self._inverse
        if not self.constant:
            return max(1.0 - float(w @ self._kernel.profile(scaled)), 0.0)
        h = self._kernel.complement(scaled)
        spread = 0.0 if self.n == 1 else float(w @ (self._H @ w))
        return max(2.0 * float(w @ h) - spread + self.noise * float(w @ w), 0.0)
