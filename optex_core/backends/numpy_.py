"""The NumPy backend: the reference that defines the answers.

Notes
-----
Everything is done in pieces of about `BLOCK_SIZE` entries, so that temporaries stay in the cache
(an Adam step at d = 5e6 ran 2.4 times faster in blocks than whole). Dot products and products of
differences are kept too small for a second thread of BLAS. Weighted sums are not: in slices small
enough they took 1.3 to 1.5 times as long, so the engine holds BLAS at one thread for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from optex_core.backends._codegen_check import is_elementwise
from optex_core.backends._memory import Scratch
from optex_core.backends.base import Backend
from optex_core.backends.blas_threads import MAX_DOT_UNTHREADED, MAX_GEMM_UNTHREADED
from optex_core.backends.types import Rule
from optex_core.types import Array

#: Entries of all arrays of one piece; operations on n rows take BLOCK_SIZE // n columns at a time.
BLOCK_SIZE = 16_384
#: The fewest columns of a piece: below it the calls cost more than the arithmetic.
_COLUMNS = 1_024
#: Temporaries of so many numbers come from the C library, which has them at hand.
_SMALL = 2_048
#: Columns of row differences at a time.
_MAX_DIFFERENCE_COLUMNS = 2_048


_scratch = Scratch().empty
#: Keeps NumPy from warning of overflow and nan, which no other backend does; 1 us a call.
_without_fp_warnings = np.errstate(all="ignore")


@lru_cache(maxsize=256)
def _checked_step(rule: Rule, arrays: int, scalars: int) -> tuple[Callable[..., Any], bool]:
    """The rule's step, and whether it may be given pieces of vectors."""
    return rule(np), is_elementwise(rule, arrays, scalars)


