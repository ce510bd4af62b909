"""Predicted points as coefficients: steps that are affine in the gradient stay in the span of a few
vectors.

With SGD, momentum, Nesterov's form or decoupled decay every predicted point, velocity and estimated
gradient is a sum of

    theta_r, g_r (the newest row), e = theta_t - theta_r, the optimizer's vectors at theta_t, and
    the differences of consecutive rows theta_k - theta_{k-1}, g_k - g_{k-1},

so that with the Gram matrix K of these m = 2 T0 + 2 or so vectors a predicted step costs O(m^2)
numbers, whatever d and the window are. A round then reads the histories once for the products of
its new gradients and once for the points it hands out. Differences of consecutive rows keep their
digits: raw products centred afterwards had a relative error of 315 at an offset of 1e3 and steps of
1e-4, re-anchored ones 1e-14, these 3e-16.

The products of new rows, parameters included, are taken from the rows themselves. Those of
parameters would follow from K, as they are points that were predicted here, at half the arithmetic;
but with weights of 1e5 the points carry rounding of their own, distances that do not know of it
look like noise to a kernel with rho = 1e-12, and `auto` and `verified` took 35 and 38 rounds in
place of 25 (quadratic of condition 1e3, SGD at 1.8 / L, N = 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optex_core.model.history import History
from optex_core.model.subspace.vectors import (
    INDEX_NEWEST,
    INDEX_OFFSET,
    INDEX_ORIGIN,
    N_FIXED,
    GramMetric,
    SubspaceVector,
)
from optex_core.types import Array

#: Squared distances up to this part of the largest are looked at in the rows: what products leave
#: between equal points is 1e-15 of it.
COINCIDENT_RTOL = 1e-12


#: Differences as `Backend.difference_products` takes them: arrays, and index pairs of shape (k, 2).
_Pairs = tuple[list[Array], np.ndarray]


@dataclass(frozen=True, slots=True)
class _PendingRows:
    """Rows to be recorded, as far as that goes without their gradients: half of the work, which can
    be done while gradients are computed.

    Attributes
    ----------
    xs : list of k arrays, shape (d,)
    epoch : int
        Of the basis.
    steps : differences
        The steps to each from the row before it.
    P, TT : float64 arrays, shapes (m, k) and (k, k)
        Products of the steps with the basis, and among themselves.
    D : float64 array, shape (k, n + k)
        Squared distances to all rows and to each other, oldest first.
    same : list of (int, int)
        Where in D two different rows are one point.
    """

    xs: list[Array]
    epoch: int
    steps: _Pairs
    P: np.ndarray
    TT: np.ndarray
    D: np.ndarray
    same: list[tuple[int, int]]


class SubspaceBasis:
    """The basis of one history with its Gram matrix, kept incrementally.

    A round is `rebase` (theta_t and the optimizer's vectors enter the basis), `extend` (the rows of
    the round do), `rebase` again. Rows that `extend` pushed out of the history stay in the basis
    until then: predicted points are sums of them.

    Parameters
    ----------
    history : History
        Without a scale of the parameters: one metric serves distances and the sizes of gradients.

    Attributes
    ----------
    K : float64 array, shape (m, m), or None
        Inner products of the basis; None while they are not known.
    epoch : int
        Counts the bases, so that coefficients of an earlier one are never taken for those of this
        one.
    """

    def __init__(self, history: History) -> None:
        self.history, self.backend = history, history.backend
        self.epoch = 0
        self.total = 0  # rows ever recorded, as `History.total`
        # no coefficients before so many rows: one of the present ones is too long for its square
        self.disabled_until = 0
        self.K: np.ndarray | None = None
        # rows in the basis, and how many of them the history no longer holds
        self.n = self.n_evicted = 0
        self.vectors: list[Array] = []  # of the optimizer, in the basis
        self.n_slots = 0  # how many
        self.x: Array = None  # theta_t, in the basis as e
        self.anchor = 0  # ring index of theta_r in e = theta_t - theta_r
        # coefficients of theta_{t+1} and of the optimizer's vectors there, shape (1 + n_slots, m)
        self.current: np.ndarray | None = None
        self.n_appended = 0  # rows that `extend` brought in since `rebase`
        self._sub: tuple[int, Array, list[Array]] | None = None
        self._cached_metric: GramMetric | None = None
        self._pending: _PendingRows | None = None

    # -- the basis ---------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """m, the number of vectors in the basis."""
        return N_FIXED + self.n_slots + 2 * (self.n - 1)

    @property
    def thetas(self) -> slice:
        """Where the differences of parameter rows are."""
        return slice(N_FIXED + self.n_slots, N_FIXED + self.n_slots + self.n - 1)

    @property
    def gradients(self) -> slice:
        """Where the differences of gradients are."""
        return slice(N_FIXED + self.n_slots + self.n - 1, self.size)

    def unit(self, *indices: int) -> np.ndarray:
        """The sum of basis vectors."""
        c = np.zeros(self.size)
        c[list(indices)] = 1.0
        return c

    def rebase(self, x: Array, vectors: Sequence[Array], is_current: bool) -> bool:
        """Put theta_t and the optimizer's vectors there into the basis; `is_current`: they are what
        `self.current` holds the coefficients of.

        Returns False where no coefficients can be had: too few rows, or squares of gradients that
        overflow.
        """
        h = self.history
        if not h.n or h.total < self.disabled_until:
            return False
        if self.total != h.total or self.K is None:
            self._rebuild()
            is_current = False
        if self.K is None:
            return False
        known = (
            self.current
            if is_current and self.current is not None and len(self.current) == 1 + len(vectors)
            else None
        )
        anchor, K, rows, keep = h.newest, self.K, None, self._retained(len(vectors))
        if known is not None:
            new = known.copy()
            new[0, INDEX_ORIGIN] -= 1.0
            rows = new @ K
            corner = rows @ new.T
            rows = rows[:, keep]
        self.n, self.n_evicted, self.n_slots, self.n_appended = (
            self.n - self.n_evicted,
            0,
            len(vectors),
            0,
        )
        self.x, self.vectors, self.anchor = x, list(vectors), anchor
        added = slice(INDEX_OFFSET, N_FIXED + self.n_slots)
        self.K = K.take(keep, 0).take(keep, 1)
        if rows is None:
            pairs = _unique_vectors([(x, h.X[anchor]), *((v, None) for v in vectors)])
            thetas, changes, corner = self._products(pairs, pairs)
            rows = np.concatenate(
                [
                    thetas[:1],
                    changes[:1],
                    np.zeros((1 + self.n_slots, 1 + self.n_slots)),
                    thetas[1:],
                    changes[1:],
                ]
            ).T
        rows[:, added] = 0.5 * (corner + corner.T)
        self.K[added], self.K[:, added] = rows, rows.T
        self.epoch += 1
        if not np.isfinite(self.K).all():
            self._disable()
            return False
        self.current = np.zeros((1 + self.n_slots, self.size))
        self.current[0, [INDEX_ORIGIN, INDEX_OFFSET]] = 1.0
        self.current[range(1, 1 + self.n_slots), range(N_FIXED, N_FIXED + self.n_slots)] = 1.0
        return True

    def _retained(self, n_slots: int) -> np.ndarray:
        """Where in the present basis the vectors of the next one are, whose optimizer has
        `n_slots`; 0 for those that are new to it.

        They are the anchor and the differences between rows that the history still holds.
        """
        start, n, fixed = N_FIXED + self.n_slots, self.n - 1, N_FIXED + n_slots
        still = np.arange(start + self.n_evicted, start + n)
        keep = np.zeros(fixed + 2 * len(still), np.int64)
        keep[INDEX_NEWEST], keep[fixed : fixed + len(still)], keep[fixed + len(still) :] = (
            INDEX_NEWEST,
            still,
            still + n,
        )
        return keep

    def _products(self, right: _Pairs, *others: _Pairs) -> list[np.ndarray]:
        """Products of the differences `right` with theta_r and the differences of its rows, with
        g_r and those of its, and with each of `others`.

        One pass over both histories.
        """
        h = self.history
        order = h.chronological_order()
        rows = np.concatenate([[[h.newest, -1]], np.stack([order[1:], order[:-1]], axis=1)])
        left: list[tuple[Any, np.ndarray]] = [(h.X, rows), (h.G, rows), *others]
        if not self.backend.batch_invariant_products:
            return [self.backend.difference_products(*one, *right) for one in left]
        vectors: list[Array] = [h.X, h.G]
        begin, pairs = 2 * len(h.X), [rows, np.where(rows < 0, -1, rows + len(h.X))]
        for arrays, of in others:
            vectors += arrays
            pairs.append(np.where(of < 0, -1, of + begin))
            begin += len(arrays)
        found = self.backend.difference_products(vectors, np.concatenate(pairs), *right)
        return np.split(found, np.cumsum([len(of) for of in pairs[:-1]]))

    def _rebuild(self) -> None:
        """The Gram matrix of all rows of the history anew, from the rows themselves."""
        h = self.history
        self.n, self.n_evicted, self.n_slots, self.vectors, self.x, self.current = (
            h.n,
            0,
            0,
            [],
            None,
            None,
        )
        self.total = h.total
        order = h.chronological_order()
        steps = np.stack([order[1:], order[:-1]], axis=1)
        pairs = np.concatenate([np.array([[h.newest, -1]]), steps])
        products = self.backend.difference_products
        TT, GT, GG = (
            products(h.X, pairs, h.X, pairs),
            products(h.G, pairs, h.X, pairs),
            products(h.G, pairs, h.G, pairs),
        )
        self.K = np.zeros((self.size, self.size))
        t, g = np.r_[INDEX_ORIGIN, self.thetas], np.r_[INDEX_NEWEST, self.gradients]
        for left, right, block in ((t, t, TT), (g, t, GT), (t, g, GT.T), (g, g, GG)):
            self.K[np.ix_(left, right)] = block
        if not np.isfinite(self.K).all():
            self._disable()

    def _disable(self) -> None:
        self.K, self.current, self.disabled_until = (
            None,
            None,
            self.history.total + self.history.capacity,
        )
        self.epoch += 1

    # -- new rows ----------------------------------------------------------------------------------

    def prefetch(self, xs: Sequence[Array]) -> np.ndarray | None:
        """Do the part of `extend` that needs no gradients, for rows at `xs`; no bit depends on when
        it is done.

        Returns
        -------
        float64 array, shape (n, n), or None
            Squared distances of rows, in ring order, as they will be; None where rows cannot be
            added to this basis.
        """
        self._pending = self._prefetch_products(xs) if self._accepts(len(xs)) else None
        return None if self._pending is None else self.history.distances_after(xs, self._pending.D)

    def _accepts(self, k: int) -> bool:
        """Whether `k` rows can be added to this basis."""
        return (
            0 < k < self.history.capacity
            and self.K is not None
            and self.total == self.history.total
            and not self.n_evicted
        )

    def _prefetch_products(self, xs: Sequence[Array]) -> _PendingRows:
        steps = self._steps(xs)
        P, (TT,) = self._products_with(steps, steps)
        return self._pending_at(xs, steps, P, TT)

    def _steps(self, xs: Sequence[Array]) -> _Pairs:
        return _unique_vectors(
            list(zip(xs, [self.history.X[self.history.newest], *xs], strict=False))
        )

    def _pending_at(
        self, xs: Sequence[Array], steps: _Pairs, P: np.ndarray, TT: np.ndarray
    ) -> _PendingRows:
        assert self.K is not None
        TT = 0.5 * (TT + TT.T)
        old = P[self.thetas]
        D = np.maximum(
            _pairwise_products(np.block([[self.K[self.thetas, self.thetas], old], [old.T, TT]]))[
                -len(xs) :
            ],
            0.0,
        )
        same = self._coincident(xs, D)
        for pair in same:
            D[pair] = 0.0
        return _PendingRows(list(xs), self.epoch, steps, P, TT, D, same)

    def extend(self, xs: Sequence[Array], gs: Sequence[Array]) -> None:
        """Append rows to the history, and to the basis.

        The pair matrices of the history follow from the products, which take one pass over both
        histories: one for the points (`prefetch`) and one for the gradients where the points came
        first, or where the bits of products depend on what else is asked for.
        """
        h, k, pending = self.history, len(xs), self._pending
        if not k:
            return
        self._pending = None
        if pending is not None and (
            pending.epoch != self.epoch
            or len(pending.xs) != k
            or any(a is not b for a, b in zip(pending.xs, xs, strict=True))
        ):
            pending = None
        if pending is None and not self._accepts(k):
            h.extend(list(zip(xs, gs, strict=True)))
            self.K, self.current = None, None
            self.epoch += 1
            return
        pairs: list[tuple[Array, Array | None]] = [
            (g, p) for g, p in zip(gs, [h.G[h.newest], *gs], strict=False)
        ]
        changes = _unique_vectors([*pairs, (gs[-1], None)])
        if pending is None and self.backend.batch_invariant_products:
            moves = self._steps(xs)
            both = _concatenate_pairs(moves, changes)
            P, (among,) = self._products_with(both, both)
            pending = self._pending_at(xs, moves, P[:, :k], among[:k, :k])
            P, TV, among = P[:, k:], among[:k, k:], among[k:, k:]
        else:
            pending = self._prefetch_products(xs) if pending is None else pending
            P, (TV, among) = self._products_with(changes, pending.steps, changes)
        # new thetas come after the old ones, new gradients at the end
        K, cut = self.K, self.thetas.stop
        assert K is not None
        self.n += k
        new_t, new_g = slice(cut, cut + k), slice(self.size - k, self.size)

        def widened(rows: np.ndarray) -> np.ndarray:
            out = np.zeros((len(rows), self.size))
            out[:, :cut], out[:, cut + k : -k] = rows[:, :cut], rows[:, cut:]
            return out

        steps, turns, last = widened(pending.P.T), widened(P[:, :k].T), widened(P[:, k:].T)[0]
        steps[:, new_t], steps[:, new_g] = pending.TT, TV[:, :k]
        turns[:, new_t], turns[:, new_g] = TV[:, :k].T, among[:k, :k]
        last[new_t], last[new_g] = TV[:, k], among[:k, k]
        self.K = np.concatenate([widened(K[:cut]), steps, widened(K[cut:]), turns])
        self.K[:, new_t], self.K[:, new_g] = steps.T, turns.T
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
        E, M = (
            np.maximum(_pairwise_products(self.K[g, g])[-k:], 0.0),
            _pairwise_products(self.K[g, t])[-k:],
        )
        for i, j in pending.same:
            E[i, j] = self.backend.squared_distance(
                gs[i], gs[j - h.n] if j >= h.n else h.G[h.chronological_order()[j]]
            )
            M[i, j] = 0.0
        h.extend_with_pairs(list(zip(xs, gs, strict=True)), pending.D, E, M)
        self.total, self.n_evicted = h.total, self.n - h.n
        if not np.isfinite(self.K).all():
            self._disable()

    def _products_with(self, right: _Pairs, *others: _Pairs) -> tuple[np.ndarray, list[np.ndarray]]:
        """Products of the differences `right` with the whole basis, shape (m, k), and with each of
        `others`.
        """
        own = (
            []
            if self.x is None
            else [
                _unique_vectors(
                    [(self.x, self.history.X[self.anchor]), *((v, None) for v in self.vectors)]
                )
            ]
        )
        thetas, changes, *more = self._products(right, *others, *own)
        P = np.zeros((self.size, len(right[1])))
        P[INDEX_ORIGIN], P[INDEX_NEWEST], P[self.thetas], P[self.gradients] = (
            thetas[0],
            changes[0],
            thetas[1:],
            changes[1:],
        )
        if own:
            P[INDEX_OFFSET : N_FIXED + self.n_slots] = more.pop()
        return P, more

    def _coincident(self, xs: Sequence[Array], D: np.ndarray) -> list[tuple[int, int]]:
        """Places in `D` of new rows at the point of another row: sums of products leave their
        rounding, where a distance must be zero.

        A positive distance counts in the median that lengths are tried around: `auto`, which asks
        theta_t twice, took other lengths than on arrays.
        """
        h, found = self.history, []
        for i, j in np.argwhere(COINCIDENT_RTOL * D.max() >= D).tolist():
            if (
                j != h.n + i
                and self.backend.squared_distance(
                    xs[i], xs[j - h.n] if j >= h.n else h.X[h.chronological_order()[j]]
                )
                == 0.0
            ):
                found.append((i, j))
        return found

    def to_current_basis(self, p: SubspaceVector) -> np.ndarray | None:
        """The coefficients of `p` in the present basis; None if they are of another round."""
        if p.epoch != self.epoch:
            if not self.is_compatible(p.epoch):
                return None
            p.c, p.epoch = self.shift_basis(p.c), self.epoch
        return p.c

    def is_compatible(self, epoch: int) -> bool:
        """True if coefficients of that basis are ones of this basis too: it is this one, or the
        same before its round was recorded.
        """
        return epoch == self.epoch or (
            self.n_appended > 0 and epoch == self.epoch - 1 and self.K is not None
        )

    def shift_basis(self, old: np.ndarray) -> np.ndarray:
        """Coefficients, shape (..., m), from before the round was recorded in the present basis."""
        k, fixed, n = self.n_appended, N_FIXED + self.n_slots, self.n - 1 - self.n_appended
        c = np.empty((*old.shape[:-1], self.size))
        c[..., : fixed + n] = old[..., : fixed + n]
        c[..., fixed + n : fixed + n + k] = -old[..., INDEX_ORIGIN : INDEX_ORIGIN + 1]
        c[..., fixed + n + k : fixed + 2 * n + k] = old[..., fixed + n :]
        c[..., fixed + 2 * n + k :] = -old[..., INDEX_NEWEST : INDEX_NEWEST + 1]
        return c

    def is_lost(self, c: np.ndarray) -> bool:
        """True if the sum `c` has parts that no array holds any longer."""
        if not self.n_evicted:
            return False
        t, g = self.thetas.start, self.gradients.start
        return bool(c[t : t + self.n_evicted].any() or c[g : g + self.n_evicted].any())

    def gradient_row(self, back: int) -> np.ndarray:
        """The gradient of the row `back` places before the newest."""
        c = self.unit(INDEX_NEWEST)
        if back:
            c[self.size - back :] = -1.0
        return c

    # -- what predicting needs ---------------------------------------------------------------------

    @property
    def metric(self) -> GramMetric:
        """What predicted steps in the present basis are taken with."""
        if self._cached_metric is None or self._cached_metric.epoch != self.epoch:
            assert self.K is not None
            self._cached_metric = GramMetric(
                self.history, self.epoch, self.K, self.thetas, self.gradients, self.n_evicted
            )
        return self._cached_metric

    def row_products(self, p: SubspaceVector) -> tuple[float, np.ndarray] | None:
        """|p - theta_r|^2, and 2 (p - theta_r)'(theta_r - theta_i) for the rows in ring order; None
        if `p` is of another round.
        """
        c = self.to_current_basis(p)
        if c is None:
            return None
        if p.row_products is None or p.row_products[0] != self.epoch:
            p.row_products = self.epoch, *self.metric.row_products(c)
        return p.row_products[1:]

    def distances(self, p: SubspaceVector) -> np.ndarray | None:
        """Squared distances of `p` to the rows of the history, in its ring order, float64, shape
        (n,); None if `p` is of another round.
        """
        h = self.history
        if h.dims is not None:
            c = self.to_current_basis(p)
            return None if c is None else h.distances_on_dims(self._on_dims(c))
        found = self.row_products(p)
        return None if found is None else self.metric.distances(*found)

    def _on_dims(self, c: np.ndarray) -> Array:
        """The point `c` on the coordinates of the kernel, shape (k,): as `materialize`, on those
        columns, which are gathered once for a basis.
        """
        h = self.history
        if self._sub is None or self._sub[0] != self.epoch:
            self._sub = (
                self.epoch,
                h.G[: h.n][:, h.dims],
                [e[h.dims] for e in self._extra_vectors()],
            )
        _, changes, extras = self._sub
        X, G, A = self._row_weights(c[None])
        return self.backend.weighted_sums(h.rows_on_dims(), X, changes, G, h.newest, extras, A)[0]

    def materialize(self, combinations: Sequence[np.ndarray]) -> list[Array]:
        """The vectors themselves, each of shape (d,), in one pass: over the gradients, and over the
        parameters where they are needed.
        """
        h = self.history
        X, G, A = self._row_weights(np.array(combinations))
        extras = self._extra_vectors()
        if not A[:, -1].any():
            extras, A = extras[:-1], A[:, :-1]
        return self.backend.weighted_sums(h.X if X.any() else None, X, h.G, G, h.newest, extras, A)

    def _extra_vectors(self) -> list[Array]:
        """What combinations are sums of beside differences to the newest row."""
        h = self.history
        return [h.G[h.newest], self.x, *self.vectors, h.X[h.newest]]

    def _row_weights(self, C: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coefficients, shape (k, m), as weights of rows minus the newest one, in ring order, and
        of `_extra_vectors`.
        """
        h = self.history
        order, n = h.chronological_order(), h.n
        X, G = np.zeros((len(C), n)), np.zeros((len(C), n))
        for side, place in ((X, self.thetas), (G, self.gradients)):
            steps = C[:, place][:, self.n_evicted :]
            side[:, order[1:]] = steps
            side[:, order[:-1]] -= steps
        # e = theta_t - theta_r with the row that was the newest when the basis was begun.
        X[:, self.anchor] -= C[:, INDEX_OFFSET]
        X[:, h.newest] = G[:, h.newest] = 0.0
        return (
            X,
            G,
            np.concatenate(
                [
                    C[:, INDEX_NEWEST : N_FIXED + self.n_slots],
                    (C[:, INDEX_ORIGIN] - C[:, INDEX_OFFSET])[:, None],
                ],
                axis=1,
            ),
        )

    # -- files -------------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """The state as arrays."""
        numbers = np.array([self.n, self.n_evicted, self.n_slots, self.total, self.disabled_until])
        nothing = np.zeros((0, 0))
        return {
            "numbers": numbers,
            "K": nothing if self.K is None else self.K,
            "here": nothing if self.current is None else self.current,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state from `dump`; the next `rebase` says what theta_t is."""
        self.n, self.n_evicted, self.n_slots, self.total, self.disabled_until = (
            int(n) for n in state["numbers"]
        )
        self.K = state["K"] if state["K"].size else None
        self.current = state["here"] if state["here"].size else None
        self.epoch += 1


def _products_from_newest(S: np.ndarray) -> np.ndarray:
    """Products of rows minus the newest, shape (n, n), from those of consecutive differences, shape
    (n - 1, n - 1): two cumulative sums.
    """
    n = len(S) + 1
    A = np.zeros((n, n))
    A[:-1, :-1] = S[::-1, ::-1].cumsum(0).cumsum(1)[::-1, ::-1]
    return A


def _pairwise_products(S: np.ndarray) -> np.ndarray:
    """(a_i - a_j)'(b_i - b_j) for all pairs of rows, shape (n, n), from the products of their
    consecutive differences, shape (n - 1, n - 1).
    """
    A = _products_from_newest(S)
    a = A.diagonal()
    found: np.ndarray = a[:, None] + a[None] - A - A.T
    return found


def _concatenate_pairs(one: _Pairs, other: _Pairs) -> _Pairs:
    return [*one[0], *other[0]], np.concatenate(
        [one[1], np.where(other[1] < 0, -1, other[1] + len(one[0]))]
    )


def _unique_vectors(vectors: Sequence[tuple[Array, Array | None]]) -> _Pairs:
    """The different arrays in (a, b) pairs, and the two that each pair is made of (-1: nothing)."""
    arrays: list[Array] = []
    place: dict[int, int] = {}
    pairs = []
    for pair in vectors:
        at = []
        for v in pair:
            if v is None:
                at.append(-1)
                continue
            if id(v) not in place:
                place[id(v)] = len(arrays)
                arrays.append(v)
            at.append(place[id(v)])
        pairs.append(at)
    return arrays, np.array(pairs)
