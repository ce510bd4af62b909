"""Predicted steps as compiled functions: weights, posterior mean, rule, finiteness, and distances
from the new point, in one pass over columns.

Taken one by one, a step is four kernels and NumPy between them: 100 us of calls whatever d, and
vectors that go to memory and back. Here a block of columns passes through all of it while it is in
the cache. The T0 x T0 arithmetic is repeated by every thread: none waits.

The function is generated from the lines of the optimizer's rule and of the kernel. Blocks are cut
by d alone and their sums added in order: threads change no bit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from optex_core.backends._codegen_check import qualified_name, short_reason, warn_once
from optex_core.backends._tracing import TracingError, rule_to_python
from optex_core.backends.numba._internals import is_compiled
from optex_core.backends.numba._jit import address_to_pointer, carray, jit, readonly_view
from optex_core.backends.numba.kernel_threads import run_blocks
from optex_core.backends.numba.kernels import (
    COLUMNS,
    column_blocks,
    tile_distances,
    tile_weighted_sum,
)
from optex_core.backends.types import FusedSteps, PosteriorArrays, PredictedStep, Rule
from optex_core.types import Array

if TYPE_CHECKING:
    from optex_core.backends.numba_ import NumbaBackend

#: Lines that end with a word are kept only where it is needed: the shorter text compiles in 0.7 of
#: the time.
_SOURCE = """
def step(X, G, anchor, curvature, scale, base_weights, factor, center, inverse, sign, inverse_h0,
         width, here, there, scalars, more, before, partial, bad_entries, low, high):
    n, d = G.shape
    tile, item = min({columns}, d), G.itemsize
    base, sums, mean, at = np.empty(tile), np.empty(tile), np.empty(tile, G.dtype), np.empty(tile)
    bend = np.empty(tile)  # linear
    times = None  # plain
    times = np.empty(tile)  # scaled
    e, w = np.empty(n), np.empty(n)
    for i in range(n):
        s = 0.0
        for j in range(len(before)):
            s += before[j, i]
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
    for i in range(n):
        w[i] = base_weights[i] + inverse_h0 * w[i]
    bad = 0
    for j in range(low, high):
        if more:  # near
            for i in range(n):  # near
                partial[j, i] = 0.0  # near
        for begin in range(j * width, min((j + 1) * width, d), {columns}):
            size = min(begin + {columns}, d) - begin
            for k in range(size):  # scaled
                times[k] = 1.0 / np.float64(scale[begin + k])  # scaled
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
            if there[1]:
                kept = carray(pointer(there[1] + begin * item), (size,), G.dtype)
                for k in range(size):
                    kept[k] = mean[k]
            {numbers}
            for i in range(size):
                {loads}
                {lines}
                {stores}
            for k in range(size):
                at[k] = o0v[k]
                bad += not abs(at[k]) <= {largest}
            if more:  # near
                tile_distances(X, at, times, begin, size, partial[j])  # near
        bad_entries[j] = bad