class NumpyBackend(Backend):
    """Plain NumPy on the host; no temporary has the size of the history.

    Vectors that fit into one block take no loop: with d = 10 the time goes into calls.
    """

    name: ClassVar[str] = "numpy"
    blas: ClassVar[bool] = True
    xp = np

    def ignore_fp_warnings(self) -> AbstractContextManager[None]:
        return np.errstate(all="ignore")

    def copy_in(self, x: Array, dtype: DTypeLike) -> Array:
        return np.array(x, dtype=dtype, copy=True, order="C")

    def to_host(self, x: Array) -> np.ndarray:
        return np.asarray(x)

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        return np.empty(shape, dtype)

    def zeros(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        return np.zeros(shape, dtype)

    def read_only(self, x: Array) -> Array:
        view = x.view()
        view.setflags(write=False)  # half the time of the attribute
        return view

    def dot(self, a: Array, b: Array) -> float:
        if len(a) <= MAX_DOT_UNTHREADED:  # `numpy.vdot` warns of nothing, unlike `dot`
            left = a.astype(np.float64, copy=False)
            return float(np.vdot(left, left if b is a else b.astype(np.float64, copy=False)))
        return math.fsum(self.dot(a[s], b[s]) for s in _blocks(len(a), MAX_DOT_UNTHREADED))

    @_without_fp_warnings
    def squared_distance(self, a: Array, b: Array, scale: Array | None = None) -> float:
        parts = _blocks(len(a), MAX_DOT_UNTHREADED)
        return float(sum(_squared(a[s], b[s], _part(scale, s)) for s in parts))

    def max_abs(self, x: Array) -> float:
        if not len(x):
            return 0.0
        # without a vector of |x_k|; nan wins in both
        return abs(float(max(np.maximum.reduce(x), -np.minimum.reduce(x))))

    def all_finite(self, x: Array) -> bool:
        # One dot product sees nan and inf; only where it is not finite, perhaps by overflow, is
        # every entry looked at.
        return bool(math.isfinite(np.vdot(x, x)) or np.isfinite(x).all())

    @_without_fp_warnings
    def squared_distances(self, rows: Array, x: Array, scale: Array | None = None) -> np.ndarray:
        if len(x) <= _COLUMNS or len(x) <= _width(rows):
            return _squared(rows, x, scale)
        total = np.zeros(len(rows))
        for s in _blocks(len(x), _width(rows)):
            total += _squared(rows[:, s], x[s], _part(scale, s))
        return total

    @_without_fp_warnings
    def row_pair_distances(
        self, rows: Array, new: Sequence[int], scale: Array | None = None, inverse: bool = False
    ) -> np.ndarray:
        d, width = rows.shape[1], _width(rows)
        if len(new) * rows.size <= BLOCK_SIZE:  # all at once, as in `pair_products`
            return _squared(rows, rows[new][:, None], scale, inverse)
        total = np.zeros((len(new), len(rows)))
        for s in _blocks(d, width):
            part, over = rows[:, s], _part(scale, s)
            for a, r in enumerate(new):
                total[a] += _squared(part, part[r], over, inverse)
        return total

    @_without_fp_warnings
    def pair_products(
        self, X: Array, G: Array, new: Sequence[int], scale: Array | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        # All at once: five new rows of ten parameters take five calls, not 25.
        if len(new) * X.size <= BLOCK_SIZE:
            return _paired(X, G, X[new][:, None], G[new][:, None], scale)
        total = np.zeros((3, len(new), len(X)))
        for s in _blocks(X.shape[1], _width(X)):
            part_x, part_g, over = X[:, s], G[:, s], _part(scale, s)
            for a, r in enumerate(new):
                total[:, a] += _paired(part_x, part_g, part_x[r], part_g[r], over)
        return total[0], total[1], total[2]

    @_without_fp_warnings
    def weighted_sum(self, rows: Array, weights: np.ndarray, anchor: int | None) -> Array:
        return _columnwise(rows, lambda s: _combined(rows[:, s], weights, anchor))

    @_without_fp_warnings
    def predict(
        self,
        X: Array,
        G: Array,
        weights: np.ndarray,
        anchor: int | None,
        x: Array,
        curvature: float,
        scale: Array | None = None,
    ) -> Array:
        if curvature == 0.0:
            return self.weighted_sum(G, weights, anchor)

        def predicted(s: slice) -> np.ndarray:
            lever = x[s] - _combined(X[:, s], weights, anchor)
            if scale is not None:
                lever /= scale[s]
                lever /= scale[s]
            lever *= curvature
            lever += _combined(G[:, s], weights, anchor)
            return lever

        return _columnwise(G, predicted)

    @_without_fp_warnings
    def difference_products(
        self, A: Array | Sequence[Array], a: np.ndarray, B: Array | Sequence[Array], b: np.ndarray
    ) -> np.ndarray:
        # Row by row into one buffer: gathering the rows first took three passes and twice the time
        # (d = 1e4, 30 rows).
        same = A is B and a is b
        A, B = (rows if hasattr(rows, "shape") else _split_rows(rows) for rows in (A, B))
        d, products = len(A[0]), len(a) * len(b) or 1
        width = min(d, _MAX_DIFFERENCE_COLUMNS, max(1, MAX_GEMM_UNTHREADED // products))
        left, right = (
            _scratch("left", (len(a), width)),
            _scratch("right", (0 if same else len(b), width)),
        )
        total, first, second = np.zeros((len(a), len(b))), _runs(A, a), _runs(B, b)
        for s in _blocks(d, width):
            one = _differences(A, first, s, left)
            total += one @ (one if same else _differences(B, second, s, right)).T
        return total

    @_without_fp_warnings
    def apply(
        self, rule: Rule, arrays: Sequence[Array], scalars: Sequence[float]
    ) -> tuple[Array, ...]:
        step, separable = _checked_step(rule, len(arrays), len(scalars))
        d = len(arrays[0])
        # Python floats are weak scalars: they take the arrays' dtype and never promote float32.
        numbers = [float(s) for s in scalars]
        if d <= BLOCK_SIZE or not separable:
            # A rule may hand an array through; outputs never alias inputs.
            given = {id(a) for a in arrays}
            results = step(*arrays, *numbers)
            if given.isdisjoint(map(id, results)):
                return results
            return tuple([r.copy() if id(r) in given else r for r in results])
        out: tuple[np.ndarray, ...] = ()
        for s in _blocks(d, BLOCK_SIZE):
            part = step(*(a[s] for a in arrays), *numbers)
            out = out or tuple(np.empty(d, p.dtype) for p in part)
            for whole, piece in zip(out, part, strict=True):
                whole[s] = piece
        return out

    @_without_fp_warnings
    def axpy(self, a: float, x: Array, y: Array) -> Array:
        return float(a) * x + y

    def clip(self, x: Array, low: Array | float, high: Array | float) -> Array:
        return np.minimum(np.maximum(x, np.asarray(low, x.dtype)), np.asarray(high, x.dtype))


def _width(rows: Array) -> int:
    return max(_COLUMNS, min(MAX_DOT_UNTHREADED, BLOCK_SIZE // max(1, len(rows))))


def _blocks(d: int, width: int) -> Iterator[slice]:
    return (slice(i, min(i + width, d)) for i in range(0, d, width))


def _part(scale: Array | None, s: slice) -> Array | None:
    return None if scale is None else scale[s]


def _columnwise(rows: Array, piece: Callable[[slice], np.ndarray]) -> Array:
    """One vector of the dtype of `rows`, made from a piece of columns at a time."""
    d = rows.shape[1]
    if d <= _COLUMNS or d <= _width(rows):
        return piece(slice(None)).astype(rows.dtype, copy=False)
    out = np.empty(d, rows.dtype)
    for s in _blocks(d, _width(rows)):
        out[s] = piece(s)
    return out


def _squared(rows: Array, x: Array, scale: Array | None, inverse: bool = False) -> np.ndarray:
    small = rows.size <= _SMALL >= x.size
    out = None if small else _scratch("left", (*x.shape[:-2], *rows.shape))
    difference = np.subtract(rows, x, out=out, dtype=np.float64)
    if scale is not None and inverse:
        difference *= scale
    elif scale is not None:
        difference /= scale
    squares: np.ndarray = np.vecdot(difference, difference)
    return squares


def _paired(
    X: Array, G: Array, x: Array, g: Array, scale: Array | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = (*x.shape[:-2], *X.shape)
    dx = np.subtract(X, x, out=_scratch("left", shape), dtype=np.float64)
    dg = np.subtract(G, g, out=_scratch("right", shape), dtype=np.float64)
    mixed = np.vecdot(dg, dx)
    if scale is not None:
        dx /= scale
        dg *= scale
    return np.vecdot(dx, dx), np.vecdot(dg, dg), mixed


def _combined(rows: Array, weights: np.ndarray, anchor: int | None) -> np.ndarray:
    if anchor is None:
        return weights.dot(rows)
    base = rows[anchor].astype(np.float64, copy=False)
    out = None if rows.size <= _SMALL else _scratch("left", rows.shape)
    combined: np.ndarray = weights.dot(np.subtract(rows, base, out=out))
    combined += base
    return combined


def _split_rows(parts: Sequence[Array]) -> list[Array]:
    """The vectors of a sequence of vectors and of rows."""
    return [row for part in parts for row in (part if part.ndim > 1 else (part,))]


def _runs(rows: Array | Sequence[Array], pairs: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Index pairs as runs (place, count, i, j) of (i, j), (i + 1, j + 1), ..."""
    if len(pairs) and pairs.max() >= len(rows):  # a slice would be shorter and say nothing
        raise IndexError(f"pairs of rows out of bounds for {len(rows)} rows")
    runs: list[tuple[int, int, int, int]] = []
    for place, (i, j) in enumerate(pairs.tolist()):
        at, count, first, second = runs[-1] if runs and hasattr(rows, "shape") else (0, 0, 0, -1)
        if j >= 0 <= second and (i, j) == (first + count, second + count):
            runs[-1] = at, count + 1, first, second
        else:
            runs.append((place, 1, i, j))
    return runs


def _differences(
    rows: Array | Sequence[Array], runs: list[tuple[int, int, int, int]], s: slice, out: np.ndarray
) -> np.ndarray:
    size = min(s.stop, len(rows[0])) - s.start
    for place, count, i, j in runs:
        if j < 0:
            out[place, :size] = rows[i][s]
        elif count == 1:
            np.subtract(rows[i][s], rows[j][s], out=out[place, :size], dtype=np.float64)
        else:
            whole: Any = rows  # runs of more than one are of a matrix
            one, other = whole[i : i + count, s], whole[j : j + count, s]
            np.subtract(one, other, out=out[place : place + count, :size], dtype=np.float64)
    return out[:, :size]
