"""Evaluated points in the order of the run, and coordinates of the space that they span."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import DTypeLike
from scipy.linalg.lapack import dpstrf, dtrtrs

from optex_core.backends.base import Backend
from optex_core.types import Array

#: Parameters whose rows are copied at once where not all may move.
BLOCK = 65_536
#: What is smaller than this share of its row, squared, is dropped from the basis.
TOLERANCE = 1e-14
#: Rows are left out whose squared distance to x in parameters that are held exceeds this share of
#: that in the others.
HELD_SHARE = 0.01
#: Newest points of the accepted path that outlive all other rows.
PATH_ROWS = 32


@dataclass(frozen=True, slots=True)
class Rows:
    """Points and gradients, oldest first; the last row is the lowest point.

    Attributes
    ----------
    X, G : arrays, shape (C, d)
        Memory of C rows, in the dtype of x0; `order` says which are used. A free one is written
        before its index enters `order`.
    order : int array, shape (n,)
        Indices of the rows, oldest first.
    mark : bool array, shape (n,)
        Points of the accepted path.
    gram : float array, shape (3, n - 1, n - 1)
        Products dX dX', dX dG', dG dG' of the differences of consecutive rows; nan where they are
        not known.
    """

    X: Array
    G: Array
    order: np.ndarray
    mark: np.ndarray
    gram: np.ndarray

    @property
    def products(self) -> np.ndarray:
        """`gram`; a file of version 0.1 may hold its first rows and columns alone."""
        n, m = len(self.order) - 1, self.gram.shape[1]
        if m == n:
            return self.gram
        products = unknown_products(n + 1)
        products[:, :m, :m] = self.gram
        return products

    @classmethod
    def empty(cls, backend: Backend, shape: tuple[int, int], dtype: DTypeLike) -> Rows:
        """Memory of shape (C, d) without a row."""
        X, G = (backend.zeros(shape, dtype) for _ in range(2))
        return cls(X, G, np.zeros(0, np.int64), np.zeros(0, bool), unknown_products(0))

    @property
    def x(self) -> Array:
        """The lowest point."""
        return self.X[int(self.order[-1])]

    @property
    def g(self) -> Array:
        """Its gradient."""
        return self.G[int(self.order[-1])]

    def extended(
        self,
        points: list[Array],
        gradients: list[Array],
        marks: list[bool],
        *,
        lowest: bool,
        most: int,
    ) -> Rows:
        """The rows with new ones: behind all others if the last is the `lowest`, else before x.

        At most `most` are kept, the newest and before others PATH_ROWS points of the accepted path;
        `most` plus the new ones must fit into the memory.
        """
        n, place = len(self.order), np.full(len(self.X), -2, np.int64)
        place[self.order] = np.arange(n)
        free = np.flatnonzero(place < 0)[: len(points)]
        for slot, x, g in zip(free, points, gradients, strict=True):
            self.X[int(slot)], self.G[int(slot)] = x, g
        at = n if lowest else max(n - 1, 0)
        order = np.insert(self.order, at, free)
        mark = np.insert(self.mark, at, np.array(marks, dtype=bool))
        excess = max(0, len(order) - most)
        protected = np.zeros(len(order), dtype=bool)
        protected[np.flatnonzero(mark)[-max(1, min(PATH_ROWS, most // 3)) :]] = True
        protected[-1] = True
        stay = np.sort(np.argsort(protected, kind="stable")[excess:])
        order, mark = order[stay], mark[stay]
        # Differences of rows that were consecutive before have the products that they had.
        first, second = place[order[:-1]], place[order[1:]]
        same = np.flatnonzero((first >= 0) & (second == first + 1))
        gram = unknown_products(len(order))
        gram[:, same[:, None], same] = self.products[:, first[same][:, None], first[same]]
        return replace(self, order=order, mark=mark, gram=gram)

    def only_last(self) -> Rows:
        """x alone: everything else is forgotten."""
        return replace(self, order=self.order[-1:], mark=self.mark[-1:], gram=unknown_products(1))


def unknown_products(rows: int) -> np.ndarray:
    """`Rows.gram` of so many rows of which no products are known."""
    m = max(rows - 1, 0)
    return np.full((3, m, m), np.nan)


class Coordinates:
    """Orthonormal coordinates of the span of the rows' differences and the last gradient.

    x is the origin. With few parameters (d <= 2 n + 20) the coordinates are the parameters. Else
    the pivoted Cholesky factor of the Gram matrix of the (scaled) differences of consecutive rows
    holds them: no cancellation, however far the rows are from the origin. One pass over the rows
    finds the products of differences that are new; everything else works on vectors of length
    p <= 2 n - 1.

    Parameters
    ----------
    rows : Rows
    backend : Backend
    free : bool array, shape (d,), or None
        Parameters that may move; the others are held. Rows that differ from x mainly in the others
        are left out.

    Attributes
    ----------
    X, G : float arrays, shape (n, p)
        The rows, x at the origin.
    mark : bool array, shape (n,)
    gram : float array, shape (3, n - 1, n - 1)
        `Rows.gram`, with the products that were found if all parameters may move.
    """

    def __init__(self, rows: Rows, backend: Backend, free: np.ndarray | None = None) -> None:
        self._backend, self._rows = backend, rows
        self._free = None if free is None else np.flatnonzero(free)
        self._order, self.mark, self.gram = rows.order, rows.mark, rows.products
        d = rows.X.shape[1]
        if free is not None:
            self._leave_out(free)
            d = int(free.sum())
        n = len(self._order)
        self._L: np.ndarray | None = None
        if d <= 2 * n + 20:
            parts = [
                [backend.to_host(side[order]) for side in sides]
                for _, *sides, order in self._pieces()
            ]
            X, self.G = (np.hstack(side).astype(np.float64) for side in zip(*parts, strict=True))
            self.X = X - X[-1]
            return
        B = self._products()
        size = np.sqrt(np.maximum(np.diag(B), 0.0))
        size[size == 0] = 1.0
        L, pivots, p, _ = dpstrf(B / size[:, None] / size, lower=1, tol=TOLERANCE)
        L, pivots = np.tril(L)[:, :p], pivots - 1
        Q = np.empty_like(L)
        Q[pivots] = L
        Q *= size[:, None]
        self._L, self._pivots, self._size = L[:p], pivots[:p], size
        dX, dG = Q[1:n], Q[n:]  # newest first, as in `_products`
        self.X = np.vstack([-np.cumsum(dX, 0)[::-1], np.zeros(p)])
        self.G = np.vstack([Q[0] - np.cumsum(dG, 0)[::-1], Q[:1]])

    def _leave_out(self, free: np.ndarray) -> None:
        """Leave out rows whose distance to x lies mainly in parameters that are held."""
        rows, backend, scale = self._rows, self._backend, np.ones((2, len(free)))
        scale[0, ~free], scale[1, free] = np.inf, np.inf  # what is divided by it does not count
        moving, held = (
            backend.squared_distances(rows.X, rows.x, backend.copy_in(s, rows.X.dtype))[self._order]
            for s in scale
        )
        keep = held <= HELD_SHARE * moving
        keep[-1] = True
        self._order, self.mark = self._order[keep], self.mark[keep]

    def _pieces(self) -> Iterator[tuple[object, Array, Array, np.ndarray]]:
        """(parameters, X, G, indices of the rows): all as they are, or copies of those that may
        move, some at a time.
        """
        rows, xp = self._rows, self._backend.xp
        if self._free is None:
            yield slice(None), rows.X, rows.G, self._order
            return
        order = xp.asarray(self._order)[:, None]
        for begin in range(0, len(self._free), BLOCK):
            some = xp.asarray(self._free[begin : begin + BLOCK])
            yield some, rows.X[order, some], rows.G[order, some], np.arange(len(order))

    def _products(self) -> np.ndarray:
        """Gram matrix of [g, dX, dG], newest differences first; what is known is not made again."""
        m = len(self._order) - 1
        products = self.gram if self._free is None else unknown_products(m + 1)
        known = products[:, ::-1, ::-1]
        new = np.flatnonzero(np.isnan(np.diagonal(known[0])))
        new = np.concatenate([[0], 1 + new, 1 + m + new]).astype(np.int64)
        found = np.zeros((len(new), 1 + 2 * m))
        for _, X, G, order in self._pieces():
            pairs = np.full((1 + 2 * m, 2), -1)
            pairs[1 : 1 + m] = np.column_stack([order[:0:-1], order[-2::-1]])
            pairs[1 + m :] = pairs[1 : 1 + m] + len(X)
            pairs[0, 0] = len(X) + order[-1]
            found += self._backend.difference_products([X, G], pairs[new], [X, G], pairs)
        B = np.zeros((1 + 2 * m, 1 + 2 * m))
        x, g = slice(1, 1 + m), slice(1 + m, None)
        B[x, x], B[x, g], B[g, x], B[g, g] = known[0], known[1], known[1].T, known[2]
        B[new], B[:, new] = found, found.T
        if self._free is None:
            self.gram = np.stack([B[x, x], B[x, g], B[g, g]])[:, ::-1, ::-1]
        return B

    def lift(self, moves: np.ndarray) -> list[Array]:
        """x + `moves`, (k, p), as points of shape (d,) in the dtype of x0."""
        backend, x = self._backend, self._rows.x
        if self._L is None:
            wide = np.repeat(backend.to_host(x)[None].astype(np.float64), len(moves), axis=0)
            wide[:, slice(None) if self._free is None else self._free] += moves
            return [backend.copy_in(point, x.dtype) for point in wide]
        k, m = len(moves), len(self._order) - 1
        weights = np.zeros((k, 1 + 2 * m))
        solved = dtrtrs(self._L, moves.T, lower=1, trans=1)[0].T
        weights[:, self._pivots] = solved / self._size[self._pivots]
        extras = np.column_stack([np.ones(k), weights[:, 0]])  # of x and g
        points = [backend.copy_in(x, x.dtype) for _ in moves] if self._free is not None else []
        for where, X, G, order in self._pieces():
            # of the rows, where the weights are those of differences of consecutive ones
            P, Q = (np.zeros((k, len(X))) for _ in range(2))
            for out, w in ((P, weights[:, 1 : 1 + m]), (Q, weights[:, 1 + m :])):
                out[:, order[:0:-1]] += w
                out[:, order[-2::-1]] -= w
            r = int(order[-1])
            found = backend.weighted_sums(X, P, G, Q, r, [X[r], G[r]], extras)
            if not points:
                return found
            for point, piece in zip(points, found, strict=True):
                point[where] = piece
        return points
