"""The Numba backend: compiled loops on all cores of the CPU, each primitive in one pass over
memory.

Reductions run over a fixed partition of d into blocks: every block is summed by one thread, the
blocks are added in order. So the bits do not depend on the number of threads (a plain ``prange``
sum gave other last digits with two threads than with one).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np

from optex_core.backends._buffer_pool import BUFFER_POOL
from optex_core.backends._buffer_pool import MIN_BYTES as RECYCLED
from optex_core.backends._donation import can_overwrite
from optex_core.backends._tracing import TracingError
from optex_core.backends.base import (
    Backend,
    FusedSteps,
    PosteriorArrays,
    Rule,
    SubspaceRolloutFunction,
    axpy_rule,
    clip_rule,
)
from optex_core.backends.numba.kernel_threads import KERNEL_THREADS
from optex_core.backends.numpy_ import NumpyBackend
from optex_core.errors import BackendError
from optex_core.types import Array

try:
    from optex_core.backends._codegen_check import warn_once
    from optex_core.backends.numba import coefficient_steps as coefficients
    from optex_core.backends.numba import fused_steps as chains
    from optex_core.backends.numba import kernels, pairs, products
    from optex_core.backends.numba import nontemporal as _streaming
    from optex_core.backends.numba._jit import JIT_DISABLED, readonly_view
    from optex_core.backends.numba.elementwise import compile_rule
except Exception as reason:
    # a Numba too old for its NumPy fails with other types than ImportError, too
    raise BackendError(
        f"backend='numba' needs Numba, which cannot be imported here ({reason}); run: "
        f"python -m pip install --upgrade numba, or pass backend='numpy'"
    ) from reason


#: Up to so many numbers what two or three calls of NumPy do takes no longer than to call a compiled
#: kernel (5 us).
SMALL = 2_048
#: `dtype.name` takes 3 us.
_NAMES = {np.dtype(name): name for name in ("float32", "float64")}


class NumbaBackend(Backend):
    """Compiled parallel loops over NumPy arrays; the first call of an operation compiles it (0.2 to
    0.5 s, kept on disk for later processes).
    """

    name: ClassVar[str] = "numba"
    batch_invariant_products: ClassVar[bool] = True
    xp = np

    def __init__(self) -> None:
        self._numpy = NumpyBackend()
        if JIT_DISABLED:
            hint = "unset it, or pass backend='numpy', which gives the same results to rounding"
            warn_once(
                f"NUMBA_DISABLE_JIT is set: the kernels of backend='numba' run as "
                f"plain Python, a thousand times slower; {hint}"
            )

    def copy_in(self, x: Array, dtype: Any) -> Array:
        # By one thread: two took 0.55 ms in place of 0.45 for 4 MB, which a gradient that was just
        # computed has in the cache.
        if getattr(x, "nbytes", 0) < RECYCLED or np.ndim(x) != 1:
            return self._numpy.copy_in(x, dtype)
        out = BUFFER_POOL.empty(len(x), dtype)
        np.copyto(out, x, casting="unsafe")
        return out

    def to_host(self, x: Array) -> np.ndarray:
        return self._numpy.to_host(x)

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        return BUFFER_POOL.empty(shape, dtype) if isinstance(shape, int) else np.empty(shape, dtype)

    def zeros(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        return np.zeros(shape, dtype)

    def release(self) -> None:
        BUFFER_POOL.release()

    read_only = NumpyBackend.read_only

    def ignore_fp_warnings(self) -> AbstractContextManager[None]:
        # NumPy does what is of the size of the history's square
        return self._numpy.ignore_fp_warnings()

    def dot(self, a: Array, b: Array) -> float:
        if a.size <= SMALL:
            return self._numpy.dot(a, b)
        return float(
            _reduced(kernels.dot, a.size, 2 * a.size, (), readonly_view(a), readonly_view(b))
        )

    def squared_distance(self, a: Array, b: Array, scale: Array | None = None) -> float:
        if a.size <= SMALL:
            return self._numpy.squared_distance(a, b, scale)
        return float(
            _reduced(
                kernels.distance,
                a.size,
                2 * a.size,
                (),
                readonly_view(a),
                readonly_view(b),
                _scale(scale),
            )
        )

    def max_abs(self, x: Array) -> float:
        # NumPy's two reductions take 0.15 ms at d = 1e6 in float32, as long as a compiled one with
        # two threads, and need 0.25 s less to compile.
        return self._numpy.max_abs(x)

    def all_finite(self, x: Array) -> bool:
        return self._numpy.all_finite(x) if x.size <= SMALL else math.isfinite(self.max_abs(x))

    def squared_distances(self, rows: Array, x: Array, scale: Array | None = None) -> np.ndarray:
        return self.pairwise_distances(rows, (x,), scale)[0]

    def pairwise_distances(
        self, rows: Array, points: Sequence[Array], scale: Array | None = None
    ) -> np.ndarray:
        n, d = rows.shape
        vectors = [readonly_view(np.asarray(x, rows.dtype)) for x in points]
        if any(v.shape != (d,) for v in vectors):
            raise ValueError(
                f"rows of shape ({d},) have no distance to points of shapes "
                f"{[v.shape for v in vectors]}"
            )
        at = readonly_view(np.array([v.__array_interface__["data"][0] for v in vectors], np.int64))
        return _reduced(
            kernels.squared_distances,
            d,
            rows.size * len(at),
            (len(at), n),
            readonly_view(rows),
            at,
            _scale(scale),
        )

    def row_pair_distances(
        self, rows: Array, new: Sequence[int], scale: Array | None = None, inverse: bool = False
    ) -> np.ndarray:
        n, d = rows.shape
        at = readonly_view(np.array([_index(r, n) for r in new], np.int64))
        return _reduced(
            pairs.row_pair_distances,
            d,
            rows.size * len(at),
            (len(at), n),
            readonly_view(rows),
            at,
            _scale(scale),
            inverse,
        )

    def pair_products(
        self, X: Array, G: Array, new: Sequence[int], scale: Array | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n, d = X.shape
        rows = np.array([_index(r, n) for r in new], np.int64)
        # The arithmetic is worth more threads than the reading.
        sums = _reduced(
            pairs.pair_products,
            d,
            2 * X.size * len(rows),
            (3, len(rows), n),
            readonly_view(X),
            readonly_view(G),
            readonly_view(rows),
            _scale(scale),
        )
        return sums[0], sums[1], sums[2]

    def weighted_sum(self, rows: Array, weights: np.ndarray, anchor: int | None) -> Array:
        out = BUFFER_POOL.empty(rows.shape[1], rows.dtype)
        row = -1 if anchor is None else _index(anchor, len(rows))
        _columns(
            kernels.weighted_sum,
            rows.size,
            readonly_view(rows),
            np.array(weights, np.float64),
            row,
            out,
        )
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
        out, w = BUFFER_POOL.empty(G.shape[1], G.dtype), np.array(weights, np.float64)
        row = -1 if anchor is None else _index(anchor, len(G))
        _columns(
            kernels.predict,
            2 * G.size,
            readonly_view(X),
            readonly_view(G),
            w,
            row,
            readonly_view(x),
            float(curvature),
            _scale(scale),
            out,
        )
        return out

    def difference_products(
        self, A: Array | Sequence[Array], a: np.ndarray, B: Array | Sequence[Array], b: np.ndarray
    ) -> np.ndarray:
        left, right = _parts(A), _parts(B)  # kept until the kernel is done: it has addresses only
        d, dtype = left[0].shape[-1], left[0].dtype
        if any(v.shape[-1] != d or v.dtype != dtype for v in (*left, *right)):
            raise ValueError("vectors of different lengths or dtypes have no products here")
        one, other = _addresses(left, a, 4), _addresses(right, b, 12)
        zeros = np.zeros(products.TILE, dtype)
        shape = (len(one), -(-len(b) // 3) * 3)
        arguments = (one, other, zeros[:0], zeros.__array_interface__["data"][0], d)
        found: np.ndarray = _reduced(
            products.difference_products, d, len(a) * d * (1 + len(b) // 3), shape, *arguments
        )
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
        d, r = G.shape[1], _index(anchor, len(G))
        parts, vectors = (
            [readonly_view(G if X is None else X), readonly_view(G)],
            [readonly_view(np.asarray(e, G.dtype)) for e in extras],
        )
        if any(v.shape != (d,) for v in vectors):
            raise ValueError(
                f"vectors of shape ({d},) can be summed with these rows, got "
                f"{[v.shape for v in vectors]}"
            )
        sides = [(np.array([v.__array_interface__["data"][0] for v in vectors]), 0, A)]
        for part, weights in zip(parts, (P if X is not None else P[:, :0], Q), strict=True):
            used, begin = np.flatnonzero(weights.any(axis=0)), part.__array_interface__["data"][0]
            if len(used) and max(used[-1], r) >= len(part):
                raise IndexError(f"weights for row {max(used[-1], r)} of {len(part)} rows")
            sides.append(
                (begin + used * part.strides[0], begin + r * part.strides[0], weights[:, used])
            )
        ends = np.cumsum([0, *(-(-len(rows) // 4) * 4 for rows, _, _ in sides)])
        lines, bases, table = (
            np.zeros(ends[-1], np.int64),
            np.zeros(ends[-1], np.int64),
            np.zeros((len(A) + len(A) % 2, ends[-1])),
        )
        for (rows, base, weights), begin, end in zip(sides, ends[:-1], ends[1:], strict=True):
            (
                lines[begin : begin + len(rows)],
                bases[begin:end],
                table[: len(A), begin : begin + len(rows)],
            ) = rows, base, weights
        out, zeros = [self.empty(d, G.dtype) for _ in A], np.zeros(products.TILE, G.dtype)
        at = np.array([v.__array_interface__["data"][0] for v in out], np.int64)
        arguments = (
            readonly_view(lines),
            readonly_view(bases),
            readonly_view(table),
            readonly_view(at),
            zeros[:0],
            zeros.__array_interface__["data"][0],
            d,
        )
        KERNEL_THREADS.run(
            products.weighted_sums, len(lines) * d, -(-d // kernels.COLUMNS), *arguments
        )
        return out

    def apply(
        self,
        rule: Rule,
        arrays: Sequence[Array],
        scalars: Sequence[float],
        into: Sequence[int] = (),
    ) -> tuple[Array, ...]:
        dtype = arrays[0].dtype
        name = _NAMES[dtype]
        loop = (
            compile_rule(rule, name, len(arrays), len(scalars), tuple(into))
            if can_overwrite(arrays, into)
            else None
        )
        if loop is not None:
            run, out, read = (
                loop.run,
                tuple(arrays[i] for i in into),
                tuple(a for i, a in enumerate(arrays) if i not in into),
            )
        else:
            loop = compile_rule(rule, name, len(arrays), len(scalars))
            if loop is None:
                return self._numpy.apply(rule, arrays, scalars)
            run, out, read = (
                loop.run,
                tuple(BUFFER_POOL.empty(len(arrays[0]), dtype) for _ in range(loop.results)),
                tuple(arrays),
            )
            if (len(arrays) + loop.results) * out[0].nbytes >= _streaming.FROM and all(
                o.ctypes.data % _streaming.LINE == 0 for o in out
            ):
                streamed = (
                    None
                    if JIT_DISABLED
                    else compile_rule(rule, name, len(arrays), len(scalars), streaming=True)
                )
                run = run if streamed is None else streamed.run
        # Scalars of the arrays' dtype: a Python float would make the whole float32 loop compute in
        # float64, at half the speed.
        _columns(
            run,
            len(arrays) * out[0].size,
            *(readonly_view(a) for a in read),
            *(dtype.type(s) for s in scalars),
            *out,
        )
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
            walk = coefficients.compile_rollout(lines, result, constant, rule, slots, scalars)
        except TracingError:
            return None
        return None if walk.refused else walk

    def fused_steps(
        self,
        rule: Rule,
        posterior: PosteriorArrays,
        x: Array,
        slots: Sequence[Array],
        scalars: Sequence[Sequence[float]],
        *,
        sure: bool = True,
    ) -> FusedSteps | None:
        return chains.make_fused_steps(rule, posterior, x, slots, scalars, sure)

    def axpy(self, a: float, x: Array, y: Array) -> Array:
        return self.apply(axpy_rule, (x, y), (a,))[0]

    def clip(self, x: Array, low: Array | float, high: Array | float) -> Array:
        if np.ndim(low) == np.ndim(high) == 0:
            return self.apply(clip_rule, (x,), (low, high))[0]
        bounds = [np.broadcast_to(np.asarray(b, x.dtype), x.shape) for b in (low, high)]
        return self.apply(clip_rule, (x, *bounds), ())[0]

    def mean(self, vectors: Sequence[Array]) -> Array:
        # NumPy's: the vectors are few and lie apart, and only data-parallel baselines ask.
        return self._numpy.mean(vectors)


def _reduced(
    kernel: Callable[..., Any], d: int, entries: int, shape: tuple[int, ...], *arguments: Any
) -> Any:
    """Sums over d columns, of `shape`, float64."""
    width, blocks = kernels.column_blocks(d)
    if not blocks:
        return np.zeros(shape)
    partial = np.empty((blocks, *shape))
    KERNEL_THREADS.run(kernel, entries, blocks, *arguments, width, partial)
    return kernels.sum_partials(partial)


def _columns(kernel: Callable[..., Any], entries: int, *arguments: Any) -> None:
    """A kernel whose last argument is a result of d columns."""
    KERNEL_THREADS.run(kernel, entries, -(-arguments[-1].size // kernels.COLUMNS), *arguments)


def _scale(scale: Array | None) -> Array | None:
    """None stays None: branches for a scale are then not compiled at all."""
    return None if scale is None else readonly_view(scale)


def _weights(weights: np.ndarray) -> Array:
    return readonly_view(np.asarray(weights, dtype=np.float64))


def _parts(rows: Array | Sequence[Array]) -> list[Array]:
    return (
        [readonly_view(rows)] if isinstance(rows, np.ndarray) else [readonly_view(v) for v in rows]
    )


def _addresses(parts: Sequence[Array], pairs: np.ndarray, multiple: int) -> Array:
    """Index pairs of rows as addresses, 0 for nothing, filled up to a multiple; compiled code
    checks no bounds.
    """
    table: list[int] = []
    for part in parts:
        begin: int = part.__array_interface__["data"][0]
        table += [begin] if part.ndim == 1 else range(begin, begin + part.nbytes, part.strides[0])
    pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    if len(pairs) and not (
        pairs[:, 0].min() >= 0 and pairs[:, 1].min() >= -1 and pairs.max() < len(table)
    ):
        raise IndexError(f"pairs of rows out of bounds for {len(table)} rows")
    found = np.zeros((-(-len(pairs) // multiple) * multiple, 2), np.int64)
    found[: len(pairs)] = np.array([*table, 0], np.int64)[pairs]  # -1 is the last
    return readonly_view(found)


def _index(anchor: int, rows: int) -> int:
    # Compiled code checks no bounds: it would read foreign memory.
    if not -rows <= anchor < rows:
        raise IndexError(f"row {anchor} is out of bounds for {rows} rows")
    return int(anchor) % rows
