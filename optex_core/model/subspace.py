"""Vectors as coefficients over the history: the basis, its Gram matrix, and vectors in it.

With SGD, momentum, Nesterov's form or decoupled decay every predicted point, velocity and estimated
gradient is a sum of

    theta_r, g_r (the newest row), e = theta_t - theta_r, the optimizer's vectors at theta_t,
    and the differences of consecutive rows theta_k - theta_{k-1}, g_k - g_{k-1},

so that with the Gram matrix K of these m = 2 T0 + 2 or so vectors a predicted step costs O(m^2)
numbers for any d. An iteration reads the histories for the products of its new rows, and for the
points that it hands out.

Notes
-----
Differences of consecutive rows keep their digits: raw products centred afterwards had a relative
error of 315 at an offset of 1e3 and steps of 1e-4, these 3e-16. Products of new parameter rows are
taken from the rows: from K, at half the arithmetic, they miss the rounding of predicted points
(weights of 1e5), and `auto` took 35 iterations in place of 25 (condition 1e3, N = 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, final

import numpy as np

from optex_core.model.history import History
from optex_core.types import Array

#: Places in the basis, before the optimizer's vectors and the differences of rows.
INDEX_ORIGIN, INDEX_NEWEST, INDEX_OFFSET, N_FIXED = 0, 1, 2, 3
#: Squared distances up to this part of the largest are taken from the rows: products of equal
#: points leave 1e-15 of it.
COINCIDENT_RTOL = 1e-12


@final
@dataclass(slots=True, eq=False)
class SubspaceVector:
    """A vector of shape (d,) as coefficients over a `SubspaceBasis`."""

    c: np.ndarray
    epoch: int  # of the basis
    array: Array | None = None  # the vector itself once it was made


#: A predicted point or gradient: an array, or coefficients.
Vector: TypeAlias = Array | SubspaceVector


class RowDifferences(NamedTuple):
    """Differences of arrays, as index pairs of shape (k, 2); -1 stands for no array."""

    arrays: list[Array]
    pairs: np.ndarray

    @classmethod
    def unique(cls, pairs: Sequence[tuple[Array, Array | None]]) -> RowDifferences:
        """The different arrays in (a, b) pairs, and the index pairs over them."""
        arrays: list[Array] = []
        place: dict[int | None, int] = {id(None): -1}
        for v in (v for pair in pairs for v in pair):
            if v is not None and id(v) not in place:
                place[id(v)] = len(arrays)
                arrays.append(v)
        return cls(arrays, np.array([[place[id(a)], place[id(b)]] for a, b in pairs]))

    def joined(self, other: RowDifferences, length: int) -> RowDifferences:
        """Both; the arrays of this one hold `length` vectors."""
        moved = np.where(other.pairs < 0, -1, other.pairs + length)
        return RowDifferences([*self.arrays, *other.arrays], np.concatenate([self.pairs, moved]))


def pairwise_products(S: np.ndarray) -> np.ndarray:
    """(a_i - a_j)'(b_i - b_j) for all pairs of rows from products of consecutive differences, S."""
    n = len(S) + 1
    A = np.zeros((n, n))  # products of rows minus the newest
    A[:-1, :-1] = S[::-1, ::-1].cumsum(0).cumsum(1)[::-1, ::-1]
    a = A.diagonal()
    found: np.ndarray = a[:, None] + a[None] - A - A.T
    return found


@final
@dataclass(frozen=True, slots=True)
class GramMetric:
    """Inner products over the basis at `epoch`, and sums along the rows of its history."""

    epoch: int
    K: np.ndarray  # (m, m): inner products of the basis
    order: np.ndarray  # the rows in ring order, from oldest to newest
    #: Where differences of consecutive rows, of those still in the history, are in the basis.
    thetas: slice
    gradients: slice
    row_distances: np.ndarray  # squared distances of the rows to theta_r, without `dims`

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
        products = np.zeros(len(self.order))
        products[self.order[:-1]] = 2.0 * y[self.thetas][::-1].cumsum()[::-1]
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
        older = w[self.order].cumsum()
        out[self.gradients] -= older[:-1]
        if curvature:
            out[self.thetas] += curvature * older[:-1]
        out[INDEX_NEWEST] += 1.0 if constant else older[-1]
        return out


