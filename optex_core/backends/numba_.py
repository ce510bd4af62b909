"""The Numba backend: compiled loops on all cores of the CPU, each primitive in one pass over memory.

Reductions run over a fixed partition of d into blocks: every block is summed by one thread, the blocks are added in order. So the bits do
not depend on the number of threads (a plain ``prange`` sum gave other last digits with two threads than with one).
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from optex_core.backends.base import Backend, Rule, axpy_rule, clip_rule
from optex_core.backends.numpy_ import NumpyBackend
from optex_core.errors import BackendError
from optex_core.types import Array

try:
    import numba
    from numba import prange
except Exception as reason:  # a Numba too old for its NumPy fails with other types than ImportError, too
    raise BackendError(
        f"backend='numba' needs Numba, which cannot be imported here ({reason}); run: python -m pip install --upgrade numba, or pass backend='numpy'"
    ) from reason

#: Columns in one block: part of what a reduction means, not of how it is scheduled. The float64 accumulators of a block fit in the L1 cache.
COLUMNS = 2_048

#: Array entries that are worth one more thread: about 0.5 ms. With two threads on two busy cores a kernel of 0.3 ms took 8 ms, a time slice
#: of the scheduler, since all wait for the last thread; the number of threads changes no bit.
ENTRIES_PER_THREAD = 1_048_576

#: With plain fastmath=True the compiler removes tests for nan; this subset keeps them. Divisions by zero give inf, as in NumPy.
_OPTIONS: dict[str, Any] = {
    "parallel": True,
    "nogil": True,
    "fastmath": {"reassoc", "contract", "arcp", "nsz", "afn"},
    "error_model": "numpy",
}


def _kernel(function: Callable[..., Any]) -> Any:
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:
        # Neither the package's folder nor the user's can be written: compile once in each process instead of once for all.
        return numba.njit(**_OPTIONS)(function)


class _Gate:
    """Launches one kernel at a time, and none where it would kill the process.

    Numba's built-in `workqueue` threads abort the process when two Python threads launch kernels at once; with `omp` a forked child dies at
    its first kernel once the parent has run one. Kernels use every core anyway, so the lock costs 0.1 us and no parallelism.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: int | None = None

    def run(self, kernel: Callable[..., Any], entries: int, *arguments: Any) -> Any:
        if self._process != os.getpid():
            self._enter_process()
        with self._lock:
            allowed = numba.get_num_threads()
            wanted = min(allowed, 1 + entries // ENTRIES_PER_THREAD)
            if wanted == allowed:
                return kernel(*arguments)
            numba.set_num_threads(wanted)
            try:
                return kernel(*arguments)
            finally:
                numba.set_num_threads(allowed)

    def _enter_process(self) -> None:
        if self._process is not None:
            if numba.threading_layer() == "omp":
                raise BackendError(
                    "this process was forked from one that had run Numba kernels with the threading layer 'omp', and a kernel here would end it; "
                    "start worker processes with 'spawn', 'forkserver' or loky, set NUMBA_THREADING_LAYER=workqueue, or pass backend='numpy'"
                )
            # Another thread of the parent may have held the lock when this process was forked: nobody here would ever open it.
            self._lock = threading.Lock()
        self._process = os.getpid()


_gate = _Gate()


class NumbaBackend(Backend):
    """Compiled parallel loops over NumPy arrays; the first call of an operation compiles it (1 to 2 s, kept on disk except for rules)."""

    name: ClassVar[str] = "numba"
    xp = np

    def __init__(self) -> None:
        self._numpy = NumpyBackend()

    def copy_in(self, x: Array, dtype: Any) -> Array:
        return self._numpy.copy_in(x, dtype)

    def to_host(self, x: Array) -> np.ndarray:
        return self._numpy.to_host(x)

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        return np.empty(shape, dtype)

    def zeros(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        return np.zeros(shape, dtype)

    def read_only(self, x: Array) -> Array:
        return self._numpy.read_only(x)

    def dot(self, a: Array, b: Array) -> float:
        return float(_gate.run(_dot, 2 * a.size, _input(a), _input(b)))

    def squared_distance(self, a: Array, b: Array, scale: Array | None = None) -> float:
        return float(self.squared_distances(a[None], b, scale)[0])

    def max_abs(self, x: Array) -> float:
        # Without the sign bit, the bits of floats have the order of their sizes, with inf above the numbers and nan above inf: an integer
        # maximum needs no test for nan, and the compiler vectorises it.
        integer = np.int64 if x.dtype == np.float64 else np.int32
        largest = _gate.run(_largest, x.size, _input(x).view(integer), np.iinfo(integer).max)
        return float(integer(largest).view(x.dtype))

    def all_finite(self, x: Array) -> bool:
        return math.isfinite(self.max_abs(x))

    def squared_distances(self, rows: Array, x: Array, scale: Array | None = None) -> np.ndarray:
        result: np.ndarray = _gate.run(_squared_distances, rows.size, _input(rows), _input(x), _scale(scale, x))
        return result

    def inner_differences(self, A: Array, a: Array, B: Array, b: Array) -> np.ndarray:
        result: np.ndarray = _gate.run(_inner_differences, 2 * A.size, _input(A), _input(a), _input(B), _input(b))
        return result

    def pair_rows(self, X: Array, G: Array, x: Array, g: Array, scale: Array | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sums = _gate.run(_pair_rows, 2 * X.size, _input(X), _input(G), _input(x), _input(g), _scale(scale, x)).reshape(3, len(X))
        return sums[0], sums[1], sums[2]

    def combine(self, rows: Array, weights: np.ndarray, anchor: int | None) -> Array:
        out = np.empty(rows.shape[1], rows.dtype)
        _gate.run(_combine, rows.size, _input(rows), _weights(weights), -1 if anchor is None else _index(anchor, len(rows)), out)
        return out

    def predict(self, X: Array, G: Array, weights: np.ndarray, anchor: int | None, x: Array, curvature: float, scale: Array | None = None) -> Array:
        if curvature == 0.0:
            return self.combine(G, weights, anchor)
        out = np.empty(G.shape[1], G.dtype)
        row = -1 if anchor is None else _index(anchor, len(G))
        _gate.run(_predict, 2 * G.size, _input(X), _input(G), _weights(weights), row, _input(x), float(curvature), _scale(scale, x), out)
        return out

    def apply(self, rule: Rule, arrays: Sequence[Array], scalars: Sequence[float]) -> tuple[Array, ...]:
        dtype = arrays[0].dtype
        loop, results = _loop(rule, len(arrays), len(scalars))
        out = tuple(np.empty(len(arrays[0]), dtype) for _ in range(results))
        # Scalars of the arrays' dtype: a Python float would make the whole float32 loop compute in float64, at half the speed.
        try:
            _gate.run(loop, len(arrays) * out[0].size, *(_input(a) for a in arrays), *(dtype.type(s) for s in scalars), *out)
        except numba.core.errors.NumbaError as error:
            name = getattr(rule, "__qualname__", repr(rule))
            hint = "use only arithmetic and NumPy ufuncs in it, or pass backend='numpy'"
            raise BackendError(f"Numba cannot compile the elementwise rule {name}; {hint}: {error}") from error
        return out

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


def _input(a: Array) -> Array:
    """A contiguous read-only view (a copy if need be): writable and read-only arrays are two types to Numba, each compiled on its own."""
    view = (a if a.flags.c_contiguous and a.flags.aligned else np.array(a, order="C")).view()
    view.flags.writeable = False
    return view


def _scale(scale: Array | None, x: Array) -> Array:
    return _input(np.empty(0, x.dtype) if scale is None else scale)


def _weights(weights: np.ndarray) -> Array:
    return _input(np.asarray(weights, dtype=np.float64))


def _index(anchor: int, rows: int) -> int:
    # Compiled code checks no bounds: it would read foreign memory.
    if not -rows <= anchor < rows:
        raise IndexError(f"anchor {anchor} is out of bounds for {rows} rows")
    return int(anchor) % rows


@lru_cache(maxsize=256)
def _loop(rule: Rule, arrays: int, scalars: int) -> tuple[Any, int]:
    """The compiled parallel loop of an elementwise rule, and the number of its results.

    Generated, since Numba cannot compile a variable number of arrays; never kept on disk, since Numba does not find a closure's code again.
    """
    step = rule(np)
    results = len(step(*(np.ones(1) for _ in range(arrays)), *(1.0 for _ in range(scalars))))
    inputs, numbers, outputs = ([f"{letter}{i}" for i in range(count)] for letter, count in (("a", arrays), ("s", scalars), ("o", results)))
    source = (
        f"def loop({', '.join(inputs + numbers + outputs)}):\n"
        f"    for i in prange(a0.size):\n"
        f"        {''.join(f'{name}[i], ' for name in outputs)} = step({', '.join([f'{name}[i]' for name in inputs] + numbers)})\n"
    )
    scope: dict[str, Any] = {"prange": prange, "step": numba.njit(fastmath=_OPTIONS["fastmath"], error_model="numpy")(step)}
    exec(source, scope)
    return numba.njit(**_OPTIONS)(scope["loop"]), results


# -- kernels: no array expressions in them, which Numba would turn into parallel sums of its own ------------------------------------------


@numba.njit(cache=False, fastmath=False)
def _in_order(partial):  # type: ignore[no-untyped-def]
    blocks, n = partial.shape
    total = np.zeros(n)
    for b in range(blocks):
        for i in range(n):
            total[i] += partial[b, i]
    return total


@numba.njit(cache=False, fastmath=False, error_model="numpy")
def _inverse(scale, low, high):  # type: ignore[no-untyped-def]
    """1 / scale on one block, ones without a scale: one compiled form for both."""
    factor = np.empty(high - low)
    for k in range(high - low):
        factor[k] = 1.0 / np.float64(scale[low + k]) if scale.size else 1.0
    return factor


@_kernel
def _dot(a, b):  # type: ignore[no-untyped-def]
    blocks = (a.size + COLUMNS - 1) // COLUMNS
    partial = np.empty((blocks, 1))
    for j in prange(blocks):
        left, right = a[j * COLUMNS : (j + 1) * COLUMNS], b[j * COLUMNS : (j + 1) * COLUMNS]
        total = 0.0
        for k in range(left.size):
            total += np.float64(left[k]) * np.float64(right[k])
        partial[j, 0] = total
    return _in_order(partial)[0]


@_kernel
def _largest(bits, mask):  # type: ignore[no-untyped-def]
    blocks = (bits.size + COLUMNS - 1) // COLUMNS
    partial = np.empty(blocks, np.int64)
    for j in prange(blocks):
        part = bits[j * COLUMNS : (j + 1) * COLUMNS]
        largest = part[0] & mask
        for k in range(part.size):
            largest = max(largest, part[k] & mask)
        partial[j] = largest
    largest = np.int64(0)
    for j in range(blocks):
        largest = max(largest, partial[j])
    return largest


@_kernel
def _squared_distances(rows, x, scale):  # type: ignore[no-untyped-def]
    n, d = rows.shape
    blocks = (d + COLUMNS - 1) // COLUMNS
    partial = np.empty((blocks, n))
    for j in prange(blocks):
        low, high = j * COLUMNS, min((j + 1) * COLUMNS, d)
        at, factor = x[low:high], _inverse(scale, low, high)
        for i in range(n):
            row = rows[i, low:high]
            total = 0.0
            for k in range(at.size):
                step = (np.float64(row[k]) - np.float64(at[k])) * factor[k]
                total += step * step
            partial[j, i] = total
    return _in_order(partial)


@_kernel
def _inner_differences(A, a, B, b):  # type: ignore[no-untyped-def]
    n, d = A.shape
    blocks = (d + COLUMNS - 1) // COLUMNS
    partial = np.empty((blocks, n))
    for j in prange(blocks):
        low, high = j * COLUMNS, min((j + 1) * COLUMNS, d)
        at_a, at_b = a[low:high], b[low:high]
        for i in range(n):
            row_a, row_b = A[i, low:high], B[i, low:high]
            total = 0.0
            for k in range(at_a.size):
                total += (np.float64(row_a[k]) - np.float64(at_a[k])) * (np.float64(row_b[k]) - np.float64(at_b[k]))
            partial[j, i] = total
    return _in_order(partial)


@_kernel
def _pair_rows(X, G, x, g, scale):  # type: ignore[no-untyped-def]
    n, d = X.shape
    blocks = (d + COLUMNS - 1) // COLUMNS
    partial = np.empty((blocks, 3 * n))
    for j in prange(blocks):
        low, high = j * COLUMNS, min((j + 1) * COLUMNS, d)
        at_x, at_g, factor = x[low:high], g[low:high], _inverse(scale, low, high)
        for i in range(n):
            row_x, row_g = X[i, low:high], G[i, low:high]
            distance, change, mixed = 0.0, 0.0, 0.0
            for k in range(at_x.size):
                dx = np.float64(row_x[k]) - np.float64(at_x[k])
                dg = np.float64(row_g[k]) - np.float64(at_g[k])
                mixed += dg * dx
                dx *= factor[k]
                dg /= factor[k]
                distance += dx * dx
                change += dg * dg
            partial[j, i], partial[j, n + i], partial[j, 2 * n + i] = distance, change, mixed
    return _in_order(partial)


@_kernel
def _combine(rows, weights, anchor, out):  # type: ignore[no-untyped-def]
    n, d = rows.shape
    blocks = (d + COLUMNS - 1) // COLUMNS
    for j in prange(blocks):
        low, high = j * COLUMNS, min((j + 1) * COLUMNS, d)
        size = high - low
        base, total = np.zeros(size), np.zeros(size)
        if anchor >= 0:
            for k in range(size):
                base[k] = rows[anchor, low + k]
        for i in range(n):
            row, weight = rows[i, low:high], weights[i]
            for k in range(size):
                total[k] += weight * (row[k] - base[k])
        part = out[low:high]
        for k in range(size):
            part[k] = base[k] + total[k]


@_kernel
def _predict(X, G, weights, anchor, x, curvature, scale, out):  # type: ignore[no-untyped-def]
    n, d = G.shape
    blocks = (d + COLUMNS - 1) // COLUMNS
    for j in prange(blocks):
        low, high = j * COLUMNS, min((j + 1) * COLUMNS, d)
        size = high - low
        base_x, total_x, base_g, total_g = np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size)
        if anchor >= 0:
            for k in range(size):
                base_x[k] = X[anchor, low + k]
                base_g[k] = G[anchor, low + k]
        for i in range(n):
            row_x, row_g, weight = X[i, low:high], G[i, low:high], weights[i]
            for k in range(size):
                total_x[k] += weight * (row_x[k] - base_x[k])
                total_g[k] += weight * (row_g[k] - base_g[k])
        part, at, factor = out[low:high], x[low:high], _inverse(scale, low, high)
        for k in range(size):
            lever = (np.float64(at[k]) - base_x[k]) - total_x[k]
            part[k] = (base_g[k] + total_g[k]) + curvature * (lever * factor[k] * factor[k])
