"""Checks of elementwise rules and of the code that is generated from them.

A rule is called with a few fixed numbers (0.1 ms, once): a sum over entries, a counter kept between
calls or a random number shows in its results, and is refused with the contract. Generated code must
reproduce the same results before it is used.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import CodeType

import numpy as np

from optex_core.backends.types import Rule
from optex_core.errors import ArgumentError

#: Entries of the sample arrays.
SAMPLE_SIZE = 6
#: Differences that rounding, contracted multiplications and other libraries' functions may cause,
#: against numbers of order one.
ROUNDING_TOLERANCE = 1e-9
RULE_CONTRACT = (
    "a rule is rule(xp) -> step(x, g, *state vectors, *scalars) -> (new x, *new state vectors), a "
    "function of each entry alone: arithmetic and functions of xp, no float literals (pass "
    "constants as scalars), no sums over entries, no branches on data, nothing kept between calls"
)


def sample_inputs(arrays: int) -> list[np.ndarray]:
    """Float64 arrays in (-2, 2), the first half of them positive, as second moments are."""
    at = np.arange(1.0, arrays * SAMPLE_SIZE + 1.0).reshape(arrays, SAMPLE_SIZE)
    values = 0.1 + 1.8 * (at * 0.618033988749895 % 1.0)
    values[1::2, SAMPLE_SIZE // 2 :: 2] *= -1.0
    values[::2, SAMPLE_SIZE // 2 + 1 :: 2] *= -1.0
    return list(values)


def run_in_numpy(rule: Rule, arrays: int, scalars: int) -> tuple[list[float], list[np.ndarray]]:
    """Sample scalars that the rule accepts and its results; no results where it accepts none.
    ArgumentError if the rule is no pure function of each entry.
    """
    step, given = rule(np), sample_inputs(arrays)
    rates = [0.1 + 0.8 * (k * 0.7320508075688772 % 1.0) for k in range(1, scalars + 1)]
    for numbers in (rates, [s + 3.0 for s in rates]):  # rates, then counts of steps
        found = _run(step, given, numbers)
        if found is None:
            continue
        whole, again, pieces = found
        if not results_agree(again, whole):
            raise ArgumentError(
                f"the rule {qualified_name(rule)} gives other results when it is called again; "
                f"{RULE_CONTRACT}"
            )
        if any(r.shape != (SAMPLE_SIZE,) for r in whole) or not results_agree(pieces, whole):
            raise ArgumentError(
                f"the rule {qualified_name(rule)} gives an entry another value where other entries "
                f"are absent; {RULE_CONTRACT}"
            )
        return numbers, whole
    return rates, []


def _run(
    step: Callable[..., tuple[object, ...]], given: list[np.ndarray], numbers: list[float]
) -> list[list[np.ndarray]] | None:
    """Results, those of a second call, those from two halves; None where the step raises."""
    with np.errstate(all="ignore"):
        try:
            whole, again = ([np.asarray(r) for r in step(*given, *numbers)] for _ in range(2))
            halves = [step(*(v[i : i + 3] for v in given), *numbers) for i in (0, 3)]
            return [whole, again, [np.hstack(p) for p in zip(*halves, strict=True)]]
        except Exception:
            return None


@lru_cache(maxsize=256)
def is_elementwise(rule: Rule, arrays: int, scalars: int) -> bool:
    """True if the rule may be given pieces of vectors; False where samples cannot tell."""
    return bool(run_in_numpy(rule, arrays, scalars)[1])


def check_signature(rule: Rule, who: str, slots: Sequence[str], scalars: int) -> None:
    """Refuse a rule that does not take x, g, the state vectors `slots` and so many scalars, that
    contains a float literal, or that is no function of each entry; `who` is its optimizer.
    """
    step, count = rule(np), 2 + len(slots) + scalars
    try:
        parameters = inspect.signature(step)
    except (TypeError, ValueError):  # compiled code may have no signature
        parameters = inspect.Signature(
            [inspect.Parameter("arguments", inspect.Parameter.VAR_POSITIONAL)]
        )
    try:
        parameters.bind(*range(count))
    except TypeError:
        given = ", ".join(["x", "g", *slots, f"{scalars} scalars"])
        raise ArgumentError(
            f"the rule of {who} takes {len(parameters.parameters)} arguments but is given {count} "
            f"({given}); {RULE_CONTRACT}"
        ) from None
    literals = _float_literals(getattr(step, "__code__", None))
    if literals:
        raise ArgumentError(
            f"the rule of {who} contains the literal {literals[0]}; {RULE_CONTRACT}"
        )
    numbers, results = run_in_numpy(rule, 2 + len(slots), scalars)
    if results and len(results) != 1 + len(slots):
        raise ArgumentError(
            f"the rule of {who} returns {len(results)} arrays, not {1 + len(slots)}: x and "
            f"{len(slots)} state vectors; {RULE_CONTRACT}"
        )


def _float_literals(code: CodeType | None) -> list[float]:
    constants = () if code is None else code.co_consts
    nested = [f for c in constants if isinstance(c, CodeType) for f in _float_literals(c)]
    return [c for c in constants if isinstance(c, float)] + nested


def results_agree(found: Sequence[object], expected: Sequence[object], floor: float = 1.0) -> bool:
    """True if all results are equal to rounding, of numbers down to `floor`."""
    if len(found) != len(expected):
        return False
    eps = ROUNDING_TOLERANCE
    pairs = (
        (np.asarray(a, float), np.asarray(b, float)) for a, b in zip(found, expected, strict=True)
    )
    return all(np.allclose(a, b, rtol=eps, atol=eps * floor, equal_nan=True) for a, b in pairs)


def run_lines(
    lines: Sequence[str],
    results: Sequence[str],
    scope: Mapping[str, object],
    entries: Mapping[str, Iterable[object]],
) -> list[list[object]]:
    """The values of `results` from lines of Python, run for one entry after the other."""
    code = compile("\n".join([*lines, f"found = {', '.join(results)},"]), "<lines>", "exec")
    found = []
    with np.errstate(all="ignore"):
        for entry in zip(*entries.values(), strict=True):
            names = dict(scope) | dict(zip(entries, entry, strict=True))
            exec(code, names)
            found.append(names["found"])
    return [list(result) for result in zip(*found, strict=True)]


def matches_rule(
    rule: Rule,
    lines: Sequence[str],
    results: Sequence[str],
    scope: Mapping[str, object],
    arrays: int,
    scalars: int,
) -> bool:
    """True if lines of Python, from ``a0``, ``s0`` and so on, reproduce the rule."""
    numbers, expected = run_in_numpy(rule, arrays, scalars)
    entries: dict[str, Iterable[object]] = {f"a{i}": v for i, v in enumerate(sample_inputs(arrays))}
    entries |= {f"s{i}": [np.float64(s)] * SAMPLE_SIZE for i, s in enumerate(numbers)}
    return bool(expected) and results_agree(run_lines(lines, results, scope, entries), expected)


def qualified_name(function: Callable[..., object]) -> str:
    """Module and name of a function."""
    name = getattr(function, "__qualname__", None)
    return repr(function) if name is None else f"{getattr(function, '__module__', '?')}.{name}"


def short_reason(error: BaseException) -> str:
    """The one line that matters of a compiler's error, which may have fifty."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [" ".join(line.split()) for line in text.split("\n") if line.strip()]
    lines = [line for line in lines if not re.match(r"Failed in|During:|File ", line)]
    if not lines:
        return type(error).__name__
    more = lines[0].endswith(":") and len(lines) > 1
    return f"{lines[0]} {lines[1].lstrip('> ')}" if more else lines[0]


@lru_cache(maxsize=256)
def warn_once(message: str) -> None:
    """A RuntimeWarning, once in a process for the same message."""
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def warn_not_compilable(rule: Rule, error: BaseException) -> None:
    """Warn that NumPy takes the steps of a rule."""
    warn_once(
        f"Numba cannot compile the rule {qualified_name(rule)} ({short_reason(error)}); NumPy "
        f"takes its steps, which is slower and no less right; {RULE_CONTRACT}"
    )
