"""Predicted steps as one compiled function: weights, posterior mean, rule, finiteness, and
distances from the new point, in one pass over columns.

Taken one by one, a step is four kernels and NumPy between them: 100 us of calls whatever d, and
vectors that go to memory and back. Here a block of columns passes through all of it while it is in
the cache. The T0 x T0 arithmetic between steps is repeated by every thread: none waits.

The function is generated from the lines of the optimizer's rule and of the kernel. Blocks are cut
by d alone and their sums added in order: neither threads nor the number of steps in a call change a
bit.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from optex_core.backends._buffer_pool import BufferPool
from optex_core.backends._codegen_check import qualified_name, short_reason, warn_once
from optex_core.backends._tracing import TracingError, rule_to_python
from optex_core.backends.numba._internals import is_compiled
from optex_core.backends.numba._jit import address_to_pointer, carray, jit, readonly_view
from optex_core.backends.numba.kernel_threads import KERNEL_THREADS
from optex_core.backends.numba.kernels import (
    COLUMNS,
    column_blocks,
    tile_distances,
    tile_weighted_sum,
)
from optex_core.backends.types import FusedSteps, PosteriorArrays, PredictedStep, Rule
from optex_core.types import Array

#: Numbers read in a step up to which one thread takes several steps in one call; an eighth of it
#: where a step may be the last.
MAX_FUSED_WORK = 1_048_576
#: Numbers in the results of one call, at most.
MAX_RESULT_SIZE = 262_144
#: Bytes up to which the vectors of one call are parts of one array. Each by itself takes 2 us, but
#: a point that is kept keeps the others.
CONTIGUOUS_BYTES = 65_536

#: Lines that end with a word are kept only where it is needed: the shorter text compiles in 0.7 of
#: the time.
_SOURCE = """
def steps(X, G, table, scalars, anchor, curvature, scale, base_weights, factor, center, inverse,
          sign, inverse_h0, width, partial, bad_entries, noise_factors, start, stop, last, low,
          high):
    n, d = G.shape
    tile, item = min({columns}, d), G.itemsize
    base, sums, mean, at = np.empty(tile), np.empty(tile), np.empty(tile, G.dtype), np.empty(tile)
    bend = np.empty(tile)  # linear
    times = None  # plain
    times = np.empty(tile)  # scaled
    e, w = np.empty(n), np.empty(n)
    for step in range(start, stop):
        if step >= 0:
            for i in range(n):
                s = 0.0
                for j in range(partial.shape[1]):
                    s += partial[step, j, i]
                s *= inverse
                {kernel}
                e[i] = center[i] + sign * {kappa}
                w[i] = 0.0
            for m in range(len(factor)):
                q = 0.0
                for i in range(n):
                    q += factor[m, i] * e[i]
                for i in range(n):
                    w[i] += factor[m, i] * q
            squares = 0.0
            for i in range(n):
                w[i] = base_weights[i] + inverse_h0 * w[i]
                squares += w[i] * w[i]
            if low == 0:
                noise_factors[step] = squares
        bad = 0
        for j in range(low, high):
            if step < last:  # near
                for i in range(n):  # near
                    partial[step + 1, j, i] = 0.0  # near
            for begin in range(j * width, min((j + 1) * width, d), {columns}):
                size = min(begin + {columns}, d) - begin
                for k in range(size):  # scaled
                    times[k] = 1.0 / np.float64(scale[begin + k])  # scaled
                if step >= 0:
                    {views}
                    if curvature != 0.0:  # linear
                        tile_weighted_sum(X, w, anchor, begin, size, base, sums)  # linear
                        for k in range(size):  # linear
                            lever = (np.float64(a0v[k]) - base[k]) - sums[k]  # linear
                            bend[k] = curvature * lever  # linear
                        for k in range(size):  # linear scaled
                            bend[k] *= times[k] * times[k]  # linear scaled
                    else:  # linear
                        for k in range(size):  # linear
                            bend[k] = 0.0  # linear
                    tile_weighted_sum(G, w, anchor, begin, size, base, sums)
                    for k in range(size):
                        mean[k] = base[k] + sums[k]  # level
                        mean[k] = (base[k] + sums[k]) + bend[k]  # linear
                    if table[step + 1, 1]:
                        kept = carray(pointer(table[step + 1, 1] + begin * item), (size,), G.dtype)
                        for k in range(size):
                            kept[k] = mean[k]
                    {numbers}
                    for i in range(size):
                        {loads}
                        {lines}
                        {stores}
                new = carray(pointer(table[step + 1, 0] + begin * item), (size,), G.dtype)
                for k in range(size):
                    at[k] = new[k]
                    bad += not abs(at[k]) <= {largest}
                if step < last:  # near
                    tile_distances(X, at, times, begin, size, partial[step + 1, j])  # near
            bad_entries[step + 1, j] = bad
        if bad and step >= 0:
            break
