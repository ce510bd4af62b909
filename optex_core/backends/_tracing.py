"""Elementwise rules, and functions made of NumPy's ufuncs, as lines of CUDA C or Python.

A rule is run once with symbols in place of arrays; each operation writes a line such as
``const T t3 = t1 * a0;``. One kernel then takes all operations. `cupy.fuse` was no alternative: its
typing of scalars has changed between releases, while here every symbol has the type of the arrays,
and the lines can be checked without a GPU.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from optex_core.backends._codegen_check import (
    RULE_CONTRACT,
    is_elementwise,
    matches_rule,
    qualified_name,
    results_agree,
    run_lines,
)
from optex_core.backends.types import Formula, Rule

#: NumPy's name -> the function in C. Those that end in "_" are defined in `CUDA_PREAMBLE`: C's own
#: differ from NumPy's at nan or zero.
C_FUNCTIONS = {
    **{name: name for name in (
        "sqrt", "cbrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos",
        "tan", "sinh", "cosh", "tanh", "hypot", "floor", "ceil", "trunc", "rint", "copysign",
        "fabs",
    )},
    **{name: f"{name}_" for name in ("square", "sign", "maximum", "minimum", "where")},
    "abs": "fabs",
    "absolute": "fabs",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arctan2": "atan2",
    "power": "pow",
}  # fmt: skip

#: nan wins in maximum and minimum, sign(nan) is nan, as in NumPy.
CUDA_PREAMBLE = """
template <typename T> __device__ inline T square_(T a) { return a * a; }
template <typename T> __device__ inline T sign_(T a) { return a > 0 ? T(1) : a < 0 ? T(-1) : a; }
template <typename T> __device__ inline T maximum_(T a, T b) { return a > b || a != a ? a : b; }
template <typename T> __device__ inline T minimum_(T a, T b) { return a < b || a != a ? a : b; }
template <typename T> __device__ inline T where_(bool c, T a, T b) { return c ? a : b; }
"""

#: NumPy's function -> its name.
_UFUNCS = {getattr(np, name): name for name in C_FUNCTIONS}
_OPERATORS = {
    np.add: "+", np.subtract: "-", np.multiply: "*", np.divide: "/",
    np.less: "<", np.less_equal: "<=", np.greater: ">", np.greater_equal: ">=",
    np.equal: "==", np.not_equal: "!=",
}  # fmt: skip
_COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
#: Arguments at which the lines of an expression are compared with its function.
_SAMPLE_ARGUMENTS = np.concatenate([[0.0], np.geomspace(1e-12, 1e4, 9)])


class TracingError(Exception):
    """The rule uses something that has no line in C; it then runs operation by operation."""


class TracedValuesDiffer(TracingError):
    """The lines of the rule do not reproduce the rule."""


class Symbol(NDArrayOperatorsMixin):
    """A value inside a rule that is being traced; `lines` is shared by all symbols of the trace."""

    __slots__ = ("lines", "logical", "name")

    def __init__(self, name: str, lines: list[str], logical: bool = False) -> None:
        self.name, self.lines, self.logical = name, lines, logical

    def _write(self, expression: str, logical: bool = False) -> Symbol:
        symbol = Symbol(f"t{len(self.lines)}", self.lines, logical)
        self.lines.append(f"const {'bool' if logical else 'T'} {symbol.name} = {expression};")
        return symbol

    def _call(self, name: str, values: tuple[object, ...]) -> Symbol:
        if name != "where" and _logical(*values):
            raise TracingError("NumPy takes functions of truth values in half precision")
        return self._write(f"{C_FUNCTIONS[name]}({', '.join(map(_name, values))})")

    def __array_ufunc__(
        self, ufunc: object, method: str, *values: object, **options: object
    ) -> object:
        # `a *= b` comes with out=(a,); the name is bound to the new symbol then.
        if method != "__call__" or options.keys() - {"out"}:
            return NotImplemented
        if ufunc is np.negative:
            return self._write(f"-{_name(*values)}")
        if ufunc not in _OPERATORS:
            return self._call(_UFUNCS[ufunc], values) if ufunc in _UFUNCS else NotImplemented
        operator, (left, right) = _OPERATORS[ufunc], values
        if operator == "+" and _logical(left, right):
            raise TracingError("a sum of truth values is one in NumPy and a number elsewhere")
        return self._write(f"{_name(left)} {operator} {_name(right)}", operator in _COMPARISONS)

    def __array_function__(
        self,
        function: object,
        _types: object,
        values: tuple[object, ...],
        options: dict[str, object],
    ) -> object:
        if function is np.where and len(values) == 3 and not options:
            return self._call("where", values)
        return NotImplemented

    def __pow__(self, other: object) -> Symbol:
        square = isinstance(other, int) and other == 2
        return self._write(
            f"square_({self.name})" if square else f"pow({self.name}, {_name(other)})"
        )

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
    """The lines of a rule in C and the names of its results.

    Arrays are called a0, a1, ..., scalars s0, s1, ..., their type T. TracingError if the rule uses
    more than arithmetic, comparisons and the functions of `C_FUNCTIONS`; TracedValuesDiffer if
    NumPy gives other values: the rule branches on what it is given; ArgumentError if the rule is no
    pure function of each entry.
    """
    is_elementwise(rule, arrays, scalars)  # raises for a rule that breaks its contract
    lines: list[str] = []
    names = [f"a{i}" for i in range(arrays)] + [f"s{i}" for i in range(scalars)]
    try:
        results = rule(_Namespace(lines))(*(Symbol(name, lines) for name in names))
    except (TypeError, AttributeError) as error:  # an operator or a method that symbols do not have
        raise TracingError(str(error)) from error
    names = [_name(result) for result in results]
    scope = _scope() | {"T": np.float64}
    if not matches_rule(rule, [_python(line) for line in lines], names, scope, arrays, scalars):
        raise TracedValuesDiffer(
            f"the rule {qualified_name(rule)} does not do what its lines do; {RULE_CONTRACT}"
        )
    return lines, names


def rule_to_python(
    rule: Rule, arrays: int, scalars: int
) -> tuple[list[str], list[str], dict[str, Any]]:
    """`trace_rule` in Python: lines such as ``t3 = t1 * a0``, the names of the results, and the
    functions that the lines call. `T`, the type of the arrays, is the caller's to define.

    Text, unlike a closure, can be compiled once for all processes.
    """
    lines, results = trace_rule(rule, arrays, scalars)
    return [_python(line) for line in lines], results, _scope()


def trace_expression(function: Callable[[Any], Any]) -> Formula:
    """The lines of `function`, for one entry ``s`` of an array of float64, with intermediate values
    called k0, k1, ...

    TracingError if the function uses more than arithmetic, comparisons, `numpy.where` and the
    ufuncs of `C_FUNCTIONS`, looks at its argument's entries, or treats an array unlike a symbol.
    """
    lines: list[str] = []
    try:
        result = _name(function(Symbol("s", lines)))
        with np.errstate(all="ignore"):
            expected = function(_SAMPLE_ARGUMENTS.copy())
    except TracingError:
        raise
    except Exception as error:  # a user's function may raise anything when it gets no array
        raise TracingError(f"{type(error).__name__}: {error}") from error
    rename = re.compile(r"\bt(?=\d)")
    written = tuple(rename.sub("k", _python(line)) for line in lines)
    scope = _scope() | {"T": np.float64}
    found = Formula(written, rename.sub("k", result), scope, qualified_name(function))
    # A branch on the type, or one array under two names changed in place, shows in the values.
    values = run_lines(written, [found.result], scope, {"s": _SAMPLE_ARGUMENTS})
    if not results_agree(values, [expected], floor=1e-3):
        raise TracingError("its lines have other values")
    return found


def _python(line: str) -> str:
    """A line of C as Python has it."""
    line = line.removeprefix("const ").removeprefix("T ").removeprefix("bool ").removesuffix(";")
    # Names and numbers have no commas. Compiled, numpy.where of numbers would make an array.
    return re.sub(r"where_\((.+), (.+), (.+)\)$", r"\2 if \1 else \3", line)


def _scope() -> dict[str, object]:
    return {c: getattr(np, name) for name, c in C_FUNCTIONS.items()}


def _logical(*values: object) -> bool:
    return all(isinstance(value, Symbol) and value.logical for value in values)


def _name(value: object) -> str:
    if isinstance(value, Symbol):
        return value.name
    if isinstance(value, (int, float, np.integer, np.floating)) and math.isfinite(value):
        return f"T({float(value)!r})"
    raise TracingError(f"{value!r} is neither a symbol nor a finite number")
