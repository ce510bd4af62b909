"""Vectors as coefficients over a `SubspaceBasis`, and their distances, norms and posterior means.

All of it is arithmetic on the Gram matrix of the basis: O(m^2) numbers a step, for any d.
"""

from __future__ import annotations

from typing import TypeAlias, final

import numpy as np

from optex_core.model.history import History
from optex_core.types import Array

#: Places in the basis, before the optimizer's vectors and the differences of rows.
INDEX_ORIGIN, INDEX_NEWEST, INDEX_OFFSET, N_FIXED = 0, 1, 2, 3


@final
class SubspaceVector:
    """A vector of shape (d,) as coefficients `c` over the basis at `epoch`.

    `array` is the vector itself once it was made, `row_products` what `SubspaceBasis.row_products`
    found for it.
    """

    __slots__ = ("array", "c", "epoch", "row_products")

    def __init__(self, c: np.ndarray, epoch: int, array: Array | None = None) -> None:
        self.c, self.epoch, self.array = c, epoch, array
        self.row_products: tuple[int, float, np.ndarray] | None = None


#: A predicted point or gradient: an array, or coefficients.
Vector: TypeAlias = Array | SubspaceVector


@final
class GramMetric:
    """Inner products over the basis at `epoch`, and sums along the rows of its history.

    `K`, shape (m, m), has the inner products of the basis; `thetas` and `gradients` are where the
    differences of consecutive rows are in it, `n_evicted` how many of each belong to rows that have
    left the history.
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
        self.epoch, self.K, self._order = epoch, K, h.chronological_order()
        self._thetas = slice(thetas.start + n_evicted, thetas.stop)
        self._gradients = slice(gradients.start + n_evicted, gradients.stop)
        # Squared distances of the rows to theta_r, without `dims`.
        self.row_distances = h.D[h.newest, :n] if h.dims is None else np.empty(0)

    @property
    def row_layout(self) -> tuple[np.ndarray, int, int]:
        """The chronological order of the rows, and where their differences begin in the basis."""
        return self._order, self._thetas.start, self._gradients.start

    def squared_norm(self, c: np.ndarray) -> float:
        """|sum_k c_k basis_k|^2."""
        return max(float(c.dot(self.K.dot(c))), 0.0)

    def norms(self, C: np.ndarray) -> np.ndarray:
        """|sum_k C_jk basis_k| for each row of `C`, shape (j, m)."""
        return np.sqrt(np.maximum(np.einsum("jk,jk->j", C.dot(self.K), C), 0.0))

    def row_products(self, c: np.ndarray) -> tuple[float, np.ndarray]:
        """|p - theta_r|^2 and 2 (p - theta_r)'(theta_r - theta_i) for the rows in ring order."""
        u = c.copy()
        u[INDEX_ORIGIN] -= 1.0
        y = self.K.dot(u)
        # theta_r - theta_i is the sum of the differences after the row i.
        products = np.zeros(len(self._order))
        products[self._order[:-1]] = 2.0 * y[self._thetas][::-1].cumsum()[::-1]
        return float(u.dot(y)), products

    def distances(self, length: float, products: np.ndarray) -> np.ndarray:
        """Squared distances to the rows, shape (n,), of a point with these `row_products`."""
        s = products + length
        s += self.row_distances
        return np.maximum(s, 0.0, out=s)

    def mean(self, w: np.ndarray, c: np.ndarray, curvature: float, constant: bool) -> np.ndarray:
        """sum_i w_i g_i + curvature (x - sum_i w_i theta_i) at the point `c`.

        `w` is in ring order, and sums to one if `constant`.
        """
        out = curvature * c
        out[INDEX_ORIGIN] -= curvature
        # A row is the newest less the differences after it: one counts for all rows up to its own.
        older = w[self._order].cumsum()
        out[self._gradients] -= older[:-1]
        if curvature:
            out[self._thetas] += curvature * older[:-1]
        out[INDEX_NEWEST] += 1.0 if constant else older[-1]
        return out
