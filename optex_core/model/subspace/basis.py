"""The basis of the subspace in which predicted points lie, with its Gram matrix.

With SGD, momentum, Nesterov's form or decoupled decay every predicted point, velocity and estimated
gradient is a sum of

    theta_r, g_r (the newest row), e = theta_t - theta_r, the optimizer's vectors at theta_t,
    and the differences of consecutive rows theta_k - theta_{k-1}, g_k - g_{k-1},

so that with the Gram matrix K of these m = 2 T0 + 2 or so vectors a predicted step costs O(m^2)
numbers for any d. An iteration reads the histories for the products of its new gradients, and for
the points that it hands out.

Notes
-----
Differences of consecutive rows keep their digits: raw products centred afterwards had a relative
error of 315 at an offset of 1e3 and steps of 1e-4, re-anchored ones 1e-14, these 3e-16. Products of
new parameter rows are taken from the rows. Taken from K, at half the arithmetic, they miss the
rounding of predicted points (weights of 1e5): `auto` and `verified` took 35 and 38 iterations in
place of 25 (quadratic of condition 1e3, SGD at 1.8 / L, N = 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import numpy as np

from optex_core.model.history import History
from optex_core.model.subspace.differences import (
    RowDifferences,
    pairwise_products,
)
from optex_core.model.subspace.vectors import (
    INDEX_NEWEST,
    INDEX_OFFSET,
    INDEX_ORIGIN,
    N_FIXED,
    GramMetric,
    SubspaceVector,
)
from optex_core.types import Array

#: Squared distances up to this part of the largest are taken from the rows: products of equal
#: points leave 1e-15 of it.
COINCIDENT_RTOL = 1e-12


class _PendingRows(NamedTuple):
    """Rows to be appended, without their gradients: half of the work of `SubspaceBasis.extend`."""

    xs: list[Array]
    epoch: int
    steps: RowDifferences  # to each from the row before it
    P: np.ndarray  # (m, k): their products with the basis
    TT: np.ndarray  # (k, k): their products with each other
    D: np.ndarray  # (k, n + k): squared distances to all rows and to each other, oldest first
    same: list[tuple[int, int]]  # where in D two rows are one point


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
        # Coefficients of theta_{t+1} and of the vectors of its state, shape (1 + n_vectors, m).
        self.current: np.ndarray | None = None
        self.n_appended = 0  # rows since `rebase`
        self._columns: tuple[int, Array, list[Array]] | None = None
        # Points farther from the newest row than this are not finite.
        self.finite_limit = 0.1 * float(np.finfo(history.X.dtype).max)
        self._metric: GramMetric | None = None
        self._pending: _PendingRows | None = None

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

    def rebase(self, x: Array, vectors: Sequence[Array], is_current: bool) -> np.ndarray | None:
        """Put theta_t and the optimizer's vectors there into the basis; their coefficients, shape
        (1 + vectors, m), or None where there are none: no rows, or squares overflow.

        `is_current`: `self.current` has their coefficients over the present basis.
        """
        h = self.history
        if not h.n or h.total < self.disabled_until:
            return None
        if self.total != h.total or self.K is None:
            self._rebuild()
            is_current = False
        if self.K is None:
            return None
        anchor, K, n_vectors, rows = h.newest, self.K, len(vectors), None
        keep = self._retained(n_vectors)
        if is_current and self.current is not None and len(self.current) == 1 + n_vectors:
            new = self.current.copy()
            new[0, INDEX_ORIGIN] -= 1.0
            rows = new @ K
            corner = rows @ new.T
            rows = rows[:, keep]
        self.n, self.n_evicted, self.n_appended = self.n - self.n_evicted, 0, 0
        self.x, self.vectors, self.n_vectors, self.anchor = x, list(vectors), n_vectors, anchor
        added = slice(INDEX_OFFSET, N_FIXED + n_vectors)
        self.K = K.take(keep, 0).take(keep, 1)
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
        self.current = np.zeros((1 + n_vectors, self.size))
        self.current[0, [INDEX_ORIGIN, INDEX_OFFSET]] = 1.0
        self.current[range(1, 1 + n_vectors), range(N_FIXED, N_FIXED + n_vectors)] = 1.0
        return self.current

    def _retained(self, n_vectors: int) -> np.ndarray:
        """Where the vectors of the next basis are in this one, 0 for those that are new."""
        start, n, fixed = N_FIXED + self.n_vectors, self.n - 1, N_FIXED + n_vectors
        still = np.arange(start + self.n_evicted, start + n)
        keep = np.zeros(fixed, np.int64)
        keep[INDEX_NEWEST] = INDEX_NEWEST
        return np.concatenate([keep, still, still + n])

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
        self.vectors, self.x, self.current = [], None, None
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
        self.K, self.current = None, None
        self.disabled_until = self.history.total + self.history.capacity
        self.epoch += 1

    # -- new rows ---------------------------------------------------------------------------------

    def prefetch(self, xs: Sequence[Array]) -> np.ndarray | None:
        """Do the part of `extend` that needs no gradients, for rows at `xs`, with the same bits.

        Returns what `History.distances_after` does; None where rows cannot be added.
        """
        self._pending = self._prefetch_products(xs) if self._accepts(len(xs)) else None
        return None if self._pending is None else self.history.distances_after(xs, self._pending.D)

    def _accepts(self, k: int) -> bool:
        """True if `k` rows can be added to this basis."""
        valid = self.K is not None and self.total == self.history.total and not self.n_evicted
        return valid and 0 < k < self.history.capacity

    def _steps(self, xs: Sequence[Array]) -> RowDifferences:
        before = [self.history.X[self.history.newest], *xs]
        return RowDifferences.unique(list(zip(xs, before, strict=False)))

    def _prefetch_products(self, xs: Sequence[Array]) -> _PendingRows:
        steps = self._steps(xs)
        P, (TT,) = self._products_with(steps, steps)
        return self._pending_rows(xs, steps, P, TT)

    def _pending_rows(
        self, xs: Sequence[Array], steps: RowDifferences, P: np.ndarray, TT: np.ndarray
    ) -> _PendingRows:
        assert self.K is not None
        TT = 0.5 * (TT + TT.T)
        old = P[self.thetas]
        all_steps = np.block([[self.K[self.thetas, self.thetas], old], [old.T, TT]])
        D = np.maximum(pairwise_products(all_steps)[-len(xs) :], 0.0)
        same = self._coincident(xs, D)
        for pair in same:
            D[pair] = 0.0
        return _PendingRows(list(xs), self.epoch, steps, P, TT, D, same)

    def extend(self, xs: Sequence[Array], gs: Sequence[Array]) -> None:
        """Append rows to the history, and to the basis.

        The pair matrices of the history follow from the products: one pass over both histories for
        the points (`prefetch`) and one for the gradients, or one for all where bits stay the same.
        """
        h, k, pending = self.history, len(xs), self._pending
        if not k:
            return
        self._pending = None
        if pending is not None and (pending.epoch, *map(id, pending.xs)) != (
            self.epoch,
            *map(id, xs),
        ):
            pending = None
        if pending is None and not self._accepts(k):
            h.extend(list(zip(xs, gs, strict=True)))
            self.K, self.current = None, None
            self.epoch += 1
            return
        before = [h.G[h.newest], *gs]
        changes = RowDifferences.unique([*zip(gs, before, strict=False), (gs[-1], None)])
        if pending is None and self.backend.batch_invariant_products:
            moves = self._steps(xs)
            both = moves.joined(changes, len(moves.arrays))
            P, (among,) = self._products_with(both, both)
            pending = self._pending_rows(xs, moves, P[:, :k], among[:k, :k])
            P, TV, among = P[:, k:], among[:k, k:], among[k:, k:]
        else:
            pending = self._prefetch_products(xs) if pending is None else pending
            P, (TV, among) = self._products_with(changes, pending.steps, changes)
        # New thetas come after the old ones, new gradients at the end.
        K, cut = self.K, self.thetas.stop
        assert K is not None
        self.n += k
        new_t, new_g = slice(cut, cut + k), slice(self.size - k, self.size)
        old, new = np.r_[:cut, cut + k : self.size - k], np.r_[new_t, new_g]
        rows = np.concatenate([pending.P.T, P[:, :k].T])
        corner = np.block([[pending.TT, TV[:, :k]], [TV[:, :k].T, among[:k, :k].T]])
        self.K, last = np.empty((self.size, self.size)), np.empty(self.size)
        for left, right, block in ((old, old, K), (new, old, rows), (old, new, rows.T)):
            self.K[np.ix_(left, right)] = block
        self.K[np.ix_(new, new)] = corner
        last[old], last[new_t], last[new_g] = P[:, k], TV[:, k], among[:k, k]
        # The anchor moves to the newest row: parameters by the sum of their differences, the
        # gradient by its products anew (it may be a small difference of the old ones).
        self.K[INDEX_ORIGIN] += self.K[new_t].sum(0)
        self.K[:, INDEX_ORIGIN] += self.K[:, new_t].sum(1)
        last[INDEX_ORIGIN] += last[new_t].sum()
        last[INDEX_NEWEST] = among[k, k]
        self.K[INDEX_NEWEST], self.K[:, INDEX_NEWEST] = last, last
        self.n_appended, self.current = k, None
        self.epoch += 1
        t, g = self.thetas, self.gradients
        E = np.maximum(pairwise_products(self.K[g, g])[-k:], 0.0)
        M = pairwise_products(self.K[g, t])[-k:]
        for i, j in pending.same:
            other = self._row_or_new(h.G, gs, j)
            E[i, j], M[i, j] = self.backend.squared_distance(gs[i], other), 0.0
        h.extend_with_pairs(list(zip(xs, gs, strict=True)), pending.D, E, M)
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
            places = self.thetas, self.gradients, self.n_evicted
            self._metric = GramMetric(self.history, self.epoch, self.K, *places)
        return self._metric

    def row_products(self, p: SubspaceVector) -> tuple[float, np.ndarray] | None:
        """As `GramMetric.row_products`; None if `p` is of another basis."""
        c = self.to_current_basis(p)
        if c is None:
            return None
        if p.row_products is None or p.row_products[0] != self.epoch:
            p.row_products = self.epoch, *self.metric.row_products(c)
        return p.row_products[1:]

    def is_finite(self, p: SubspaceVector) -> bool:
        """True if every entry of the point is a finite number."""
        found = self.row_products(p)  # a coefficient that is not finite leaves no finite length
        return found is not None and math.sqrt(max(found[0], 0.0)) < self.finite_limit

    def squared_norm(self, c: np.ndarray | None) -> float:
        """|sum_k c_k basis_k|^2; nan for None."""
        return math.nan if c is None else self.metric.squared_norm(c)

    def distances(self, p: SubspaceVector) -> np.ndarray:
        """Squared distances to the rows in ring order, shape (n,); `p` is of this basis."""
        h, found = self.history, self.row_products(p)
        assert found is not None
        if h.dims is not None:
            return h.distances_on_dims(self._on_dims(p.c))
        return self.metric.distances(*found)

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

    def dump(self) -> dict[str, Any]:
        """The state as arrays."""
        numbers = np.array(
            [self.n, self.n_evicted, self.n_vectors, self.total, self.disabled_until]
        )
        K, current = (np.zeros((0, 0)) if a is None else a for a in (self.K, self.current))
        return {"numbers": numbers, "K": K, "here": current}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state from `dump`; the next `rebase` says what theta_t is."""
        numbers = [int(n) for n in state["numbers"]]
        self.n, self.n_evicted, self.n_vectors, self.total, self.disabled_until = numbers
        self.K, self.current = (a if a.size else None for a in (state["K"], state["here"]))
        self.epoch += 1
