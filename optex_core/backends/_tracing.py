"""Elementwise rules, and formulas made of NumPy's ufuncs, as lines of CUDA C or Python: one kernel
for all operations instead of one for each.

A rule is run once with symbols in place of arrays, and each operation writes a line ``const T t3 =
t1 * a0;``. Why not ``cupy.fuse``: how it types scalars has changed between releases, while here
every symbol has the one type of the arrays, and the lines can be checked without a GPU.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from optex_core.backends._codegen_check import (
    RULE_CONTRACT,
    matches_rule,
    qualified_name,
    results_agree,
    run_lines,
)

if TYPE_CHECKING:
    from optex_core.backends.base import Rule

#: NumPy's name -> the function in C. Those ending in "_" are defined in `CUDA_PREAMBLE`, since C's
#: own differ from NumPy at nan or zero.
C_FUNCTIONS = {
    "abs": "fabs",
    "absolute": "fabs",
    "fabs": "fabs",
    "sqrt": "sqrt",
    "cbrt": "cbrt",
    "exp": "exp",
    "expm1": "expm1",
    "log": "log",
    "log1p": "log1p",
    "sin": "sin",
    "cos": "cos",
    "tanh": "tanh",
    "arctan": "atan",
    "floor": "floor",
    "ceil": "ceil",
    "copysign": "copysign",
    "hypot": "hypot",
    "power": "pow",
    "square": "square_",
    "sign": "sign_",
    "maximum": "maximum_",
    "minimum": "minimum_",
    "where": "where_",
}

#: nan wins in maximum and minimum, sign(nan) is nan, as in NumPy.
CUDA_PREAMBLE = """
template <typename T> __device__ inline T square_(T a) { return a * a; }
template <typename T> __device__ inline T sign_(T a) { return a > 0 ? T(1) : a < 0 ? T(-1) : a; }
template <typename T> __device__ inline T maximum_(T a, T b) { return a > b || a != a ? a : b; }
template <typename T> __device__ inline T minimum_(T a, T b) { return a < b || a != a ? a : b; }
template <typename T> __device__ inline T where_(bool c, T a, T b) { return c ? a : b; }
"""


#: What a rule or a formula may call, as NumPy has it -> its name here.
_UFUNCS = {getattr(np, name): name for name in C_FUNCTIONS}
_OPERATORS = {
    np.add: "+", np.subtract: "-", np.multiply: "*", np.divide: "/",
    np.less: "<", np.less_equal: "<=", np.greater: ">", np.greater_equal: ">=", np.equal: "==", np.not_equal: "!=",
}  # fmt: skip
_COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")


class TracingError(Exception):
    """The rule uses something that has no line in C; it then runs operation by operation."""


class TracedValuesDiffer(TracingError):
    """The rule has lines, which do something else than the rule."""


class Symbol:
    """A value inside a rule while it is being written down."""

    __slots__ = ("lines", "logical", "name")

    def __init__(self, name: str, lines: list[str], logical: bool = False) -> None:
        self.name = name
        self.lines = lines
        self.logical = logical

    def _write(self, expression: str, logical: bool = False) -> Symbol:
        # Lines count on, so that a value used twice is computed once.
        symbol = Symbol(f"t{len(self.lines)}", self.lines, logical)
        self.lines.append(f"const {'bool' if logical else 'T'} {symbol.name} = {expression};")
        return symbol

    def _binary(self, operator: str, left: Any, right: Any) -> Symbol:
        if operator == "+" and _logical(left, right):
            raise TracingError("a sum of truths is a truth in NumPy and a number elsewhere")
        return self._write(f"{_name(left)} {operator} {_name(right)}", operator in _COMPARISONS)

    def _call(self, name: str, values: tuple[Any, ...]) -> Symbol:
        if name != "where" and _logical(*values):
            raise TracingError("NumPy takes functions of truths in half precision")
        return self._write(f"{C_FUNCTIONS[name]}({', '.join(map(_name, values))})")

    def __array_ufunc__(self, ufunc: Any, method: str, *values: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            return NotImplemented
        if ufunc is np.negative:
            return -self
        if ufunc in _OPERATORS:
            return self._binary(_OPERATORS[ufunc], *values)
        return self._call(_UFUNCS[ufunc], values) if ufunc in _UFUNCS else NotImplemented

    def __array_function__(
        self, function: Any, _types: Any, values: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        return (
            self._call("where", values)
            if function is np.where and len(values) == 3 and not options
            else NotImplemented
        )

    def __add__(self, other: Any) -> Symbol:
        return self._binary("+", self, other)

    def __radd__(self, other: Any) -> Symbol:
        return self._binary("+", other, self)

    def __sub__(self, other: Any) -> Symbol:
        return self._binary("-", self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return self._binary("-", other, self)

    def __mul__(self, other: Any) -> Symbol:
        return self._binary("*", self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return self._binary("*", other, self)

    def __truediv__(self, other: Any) -> Symbol:
        return self._binary("/", self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return self._binary("/", other, self)

    def __pow__(self, other: Any) -> Symbol:
        return self._write(
            f"square_({self.name})"
            if isinstance(other, int) and other == 2
            else f"pow({self.name}, {_name(other)})"
        )

    def __neg__(self) -> Symbol:
        return self._write(f"-{self.name}")

    def __abs__(self) -> Symbol:
        return self._write(f"fabs({self.name})")

    def __lt__(self, other: Any) -> Symbol:
        return self._binary("<", self, other)

    def __le__(self, other: Any) -> Symbol:
        return self._binary("<=", self, other)

    def __gt__(self, other: Any) -> Symbol:
        return self._binary(">", self, other)

    def __ge__(self, other: Any) -> Symbol:
        return self._binary(">=", self, other)

    def __eq__(self, other: object) -> Symbol:  # type: ignore[override]
        return self._binary("==", self, other)

    def __ne__(self, other: object) -> Symbol:  # type: ignore[override]
        return self._binary("!=", self, other)

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise TracingError("a rule must not branch on data")


class _Namespace:
    """Stands for the array library inside a rule."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def __getattr__(self, name: str) -> Callable[..., Symbol]:
        if name not in C_FUNCTIONS:
            raise TracingError(f"xp.{name} has no translation")
        return lambda *values: Symbol("", self._lines)._call(name, values)