"""

#: `dtype.name` takes 3 us.
_NAMES = {"f": "float32", "d": "float64"}


@lru_cache(maxsize=64)
def _compile_step(
    rule: Rule,
    dtype: str,
    slots: int,
    scalars: int,
    kernel: tuple[str, ...],
    kappa: str,
    needed: frozenset[str],
) -> Any:
    """The function of one rule, one kernel and one dtype, with the lines that are `needed`.

    None where the rule cannot be traced, or returns another number of vectors than it is given.
    """
    try:
        lines, results, scope = rule_to_python(rule, 2 + slots, scalars)
    except TracingError:
        return None
    if len(results) != 1 + slots:
        return None
    vectors = (0, *range(2, 2 + slots))  # of `here` and `there`; at place 1 is the mean
    view = "{0}{2}v = carray(pointer({1}[{2}] + begin * item), (size,), G.dtype)"
    parts = {
        # the rule's lines have numbers of another type
        "kernel": [re.sub(r"\bT\(", "float64(", line) for line in kernel],
        "views": [view.format(*to, i) for to in (("a", "here"), ("o", "there")) for i in vectors],
        "numbers": [f"s{i} = scalars[{i}]" for i in range(scalars)],
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
    return jit(scope["step"], f"{dtype}\n{text}")


#: Functions that do not compile.
_NOT_COMPILABLE: set[object] = set()


def make_fused_steps(
    rule: Rule,
    posterior: PosteriorArrays,
    x: Array,
    slots: Sequence[Array],
    scalars: Sequence[Sequence[float]],
    backend: NumbaBackend,
) -> FusedSteps | None:
    """As `Backend.fused_steps` says."""
    p, dtype, (n, d) = posterior, posterior.G.dtype, posterior.G.shape
    fits = all(a.dtype == dtype and a.shape == (d,) for a in (x, *slots)) and p.X.dtype == dtype
    if not len(scalars) or not d or not fits:
        return None
    needed = {"linear" if p.linear else "level", "plain" if p.scale is None else "scaled"}
    needed |= {"near"} if p.distances_fn is None else set()
    sizes = len(slots), len(scalars[0])
    formula = p.formula.lines, p.formula.result
    kernel = _compile_step(rule, _NAMES[dtype.char], *sizes, *formula, frozenset(needed))
    if kernel is None or kernel in _NOT_COMPILABLE:
        return None
    with np.errstate(over="ignore"):
        waiting = list(np.array(scalars, dtype))
    width, blocks = column_blocks(d)
    entries = n * d * (1 + (p.distances_fn is None) + (p.curvature != 0.0))
    constants = (
        *(readonly_view(p.X), readonly_view(p.G), -1 if p.anchor is None else int(p.anchor)),
        *(float(p.curvature), None if p.scale is None else readonly_view(p.scale)),
        *(p.base_weights, p.eigen_factor, p.center),
        *(float(p.inverse), float(p.sign), float(p.inverse_h0), width),
    )
    # Distances on some coordinates are one sum for each row, and are not taken in the kernel.
    before, partial = np.zeros((2, blocks if p.distances_fn is None else 1, n))
    bad_entries = np.zeros(blocks, np.int64)
    at: list[Any] = [readonly_view(x), None, *map(readonly_view, slots)]

    def arguments(made: list[Any], more: bool) -> tuple[Any, ...]:
        here, there = (np.array([_address(a) for a in of], np.int64) for of in (at, made))
        return *constants, here, there, waiting[0], more, before, partial, bad_entries

    if not is_compiled(kernel):
        try:  # no block
            kernel(*arguments(at, False), 0, 0)
        except Exception as error:  # whatever the compiler raises
            _NOT_COMPILABLE.add(kernel)
            warn_once(
                f"Numba cannot compile predicted steps of the rule {qualified_name(rule)} with the "
                f"kernel {p.formula.name} ({short_reason(error)}); they are taken one by one, "
                "which is slower and no less right"
            )
            return None
    if p.distances_fn is None:
        known = p.initial_distances_fn
        before[0] = known(x) if known else backend.squared_distances(p.X, x, p.scale)

    def step(mean: bool) -> PredictedStep | None:
        nonlocal at, before, partial
        if p.distances_fn is not None:
            before[0] = p.distances_fn(at[0])
        wanted = [mean or i != 1 for i in range(len(at))]
        made: list[Any] = [backend.pool.empty(d, dtype) if w else None for w in wanted]
        more, distances = len(waiting) > 1 and p.distances_fn is None, None
        run_blocks(kernel, entries, blocks, *arguments(made, more))
        if bad_entries.any():
            return None
        del waiting[0]
        if more:
            before, partial = partial, before
            distances = before.sum(axis=0)
        at = made
        return PredictedStep(made[1], made[0], tuple(made[2:]), distances)

    return step


def _address(a: Any) -> int:
    return 0 if a is None else a.__array_interface__["data"][0]
