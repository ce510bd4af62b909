"""Elementwise rules as compiled loops: generated, since Numba cannot compile a variable number of arrays.

A rule that can be written down line by line is kept on disk under its lines; any other is compiled as it is, in every process.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numba
import numpy as np

from optex_core.backends import _streaming
from optex_core.backends._compiled import OPTIONS, carray, compiled
from optex_core.backends._numba_kernels import COLUMNS
from optex_core.backends.base import Rule
from optex_core.backends.fusion import CannotTranslate, python_lines


@lru_cache(maxsize=256)
def elementwise(rule: Rule, dtype: str, arrays: int, scalars: int, streaming: bool = False) -> tuple[Any, int]:
    """The compiled loop of a rule over blocks of columns, and the number of its results.

    Parameters
    ----------
    rule : callable
    dtype : str
        Of the arrays and the scalars, "float32" or "float64".
    arrays, scalars : int
        How many the rule takes.
    streaming : bool
        Results are stored past the caches; each must begin at a cache line (`_streaming.LINE`).

    Returns
    -------
    loop : callable
        ``loop(*arrays, *scalars, *results, low, high)`` for the blocks low to high of `COLUMNS` columns.
    results : int
    """
    inputs, numbers = [f"a{i}" for i in range(arrays)], [f"s{i}" for i in range(scalars)]
    try:
        lines, results, scope = python_lines(rule, arrays, scalars)
        scope["T"] = getattr(numba, dtype)
    except CannotTranslate:
        step = rule(np)
        count = len(step(*(np.ones(1, dtype) for _ in inputs), *(1.0 for _ in numbers)))
        scope = {"step": numba.njit(**OPTIONS)(step)}
        results = [f"r{i}" for i in range(count)]
        lines = [f"{''.join(name + ', ' for name in results)}= step({', '.join([*inputs, *numbers])})"]
    outputs = [f"o{i}" for i in range(len(results))]
    width = _streaming.PIECE // np.dtype(dtype).itemsize if streaming else COLUMNS
    vectors = inputs if streaming else [*inputs, *outputs]
    before = [f"{name}p = scratch({name}_); {name}v = carray({name}p, ({width},))" for name in outputs] if streaming else []
    after = [f"    stream({name}p, {name}_, begin, end - begin)" for name in outputs] + ["fence()"] if streaming else []
    # Slices, counted from zero: with indices that begin elsewhere the compiler cannot rule out negative ones, and does not vectorise.
    source = "\n    ".join([
        f"def loop({', '.join([*(name + '_' for name in inputs), *numbers, *(name + '_' for name in outputs)])}, low, high):",
        *before,
        f"for begin in range(low * {COLUMNS}, min(high * {COLUMNS}, o0_.size), {width}):",
        f"    end = min(begin + {width}, o0_.size)",
        f"    {', '.join(name + 'v' for name in vectors)}, = {', '.join(f'{name}_[begin:end]' for name in vectors)},",
        "    for i in range(end - begin):",
        *(f"        {name} = {name}v[i]" for name in inputs),
        *(f"        {line}" for line in lines),
        *(f"        {name}v[i] = {result}" for name, result in zip(outputs, results, strict=True)),
        *after,
    ])  # fmt: skip
    if streaming:
        scope |= {"carray": carray, "scratch": _streaming.scratch, "stream": _streaming.stream, "fence": _streaming.fence}
    scope["__name__"] = __name__
    exec(source, scope)
    return compiled(scope["loop"], "" if "step" in scope else f"{dtype}\n{source}"), len(results)
