"""Evaluated points in the order of the run, and coordinates of the space that they span."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg.lapack import dpstrf, dtrtrs

from optex_core.backends.base import Backend
from optex_core.types import Array

#: Parameters that are held as float64 at once, for all rows: what stays in the cache.
BLOCK = 4096
#: What is smaller than this share of its row, squared, is dropped from the basis.
TOLERANCE = 1e-14


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
    gram : float array, shape (3, m, m)
        Products dX dX', dX dG', dG dG' of the first m differences of consecutive rows.
    """

    X: Array
    G: Array
    order: np.ndarray
    mark: np.ndarray
    gram: np.ndarray

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

        At most `most` are kept, the newest; `most` plus the new ones must fit into the memory.
        """
        free = np.setdiff1d(np.arange(len(self.X)), self.order)[: len(points)]
        for slot, x, g in zip(free, points, gradients, strict=True):
            self.X[int(slot)], self.G[int(slot)] = x, g
        n, new = len(self.order), np.array(marks, dtype=bool)
        at = n if lowest else n - 1
        order = np.concatenate([self.order[:at], free, self.order[at:]]).astype(np.int64)
        mark = np.concatenate([self.mark[:at], new, self.mark[at:]])
        known = min(len(self.gram[0]), at - 1)  # differences that are what they were
        cut = max(0, len(order) - most)
        gram = self.gram[:, cut:known, cut:known] if cut < known else np.zeros((3, 0, 0))
        return replace(self, order=order[cut:], mark=mark[cut:], gram=gram)

    def only_last(self) -> Rows:
        """x alone: everything else is forgotten."""
        return replace(self, order=self.order[-1:], mark=self.mark[-1:], gram=np.zeros((3, 0, 0)))


class Coordinates:
    """Orthonormal coordinates of the span of the rows' differences and the last gradient.

    x is the origin. With few parameters (d <= 2 n + 20) the coordinates are the parameters. Else
    the pivoted Cholesky factor of the Gram matrix of the (scaled) differences of consecutive rows
    holds them: no cancellation, however far the rows are from the origin. One pass over the rows
    finds the products of new rows; everything else works on vectors of length p <= 2 n - 1.

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
        As `Rows.gram`, of all differences.
    """

    def __init__(self, rows: Rows, backend: Backend, free: np.ndarray | None = None) -> None:
        self._backend, self._rows, self._free = backend, rows, free
        self._order, self.mark, self.gram = rows.order, rows.mark, rows.gram
        d = rows.X.shape[1]
        if free is not None:
            self._restrict(free)
            d = int(free.sum())
        n = len(self._order)
        self._d, self._L = d, None
        if d <= 2 * n + 20:
            X, G = (self._part(side, 0, d) for side in (rows.X, rows.G))
            self.X, self.G = X - X[-1], G
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
        dX, dG = Q[1:n], Q[n:]  # newest first, as in `_block`
        self.X = np.vstack([-np.cumsum(dX, 0)[::-1], np.zeros(p)])
        self.G = np.vstack([Q[0] - np.cumsum(dG, 0)[::-1], Q[:1]])

    def _restrict(self, free: np.ndarray) -> None:
        """Leave out rows whose distance to x lies mainly in parameters that are held."""
        rows, distances = self._rows, np.zeros((2, len(self._order)))
        x = self._backend.to_host(rows.x).astype(np.float64)
        for i, k in enumerate(self._order):
            squares = (self._backend.to_host(rows.X[int(k)]) - x) ** 2
            distances[:, i] = squares[free].sum(), squares[~free].sum()
        keep = distances[1] <= 0.01 * distances[0]
        keep[-1] = True
        self._order, self.mark = self._order[keep], self.mark[keep]
        self.gram = np.zeros((3, 0, 0))

    def _part(self, side: Array, begin: int, end: int) -> np.ndarray:
        """Rows of one side as float64, parameters `begin` to `end` of those that may move."""
        if self._free is not None:
            chosen = np.flatnonzero(self._free)[begin:end]
            part = side[self._order[:, None], chosen]
        else:
            part = side[self._order, begin:end]
        return self._backend.to_host(part).astype(np.float64)

    def _block(self, begin: int) -> np.ndarray:
        """[g, dX, dG] for some parameters, the newest differences first."""
        end = min(begin + BLOCK, self._d)
        X, G = (self._part(side, begin, end) for side in (self._rows.X, self._rows.G))
        return np.vstack([G[-1:], np.diff(X, axis=0)[::-1], np.diff(G, axis=0)[::-1]])

    def _products(self) -> np.ndarray:
        """Gram matrix of [g, dX, dG]; products of differences that are known are not made again."""
        n, known = len(self._order), len(self.gram[0])
        m = n - 1
        fresh = m - known  # differences; the newest come first
        new = np.r_[0, 1 : 1 + fresh, 1 + m : 1 + m + fresh]
        found = np.zeros((len(new), 1 + 2 * m))
        for begin in range(0, self._d, BLOCK):
            block = self._block(begin)
            found += block[new] @ block.T
        B = np.zeros((1 + 2 * m, 1 + 2 * m))
        old = np.arange(fresh, m)
        backwards = self.gram[:, ::-1, ::-1]
        B[np.ix_(1 + old, 1 + old)] = backwards[0]
        B[np.ix_(1 + old, 1 + m + old)] = backwards[1]
        B[np.ix_(1 + m + old, 1 + old)] = backwards[1].T
        B[np.ix_(1 + m + old, 1 + m + old)] = backwards[2]
        B[new], B[:, new] = found, found.T
        parts = (B[1 : 1 + m, 1 : 1 + m], B[1 : 1 + m, 1 + m :], B[1 + m :, 1 + m :])
        self.gram = np.stack([part[::-1, ::-1] for part in parts])
        return B

    def lift(self, moves: np.ndarray) -> list[Array]:
        """x + `moves`, (k, p), as points of shape (d,) in the dtype of x0."""
        backend, x = self._backend, self._rows.x
        out = np.repeat(backend.to_host(x)[None].astype(np.float64), len(moves), axis=0)
        where = None if self._free is None else np.flatnonzero(self._free)
        if self._L is None:
            if where is None:
                out += moves
            else:
                out[:, where] += moves
        else:
            weights = np.zeros((len(moves), len(self._size)))
            solved = dtrtrs(self._L, moves.T, lower=1, trans=1)[0].T
            weights[:, self._pivots] = solved / self._size[self._pivots]
            for begin in range(0, self._d, BLOCK):
                end = min(begin + BLOCK, self._d)
                part = slice(begin, end) if where is None else where[begin:end]
                out[:, part] += weights @ self._block(begin)
        return [backend.copy_in(point, x.dtype) for point in out]
