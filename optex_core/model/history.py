"""The newest T0 pairs (theta_i, g_i), with the T0 x T0 matrices that the estimator needs.

Stored are matrices of *differences*, so that a new row overwrites one row and one column:

    D_ij = |(theta_i - theta_j) / scale|^2,
    E_ij = |scale (g_i - g_j)|^2,
    M_ij = (g_i - g_j) . (theta_i - theta_j).

They carry the whole likelihood and the secant curvatures E / M. Raw products centred afterwards
lose every digit between close iterates: a relative error of 315 at an offset of 1e3 and steps of
1e-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, final

import numpy as np
from numpy.typing import DTypeLike

from optex_core.backends.base import Backend
from optex_core.types import Array

#: From so many numbers in the parameter rows on, distances computed while steps are predicted are
#: kept for the rows that their points become.
DISTANCE_CACHE_MIN_SIZE = 1_048_576
#: Squared distances between these keep their digits, also in units of a length scale.
SQUARE_RANGE = float(np.finfo(np.float64).tiny), 1e-6 * float(np.finfo(np.float64).max)


@final
class History:
    """A ring buffer of `capacity` rows with its pair matrices.

    Parameters
    ----------
    dtype : dtype
        Of the rows: float32 or float64; the pair matrices are float64 always.
    scale : array, shape (d,), optional
        Units of the parameters: distances are taken in theta / scale, gradients in scale g.
    dims : int array, shape (k,), optional
        The coordinates that kernel distances are taken on, for all rows. None: all.
    eager_pairs : bool, default False
        True: D, E, M and the norms of new rows are computed in one pass. False: E, M and norms (D
        too, with `dims`) when they are read: at d = 1e6 D alone takes a third of the time.
    """

    def __init__(
        self,
        capacity: int,
        d: int,
        dtype: DTypeLike,
        backend: Backend,
        *,
        scale: Array | None = None,
        dims: np.ndarray | None = None,
        eager_pairs: bool = False,
    ) -> None:
        self.capacity, self.backend, self.eager_pairs = capacity, backend, eager_pairs
        self.scale, self.dims = scale, dims
        self.caches_distances = (
            not eager_pairs
            and dims is None
            and capacity * d >= DISTANCE_CACHE_MIN_SIZE
            and type(backend).pairwise_distances is not Backend.pairwise_distances
        )
        self._distance_cache: list[tuple[Array, np.ndarray]] = []
        # Parameters and gradients, shape (capacity, d): `n` rows are valid, in ring order.
        self.X, self.G = (backend.empty((capacity, d), dtype) for _ in range(2))
        self._pairs = {name: np.zeros((capacity, capacity)) for name in "DEM"}
        self._squared_norms = np.zeros(capacity)
        # Rows whose pairs, or norms (N), are not computed yet.
        self._stale: dict[str, set[int]] = {name: set() for name in "DEMN"}
        self._subset_distances = np.zeros((capacity, capacity)) if dims is not None else None
        if dims is not None:
            self._sub = backend.empty((capacity, len(dims)), dtype)
            self._sub_scale = None if scale is None else scale[dims]
        self.n = self.total = 0  # valid rows, and rows ever appended
        self.newest = -1  # ring index of the last one

    @property
    def D(self) -> np.ndarray:
        """|(theta_i - theta_j) / scale|^2."""
        if self._stale["D"]:
            self._refresh_stale()
        return self._pairs["D"]

    @property
    def E(self) -> np.ndarray:
        """|scale (g_i - g_j)|^2."""
        if late := sorted(self._stale["E"]):
            G = self.G[: self.n]
            # By the function of D: compiling another one was 1.7 s of a first run.
            if self.caches_distances and self.scale is None:
                self._set(late, E=self.backend.pairwise_distances(G, [G[r] for r in late]))
            else:
                self._set(late, E=self.backend.row_pair_distances(G, late, self.scale, True))
        return self._pairs["E"]

    @property
    def M(self) -> np.ndarray:
        """(g_i - g_j) . (theta_i - theta_j)."""
        if late := sorted(self._stale["M"]):
            n = self.n
            products = self.backend.pair_products(self.X[:n], self.G[:n], late, self.scale)
            self._set(late, M=products[2])
        return self._pairs["M"]

    @property
    def S(self) -> np.ndarray:
        """Squared kernel distances: D itself without `dims`."""
        return self.D if self._subset_distances is None else self._subset_distances

    @property
    def squared_norms(self) -> np.ndarray:
        """|scale g_i|^2."""
        for r in sorted(self._stale["N"]):
            scaled = self.G[r] if self.scale is None else self.G[r] * self.scale
            self._squared_norms[r] = self.backend.dot(scaled, scaled)
        self._stale["N"].clear()
        return self._squared_norms

    def _set(self, rows: list[int], **values: np.ndarray) -> None:
        """Pairs of `rows` with all: shape (len(rows), n) for each matrix."""
        for name, found in values.items():
            _set_symmetric(self._pairs[name], rows, found, self.n)
            self._stale[name].difference_update(rows)

    def append(self, x: Array, g: Array) -> None:
        """Add one pair, overwriting the oldest row when full. O(T0 d)."""
        self.extend([(x, g)])

    def extend(self, pairs: Sequence[tuple[Array, Array]]) -> None:
        """Add pairs, oldest first, in one pass; of more than `capacity` pairs the last are kept."""
        for begin in range(0, len(pairs), self.capacity):
            self._extend(pairs[begin : begin + self.capacity])

    def _extend(self, pairs: Sequence[tuple[Array, Array]]) -> None:
        known = []
        if self.caches_distances:
            self._refresh_stale()  # by itself: together with new rows it has other last bits
            known = [self.cached_distances(x) for x, _ in pairs]
        rows = self._write_rows(pairs)
        X, G = self.X[: self.n], self.G[: self.n]
        if self.eager_pairs:
            D, E, M = self.backend.pair_products(X, G, rows, self.scale)
            self._set(rows, D=D, E=E, M=M)
        elif self.caches_distances:
            cached = zip(rows, known, strict=True)
            self._insert_cached({r: found for r, found in cached if found is not None})
        elif self.dims is None:
            self._set(rows, D=self.backend.row_pair_distances(X, rows, self.scale))
        self._update_row_norms(rows)

    def _insert_cached(self, known: dict[int, np.ndarray]) -> None:
        """D of new rows whose distances to the older rows are known; those among them are left."""
        if not known:
            return
        rows, D = list(known), np.zeros((len(known), self.n))
        D[:, : len(next(iter(known.values())))] = list(known.values())
        points = [self.X[r] for r in rows]
        # Rows are not contiguous around the end of the ring, or where one is not known.
        for part in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
            block = self.X[part[0] : part[-1] + 1]
            D[:, part] = self.backend.pairwise_distances(block, points, self.scale)
        self._set(rows, D=D)

    # -- distances of points that are no rows yet -------------------------------------------------

    def cached_distances(self, x: Array) -> np.ndarray | None:
        """Squared distances of the array `x` to the rows, if `cache_distances` was given them."""
        return next((distances for y, distances in self._distance_cache if y is x), None)

    def cache_distances(self, x: Array, distances: np.ndarray) -> None:
        """Keep the squared distances of an array, which becomes read-only, until a row is added."""
        if self.caches_distances and self.cached_distances(x) is None:
            x.flags.writeable = False  # a backend that has `pairwise_distances` has NumPy arrays
            self._distance_cache.append((x, distances))

    def prefetch_distances(self, x: Array) -> None:
        """Compute the distances of `x`, to predict steps from it, together with stale rows of D."""
        if self.caches_distances:
            self._refresh_stale(x)

    def _refresh_stale(self, x: Array | None = None) -> None:
        """Compute stale rows of D, and in the same reading of the rows the distances of `x`."""
        late, rows = sorted(self._stale["D"]), self.X[: self.n]
        new = [] if x is None or self.cached_distances(x) is not None else [x]
        if not self.n or not (late or new):
            return
        if self.caches_distances:
            points = [*(self.X[r] for r in late), *new]
            found = self.backend.pairwise_distances(rows, points, self.scale)
        else:
            found = self.backend.row_pair_distances(rows, late, self.scale)
        for y in new:
            self.cache_distances(y, found[-1])
        if late:
            self._set(late, D=found[: len(late)])

    def _write_rows(self, pairs: Sequence[tuple[Array, Array]]) -> list[int]:
        """Where the new rows are in the ring."""
        rows = [(self.newest + 1 + i) % self.capacity for i in range(len(pairs))]
        for r, (x, g) in zip(rows, pairs, strict=True):
            self.X[r] = x
            self.G[r] = g
        for late in self._stale.values():
            late.update(rows)
        self.n = max(self.n, max(rows) + 1)
        self.total += len(rows)
        self.newest = rows[-1]
        self._distance_cache.clear()
        return rows

    def _update_row_norms(self, rows: list[int]) -> None:
        """Norms of new rows, and their distances on the coordinates of the kernel."""
        if self.eager_pairs:
            _ = self.squared_norms
        if self._subset_distances is not None:
            for r in rows:
                self._sub[r] = self.X[r][self.dims]
            distances = [self.distances_on_dims(self._sub[r]) for r in rows]
            _set_symmetric(self._subset_distances, rows, distances, self.n)

    def extend_with_pairs(
        self, pairs: Sequence[tuple[Array, Array]], D: np.ndarray, E: np.ndarray, M: np.ndarray
    ) -> None:
        """Add k < capacity pairs whose pair matrices are known. O(k d): no history is read.

        `D`, `E`, `M` have shape (k, n): with all rows and themselves, oldest first.
        """
        rows = self._write_rows(pairs)
        back = np.empty(self.n, np.int64)
        back[self.chronological_order()] = np.arange(self.n)
        D, E, M = (known[:, -self.n :][:, back] for known in (D, E, M))
        self._set(rows, D=D, E=E, M=M)
        self._update_row_norms(rows)

    def range_error(self) -> str:
        """Why squared distances say nothing of the rows: they overflow or underflow; "" if not."""
        rows = (self.X if self.dims is None else self._sub)[: self.n]
        largest = float(self.S[: self.n, : self.n].max())
        if not largest <= SQUARE_RANGE[1]:
            what = "overflow"
        elif largest < SQUARE_RANGE[0] and any(self.backend.max_abs(x - rows[0]) for x in rows):
            what = "underflow"
        else:
            return ""
        return f"squared distances between points {what}: choose x_scale nearer to the step lengths"

    def rows_on_dims(self) -> Array:
        """The parameter rows on the coordinates of the kernel, shape (n, k)."""
        return self._sub[: self.n]

    def distances_on_dims(self, x: Array) -> np.ndarray:
        """Squared kernel distances of a point given on the coordinates of the kernel."""
        return self.backend.squared_distances(self.rows_on_dims(), x, self._sub_scale)

    def distances(self, x: Array) -> np.ndarray:
        """Squared kernel distances of `x` to every row, float64, shape (n,)."""
        if self.dims is not None:
            return self.distances_on_dims(x[self.dims])
        known = self.cached_distances(x)
        if known is not None:
            return known
        return self.backend.squared_distances(self.X[: self.n], x, self.scale)

    def chronological_order(self) -> np.ndarray:
        """Ring indices of the rows from oldest to newest, shape (n,)."""
        n = self.n
        return np.arange(n) if self.newest == n - 1 else (np.arange(n) + self.newest + 1) % n

    def dump(self) -> dict[str, object]:
        """The whole state as arrays and integers; rows on the host."""
        n, host = self.n, self.backend.to_host
        S = self._pairs["D"] if self._subset_distances is None else self._subset_distances
        return {
            "X": host(self.X[:n]),
            "G": host(self.G[:n]),
            **{name: matrix[:n, :n] for name, matrix in self._pairs.items()},
            "S": S[:n, :n],
            # Stale rows stay stale: computed together with other rows they have other last bits.
            "late": np.array([np.isin(np.arange(n), list(self._stale[name])) for name in "DEM"]),
            "sizes": self.squared_norms[:n],
            "newest": self.newest,
            "total": self.total,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state from `dump`; the capacity must be the same."""
        n = self.n = len(state["X"])
        for name, matrix in self._pairs.items():
            matrix[:n, :n] = state[name]
        if self._subset_distances is not None:
            self._subset_distances[:n, :n] = state["S"]
        stale = zip("DEMN", [*state.get("late", np.zeros((3, n))), ()], strict=True)
        self._stale = {name: set(np.flatnonzero(late).tolist()) for name, late in stale}
        self.X[:n] = self.backend.copy_in(state["X"], self.X.dtype)
        self.G[:n] = self.backend.copy_in(state["G"], self.G.dtype)
        self._squared_norms[:n] = state["sizes"]
        if self.dims is not None:
            self._sub[:n] = self.X[:n][:, self.dims]
        self.newest, self.total = int(state["newest"]), int(state["total"])


@lru_cache(maxsize=64)
def strictly_lower(k: int) -> np.ndarray:
    """Where a (k, k) matrix is below its diagonal."""
    return np.tri(k, k=-1, dtype=bool)


def _set_symmetric(
    matrix: np.ndarray, rows: Sequence[int], values: np.ndarray | Sequence[np.ndarray], n: int
) -> None:
    """Set rows and columns of a symmetric pair matrix, zero on its diagonal."""
    low, high = rows[0], rows[-1] + 1
    if high - low == len(rows):  # not around the end of the ring: a block at a time
        new = np.asarray(values)
        matrix[:n, low:high] = new.T
        matrix[low:high, :n] = new
        block = matrix[low:high, low:high]
        block[...] = np.where(strictly_lower(len(rows)), block, block.T)
        stride = len(matrix) + 1
        matrix.reshape(-1)[low * stride : high * stride : stride] = 0.0
        return
    for r, row in zip(rows, values, strict=True):
        matrix[r, :n] = row
        matrix[:n, r] = row
        matrix[r, r] = 0.0
