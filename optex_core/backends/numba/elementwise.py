"""Elementwise rules as compiled loops: generated, since Numba cannot compile a variable number of
arrays.

A rule that can be written down line by line is kept on disk under its lines; any other is compiled
as it is, in every process. What does not compile, or does something else than the rule in NumPy, is
left to NumPy.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np

from optex_core.backends._codegen_check import (
    RULE_CONTRACT,
    SAMPLE_SIZE,
    qualified_name,
    results_agree,
    run_in_numpy,
    sample_inputs,
    warn_not_compilable,
    warn_once,
)
from optex_core.backends._tracing import TracedValuesDiffer, TracingError, rule_to_python
from optex_core.backends.base import Rule
from optex_core.backends.numba import nontemporal as _streaming
from optex_core.backends.numba._jit import OPTIONS, carray, jit, readonly_view
from optex_core.backends.numba.kernels import COLUMNS


class CompiledRule(NamedTuple):
    """A rule as compiled code.

    Attributes
    ----------
    run : callable
        ``run(*arrays, *scalars, *results, low, high)`` for the blocks low to high of `COLUMNS`
        columns; `arrays` without those that are overwritten.
    results : int
        How many there are.
    """

    run: Any
    results: int


@lru_cache(maxsize=256)
def compile_rule(
    rule: Rule,
    dtype: str,
    arrays: int,
    scalars: int,
    into: tuple[int, ...] = (),
    streaming: bool = False,
) -> CompiledRule | None:
    """The compiled loop of a rule over blocks of columns; None, said once, where it would not do
    what the rule does in NumPy.

    Parameters
    ----------
    rule : callable
    dtype : str
        Of the arrays and the scalars, "float32" or "float64".
    arrays, scalars : int
        How many the rule takes.
    into : tuple of int
        For each result the index of the array that it overwrites, which is then no argument of its
        own; empty: none does. The compiler has to see that both are one: told of two that overlap,
        it would not vectorise. Not for a rule without lines: None.
    streaming : bool
        Results are stored past the caches; each must begin at a cache line (`_streaming.LINE`). Not
        for a rule without lines.
    """
    inputs, numbers = [f"a{i}" for i in range(arrays)], [f"s{i}" for i in range(scalars)]
    expected = None
    try:
        lines, results, scope = rule_to_python(rule, arrays, scalars)
        scope["T"] = getattr(numba, dtype)
    except TracedValuesDiffer:
        _warn_values_differ(rule)
        return None
    except TracingError:
        if into:
            return None
        expected, streaming = run_in_numpy(rule, arrays, scalars, dtype), False
        if expected is None:
            _warn_values_differ(rule)
            return None
        scope = {"step": numba.njit(**OPTIONS)(rule(np))}
        results = [f"r{i}" for i in range(len(expected.results))]
        lines = [
            f"{''.join(name + ', ' for name in results)}= step({', '.join([*inputs, *numbers])})"
        ]
    outputs = [f"o{i}" for i in range(len(results))]
    if into and not len(set(into)) == len(into) == len(outputs):
        raise ValueError(
            f"a rule with {len(outputs)} results overwrites as many different arrays, "
            f"or none, got those with the indices {into}"
        )
    held = {name: name for name in inputs} | {
        inputs[i]: name for i, name in zip(into, outputs, strict=False)
    }
    inputs = [name for name in inputs if held[name] == name]
    width = _streaming.PIECE // np.dtype(dtype).itemsize if streaming else COLUMNS
    vectors = inputs if streaming else [*inputs, *outputs]
    before = (
        [f"{name}p = scratch({name}_); {name}v = carray({name}p, ({width},))" for name in outputs]
        if streaming
        else []
    )
    after = (
        [f"    stream({name}p, {name}_, begin, end - begin)" for name in outputs] + ["fence()"]
        if streaming
        else []
    )
    # Slices, counted from zero: with indices that begin elsewhere the compiler cannot rule out
    # negative ones, and does not vectorise.
    source = "\n    ".join([
        f"def "
            f"loop({', '.join([*(name + '_' for name in inputs), *numbers, *(name + '_' for name in outputs)])}, "
            f"low, high):",
        *before,
        f"for begin in range(low * {COLUMNS}, min(high * {COLUMNS}, o0_.size), {width}):",
        f"    end = min(begin + {width}, o0_.size)",
        f"    {', '.join(name + 'v' for name in vectors)}, = "
            f"{', '.join(f'{name}_[begin:end]' for name in vectors)},",
        "    for i in range(end - begin):",
        *(f"        {name} = {place}v[i]" for name, place in held.items()),
        *(f"        {line}" for line in lines),
        *(f"        {name}v[i] = {result}" for name, result in zip(outputs, results, strict=True)),
        *after,
    ])  # fmt: skip
    if streaming:
        scope |= {
            "carray": carray,
            "scratch": _streaming.scratch,
            "stream": _streaming.stream,
            "fence": _streaming.fence,
        }
    scope["__name__"] = __name__
    exec(source, scope)
    loop = jit(scope["loop"], "" if "step" in scope else f"{dtype}\n{source}")
    # Compiled here and not by the first call: what fails then, among threads and over arrays that
    # were given away, is no fault of the rule.
    given, found = (
        [readonly_view(a) for a in sample_inputs(len(inputs), dtype)],
        [np.empty(SAMPLE_SIZE, dtype) for _ in outputs],
    )
    with_scalars = [
        np.dtype(dtype).type(s) for s in ([1.0] * scalars if expected is None else expected.numbers)
    ]
    try:
        loop(*given, *with_scalars, *found, 0, 0 if expected is None else 1)
    except Exception as error:
        # whatever the compiler raises: all that is computed here are six numbers, or none
        warn_not_compilable(rule, error)
        return None
    # a loop around the rule itself, compiled for one entry
    if expected is not None and not results_agree(found, expected.results, dtype):
        _warn_values_differ(rule)
        return None
    return CompiledRule(loop, len(results))


def _warn_values_differ(rule: Rule) -> None:
    warn_once(
        f"the rule {qualified_name(rule)} compiled does something else than in NumPy, "
        f"which takes its steps therefore, as it defines them; {RULE_CONTRACT}"
    )
