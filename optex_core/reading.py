"""Vectors as coefficients over a basis, and what a predicted step asks of them: distances to the rows, the mean, lengths.

All of it is arithmetic on the Gram matrix of the basis, which span.py keeps: O(m^2) numbers a step, whatever the number of parameters is.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from optex_core.history import History
from optex_core.types import Array

#: Places in the basis, before the optimizer's vectors and the differences of rows.
ORIGIN, NEWEST, OFFSET, FIXED = 0, 1, 2, 3


class Combination:
    """A vector of shape (d,) as coefficients `c` over the basis of a `Span` at `epoch`.

    `array` is the vector itself once it has been made, `seen` what `Span.seen` has found out about it.
    """

    __slots__ = ("array", "c", "epoch", "seen")

    def __init__(self, c: np.ndarray, epoch: int, array: Array | None = None) -> None:
        self.c, self.epoch, self.array = c, epoch, array
        self.seen: tuple[int, float, np.ndarray] | None = None


class Reading:
    """What every predicted step of one basis is taken with, two small products each.

    Parameters
    ----------
    history : History
    epoch : int
        Of the basis.
    K : float64 array, shape (m, m)
        Inner products of the basis.
    thetas, gradients : slice
        Where the differences of consecutive rows are in it, those of parameters and those of gradients.
    dead : int
        How many of each belong to rows that the history no longer holds.

    Attributes
    ----------
    look : float64 array, shape (m + n, m)
        K, and below it 2 (theta_r - theta_i)' basis for each row i of the history in ring order.
    ages : int array, shape (n,)
        The history's `order`.
    rows : float64 array, shape (n,)
        Squared distances of the rows to theta_r, without `dims`.
    """

    def __init__(self, history: History, epoch: int, K: np.ndarray, thetas: slice, gradients: slice, dead: int) -> None:
        h, n = history, history.n
        self.epoch, self.K, self.ages = epoch, K, h.order()
        self._thetas, self._gradients = slice(thetas.start + dead, thetas.stop), slice(gradients.start + dead, gradients.stop)
        self.rows = h.D[h.newest, :n] if h.dims is None else np.empty(0)
        self._sums: tuple[float, bool, np.ndarray] | None = None

    @cached_property
    def look(self) -> np.ndarray:
        m = len(self.K)
        look = np.zeros((m + len(self.ages), m))
        look[:m] = self.K
        look[m + self.ages[:-1]] = 2.0 * self.K[self._thetas][::-1].cumsum(0)[::-1]
        return look

    def square(self, c: np.ndarray) -> float:
        """|sum_k c_k basis_k|^2."""
        return max(float(c.dot(self.K.dot(c))), 0.0)

    def lengths(self, C: np.ndarray) -> np.ndarray:
        """|sum_k C_jk basis_k| for each row of `C`, shape (j, m)."""
        return np.sqrt(np.maximum(np.einsum("jk,jk->j", C.dot(self.K), C), 0.0))

    @property
    def places(self) -> tuple[np.ndarray, int, int]:
        """The history's `order`, and where the differences of its rows begin, those of parameters and of gradients."""
        return self.ages, self._thetas.start, self._gradients.start

    def seen(self, c: np.ndarray) -> tuple[float, np.ndarray]:
        """|p - theta_r|^2, and 2 (p - theta_r)'(theta_r - theta_i) for the rows in ring order, of the point p with coefficients `c`."""
        u = c.copy()
        u[ORIGIN] -= 1.0
        y = self.look.dot(u)
        return float(u.dot(y[: len(u)])), y[len(u) :]

    def distances(self, length: float, products: np.ndarray) -> np.ndarray:
        """Squared distances to the rows, shape (n,), of a point of which that is `seen`."""
        s = products + length
        s += self.rows
        return np.maximum(s, 0.0, out=s)

    def sums(self, curvature: float, constant: bool) -> np.ndarray:
        """Shape (m, n): takes weights in ring order to the coefficients of sum_i w_i (g_i - curvature theta_i), less what they have in any case."""
        if self._sums is None or self._sums[:2] != (curvature, constant):
            n = len(self.ages)
            steps = np.tri(n - 1, n)
            made = np.zeros((len(self.K), n))
            made[self._gradients, self.ages] = -steps
            if curvature:
                made[self._thetas, self.ages] = curvature * steps
            if not constant:
                made[NEWEST] = 1.0
            self._sums = curvature, constant, made
        return self._sums[2]

    def mean(self, w: np.ndarray, c: np.ndarray, curvature: float, constant: bool) -> np.ndarray:
        """sum_i w_i g_i + curvature (x - sum_i w_i theta_i) at the point `c`; `w` in ring order, summing to one if `constant`."""
        out: np.ndarray = self.sums(curvature, constant).dot(w)
        if constant:
            out[NEWEST] += 1.0
        if curvature:
            out += curvature * c
            out[ORIGIN] -= curvature
        return out
