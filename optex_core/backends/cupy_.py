"""The CuPy backend: operations on an NVIDIA GPU. Parameters and history stay on the device; only
results of T0 size come back.

Reductions accumulate in float64 over a fixed partition of d: one thread block sums one chunk of one
row in a fixed order, and a second reduction adds the chunks. There are no atomics, so the bits do
not depend on how the device schedules its blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from optex_core.backends._codegen_check import warn_once
from optex_core.backends._tracing import CUDA_PREAMBLE, TracedValuesDiffer, TracingError, trace_rule
from optex_core.backends.base import Backend
from optex_core.backends.types import Rule
from optex_core.errors import BackendError
from optex_core.types import Array

_INSTALL = (
    "run: python -m pip install 'optex_core[cuda12]', or 'optex_core[cuda13]' for a CUDA "
    "13 driver, never both"
)

try:
    import cupy
except Exception as reason:
    # a CuPy that does not fit its NumPy or its CUDA fails with other types than ImportError, too
    raise BackendError(
        f"backend='cupy' needs CuPy, which cannot be imported here ({reason}); {_INSTALL}"
    ) from reason

#: Columns that one thread block sums, and its threads: 32 entries for each thread.
CHUNK = 8_192
THREADS = 256
#: New rows that one thread block compares with a row at once: the sums of eight fit into the
#: registers of a thread.
PAIRS = 8

#: Name -> (pointers, statement for entry k of row i that adds to the sum).
_REDUCTIONS = {
    "dot": (("a", "b"), "sum += (double)a[k] * (double)b[k];"),
    "squared_distances": (
        ("rows", "x"),
        "const double u = ((double)rows[i * d + k] - (double)x[k]) OVER_SCALE; sum += u * u;",
    ),
}

_REDUCTION = """
extern "C" __global__ void NAME(POINTERS, const long long n, const long long d, double* partial)
{
    __shared__ double shared[THREADS];
    const long long i = (long long)blockIdx.x % n, chunk = (long long)blockIdx.x / n;
    const long long low = chunk * CHUNK, high = low + CHUNK < d ? low + CHUNK : d;
    double sum = 0.0;
    for (long long k = low + threadIdx.x; k < high; k += THREADS) { STATEMENT }
    shared[threadIdx.x] = sum;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    if (threadIdx.x == 0) partial[blockIdx.x] = shared[0];
}
"""

#: One thread block sums one chunk of one row against PAIRS new rows, whose entries the caches hold:
#: each row is read once for PAIRS of them.
_PAIRS = """
extern "C" __global__ void pair_products(const T* X, const T* G, const long long* rows,
    SCALE_POINTER const long long n, const long long m, const long long d, double* partial)
{
    __shared__ double shared[THREADS];
    const long long groups = (m + PAIRS - 1) / PAIRS;
    const long long i = (long long)blockIdx.x % n, group = (long long)blockIdx.x / n % groups;
    const long long chunk = (long long)blockIdx.x / (n * groups);
    const long long low = chunk * CHUNK, high = low + CHUNK < d ? low + CHUNK : d;
    const long long first = group * PAIRS, count = first + PAIRS < m ? PAIRS : m - first;
    long long at[PAIRS];
    double sums[3 * PAIRS];
    for (int a = 0; a < PAIRS; ++a) {
        at[a] = rows[first + (a < count ? a : 0)] * d;
        sums[3 * a] = sums[3 * a + 1] = sums[3 * a + 2] = 0.0;
    }
    for (long long k = low + threadIdx.x; k < high; k += THREADS) {
        const double x = (double)X[i * d + k], g = (double)G[i * d + k];
        for (int a = 0; a < PAIRS; ++a) {
            const double dx = x - (double)X[at[a] + k], dg = g - (double)G[at[a] + k];
            const double u = dx OVER_SCALE, v = dg TIMES_SCALE;
            sums[3 * a] += u * u;
            sums[3 * a + 1] += v * v;
            sums[3 * a + 2] += dg * dx;
        }
    }
    for (int s = 0; s < 3 * count; ++s) {
        shared[threadIdx.x] = sums[s];
        for (int half = THREADS / 2; half > 0; half /= 2) {
            __syncthreads();
            if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        }
        const long long place = ((chunk * 3 + s % 3) * m + first + s / 3) * n + i;
        if (threadIdx.x == 0) partial[place] = shared[0];
        __syncthreads();
    }
}
"""

#: One thread for each column: neighbouring threads read neighbouring entries, every row is read
#: once.
_WEIGHTED_SUM = """
extern "C" __global__ void weighted_sum(const T* rows, const double* w, const long long n,
    const long long d, const long long anchor, T* out)
{
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= d) return;
    const double base = anchor < 0 ? 0.0 : (double)rows[anchor * d + k];
    double total = 0.0;
    for (long long i = 0; i < n; ++i) total += w[i] * ((double)rows[i * d + k] - base);
    out[k] = (T)(base + total);
}
"""

_PREDICT = """
extern "C" __global__ void predict(const T* X, const T* G, const double* w, const T* x,
    SCALE_POINTER const double curvature, const long long n, const long long d,
    const long long anchor, T* out)
{
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= d) return;
    const double base_x = anchor < 0 ? 0.0 : (double)X[anchor * d + k];
    const double base_g = anchor < 0 ? 0.0 : (double)G[anchor * d + k];
    double total_x = 0.0, total_g = 0.0;
    for (long long i = 0; i < n; ++i) {
        total_x += w[i] * ((double)X[i * d + k] - base_x);
        total_g += w[i] * ((double)G[i * d + k] - base_g);
    }
    const double lever = (((double)x[k] - base_x) - total_x) OVER_SCALE OVER_SCALE;
    out[k] = (T)((base_g + total_g) + curvature * lever);
}
"""


def source(name: str, dtype: DTypeLike, scaled: bool) -> str:
    """The CUDA C of one kernel for arrays of `dtype`, with or without `scale`."""
    words = {
        "SCALE_POINTER": "const T* scale," if scaled else "",
        "OVER_SCALE": "/ (double)scale[k]" if scaled else "",
        "TIMES_SCALE": "* (double)scale[k]" if scaled else "",
        "THREADS": str(THREADS),
        "CHUNK": f"{CHUNK}LL",
        "PAIRS": str(PAIRS),
    }
    code = {"weighted_sum": _WEIGHTED_SUM, "predict": _PREDICT, "pair_products": _PAIRS}.get(name)
    if code is None:
        pointers, statement = _REDUCTIONS[name]
        names = (*pointers, "scale") if scaled else pointers
        arguments = ", ".join(f"const T* {p}" for p in names)
        code = _REDUCTION.replace("NAME", name).replace("POINTERS", arguments)
        code = code.replace("STATEMENT", statement)
    for word, meaning in words.items():
        code = code.replace(word, meaning)
    return f"typedef {'float' if dtype == np.float32 else 'double'} T;\n{code}"


@lru_cache(maxsize=64)
def _kernel(name: str, dtype: np.dtype, scaled: bool) -> Callable[..., None]:
    return cupy.RawKernel(source(name, dtype, scaled), name)


@lru_cache(maxsize=256)
def _fused(
    rule: Rule, dtype: np.dtype, arrays: int, scalars: int
) -> tuple[Callable[..., None] | None, int]:
    """One kernel for the whole rule, None where it cannot be traced, and the number of results."""
    try:
        lines, results = trace_rule(rule, arrays, scalars)
    except TracedValuesDiffer as error:
        warn_once(f"{error}; its steps are taken operation by operation")
        return None, 0
    except TracingError:
        return None, 0
    typedef = f"typedef {'float' if dtype == np.float32 else 'double'} T;"
    given = [f"a{i}" for i in range(arrays)] + [f"s{i}" for i in range(scalars)]
    inputs, outputs = (
        ", ".join(f"{dtype.name} {name}" for name in names)
        for names in (given, [f"o{i}" for i in range(len(results))])
    )
    stores = (f"o{i} = {name};" for i, name in enumerate(results))
    code = "\n".join([typedef, *lines, *stores])
    kernel = cupy.ElementwiseKernel(inputs, outputs, code, "optex_rule", preamble=CUDA_PREAMBLE)
    return kernel, len(results)


class CupyBackend(Backend):
    """CuPy arrays on the current device; every operation, rules included, is one kernel."""

    name: ClassVar[str] = "cupy"
    xp = cupy

    def __init__(self) -> None:
        # Asked by use: a driver too old, no device and a missing compiler each show only when
        # something runs.
        try:
            usable = cupy.cuda.is_available() and float((cupy.zeros(1) + 1)[0]) == 1.0
        except Exception as reason:
            raise BackendError(
                f"backend='cupy': CuPy is installed but cannot use the GPU ({reason}); "
                f"check nvidia-smi, or {_INSTALL}"
            ) from reason
        if not usable:
            raise BackendError(
                "backend='cupy': CuPy is installed but finds no CUDA device; check "
                "that nvidia-smi lists one, or pass a NumPy x0 and backend='auto'"
            )

    def copy_in(self, x: Array, dtype: DTypeLike) -> Array:
        out: Any = self.empty(np.shape(x), dtype)
        if isinstance(x, cupy.ndarray):
            out[...] = x
        else:
            out.set(np.ascontiguousarray(x, dtype=out.dtype).reshape(out.shape))
        return out

    def to_host(self, x: Array) -> np.ndarray:
        return cupy.asnumpy(x)

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        try:
            return cupy.empty(shape, dtype)
        except cupy.cuda.memory.OutOfMemoryError as error:
            raise BackendError(
                _out_of_memory(shape if isinstance(shape, tuple) else (shape,), np.dtype(dtype))
            ) from error

    def zeros(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        out = self.empty(shape, dtype)
        out.fill(0)
        return out

    def read_only(self, x: Array) -> Array:
        # CuPy has no read-only views.
        return self.copy_in(x, x.dtype)

    def dot(self, a: Array, b: Array) -> float:
        return float(self._reduce("dot", 1, None, a, b)[0])

    def squared_distance(self, a: Array, b: Array, scale: Array | None = None) -> float:
        return float(self.squared_distances(a[None], b, scale)[0])

    def max_abs(self, x: Array) -> float:
        return float(cupy.abs(x).max()) if len(x) else 0.0

    def all_finite(self, x: Array) -> bool:
        return bool(cupy.isfinite(x).all())

    def squared_distances(self, rows: Array, x: Array, scale: Array | None = None) -> np.ndarray:
        return self._reduce("squared_distances", len(rows), scale, rows, x)

    def pair_products(
        self, X: Array, G: Array, new: Sequence[int], scale: Array | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sums = cupy.asnumpy(self._pair_sums(X, G, new, scale))
        return sums[0], sums[1], sums[2]

    def row_pair_distances(
        self, rows: Array, new: Sequence[int], scale: Array | None = None, inverse: bool = False
    ) -> np.ndarray:
        # The second reading of each row comes from the caches; only the squares asked for cross.
        return cupy.asnumpy(self._pair_sums(rows, rows, new, scale)[1 if inverse else 0])

    def _pair_sums(self, X: Array, G: Array, new: Sequence[int], scale: Array | None) -> Array:
        """D, E, M on the device, shape (3, m, n)."""
        (n, d), m = X.shape, len(new)
        if n == 0 or m == 0 or d == 0:
            return self.zeros((3, m, n), np.float64)
        chunks = math.ceil(d / CHUNK)
        partial = self.empty((chunks, 3, m, n), np.float64)
        rows = cupy.asarray(np.array([_anchor(r, n) for r in new], np.int64))
        scales = () if scale is None else (scale,)
        inputs = (*_contiguous(X.dtype, X, G), rows, *_contiguous(X.dtype, *scales))
        blocks, numbers = chunks * math.ceil(m / PAIRS) * n, map(np.int64, (n, m, d))
        kernel = _kernel("pair_products", X.dtype, scale is not None)
        kernel((blocks,), (THREADS,), (*inputs, *numbers, partial))
        return partial.sum(axis=0)

    def weighted_sum(self, rows: Array, weights: np.ndarray, anchor: int | None) -> Array:
        n, d = rows.shape
        out = self.empty(d, rows.dtype)
        if d:
            inputs = (*_contiguous(rows.dtype, rows), cupy.asarray(weights, dtype=np.float64))
            arguments = (*inputs, np.int64(n), np.int64(d), _anchor(anchor, n), out)
            kernel = _kernel("weighted_sum", rows.dtype, False)
            kernel((math.ceil(d / THREADS),), (THREADS,), arguments)
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
        n, d = G.shape
        out = self.empty(d, G.dtype)
        if d:
            w = cupy.asarray(weights, dtype=np.float64)
            vectors = (x,) if scale is None else (x, scale)
            inputs = (*_contiguous(G.dtype, X, G), w, *_contiguous(G.dtype, *vectors))
            numbers = (np.float64(curvature), np.int64(n), np.int64(d), _anchor(anchor, n))
            kernel = _kernel("predict", G.dtype, scale is not None)
            kernel((math.ceil(d / THREADS),), (THREADS,), (*inputs, *numbers, out))
        return out

    def apply(
        self, rule: Rule, arrays: Sequence[Array], scalars: Sequence[float]
    ) -> tuple[Array, ...]:
        dtype = arrays[0].dtype
        # Scalars of the arrays' dtype never promote float32.
        numbers = [dtype.type(s) for s in scalars]
        kernel, results = _fused(rule, dtype, len(arrays), len(scalars))
        if kernel is None:
            # One kernel for each operation. A rule may hand an array through; outputs never alias
            # inputs.
            plain = rule(cupy)(*arrays, *numbers)
            return tuple(r.copy() if any(r is a for a in arrays) else r for r in plain)
        out = tuple(self.empty(len(arrays[0]), dtype) for _ in range(results))
        kernel(*arrays, *numbers, *out)
        return out

    def _reduce(self, name: str, n: int, scale: Array | None, *arrays: Array) -> np.ndarray:
        """Host float64, shape (n,)."""
        d, dtype = arrays[-1].shape[0], arrays[0].dtype
        if n == 0 or d == 0:
            return np.zeros(n)
        chunks = math.ceil(d / CHUNK)
        partial = self.empty((chunks, n), np.float64)
        inputs = _contiguous(dtype, *arrays, *(() if scale is None else (scale,)))
        kernel = _kernel(name, dtype, scale is not None)
        kernel((chunks * n,), (THREADS,), (*inputs, np.int64(n), np.int64(d), partial))
        return cupy.asnumpy(partial.sum(axis=0))


def _contiguous(dtype: DTypeLike, *arrays: Array) -> list[Array]:
    return [cupy.ascontiguousarray(a, dtype=dtype) for a in arrays]


def _anchor(anchor: int | None, rows: int) -> np.int64:
    if anchor is None:
        return np.int64(-1)
    # A kernel checks no bounds: it would read foreign memory.
    if not -rows <= anchor < rows:
        raise IndexError(f"anchor {anchor} is out of bounds for {rows} rows")
    return np.int64(anchor % rows)


def _out_of_memory(shape: tuple[int, ...], dtype: np.dtype) -> str:
    free = cupy.cuda.runtime.memGetInfo()[0] + cupy.get_default_memory_pool().free_bytes()
    needed = math.prod(shape) * dtype.itemsize
    said = (
        f"the GPU has {free / 2**30:.2f} GiB free, and an array of shape {shape} and dtype "
        f"{dtype} needs {needed / 2**30:.2f} GiB"
    )
    # The history keeps two arrays, points and gradients; a tenth stays free for vectors of size d.
    fits = int(0.9 * free // (2 * shape[-1] * dtype.itemsize))
    narrower = ", or use float32" if dtype == np.float64 else ""
    if fits >= 2:
        return f"{said}; an estimator with history={fits} fits{narrower}"
    return f"{said}; no history fits beside it: pass a NumPy x0{narrower}"
