"""The Numba backend: compiled loops on all cores of the CPU, one pass over memory per operation.

Reductions run over a fixed partition of d into blocks. Every block is summed by one thread, and the
blocks are added in order, so that results do not depend on the number of threads (with a plain
``prange`` sum the last digits did).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from optex_core.backends._codegen_check import warn_once
from optex_core.backends._memory import MIN_BYTES, BufferPool
from optex_core.backends._tracing import TracingError
from optex_core.backends.base import Backend
from optex_core.backends.numpy_ import NumpyBackend
from optex_core.backends.types import FusedSteps, PosteriorArrays, Rule, SubspaceRolloutFunction
from optex_core.errors import BackendError
from optex_core.types import Array

try:
    from optex_core.backends.numba import coefficient_steps, fused_steps, kernels, pairs, products
    from optex_core.backends.numba._jit import JIT_DISABLED, readonly_view
    from optex_core.backends.numba.elementwise import compile_rule
    from optex_core.backends.numba.kernel_threads import run_blocks
except Exception as reason:
    # a Numba too old for its NumPy fails with other types than ImportError, too
    raise BackendError(
        f"backend='numba' needs Numba, which cannot be imported here ({reason}); run: "
        f"python -m pip install --upgrade numba, or pass backend='numpy'"
    ) from reason


#: Up to so many numbers two calls of NumPy are as quick as one of a compiled kernel (5 us).
SMALL = 2_048
#: `dtype.name` takes 3 us.
_NAMES = {np.dtype(name): name for name in ("float32", "float64")}


class NumbaBackend(Backend):
    """Compiled parallel loops over NumPy arrays.

    The first call of an operation compiles it: 0.2 to 0.5 s, kept on disk for later processes.
    """

    name: ClassVar[str] = "numba"
    batch_invariant_products: ClassVar[bool] = True
    xp = np
    to_host = NumpyBackend.to_host
    zeros = NumpyBackend.zeros
    read_only = NumpyBackend.read_only
    ignore_fp_warnings = NumpyBackend.ignore_fp_warnings

    def __init__(self) -> None:
        self._numpy, self.pool = NumpyBackend(), BufferPool()
        if JIT_DISABLED:
            warn_once(
                "NUMBA_DISABLE_JIT is set: the kernels of backend='numba' run as plain Python, a "
                "thousand times slower; unset it, or pass backend='numpy', which gives the same "
                "results to rounding"
            )

    def copy_in(self, x: Array, dtype: DTypeLike) -> Array:
        if getattr(x, "nbytes", 0) < MIN_BYTES or np.ndim(x) != 1:
            return self._numpy.copy_in(x, dtype)
        out = self.pool.empty(len(x), dtype)
        np.copyto(out, x, casting="unsafe")
        return out

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        return np.empty(shape, dtype) if isinstance(shape, tuple) else self.pool.empty(shape, dtype)

    def dot(self, a: Array, b: Array) -> float:
        if a.size <= SMALL:
            return self._numpy.dot(a, b)
        return float(_reduce(kernels.dot, a.size, 2 * a.size, (), a, b))

    def squared_distance(self, a: Array, b: Array, scale: Array | None = None) -> float:
        if a.size <= SMALL:
            return self._numpy.squared_distance(a, b, scale)
        return float(_reduce(kernels.distance, a.size, 2 * a.size, (), a, b, scale))

    def max_abs(self, x: Array) -> float:
        # As quick as a compiled one with two threads, which takes 0.25 s to compile.
        return self._numpy.max_abs(x)

    def all_finite(self, x: Array) -> bool:
        return self._numpy.all_finite(x) if x.size <= SMALL else math.isfinite(self.max_abs(x))

    def squared_distances(self, rows: Array, x: Array, scale: Array | None = None) -> np.ndarray:
        return self.pairwise_distances(rows, (x,), scale)[0]

    def pairwise_distances(
        self, rows: Array, points: Sequence[Array], scale: Array | None = None
    ) -> np.ndarray:
        n, d = rows.shape
        vectors = _vectors(points, rows.dtype, d)
        at, work = _addresses(vectors), rows.size * len(vectors)
        shape = (len(vectors), n)
        return _reduce(kernels.squared_distances, d, work, shape, rows, at, scale)

    def row_pair_distances(
        self, rows: Array, new: Sequence[int], scale: Array | None = None, inverse: bool = False
    ) -> np.ndarray:
        at, d, work = _indices(new, rows), rows.shape[1], rows.size * len(new)
        shape, arguments = (len(new), len(rows)), (rows, at, scale, inverse)
        return _reduce(pairs.row_pair_distances, d, work, shape, *arguments)

    def pair_products(
        self, X: Array, G: Array, new: Sequence[int], scale: Array | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at, d, work = _indices(new, X), X.shape[1], 2 * X.size * len(new)
        shape, arguments = (3, len(new), len(X)), (X, G, at, scale)
        D, E, M = _reduce(pairs.pair_products, d, work, shape, *arguments)
        return D, E, M

    def weighted_sum(self, rows: Array, weights: np.ndarray, anchor: int | None) -> Array:
        out, w = self.pool.empty(rows.shape[1], rows.dtype), np.array(weights, np.float64)
        _fill(kernels.weighted_sum, rows.size, out, rows, w, _anchor(anchor, rows))
        return out

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
        out, w = self.pool.empty(G.shape[1], G.dtype), np.array(weights, np.float64)
        arguments = (X, G, w, _anchor(anchor, G), x, float(curvature), scale)
        _fill(kernels.predict, 2 * G.size, out, *arguments)
        return out

    def difference_products(
        self, A: Array | Sequence[Array], a: np.ndarray, B: Array | Sequence[Array], b: np.ndarray
    ) -> np.ndarray:
        left, right = _parts(A), _parts(B)  # kept until the kernel is done: it has addresses only
        d, dtype = left[0].shape[-1], left[0].dtype
        if any(v.shape[-1] != d or v.dtype != dtype for v in (*left, *right)):
            raise ValueError("vectors of different lengths or dtypes have no products here")
        one, other = _pair_addresses(left, a, 4), _pair_addresses(right, b, 12)
        zeros = np.zeros(products.TILE, dtype)
        shape, work = (len(one), -(-len(b) // 3) * 3), len(a) * d * (1 + len(b) // 3)
        arguments = (one, other, zeros[:0], _address(zeros), d)
        found = _reduce(products.difference_products, d, work, shape, *arguments)
        return found[: len(a), : len(b)]

    def weighted_sums(
        self,
        X: Array | None,
        P: np.ndarray,
        G: Array,
        Q: np.ndarray,
        anchor: int,
        extras: Sequence[Array],
        A: np.ndarray,
    ) -> list[Array]:
        d, r = G.shape[1], _anchor(anchor, G)
        vectors = _vectors(extras, G.dtype, d)
        # (addresses of the rows, address of their base, weights) of the extras and of each history
        sides = [(_addresses(vectors), 0, A)]
        parts = [readonly_view(G if X is None else X), readonly_view(G)]
        for part, weights in zip(parts, (P if X is not None else P[:, :0], Q), strict=True):
            used, begin = np.flatnonzero(weights.any(axis=0)), _address(part)
            if len(used) and max(used[-1], r) >= len(part):
                raise IndexError(f"weights for row {max(used[-1], r)} of {len(part)} rows")
            step = part.strides[0]
            sides.append((begin + used * step, begin + r * step, weights[:, used]))
        ends = np.cumsum([0, *(-(-len(rows) // 4) * 4 for rows, _, _ in sides)])
        lines, bases = np.zeros((2, ends[-1]), np.int64)
        table = np.zeros((len(A) + len(A) % 2, ends[-1]))
        for (rows, base, weights), begin, end in zip(sides, ends[:-1], ends[1:], strict=True):
            s = slice(begin, begin + len(rows))
            lines[s], bases[begin:end], table[: len(A), s] = rows, base, weights
        out, zeros = [self.empty(d, G.dtype) for _ in A], np.zeros(products.TILE, G.dtype)
        arguments = (lines, bases, table, _addresses(out), zeros[:0], _address(zeros), d)
        blocks = -(-d // kernels.COLUMNS)
        run_blocks(products.weighted_sums, len(lines) * d, blocks, *_readonly(arguments))
        return out

    def apply(
        self, rule: Rule, arrays: Sequence[Array], scalars: Sequence[float]
    ) -> tuple[Array, ...]:
        d, dtype = len(arrays[0]), arrays[0].dtype
        loop = compile_rule(rule, _NAMES[dtype], len(arrays), len(scalars))
        if loop is None:
            return self._numpy.apply(rule, arrays, scalars)
        out = tuple(self.pool.empty(d, dtype) for _ in range(loop.results))
        # Scalars of the arrays' dtype: a Python float would make float32 loops compute in float64.
        arguments = (*map(readonly_view, arrays), *(dtype.type(s) for s in scalars), *out)
        run_blocks(loop.run, len(arrays) * d, -(-d // kernels.COLUMNS), *arguments)
        return out

    def subspace_rollout(
        self,
        lines: tuple[str, ...],
        result: str,
        constant: bool,
        rule: Rule,
        slots: int,
        scalars: int,
    ) -> SubspaceRolloutFunction | None:
        try:
            return coefficient_steps.compile_rollout(lines, result, constant, rule, slots, scalars)
        except TracingError:
            return None

    def fused_steps(
        self,
        rule: Rule,
        posterior: PosteriorArrays,
        x: Array,
        slots: Sequence[Array],
        scalars: Sequence[Sequence[float]],
    ) -> FusedSteps | None:
        return fused_steps.make_fused_steps(rule, posterior, x, slots, scalars, self)


def _reduce(
    kernel: Callable[..., object], d: int, work: int, shape: tuple[int, ...], *arguments: object
) -> np.ndarray:
    """Sums over d columns, of `shape`, float64; `work` entries are read."""
    width, blocks = kernels.column_blocks(d)
    if not blocks:
        return np.zeros(shape)
    partial = np.empty((blocks, *shape))
    run_blocks(kernel, work, blocks, *_readonly(arguments), width, partial)
    return kernels.sum_partials(partial)


def _fill(kernel: Callable[..., object], work: int, out: np.ndarray, *arguments: object) -> None:
    """Have a kernel fill the columns of `out`; `work` entries are read."""
    run_blocks(kernel, work, -(-out.size // kernels.COLUMNS), *_readonly(arguments), out)


def _readonly(arguments: Sequence[object]) -> list[object]:
    """The arguments with read-only views of the arrays."""
    return [readonly_view(a) if isinstance(a, np.ndarray) else a for a in arguments]


def _vectors(vectors: Sequence[Array], dtype: DTypeLike, d: int) -> list[np.ndarray]:
    found = [readonly_view(np.asarray(v, dtype)) for v in vectors]
    if any(v.shape != (d,) for v in found):
        raise ValueError(f"vectors must have shape ({d},), got {[v.shape for v in found]}")
    return found


def _parts(rows: Array | Sequence[Array]) -> list[np.ndarray]:
    return [readonly_view(v) for v in ([rows] if isinstance(rows, np.ndarray) else rows)]


def _address(a: Any) -> int:
    address: int = a.__array_interface__["data"][0]
    return address


def _addresses(arrays: Sequence[Array]) -> np.ndarray:
    return np.array([_address(a) for a in arrays], np.int64)


def _pair_addresses(parts: Sequence[np.ndarray], pairs: np.ndarray, multiple: int) -> np.ndarray:
    """Index pairs of rows as addresses, 0 for nothing, filled up to a multiple; checked here."""
    table: list[int] = []
    for part in parts:
        begin = _address(part)
        table += [begin] if part.ndim == 1 else range(begin, begin + part.nbytes, part.strides[0])
    pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    least = (0, -1)
    if len(pairs) and not ((pairs >= least).all() and pairs.max() < len(table)):
        raise IndexError(f"pairs of rows out of bounds for {len(table)} rows")
    found = np.zeros((-(-len(pairs) // multiple) * multiple, 2), np.int64)
    found[: len(pairs)] = np.array([*table, 0], np.int64)[pairs]  # -1 is the last
    return found


def _indices(new: Sequence[int], rows: Array) -> np.ndarray:
    return np.array([_anchor(r, rows) for r in new], np.int64)


def _anchor(index: int | None, rows: Array) -> int:
    """The index of a row, -1 for None. Compiled code checks no bounds: it is checked here."""
    if index is None:
        return -1
    if not -len(rows) <= index < len(rows):
        raise IndexError(f"row {index} is out of bounds for {len(rows)} rows")
    return int(index) % len(rows)
