"""Predicted steps as one compiled function: weights, estimate, rule, a look for nan, and distances
of the new point, in one pass over columns.

Taken one by one, a step is a kernel for the distances, NumPy for the weights, a kernel for the
estimate, one for the rule, one for the look: 100 us of calls, whatever d, and vectors that are
written to memory and read again. Here a block of columns goes through all of it while it is in the
cache. What follows from the sums over blocks, T0 x T0 arithmetic, is done anew by every call:
nobody waits for one thread.

The function is text, made of the lines of the optimizer's rule and of the estimator's kernel, and
kept on disk under it. Blocks are cut by d alone and their sums added in order, so that neither
threads nor the number of steps in a call change a bit.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from optex_core.backends._buffer_pool import BUFFER_POOL
from optex_core.backends._codegen_check import qualified_name, short_reason, warn_once
from optex_core.backends._tracing import TracingError, rule_to_python
from optex_core.backends.base import FusedSteps, PosteriorArrays, PredictedStep, Rule
from optex_core.backends.numba._jit import address_to_pointer, carray, jit, readonly_view
from optex_core.backends.numba.kernel_threads import KERNEL_THREADS
from optex_core.backends.numba.kernels import (
    COLUMNS,
    column_blocks,
    tile_distances,
    tile_weighted_sum,
)
from optex_core.types import Array

#: Up to so many numbers read in a step, which one thread reads, several steps are taken in one
#: call; an eighth of it where a step may be the last.
MAX_FUSED_WORK = 1_048_576
#: Up to so many numbers in the results of one call.
MAX_RESULT_SIZE = 262_144
#: Up to so many bytes the vectors of one call are parts of one array: each by itself takes 2 us,
#: its address included, and 16 of them a third of what a round with ten parameters computes.
#: Beyond, a point that is kept would keep too much beside it.
CONTIGUOUS_BYTES = 65_536

#: Lines that end with a word are there where it is needed: the shorter text takes 0.7 of the time
#: to compile.
_SOURCE = """
def chain(X, G, table, scalars, anchor, curvature, scale, first, factor, centre, inverse, sign, over, width, partial, lost, left,
          start, stop, last, low, high):
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
                e[i] = centre[i] + sign * {kappa}
                w[i] = 0.0
            for m in range(len(factor)):
                q = 0.0
                for i in range(n):
                    q += factor[m, i] * e[i]
                for i in range(n):
                    w[i] += factor[m, i] * q
            squares = 0.0
            for i in range(n):
                w[i] = first[i] + over * w[i]
                squares += w[i] * w[i]
            if low == 0:
                left[step] = squares
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
                            bend[k] = curvature * ((np.float64(a0v[k]) - base[k]) - sums[k])  # linear
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
            lost[step + 1, j] = bad
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
) -> Any:
    """The function of one rule, one kernel and one dtype, with the lines that are `needed`.

    None where the rule has no lines, or keeps another number of vectors than it is given.
    """
    try:
        lines, results, scope = rule_to_python(rule, 2 + slots, scalars)
    except TracingError:
        return None
    if len(results) != 1 + slots:
        return None
    parts = {
        # the rule's lines have numbers of another type
        "kernel": [re.sub(r"\bT\(", "float64(", line) for line in kernel],
        "views": [f"{to}{i}v = carray(pointer(table[step{late}, {i}] + begin * item), (size,), "
            f"G.dtype)"
                  for to, late in (("a", ""), ("o", " + 1")) for i in (0, *range(2, 2 + slots))],
        "numbers": [f"s{i} = scalars[step, {i}]" for i in range(scalars)],
        "loads": ["a1 = mean[i]", *(f"a{i} = a{i}v[i]" for i in (0, *range(2, 2 + slots)))],
        "lines": lines,
        "stores": [f"o{i}v[i] = {result}" for i, result in zip((0, *range(2, 2 + slots)), results, strict=True)],
    }  # fmt: skip
    words = {
        "{columns}": str(COLUMNS),
        "{kappa}": kappa,
        "{largest}": repr(float(np.finfo(dtype).max)),
    }
    source = []
    for line in _SOURCE.strip().split("\n"):
        line, _, when = line.partition("  # ")  # noqa: PLW2901
        if not needed.issuperset(when.split()):
            continue
        name = line.strip().strip("{}")
        if name in parts:
            source += [line.replace(f"{{{name}}}", one) for one in parts[name]]
        else:
            source.append(re.sub(r"{\w+}", lambda found: words[found[0]], line))
    text = "\n".join(source)
    scope |= {"T": getattr(np, dtype), "float64": np.float64, "np": np, "__name__": __name__}
    scope |= {
        "carray": carray,
        "pointer": address_to_pointer,
        "tile_weighted_sum": tile_weighted_sum,
        "tile_distances": tile_distances,
    }
    exec(text, scope)
    return jit(scope["chain"], f"{dtype}\n{text}")


