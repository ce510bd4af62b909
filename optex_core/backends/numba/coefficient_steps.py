"""A rollout on coefficients as one compiled function, generated from the kernel's formula and the
optimizer's rule.

One thread, on arrays of the size of the history's square: NumPy takes fifteen calls for a step,
whose overhead is ten times their arithmetic.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from optex_core.backends._codegen_check import warn_not_compilable
from optex_core.backends._tracing import TracingError, rule_to_python
from optex_core.backends.numba._jit import jit
from optex_core.backends.types import Rule, SubspaceRolloutFunction

_SOURCE = """
def product(A, u, out):
    for i in range(len(A)):
        total = 0.0
        for l in range(u.size):
            total += A[i, l] * u[l]
        out[i] = total


def rollout(K, rows, ages, thetas, gradients, center, transposed, numbers, scalars, points, slots,
            means):
    inverse, lever, curvature, limit = numbers[0], numbers[1], numbers[2], numbers[3]
    m, n = points.shape[1], rows.size
    u, y, w, z = np.empty(m), np.empty(m), np.empty(n), np.empty(transposed.shape[0])
    for j in range(len(points)):
        for i in range(m):
            u[i] = points[j, i]
        u[0] -= 1.0
        product(K, u, y)
        length, total = 0.0, 0.0
        for i in range(m):
            length += u[i] * y[i]
        if j and not length < limit:
            return j - 1
        w[ages[n - 1]] = 0.0
        for i in range(n - 1):
            total += y[thetas + n - 2 - i]
            w[ages[n - 2 - i]] = 2.0 * total
        for i in range(n):
            s = np.maximum(w[i] + length + rows[i], 0.0) * inverse
            {formula}
            w[i] = {weight}
        product(transposed, w, z)
        for i in range(n):
            w[i] = {share}
        for l in range(z.size):
            factor = z[l] * lever
            for i in range(n):
                w[i] += transposed[l, i] * factor
        total = 0.0
        for i in range(m):
            means[j, i] = curvature * points[j, i]
        means[j, 0] -= curvature
        for i in range(n - 1):
            total += w[ages[i]]
            means[j, thetas + i] += curvature * total
            means[j, gradients + i] -= total
        means[j, 1] += {newest}
        if j == len(scalars):
            break
        for i in range(m):
            {arrays}
            {rule}
            {results}
    return len(scalars)
"""


@lru_cache(maxsize=64)
def compile_rollout(
    lines: tuple[str, ...], result: str, constant: bool, rule: Rule, slots: int, scalars: int
) -> SubspaceRolloutFunction:
    """See `Backend.subspace_rollout`. TracingError if the rule cannot be traced, or returns another
    number of vectors than it is given: compiled code checks no bounds.
    """
    steps, results, scope = rule_to_python(rule, 2 + slots, scalars)
    if len(results) != 1 + slots:
        raise TracingError(f"the rule returns {len(results)} vectors where there are {1 + slots}")
    blocks: dict[str, list[str]] = {
        "formula": list(lines),
        "arrays": ["a0 = points[j, i]", "a1 = means[j, i]"]
        + [f"a{2 + k} = slots[j, {k}, i]" for k in range(slots)]
        + [f"s{k} = scalars[j, {k}]" for k in range(scalars)],
        "rule": steps,
        "results": [f"points[j + 1, i] = {results[0]}"]
        + [f"slots[j + 1, {k}, i] = {name}" for k, name in enumerate(results[1:])],
    }
    words = {name: f"\n{' ' * 12}".join(block) or "pass" for name, block in blocks.items()}
    words["weight"] = f"center[i] - {result}" if constant else result
    words["share"] = "1.0 / n" if constant else "0.0"
    words["newest"] = "1.0" if constant else "total + w[ages[n - 1]]"
    source = _SOURCE
    for name, word in words.items():
        source = source.replace(f"{{{name}}}", word)
    scope |= {"T": np.float64, "np": np, "__name__": __name__}
    exec(source, scope)
    scope["product"] = jit(scope["product"], "product of a matrix and a vector")
    compiled = jit(scope["rollout"], source)
    failed: list[str] = []

    def rollout(*arguments: object) -> int:
        """As `Backend.subspace_rollout` says; TracingError, after a warning, if it fails."""
        if not failed:
            try:
                return int(compiled(*arguments))
            except Exception as error:  # its arithmetic raises nothing: this is the compiler
                warn_not_compilable(rule, error)
                failed.append(str(error))
        raise TracingError(failed[0])

    return rollout
