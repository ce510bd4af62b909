"""Elementwise rules as compiled loops, generated line by line from their trace and kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np

from optex_core.backends._codegen_check import qualified_name, warn_not_compilable, warn_once
from optex_core.backends._tracing import TracedValuesDiffer, TracingError, rule_to_python
from optex_core.backends.numba._jit import jit, readonly_view
from optex_core.backends.numba.kernels import COLUMNS
from optex_core.backends.types import Rule


class CompiledRule(NamedTuple):
    """``run(*arrays, *scalars, *results, low, high)`` fills blocks of `COLUMNS` columns."""

    run: Callable[..., None]
    results: int


@lru_cache(maxsize=256)
def compile_rule(rule: Rule, dtype: str, arrays: int, scalars: int) -> CompiledRule | None:
    """The compiled loop of a rule; None, with one warning, where it cannot be compiled."""
    try:
        lines, results, scope = rule_to_python(rule, arrays, scalars)
    except TracedValuesDiffer:
        warn_once(
            f"the rule {qualified_name(rule)} does something else when it is compiled; NumPy takes "
            "its steps, as it defines them"
        )
        return None
    except TracingError as error:
        warn_not_compilable(rule, error)
        return None
    inputs, outputs = [f"a{i}" for i in range(arrays)], [f"o{i}" for i in range(len(results))]
    arguments = [f"{a}_" for a in inputs] + [f"s{i}" for i in range(scalars)]
    vectors = [*inputs, *outputs]
    views, parts = (", ".join(v + end for v in vectors) for end in ("v", "_[begin:end]"))
    # Slices, counted from zero: with indices that begin elsewhere the compiler cannot rule out
    # negative ones, and does not vectorise.
    source = "\n    ".join([
        f"def loop({', '.join([*arguments, *(f'{o}_' for o in outputs)])}, low, high):",
        f"for begin in range(low * {COLUMNS}, min(high * {COLUMNS}, o0_.size), {COLUMNS}):",
        f"    end = min(begin + {COLUMNS}, o0_.size)",
        f"    {views}, = {parts},",
        "    for i in range(end - begin):",
        *(f"        {a} = {a}v[i]" for a in inputs),
        *(f"        {line}" for line in lines),
        *(f"        {o}v[i] = {result}" for o, result in zip(outputs, results, strict=True)),
    ])  # fmt: skip
    scope |= {"T": getattr(numba, dtype), "__name__": __name__}
    exec(source, scope)
    loop = jit(scope["loop"], f"{dtype}\n{source}")
    # Compiled here and not by the first call, where an error could be a thread's.
    given, found = [readonly_view(np.ones(1, dtype))] * arrays, [np.ones(1, dtype) for _ in outputs]
    try:
        loop(*given, *([np.dtype(dtype).type(1.0)] * scalars), *found, 0, 0)
    except Exception as error:  # whatever the compiler raises: no block is computed
        warn_not_compilable(rule, error)
        return None
    return CompiledRule(loop, len(results))