"""

#: `dtype.name` takes 3 us.
_NAMES = {"f": "float32", "d": "float64"}


@lru_cache(maxsize=64)
def _compile_steps(
    rule: Rule,
    dtype: str,
    slots: int,
    scalars: int,
    kernel: tuple[str, ...],
    kappa: str,
    needed: frozenset[str],
) -> object:
    """The function of one rule, one kernel and one dtype, with the lines that are `needed`.

    None where the rule cannot be traced, or returns another number of vectors than it is given.
    """
    try:
        lines, results, scope = rule_to_python(rule, 2 + slots, scalars)
    except TracingError:
        return None
    if len(results) != 1 + slots:
        return None
    vectors = (0, *range(2, 2 + slots))  # of the table's columns; column 1 is the mean
    view = "{0}{1}v = carray(pointer(table[step{2}, {1}] + begin * item), (size,), G.dtype)"
    parts = {
        # the rule's lines have numbers of another type
        "kernel": [re.sub(r"\bT\(", "float64(", line) for line in kernel],
        "views": [
            view.format(to, i, late) for to, late in (("a", ""), ("o", " + 1")) for i in vectors
        ],
        "numbers": [f"s{i} = scalars[step, {i}]" for i in range(scalars)],
        "loads": ["a1 = mean[i]", *(f"a{i} = a{i}v[i]" for i in vectors)],
        "lines": lines,
        "stores": [f"o{i}v[i] = {r}" for i, r in zip(vectors, results, strict=True)],
    }
    largest = repr(float(np.finfo(dtype).max))
    words = {"{columns}": str(COLUMNS), "{kappa}": kappa, "{largest}": largest}
    source = []
    for line in _SOURCE.strip().split("\n"):
        line, _, when = line.partition("  # ")
        if not needed.issuperset(when.split()):
            continue
        name = line.strip().strip("{}")
        if name in parts:
            source += [line.replace(f"{{{name}}}", one) for one in parts[name]]
        else:
            source.append(re.sub(r"{\w+}", lambda found: words[found[0]], line))
    text = "\n".join(source)
    scope |= {"T": getattr(np, dtype), "float64": np.float64, "np": np, "__name__": __name__}
    scope |= {"carray": carray, "pointer": address_to_pointer}
    scope |= {"tile_weighted_sum": tile_weighted_sum, "tile_distances": tile_distances}
    exec(text, scope)
    return jit(scope["steps"], f"{dtype}\n{text}")


class NumbaFusedSteps(FusedSteps):
    """Compiled steps, several in a call where they are small; `kernel` is what `_compile_steps`
    gives, the rest as in `Backend.fused_steps`.
    """

    def __init__(
        self,
        kernel: Any,
        posterior: PosteriorArrays,
        x: Array,
        slots: Sequence[Array],
        scalars: np.ndarray,
        sure: bool,
        pool: BufferPool,
    ) -> None:
        (n, d), p, self._pool = posterior.G.shape, posterior, pool
        self._kernel, self._scalars, self._taken = kernel, scalars, 0
        self._distances_fn = p.distances_fn
        self._entries = n * d * (1 + (p.distances_fn is None) + (p.curvature != 0.0))
        single = p.distances_fn is not None or self._entries > MAX_FUSED_WORK // (1 if sure else 8)
        most = max(1, MAX_RESULT_SIZE // ((2 + len(slots)) * d))
        self._most = 1 if single else min(len(scalars), most)
        width, self._blocks = column_blocks(d)
        # Distances on some coordinates are one sum for each row, and are not taken in the kernel.
        self._partial = np.empty((self._most + 1, self._blocks if p.distances_fn is None else 1, n))
        self._bad_entries = np.zeros((self._most + 1, self._blocks), np.int64)
        self._noise_factors = np.empty(self._most)
        self._table = np.zeros((self._most + 1, 2 + len(slots)), np.int64)
        self._before = (readonly_view(p.X), readonly_view(p.G), self._table)
        self._after = (
            -1 if p.anchor is None else int(p.anchor),
            float(p.curvature),
            None if p.scale is None else readonly_view(p.scale),
            *(p.base_weights, p.eigen_factor, p.center),
            *(float(p.inverse), float(p.sign), float(p.inverse_h0)),
            *(width, self._partial, self._bad_entries, self._noise_factors),
        )
        self._at: list[Any] = [readonly_view(x), None, *map(readonly_view, slots)]
        self._ready: list[PredictedStep | None] = []
        self._keeps_distances = p.initial_distances_fn is not None
        # Then the first distances need no pass over the columns.
        self._has_distances = p.distances_fn is not None or self._keeps_distances
        if p.initial_distances_fn is not None:
            self._partial[0] = 0.0
            self._partial[0, 0] = p.initial_distances_fn(x)

    def next(self, mean: bool) -> PredictedStep | None:
        if not self._ready:
            self._ready = self._run(min(self._most, len(self._scalars) - self._taken), mean)
            self._ready.reverse()
        return self._ready.pop()

    def _run(self, count: int, mean: bool) -> list[PredictedStep | None]:
        """The next `count` steps, up to one that leaves the finite numbers."""
        made = self._vectors(count, mean)
        self._table[0] = [_address(a) for a in self._at]
        if self._distances_fn is not None:
            self._partial[0, 0] = self._distances_fn(self._at[0])
        rest = len(self._scalars) - self._taken
        arguments = (*self._before, self._scalars[self._taken : self._taken + count], *self._after)
        last = rest - 1 if self._distances_fn is None else -1
        start = 0 if self._has_distances else -1
        if self._most > 1:
            self._kernel(*arguments, start, count, last, 0, self._blocks)
        else:
            run = KERNEL_THREADS.run
            for step in range(start, 1):  # weights need the distances on all columns
                given = (*arguments, step, step + 1, last)
                run(self._kernel, self._entries, self._blocks, *given)
        self._taken, self._has_distances = self._taken + count, True
        self._at = made[-1]
        if rest > count:
            self._partial[0] = self._partial[count]
        bad = self._bad_entries[1 : count + 1].any(1)
        finite = int(bad.argmax()) if bad.any() else count  # what is beyond says nothing
        squares: list[np.ndarray | None] = [None] * count
        if self._keeps_distances:
            known = self._partial[1 : count + (rest > count)]
            squares[: len(known)] = [p.sum(axis=0) for p in known]
        found: list[PredictedStep | None] = [
            PredictedStep(mean, factor, x, tuple(slots), square)
            for (x, mean, *slots), factor, square in zip(
                made[:finite], self._noise_factors.tolist(), squares, strict=False
            )
        ]
        return found if finite == count else [*found, None]

    def compiles(self, rule: Rule, kernel: str) -> bool:
        """True if the function compiles; else one warning says that it does not."""
        if self._kernel in _NOT_COMPILABLE:
            return False
        try:  # no step, no block
            self._kernel(*self._before, self._scalars, *self._after, 0, 0, -1, 0, 0)
        except Exception as error:  # whatever the compiler raises
            _NOT_COMPILABLE.add(self._kernel)
            what = f"predicted steps of the rule {qualified_name(rule)} with the kernel {kernel}"
            warn_once(
                f"Numba cannot compile {what} ({short_reason(error)}); they are taken "
                f"one by one, which is slower and no less right"
            )
            return False
        return True

    def _vectors(self, count: int, mean: bool) -> list[list[Any]]:
        """Memory for x, the mean and the slots of `count` steps, entered in the table; None for a
        mean that is not wanted.
        """
        d, dtype, each = self._at[0].size, self._at[0].dtype, self._table.shape[1]
        table = self._table[1 : count + 1]
        if self._most > 1 and count * each * d * dtype.itemsize <= CONTIGUOUS_BYTES:
            block = np.empty((count, each, d), dtype)
            np.add(_layout(count, each) * (d * dtype.itemsize), _address(block), out=table)
            return [list(arrays) for arrays in block]
        wanted = [i != 1 or mean or self._most > 1 for i in range(each)]
        made = [[self._pool.empty(d, dtype) if w else None for w in wanted] for _ in range(count)]
        table[:] = [[_address(a) for a in arrays] for arrays in made]
        return made


def make_fused_steps(
    rule: Rule,
    posterior: PosteriorArrays,
    x: Array,
    slots: Sequence[Array],
    scalars: Sequence[Sequence[float]],
    sure: bool,
    pool: BufferPool,
) -> NumbaFusedSteps | None:
    """As `Backend.fused_steps` says."""
    p, dtype, d = posterior, posterior.G.dtype, posterior.G.shape[1]
    fits = all(a.dtype == dtype and a.shape == (d,) for a in (x, *slots)) and p.X.dtype == dtype
    if not len(scalars) or not d or not fits:
        return None
    needed = {"linear" if p.linear else "level", "plain" if p.scale is None else "scaled"}
    needed |= {"near"} if p.distances_fn is None else set()
    sizes = len(slots), len(scalars[0])
    formula = p.formula.lines, p.formula.result
    kernel = _compile_steps(rule, _NAMES[dtype.char], *sizes, *formula, frozenset(needed))
    if kernel is None:
        return None
    with np.errstate(over="ignore"):
        steps = NumbaFusedSteps(kernel, p, x, slots, np.array(scalars, dtype), sure, pool)
    return steps if is_compiled(kernel) or steps.compiles(rule, p.formula.name) else None


#: Functions that do not compile.
_NOT_COMPILABLE: weakref.WeakSet[Any] = weakref.WeakSet()


@lru_cache(maxsize=64)
def _layout(count: int, each: int) -> np.ndarray:
    return np.arange(count * each).reshape(count, each)


def _address(a: Any) -> int:
    return 0 if a is None else a.__array_interface__["data"][0]
