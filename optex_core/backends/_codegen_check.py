"""Generated code is held against what it was made from before it is used: a few entries of fixed
numbers, once for each rule or formula.

A rule that is run once with symbols, or compiled for one entry, shows what it does with symbols and
with one entry. ``g - xp.mean(g)`` compiles for one entry and is zero; a counter kept between calls,
a random number or a branch on the type of an argument is written down as it was at that moment.
Held against the rule in NumPy each of them is found (0.1 ms); what does not agree is taken by
NumPy, and said once.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from optex_core.backends.base import Rule

#: Entries that a rule is held at: in the first half all arrays are positive, as second moments are.
SAMPLE_SIZE = 6
#: What rounding, contracted multiplications and other libraries' functions may change, against
#: numbers of one; what is found is wrong by far more.
ROUNDING_TOLERANCE = {"float32": 1e-3, "float64": 1e-9}
#: What a rule may be, for whoever wrote one that is not.
RULE_CONTRACT = (
    "a rule must be a function of each entry alone: no sums over entries, no branches on "
    "types, nothing kept between calls, no random numbers"
)


class Sample(NamedTuple):
    """What a rule makes of fixed arguments, by NumPy.

    Attributes
    ----------
    numbers : list of float
        Its scalars, which it took.
    results : list of arrays, each of shape (ENTRIES,)
    """

    numbers: list[float]
    results: list[np.ndarray]


def sample_inputs(arrays: int, dtype: str = "float64") -> list[np.ndarray]:
    """So many arrays of `SAMPLE_SIZE` entries within (-2, 2)."""
    at = np.arange(1.0, arrays * SAMPLE_SIZE + 1.0).reshape(arrays, SAMPLE_SIZE)
    values = 0.1 + 1.8 * (at * 0.618033988749895 % 1.0)
    values[1::2, SAMPLE_SIZE // 2 :: 2] *= -1.0
    values[::2, SAMPLE_SIZE // 2 + 1 :: 2] *= -1.0
    return list(values.astype(dtype))


def _sample_scalars(scalars: int) -> Iterator[list[float]]:
    """So many numbers within (0, 1), as rates are; then with one of them as large as a count of
    steps, for ``math.sqrt(t - 1)``; then all of them.
    """
    small = [0.1 + 0.8 * (k * 0.7320508075688772 % 1.0) for k in range(1, scalars + 1)]
    yield small
    for k in range(scalars if scalars > 1 else 0):
        yield [s + 3.0 * (i == k) for i, s in enumerate(small)]
    yield [s + 3.0 for s in small]


def run_in_numpy(rule: Rule, arrays: int, scalars: int, dtype: str = "float64") -> Sample | None:
    """What the rule makes of fixed arguments; None where it makes something else of them the next
    time, or nothing at all.
    """
    step = rule(np)
    for numbers in _sample_scalars(scalars):
        first = _run_once(step, arrays, numbers, dtype)
        if first is not None:
            second = _run_once(step, arrays, numbers, dtype)
            return (
                Sample(numbers, first)
                if second is not None and results_agree(first, second, dtype)
                else None
            )
    return None


def _run_once(
    step: Callable[..., Any], arrays: int, numbers: list[float], dtype: str
) -> list[np.ndarray] | None:
    with np.errstate(all="ignore"):
        try:
            return _complete_results(step(*sample_inputs(arrays, dtype), *numbers))
        except Exception:
            # what branches on its entries has to be given one at a time, which is how compiled
            # loops take it
            entries = zip(*sample_inputs(arrays, dtype), strict=True)
        try:
            return _complete_results(
                [
                    np.array(r, dtype)
                    for r in zip(*(step(*entry, *numbers) for entry in entries), strict=True)
                ]
            )
        except Exception:
            return None


def _complete_results(results: Any) -> list[np.ndarray] | None:
    found = [np.asarray(r) for r in results]
    return found if all(r.shape == (SAMPLE_SIZE,) and r.dtype.kind in "bf" for r in found) else None


def results_agree(
    found: Sequence[Any], expected: Sequence[Any], dtype: str = "float64", floor: float = 1.0
) -> bool:
    """True if all results are the same to rounding, of numbers down to `floor`."""
    if len(found) != len(expected):
        return False
    eps = ROUNDING_TOLERANCE[dtype]
    pairs = (
        (np.asarray(a, float), np.asarray(b, float)) for a, b in zip(found, expected, strict=True)
    )
    return all(np.allclose(a, b, rtol=eps, atol=eps * floor, equal_nan=True) for a, b in pairs)


def run_lines(
    lines: Sequence[str],
    results: Sequence[str],
    scope: dict[str, Any],
    entries: dict[str, Iterable[Any]],
) -> list[list[Any]]:
    """What lines of Python make of entries, one after the other: a list for each of the `results`;
    `entries` are those of each name.
    """
    code = compile("\n".join([*lines, f"found = {', '.join(results)},"]), "<lines>", "exec")
    found, scope = [], dict(scope)
    with np.errstate(all="ignore"):
        for entry in zip(*entries.values(), strict=True):
            scope |= dict(zip(entries, entry, strict=True))
            exec(code, scope)
            found.append(scope["found"])
    return [list(result) for result in zip(*found, strict=True)]


def matches_rule(
    rule: Rule,
    lines: Sequence[str],
    results: Sequence[str],
    scope: dict[str, Any],
    arrays: int,
    scalars: int,
) -> bool:
    """True if lines of Python, from ``a0``, ``s0`` and so on, do what the rule does."""
    expected = run_in_numpy(rule, arrays, scalars)
    if expected is None:
        return False
    entries: dict[str, Iterable[Any]] = {f"a{i}": v for i, v in enumerate(sample_inputs(arrays))}
    entries |= {f"s{i}": [np.float64(s)] * SAMPLE_SIZE for i, s in enumerate(expected.numbers)}
    return results_agree(run_lines(lines, results, scope, entries), expected.results)


@lru_cache(maxsize=256)
def is_elementwise(rule: Rule, arrays: int, scalars: int) -> bool:
    """True if pieces of vectors may be given to the rule one after the other."""
    whole = run_in_numpy(rule, arrays, scalars)
    if whole is None:
        return False
    step, given = rule(np), sample_inputs(arrays)
    with np.errstate(all="ignore"):
        try:
            pieces = [
                step(*(v[i : i + 2] for v in given), *whole.numbers)
                for i in range(0, SAMPLE_SIZE, 2)
            ]
            return results_agree(
                [np.concatenate(piece) for piece in zip(*pieces, strict=True)], whole.results
            )
        except Exception:
            # a branch on entries, or a vector of the rule's own, of a length that no piece has
            return False


def qualified_name(function: Any) -> str:
    """What its author calls it."""
    name = getattr(function, "__qualname__", None)
    return repr(function) if name is None else f"{getattr(function, '__module__', '?')}.{name}"


def short_reason(error: BaseException) -> str:
    """The one line that tells of an error of the compiler, which may have fifty."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [
        " ".join(line.split())
        for line in text.split("\n")
        if line.strip() and not re.match(r"Failed in|During:|File ", line.strip())
    ]
    if not lines:
        return type(error).__name__
    return (
        f"{lines[0]} {lines[1].lstrip('> ')}"
        if lines[0].endswith(":") and len(lines) > 1
        else lines[0]
    )


@lru_cache(maxsize=256)
def warn_once(message: str) -> None:
    """A warning, once in a process for the same words: a rule is asked for in every step."""
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def warn_not_compilable(rule: Rule, error: BaseException) -> None:
    """Say that a rule does not compile."""
    warn_once(
        f"Numba cannot compile the rule {qualified_name(rule)} "
        f"({short_reason(error)}); NumPy takes its steps, which is slower and no less "
        f"right; {RULE_CONTRACT}"
    )