@final
class SubspaceBasis:
    """The basis of one history with its Gram matrix, kept incrementally.

    In each iteration `rebase` puts theta_t and the optimizer's vectors into the basis, and `extend`
    the new rows. Rows that left the history with `extend` stay in the basis until the next
    `rebase`: predicted points are sums of them. The history has no scale: one metric serves
    distances and norms of gradients.
    """

    def __init__(self, history: History) -> None:
        self.history, self.backend = history, history.backend
        self.epoch = 0  # counts the bases: coefficients over one are none over another
        self.total = 0  # rows ever appended, as `History.total`
        self.disabled_until = 0  # no K before so many rows: the square of a present one overflows
        self.K: np.ndarray | None = None  # (m, m): inner products of the basis, if known
        self.n = self.n_evicted = 0  # rows in the basis; how many have left the history
        self.vectors: list[Array] = []  # of the optimizer, in the basis
        self.n_vectors = 0  # how many
        self.x: Array | None = None  # theta_t, in the basis as e
        self.anchor = 0  # ring index of theta_r in e = theta_t - theta_r
        self.n_appended = 0  # rows since `rebase`
        self._columns: tuple[int, Array, list[Array]] | None = None
        # Points farther from the newest row than this are not finite.
        self.finite_limit = 0.1 * float(np.finfo(history.X.dtype).max)
        self._metric: GramMetric | None = None

    # -- the basis --------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """m, the number of vectors in the basis."""
        return N_FIXED + self.n_vectors + 2 * (self.n - 1)

    @property
    def thetas(self) -> slice:
        """Where the differences of parameter rows are."""
        begin = N_FIXED + self.n_vectors
        return slice(begin, begin + self.n - 1)

    @property
    def gradients(self) -> slice:
        """Where the differences of gradients are."""
        return slice(N_FIXED + self.n_vectors + self.n - 1, self.size)

    def rebase(
        self, x: Array, vectors: Sequence[Array], current: np.ndarray | None = None
    ) -> np.ndarray | None:
        """Put theta_t and the optimizer's vectors there into the basis; their coefficients, shape
        (1 + vectors, m), or None where there are none: no rows, or squares overflow.

        `current` are their coefficients over the present basis, where they are known.
        """
        h = self.history
        if not h.n or h.total < self.disabled_until:
            return None
        if self.total != h.total or self.K is None:
            self._rebuild()
            current = None
        if self.K is None:
            return None
        n_vectors, rows = len(vectors), None
        start, n, fixed = N_FIXED + self.n_vectors, self.n - 1, N_FIXED + n_vectors
        # Where the vectors of the next basis are in this one, 0 for those that are new.
        still = np.arange(start + self.n_evicted, start + n)
        keep = np.r_[np.zeros(fixed, np.int64), still, still + n]
        keep[INDEX_NEWEST] = INDEX_NEWEST
        if current is not None and len(current) == 1 + n_vectors:
            new = current.copy()
            new[0, INDEX_ORIGIN] -= 1.0
            rows = new @ self.K
            corner = rows @ new.T
            rows = rows[:, keep]
        self.n, self.n_evicted, self.n_appended = self.n - self.n_evicted, 0, 0
        self.x, self.vectors, self.n_vectors, self.anchor = x, list(vectors), n_vectors, h.newest
        added = slice(INDEX_OFFSET, fixed)
        self.K = self.K.take(keep, 0).take(keep, 1)
        if rows is None:
            own = self._own_vectors()
            thetas, changes, corner = self._products(own, own)
            gap = np.zeros((1 + n_vectors, 1 + n_vectors))
            rows = np.concatenate([thetas[:1], changes[:1], gap, thetas[1:], changes[1:]]).T
        rows[:, added] = 0.5 * (corner + corner.T)
        self.K[added], self.K[:, added] = rows, rows.T
        self.epoch += 1
        if not np.isfinite(self.K).all():
            self._disable()
            return None
        here = np.zeros((1 + n_vectors, self.size))
        here[0, [INDEX_ORIGIN, INDEX_OFFSET]] = 1.0
        here[range(1, 1 + n_vectors), range(N_FIXED, fixed)] = 1.0
        return here

    def _own_vectors(self) -> RowDifferences:
        """theta_t - theta_r, and the optimizer's vectors."""
        assert self.x is not None
        offset = (self.x, self.history.X[self.anchor])
        return RowDifferences.unique([offset, *((v, None) for v in self.vectors)])

    def _row_steps(self) -> np.ndarray:
        """The newest row, and the differences of consecutive rows, as index pairs."""
        order = self.history.chronological_order()
        newest = [[self.history.newest, -1]]
        return np.concatenate([newest, np.stack([order[1:], order[:-1]], axis=1)])

    def _products(self, right: RowDifferences, *others: RowDifferences) -> list[np.ndarray]:
        """Products of `right` with the row steps of X, of G, and with `others`, in one pass."""
        h, rows = self.history, self._row_steps()
        products: Callable[..., np.ndarray] = self.backend.difference_products
        if not self.backend.batch_invariant_products:
            return [products(*one, *right) for one in ((h.X, rows), (h.G, rows), *others)]
        left = RowDifferences([h.X], rows)
        at, length = [len(rows)], len(h.X)
        for one, size in ((RowDifferences([h.G], rows), length), *((o, len(o[0])) for o in others)):
            left = left.joined(one, length)
            at.append(len(left.pairs))
            length += size
        return np.split(products(*left, *right), at[:-1])

    def _rebuild(self) -> None:
        """Take the Gram matrix of all rows from the rows themselves."""
        h = self.history
        self.n, self.n_evicted, self.n_vectors, self.total = h.n, 0, 0, h.total
        self.vectors, self.x = [], None
        pairs, products = self._row_steps(), self.backend.difference_products
        TT = products(h.X, pairs, h.X, pairs)
        GT = products(h.G, pairs, h.X, pairs)
        GG = products(h.G, pairs, h.G, pairs)
        self.K = np.zeros((self.size, self.size))
        t, g = np.r_[INDEX_ORIGIN, self.thetas], np.r_[INDEX_NEWEST, self.gradients]
        for left, right, block in ((t, t, TT), (g, t, GT), (t, g, GT.T), (g, g, GG)):
            self.K[np.ix_(left, right)] = block
        if not np.isfinite(self.K).all():
            self._disable()

    def _disable(self) -> None:
        self.K = None
        self.disabled_until = self.history.total + self.history.capacity
        self.epoch += 1

    # -- new rows ---------------------------------------------------------------------------------

    def extend(self, xs: Sequence[Array], gs: Sequence[Array]) -> None:
        """Append rows to the history, and to the basis; the pair matrices of the history follow
        from the products.
        """
        h, k = self.history, len(xs)
        if self.K is None or self.total != h.total or self.n_evicted or not 0 < k < h.capacity:
            h.extend(list(zip(xs, gs, strict=True)))
            if k:
                self.K, self.epoch = None, self.epoch + 1
            return
        moves = RowDifferences.unique(list(zip(xs, [h.X[h.newest], *xs], strict=False)))
        newest = gs[-1], None
        changes = RowDifferences.unique([*zip(gs, [h.G[h.newest], *gs], strict=False), newest])
        if self.backend.batch_invariant_products:  # one pass: 25 to 35 % of a round with Numba
            both = moves.joined(changes, len(moves.arrays))
            P, (among,) = self._products_with(both, both)
            PT, PG, TT, TV, VV = P[:, :k], P[:, k:], among[:k, :k], among[:k, k:], among[k:, k:]
        else:
            PT, (TT,) = self._products_with(moves, moves)
            PG, (TV, VV) = self._products_with(changes, moves, changes)
        TT = 0.5 * (TT + TT.T)
        old_steps = PT[self.thetas]
        steps = np.block([[self.K[self.thetas, self.thetas], old_steps], [old_steps.T, TT]])
        D = np.maximum(pairwise_products(steps)[-k:], 0.0)  # to all rows, oldest first
        same = self._coincident(xs, D)
        for pair in same:
            D[pair] = 0.0
        # New thetas come after the old ones, new gradients at the end.
        K, cut = self.K, self.thetas.stop
        self.n += k
        new_t, new_g = slice(cut, cut + k), slice(self.size - k, self.size)
        old, new = np.r_[:cut, cut + k : self.size - k], np.r_[new_t, new_g]
        rows = np.concatenate([PT.T, PG[:, :k].T])
        corner = np.block([[TT, TV[:, :k]], [TV[:, :k].T, VV[:k, :k].T]])
        self.K, last = np.empty((self.size, self.size)), np.empty(self.size)
        for left, right, block in ((old, old, K), (new, old, rows), (old, new, rows.T)):
            self.K[np.ix_(left, right)] = block
        self.K[np.ix_(new, new)] = corner
        last[old], last[new_t], last[new_g] = PG[:, k], TV[:, k], VV[:k, k]
        # The anchor moves to the newest row: parameters by the sum of their differences, the
        # gradient by its products anew (it may be a small difference of the old ones).
        self.K[INDEX_ORIGIN] += self.K[new_t].sum(0)
        self.K[:, INDEX_ORIGIN] += self.K[:, new_t].sum(1)
        last[INDEX_ORIGIN] += last[new_t].sum()
        last[INDEX_NEWEST] = VV[k, k]
        self.K[INDEX_NEWEST], self.K[:, INDEX_NEWEST] = last, last
        self.n_appended, self.epoch = k, self.epoch + 1
        t, g = self.thetas, self.gradients
        E = np.maximum(pairwise_products(self.K[g, g])[-k:], 0.0)
        M = pairwise_products(self.K[g, t])[-k:]
        for i, j in same:
            other = self._row_or_new(h.G, gs, j)
            E[i, j], M[i, j] = self.backend.squared_distance(gs[i], other), 0.0
        h.extend_with_pairs(list(zip(xs, gs, strict=True)), D, E, M)
        self.total, self.n_evicted = h.total, self.n - h.n
        if not np.isfinite(self.K).all():
            self._disable()

    def _products_with(
        self, right: RowDifferences, *others: RowDifferences
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Products of `right` with the whole basis, shape (m, k), and with each of `others`."""
        own = [] if self.x is None else [self._own_vectors()]
        thetas, changes, *more = self._products(right, *others, *own)
        P = np.zeros((self.size, len(right.pairs)))
        P[INDEX_ORIGIN], P[self.thetas] = thetas[0], thetas[1:]
        P[INDEX_NEWEST], P[self.gradients] = changes[0], changes[1:]
        if own:
            P[INDEX_OFFSET : N_FIXED + self.n_vectors] = more.pop()
        return P, more

    def _coincident(self, xs: Sequence[Array], D: np.ndarray) -> list[tuple[int, int]]:
        """Places in `D` of new rows at the point of another row.

        Products leave rounding there, and length scales are multiples of a median that counts
        positive distances.
        """
        h, found = self.history, []
        for i, j in np.argwhere(COINCIDENT_RTOL * D.max() >= D).tolist():
            if j == h.n + i:
                continue
            if self.backend.squared_distance(xs[i], self._row_or_new(h.X, xs, j)) == 0.0:
                found.append((i, j))
        return found

    def _row_or_new(self, rows: Array, new: Sequence[Array], j: int) -> Array:
        """The j-th of the rows of the history, oldest first, and the new ones."""
        h = self.history
        return new[j - h.n] if j >= h.n else rows[h.chronological_order()[j]]

    # -- coefficients -----------------------------------------------------------------------------

    def to_current_basis(self, p: SubspaceVector) -> np.ndarray | None:
        """The coefficients of `p` over the present basis; None if they are of another one."""
        if p.epoch != self.epoch:
            if not self.is_compatible(p.epoch):
                return None
            p.c, p.epoch = self.shift_basis(p.c), self.epoch
        return p.c

    def is_compatible(self, epoch: int) -> bool:
        """True for the present basis, and for the same before `extend`."""
        extended = self.n_appended > 0 and epoch == self.epoch - 1 and self.K is not None
        return epoch == self.epoch or extended

    def shift_basis(self, old: np.ndarray) -> np.ndarray:
        """Coefficients, shape (..., m), from before `extend` in the present basis."""
        k, fixed, n = self.n_appended, N_FIXED + self.n_vectors, self.n - 1 - self.n_appended
        c = np.empty((*old.shape[:-1], self.size))
        c[..., : fixed + n] = old[..., : fixed + n]
        c[..., fixed + n : fixed + n + k] = -old[..., INDEX_ORIGIN : INDEX_ORIGIN + 1]
        c[..., fixed + n + k : fixed + 2 * n + k] = old[..., fixed + n :]
        c[..., fixed + 2 * n + k :] = -old[..., INDEX_NEWEST : INDEX_NEWEST + 1]
        return c

    def is_lost(self, c: np.ndarray) -> bool:
        """True if the sum `c` has parts that no array holds any longer."""
        t, g, k = self.thetas.start, self.gradients.start, self.n_evicted
        return bool(c[t : t + k].any() or c[g : g + k].any())

    def gradient_row(self, back: int) -> np.ndarray:
        """The gradient of the row `back` places before the newest."""
        c = np.zeros(self.size)
        c[INDEX_NEWEST] = 1.0
        c[self.size - back :] = -1.0
        return c

    @property
    def metric(self) -> GramMetric:
        """What predicted steps over the present basis are computed with."""
        if self._metric is None or self._metric.epoch != self.epoch:
            assert self.K is not None
            h, t, g, k = self.history, self.thetas, self.gradients, self.n_evicted
            self._metric = GramMetric(
                self.epoch,
                self.K,
                h.chronological_order(),
                slice(t.start + k, t.stop),
                slice(g.start + k, g.stop),
                h.D[h.newest, : h.n] if h.dims is None else np.empty(0),
            )
        return self._metric

    def is_finite(self, p: SubspaceVector) -> bool:
        """True if every entry of the point is a finite number."""
        c = self.to_current_basis(p)  # a coefficient that is not finite leaves no finite length
        length = math.nan if c is None else self.metric.row_products(c)[0]
        return math.sqrt(max(length, 0.0)) < self.finite_limit

    def distances(self, p: SubspaceVector) -> np.ndarray:
        """Squared distances to the rows in ring order, shape (n,); `p` is of this basis."""
        h, c = self.history, self.to_current_basis(p)
        assert c is not None
        if h.dims is not None:
            return h.distances_on_dims(self._on_dims(c))
        return self.metric.distances(*self.metric.row_products(c))

    def _on_dims(self, c: np.ndarray) -> Array:
        """The point `c` on the coordinates of the kernel, shape (k,)."""
        h = self.history
        if self._columns is None or self._columns[0] != self.epoch:
            extras = [e[h.dims] for e in self._extra_vectors()]
            self._columns = self.epoch, h.G[: h.n][:, h.dims], extras
        _, changes, extras = self._columns
        X, G, A = self._row_weights(c[None])
        return self.backend.weighted_sums(h.rows_on_dims(), X, changes, G, h.newest, extras, A)[0]

    def materialize(self, combinations: Sequence[np.ndarray]) -> list[Array]:
        """The vectors themselves, each of shape (d,), in one pass over the histories."""
        h = self.history
        X, G, A = self._row_weights(np.array(combinations))
        extras = self._extra_vectors()
        if not A[:, -1].any():
            extras, A = extras[:-1], A[:, :-1]
        return self.backend.weighted_sums(h.X if X.any() else None, X, h.G, G, h.newest, extras, A)

    def _extra_vectors(self) -> list[Array]:
        """What combinations are sums of beside differences to the newest row."""
        h = self.history
        assert self.x is not None
        return [h.G[h.newest], self.x, *self.vectors, h.X[h.newest]]

    def _row_weights(self, C: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coefficients as weights of rows minus the newest, in ring order, and of extra vectors."""
        h = self.history
        order, n = h.chronological_order(), h.n
        X, G = np.zeros((len(C), n)), np.zeros((len(C), n))
        for side, place in ((X, self.thetas), (G, self.gradients)):
            steps = C[:, place][:, self.n_evicted :]
            side[:, order[1:]] = steps
            side[:, order[:-1]] -= steps
        # e = theta_t - theta_r with the row that was the newest at `rebase`.
        X[:, self.anchor] -= C[:, INDEX_OFFSET]
        X[:, h.newest] = G[:, h.newest] = 0.0
        newest = (C[:, INDEX_ORIGIN] - C[:, INDEX_OFFSET])[:, None]
        return X, G, np.concatenate([C[:, INDEX_NEWEST : N_FIXED + self.n_vectors], newest], axis=1)

    # -- files ------------------------------------------------------------------------------------

    def dump(self) -> dict[str, np.ndarray]:
        """The state as arrays."""
        numbers = [self.n, self.n_evicted, self.n_vectors, self.total, self.disabled_until]
        return {"numbers": np.array(numbers), "K": np.zeros((0, 0)) if self.K is None else self.K}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state from `dump`; the next `rebase` says what theta_t is."""
        numbers = [int(n) for n in state["numbers"]]
        self.n, self.n_evicted, self.n_vectors, self.total, self.disabled_until = numbers
        self.K = state["K"] if state["K"].size else None
        self.epoch += 1