class NumbaFusedSteps(FusedSteps):
    """Steps of a compiled chain, several in a call where they are small.

    Parameters
    ----------
    kernel : callable
        As `_compile_steps` gives it.
    field : Field
    x, slots : arrays, each of shape (d,)
    scalars : array, shape (steps, k)
        Of the dtype of `x`.
    sure : bool
        As `Backend.fused_steps` has it.
    """

    def __init__(
        self,
        kernel: Any,
        posterior: PosteriorArrays,
        x: Array,
        slots: Sequence[Array],
        scalars: np.ndarray,
        sure: bool,
    ) -> None:
        (n, d), f = posterior.G.shape, posterior
        self._kernel, self._near, self._scalars, self._taken = kernel, f.distances_fn, scalars, 0
        self._entries = n * d * (1 + (f.distances_fn is None) + (f.curvature != 0.0))
        few = f.distances_fn is not None or self._entries > (
            MAX_FUSED_WORK if sure else MAX_FUSED_WORK // 8
        )
        self._most = (
            1 if few else min(len(scalars), max(1, MAX_RESULT_SIZE // ((2 + len(slots)) * d)))
        )
        width, self._blocks = column_blocks(d)
        # With distances on some coordinates there is one sum for each row, and it is not taken
        # here.
        self._partial = np.empty((self._most + 1, self._blocks if f.distances_fn is None else 1, n))
        self._lost, self._left = (
            np.zeros((self._most + 1, self._blocks), np.int64),
            np.empty(self._most),
        )
        self._table = np.zeros((self._most + 1, 2 + len(slots)), np.int64)
        anchor = -1 if f.anchor is None else int(f.anchor)
        scale = None if f.scale is None else readonly_view(f.scale)
        numbers = (
            anchor,
            float(f.curvature),
            scale,
            f.base_weights,
            f.eigen_factor,
            f.center,
            float(f.inverse),
            float(f.sign),
            float(f.inverse_h0),
        )
        self._before, self._after = (
            (readonly_view(f.X), readonly_view(f.G), self._table),
            (*numbers, width, self._partial, self._lost, self._left),
        )
        self._at: list[Array | None] = [readonly_view(x), None, *map(readonly_view, slots)]
        self._ready: list[PredictedStep | None] = []
        self._keeps = f.initial_distances_fn is not None
        # the first distances need no pass over the columns
        self._begun = f.distances_fn is not None or self._keeps
        if f.initial_distances_fn is not None:
            self._partial[0] = 0.0
            self._partial[0, 0] = f.initial_distances_fn(x)

    def next(self, mean: bool) -> PredictedStep | None:
        if not self._ready:
            self._ready = self._run(min(self._most, len(self._scalars) - self._taken), mean)
            self._ready.reverse()
        return self._ready.pop()

    def _run(self, count: int, mean: bool) -> list[PredictedStep | None]:
        """The next `count` steps, up to one that leaves the finite numbers."""
        made = self._vectors(count, mean)
        self._table[0] = [_address(a) for a in self._at]
        if self._near is not None:
            self._partial[0, 0] = self._near(self._at[0])
        rest = len(self._scalars) - self._taken
        arguments = (*self._before, self._scalars[self._taken : self._taken + count], *self._after)
        last = rest - 1 if self._near is None else -1
        start = 0 if self._begun else -1
        if self._most > 1:
            self._kernel(*arguments, start, count, last, 0, self._blocks)
        else:
            for step in range(start, 1):  # weights need the distances on all columns
                KERNEL_THREADS.run(
                    self._kernel, self._entries, self._blocks, *arguments, step, step + 1, last
                )
        self._taken, self._begun = self._taken + count, True
        self._at = made[-1]
        if rest > count:
            self._partial[0] = self._partial[count]
        bad = self._lost[1 : count + 1].any(1)
        whole = int(bad.argmax()) if bad.any() else count  # what is beyond says nothing
        squares: list[np.ndarray | None] = (
            [p.sum(axis=0) for p in self._partial[1 : count + (rest > count)]]
            if self._keeps
            else []
        )
        squares += [None] * (count - len(squares))
        found: list[PredictedStep | None] = [
            PredictedStep(mean, left, x, tuple(slots), square)
            for (x, mean, *slots), left, square in zip(
                made[:whole], self._left.tolist(), squares, strict=False
            )
        ]
        return found if whole == count else [*found, None]

    def compiles(self, rule: Rule, kernel: str) -> bool:
        """Whether the function can be had; if not, it is said once."""
        if self._kernel in _NOT_COMPILABLE:
            return False
        try:
            # no step, no block
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
        """Memory for x, the estimate and the slots of `count` steps, entered in the table; None for
        an estimate that is not wanted.

        Each is an array of its own, unless they are small: a point that is kept shall not keep the
        others.
        """
        assert self._at[0] is not None
        d, dtype, each = self._at[0].size, self._at[0].dtype, self._table.shape[1]
        if self._most > 1 and count * each * d * dtype.itemsize <= CONTIGUOUS_BYTES:
            block = np.empty((count, each, d), dtype)
            np.add(
                _layout(count, each) * (d * dtype.itemsize),
                _address(block),
                out=self._table[1 : count + 1],
            )
            return [list(arrays) for arrays in block]
        both = mean or self._most > 1
        made = [
            [BUFFER_POOL.empty(d, dtype) if i != 1 or both else None for i in range(each)]
            for _ in range(count)
        ]
        self._table[1 : count + 1] = [[_address(a) for a in arrays] for arrays in made]
        return made


def make_fused_steps(
    rule: Rule,
    posterior: PosteriorArrays,
    x: Array,
    slots: Sequence[Array],
    scalars: Sequence[Sequence[float]],
    sure: bool,
) -> NumbaFusedSteps | None:
    """As `Backend.fused_steps` says."""
    dtype, d = posterior.G.dtype, posterior.G.shape[1]
    if (
        not len(scalars)
        or not d
        or any(a.dtype != dtype or a.shape != (d,) for a in (x, *slots))
        or posterior.X.dtype != dtype
    ):
        return None
    needed = {"linear" if posterior.linear else "level"}
    needed |= {"plain" if posterior.scale is None else "scaled"} | (
        {"near"} if posterior.distances_fn is None else set()
    )
    kernel = _compile_steps(
        rule,
        _NAMES[dtype.char],
        len(slots),
        len(scalars[0]),
        posterior.formula.lines,
        posterior.formula.result,
        frozenset(needed),
    )
    if kernel is None:
        return None
    with np.errstate(over="ignore"):
        chain = NumbaFusedSteps(kernel, posterior, x, slots, np.array(scalars, dtype), sure)
    return (
        chain
        if getattr(kernel, "overloads", True) or chain.compiles(rule, posterior.formula.name)
        else None
    )


#: Functions that do not compile.
_NOT_COMPILABLE: weakref.WeakSet[Any] = weakref.WeakSet()


@lru_cache(maxsize=64)
def _layout(count: int, each: int) -> np.ndarray:
    return np.arange(count * each).reshape(count, each)


def _address(a: Array | None) -> int:
    return 0 if a is None else a.__array_interface__["data"][0]
