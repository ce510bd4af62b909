"""Vectors as coefficients over a basis, and what a predicted step asks of them: distances to the
rows, the mean, lengths.

All of it is arithmetic on the Gram matrix of the basis, which span.py keeps: O(m^2) numbers a step,
whatever the number of parameters is.
"""

from __future__ import annotations

import numpy as np

from optex_core.model.history import History
from optex_core.types import Array

#: Places in the basis, before the optimizer's vectors and the differences of rows.
INDEX_ORIGIN, INDEX_NEWEST, INDEX_OFFSET, N_FIXED = 0, 1, 2, 3


class SubspaceVector:
    """A vector of shape (d,) as coefficients `c` over the basis of a `SubspaceBasis` at `epoch`.

    `array` is the vector itself once it has been made, `row_products` what
    `SubspaceBasis.row_products` has found out about it.
    """

    __slots__ = ("array", "c", "epoch", "row_products")

    def __init__(self, c: np.ndarray, epoch: int, array: Array | None = None) -> None:
        self.c, self.epoch, self.array = c, epoch, array
        self.row_products: tuple[int, float, np.ndarray] | None = None


class GramMetric:
    """What every predicted step of one basis is taken with: one product with K, and sums along the
    rows.

    Parameters
    ----------
    history : History
    epoch : int
        Of the basis.
    K : float64 array, shape (m, m)
        Inner products of the basis.
    thetas, gradients : slice
        Where the differences of consecutive rows are in it, those of parameters and those of
        gradients.
    dead : int
        How many of each belong to rows that the history no longer holds.

    Attributes
    ----------
    ages : int array, shape (n,)
        The history's `chronological_order`.
    rows : float64 array, shape (n,)
        Squared distances of the rows to theta_r, without `dims`.
    """

    def __init__(
        self,
        history: History,
        epoch: int,
        K: np.ndarray,
        thetas: slice,
        gradients: slice,
        n_evicted: int,
    ) -> None:
        h, n = history, history.n
        self.epoch, self.K, self.ages = epoch, K, h.chronological_order()
        self._thetas, self._gradients = (
            slice(thetas.start + n_evicted, thetas.stop),
            slice(gradients.start + n_evicted, gradients.stop),
        )
        self.rows = h.D[h.newest, :n] if h.dims is None else np.empty(0)

    def squared_norm(self, c: np.ndarray) -> float:
        """|sum_k c_k basis_k|^2."""
        return max(float(c.dot(self.K.dot(c))), 0.0)

    def norms(self, C: np.ndarray) -> np.ndarray:
        """|sum_k C_jk basis_k| for each row of `C`, shape (j, m)."""
        return np.sqrt(np.maximum(np.einsum("jk,jk->j", C.dot(self.K), C), 0.0))

    @property
    def row_layout(self) -> tuple[np.ndarray, int, int]:
        """The history's `chronological_order`, and where the differences of its rows begin, those
        of parameters and of gradients.
        """
        return self.ages, self._thetas.start, self._gradients.start

    def row_products(self, c: np.ndarray) -> tuple[float, np.ndarray]:
        """|p - theta_r|^2, and 2 (p - theta_r)'(theta_r - theta_i) for the rows in ring order, of
        the point p with coefficients `c`.
        """
        u = c.copy()
        u[INDEX_ORIGIN] -= 1.0
        y = self.K.dot(u)
        # theta_r - theta_i is the sum of the differences after the row i.
        products = np.zeros(len(self.ages))
        products[self.ages[:-1]] = 2.0 * y[self._thetas][::-1].cumsum()[::-1]
        return float(u.dot(y)), products

    def distances(self, length: float, products: np.ndarray) -> np.ndarray:
        """Squared distances to the rows, shape (n,), of a point of which that is `row_products`."""
        s = products + length
        s += self.rows
        return np.maximum(s, 0.0, out=s)

    def mean(self, w: np.ndarray, c: np.ndarray, curvature: float, constant: bool) -> np.ndarray:
        """sum_i w_i g_i + curvature (x - sum_i w_i theta_i) at the point `c`; `w` in ring order,
        summing to one if `constant`.
        """
        out = curvature * c
        out[INDEX_ORIGIN] -= curvature
        # A row is the newest less the differences after it, so a difference counts for all rows up
        # to its own.
        older = w[self.ages].cumsum()
        out[self._gradients] -= older[:-1]
        if curvature:
            out[self._thetas] += curvature * older[:-1]
        out[INDEX_NEWEST] += 1.0 if constant else older[-1]
        return out