def trace_rule(rule: Rule, arrays: int, scalars: int) -> tuple[list[str], list[str]]:
    """The lines of a rule and the names of its results; arrays are called a0, a1, ..., scalars s0,
    s1, ..., their type T.

    Raises
    ------
    CannotTranslate
        If the rule uses more than arithmetic, comparisons and the functions of `C_FUNCTIONS`.
    OtherValues
        If it does something else in NumPy: it keeps something between calls, draws random numbers,
        or branches on what it is given.
    """
    lines: list[str] = []
    symbols = [
        Symbol(f"{letter}{i}", lines)
        for letter, count in (("a", arrays), ("s", scalars))
        for i in range(count)
    ]
    try:
        results = rule(_Namespace(lines))(*symbols)
    except (TypeError, AttributeError) as error:  # an operator or a method that symbols do not have
        raise TracingError(str(error)) from error
    names = [_name(result) for result in results]
    if not matches_rule(
        rule,
        [_python(line) for line in lines],
        names,
        _scope() | {"T": np.float64},
        arrays,
        scalars,
    ):
        raise TracedValuesDiffer(
            f"the rule {qualified_name(rule)} does not do what its lines do; {RULE_CONTRACT}"
        )
    return lines, names


def rule_to_python(
    rule: Rule, arrays: int, scalars: int
) -> tuple[list[str], list[str], dict[str, Any]]:
    """`trace_rule` in Python: lines such as ``t3 = t1 * a0``, the names of the results, and the
    functions that the lines call.

    Text and nothing else: unlike a closure it can be compiled once for all processes. `T`, the type
    of the arrays, is the caller's to define.
    """
    lines, results = trace_rule(rule, arrays, scalars)
    return [_python(line) for line in lines], results, _scope()


class Formula(NamedTuple):
    """A function of one number as lines of Python: ``t0``, ``t1``, ... from ``s``.

    Attributes
    ----------
    lines : tuple of str
        To be run in order.
    result : str
        The name of the value.
    scope : dict
        The functions that the lines call, and `T`, float64.
    name : str
        Of the function.
    """

    lines: tuple[str, ...]
    result: str
    scope: dict[str, Any]
    name: str


def trace_expression(function: Callable[[Any], Any], prefix: str = "t") -> Formula:
    """What `function` does with an array of float64, written down for one entry ``s``; values on
    the way are called by `prefix` and a number.

    Raises
    ------
    CannotTranslate
        If it uses more than arithmetic, comparisons, `numpy.where` and the ufuncs of `C_FUNCTIONS`,
        looks at its argument's entries, or does something else with an array than with a symbol.
    """
    lines: list[str] = []
    try:
        result = _name(function(Symbol("s", lines)))
        with np.errstate(all="ignore"):
            expected = function(_SAMPLE_ARGUMENTS.copy())
    except TracingError:
        raise
    except Exception as error:
        # a function of somebody's own may raise anything when it is given no array
        raise TracingError(f"{type(error).__name__}: {error}") from error
    rename = re.compile(r"\bt(?=\d)")
    written = tuple(rename.sub(prefix, _python(line)) for line in lines)
    found = Formula(
        written, rename.sub(prefix, result), _scope() | {"T": np.float64}, qualified_name(function)
    )
    # What a symbol cannot show: a branch on the type, or one array under two names that is changed
    # in place.
    if not results_agree(
        run_lines(found.lines, [found.result], found.scope, {"s": _SAMPLE_ARGUMENTS}),
        [expected],
        floor=1e-3,
    ):
        raise TracingError("its lines have other values")
    return found


#: Where a formula is held against its function.
_SAMPLE_ARGUMENTS = np.concatenate([[0.0], np.geomspace(1e-12, 1e4, 9)])


def _python(line: str) -> str:
    """A line of C as Python has it."""
    line = line.removeprefix("const ").removeprefix("T ").removeprefix("bool ").removesuffix(";")
    # Names and numbers have no commas. Compiled, numpy.where of numbers would make an array.
    return re.sub(r"where_\((.+), (.+), (.+)\)$", r"\2 if \1 else \3", line)


def _scope() -> dict[str, Any]:
    return {c: getattr(np, name) for name, c in C_FUNCTIONS.items()}


def _logical(*values: Any) -> bool:
    return all(isinstance(value, Symbol) and value.logical for value in values)


def _name(value: Any) -> str:
    if isinstance(value, Symbol):
        return value.name
    if isinstance(value, (int, float, np.integer, np.floating)) and math.isfinite(value):
        return f"T({float(value)!r})"
    raise TracingError(f"{value!r} is neither a symbol nor a finite number")
