"""Elementwise rules as lines of CUDA C or Python: one kernel for a whole rule instead of one for each operation in it.

The rule is run once with symbols in place of arrays, and each operation writes a line ``const T t3 = t1 * a0;``. Why not ``cupy.fuse``: how
it types scalars has changed between releases, while here every symbol has the one type of the arrays, and the lines can be checked without
a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from optex_core.backends.base import Rule

#: NumPy's name -> the function in C. Those ending in "_" are defined in `PREAMBLE`, since C's own differ from NumPy at nan or zero.
FUNCTIONS = {
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
PREAMBLE = """
template <typename T> __device__ inline T square_(T a) { return a * a; }
template <typename T> __device__ inline T sign_(T a) { return a > 0 ? T(1) : a < 0 ? T(-1) : a; }
template <typename T> __device__ inline T maximum_(T a, T b) { return a > b || a != a ? a : b; }
template <typename T> __device__ inline T minimum_(T a, T b) { return a < b || a != a ? a : b; }
template <typename T> __device__ inline T where_(bool c, T a, T b) { return c ? a : b; }
"""


class CannotTranslate(Exception):
    """The rule uses something that has no line in C; it then runs operation by operation."""


class Symbol:
    """A value inside a rule while it is being written down."""

    __slots__ = ("lines", "logical", "name")
    #: NumPy scalars leave the operation to the symbol.
    __array_ufunc__ = None

    def __init__(self, name: str, lines: list[str], logical: bool = False) -> None:
        self.name = name
        self.lines = lines
        self.logical = logical

    def _write(self, expression: str, logical: bool = False) -> Symbol:
        # Lines count on, so that a value used twice is computed once.
        symbol = Symbol(f"t{len(self.lines)}", self.lines, logical)
        self.lines.append(f"const {'bool' if logical else 'T'} {symbol.name} = {expression};")
        return symbol

    def _binary(self, operator: str, left: Any, right: Any, logical: bool = False) -> Symbol:
        return self._write(f"{_name(left)} {operator} {_name(right)}", logical)

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
        return self._write(f"square_({self.name})" if isinstance(other, int) and other == 2 else f"pow({self.name}, {_name(other)})")

    def __neg__(self) -> Symbol:
        return self._write(f"-{self.name}")

    def __abs__(self) -> Symbol:
        return self._write(f"fabs({self.name})")

    def __lt__(self, other: Any) -> Symbol:
        return self._binary("<", self, other, logical=True)

    def __le__(self, other: Any) -> Symbol:
        return self._binary("<=", self, other, logical=True)

    def __gt__(self, other: Any) -> Symbol:
        return self._binary(">", self, other, logical=True)

    def __ge__(self, other: Any) -> Symbol:
        return self._binary(">=", self, other, logical=True)

    def __bool__(self) -> bool:
        raise CannotTranslate("a rule must not branch on data")


class _Namespace:
    """Stands for the array library inside a rule."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def __getattr__(self, name: str) -> Callable[..., Symbol]:
        if name not in FUNCTIONS:
            raise CannotTranslate(f"xp.{name} has no translation")
        return lambda *values: Symbol("", self._lines)._write(f"{FUNCTIONS[name]}({', '.join(map(_name, values))})")


def translate(rule: Rule, arrays: int, scalars: int) -> tuple[list[str], list[str]]:
    """The lines of a rule and the names of its results; arrays are called a0, a1, ..., scalars s0, s1, ..., their type T.

    Raises
    ------
    CannotTranslate
        If the rule uses more than arithmetic, comparisons and the functions of `FUNCTIONS`.
    """
    lines: list[str] = []
    symbols = [Symbol(f"{letter}{i}", lines) for letter, count in (("a", arrays), ("s", scalars)) for i in range(count)]
    try:
        results = rule(_Namespace(lines))(*symbols)
    except (TypeError, AttributeError) as error:  # an operator or a method that symbols do not have
        raise CannotTranslate(str(error)) from error
    return lines, [_name(result) for result in results]


def python_lines(rule: Rule, arrays: int, scalars: int) -> tuple[list[str], list[str], dict[str, Any]]:
    """`translate` in Python: lines such as ``t3 = t1 * a0``, the names of the results, and the functions that the lines call.

    Text and nothing else: unlike a closure it can be compiled once for all processes. `T`, the type of the arrays, is the caller's to define.
    """
    lines, results = translate(rule, arrays, scalars)
    scope = {c: getattr(np, name) for name, c in FUNCTIONS.items()}
    return [line.removeprefix("const ").removeprefix("T ").removeprefix("bool ").removesuffix(";") for line in lines], results, scope


def _name(value: Any) -> str:
    if isinstance(value, Symbol):
        return value.name
    if isinstance(value, (int, float)) and math.isfinite(value):
        return f"T({float(value)!r})"
    raise CannotTranslate(f"{value!r} is neither a symbol nor a finite number")
