"""Argument validation: errors name the argument, what was expected and what came."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import operator
import os
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any, ParamSpec, TypeVar

import numpy as np

from optex_core.errors import ArgumentError, ArgumentTypeError, did_you_mean

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

#: What other libraries call the settings of an optimizer, and the optimizer.
_OPTIMIZER_SETTINGS = frozenset({
    "b1", "b2", "beta1", "beta2", "betas", "decay", "eps", "epsilon", "eta", "learning_rate", "lr",
    "method", "momentum", "nesterov", "rate", "solver", "step_size", "weight_decay",
})  # fmt: skip


def short_repr(value: object, limit: int = 80) -> str:
    """A short form of `value` for an error message."""
    try:
        if isinstance(value, np.ndarray) and value.ndim:
            text = f"an array of shape {value.shape} and dtype {value.dtype}"
        else:
            text = repr(value)
    except Exception:
        # what a user's class says of itself is the user's code; and Python shows no integer of more
        # than 4,300 digits
        text = f"an object of type {type(value).__qualname__}"
    text = " ".join(text.split("\n")) if "\n" in text else text  # arrays within tuples
    return text if len(text) <= limit else text[: limit - 3] + "..."


def is_true(answer: object) -> bool:
    """True for True of Python or NumPy: of other answers of a callback most are true to Python."""
    return isinstance(answer, (bool, np.bool_)) and bool(answer)


def has_masked_entries(value: object) -> bool:
    """True for a NumPy masked array with masked entries: below the mask stands anything."""
    return (
        isinstance(value, np.ndarray)
        and type(value) is not np.ndarray
        and bool(np.any(getattr(value, "mask", False)))
    )


def real(
    name: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return `value` as a float within the bounds, or raise with a sentence."""
    if isinstance(value, (bool, np.bool_, str, bytes, complex)) or value is None:
        raise ArgumentTypeError(f"{name} must be a number, got {short_repr(value)}")
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"{name} must be a number, got {short_repr(value)}") from error
    except OverflowError as error:  # an integer beyond 1.8e308
        raise ArgumentError(
            f"{name} must be a number that a float can hold, got {short_repr(value)}"
        ) from error
    below = number <= low if open_low else number < low
    above = number >= high if open_high else number > high
    if math.isnan(number) or below or above:
        left = f"{'>' if open_low else '>='} {low:g}" if low > -math.inf else ""
        right = f"{'<' if open_high else '<='} {high:g}" if high < math.inf else ""
        limits = " and ".join(x for x in (left, right) if x) or "other than nan"
        raise ArgumentError(f"{name} must be a number {limits}, got {short_repr(value)}")
    return number


def positive(name: str, value: object) -> float:
    """A finite number above zero."""
    number = real(name, value, low=0.0, open_low=True)
    if math.isinf(number):
        raise ArgumentError(f"{name} must be finite, got {short_repr(value)}")
    return number


def nonnegative(name: str, value: object) -> float:
    """A number that is zero or more."""
    return real(name, value, low=0.0)


def unit_interval(name: str, value: object) -> float:
    """A number in [0, 1)."""
    return real(name, value, low=0.0, high=1.0, open_high=True)


def reals(value: object) -> np.ndarray:
    """`value` as an array of float64, or TypeError or ValueError: NumPy drops imaginary parts with
    no more than a warning.
    """
    if np.asarray(value).dtype.kind == "c":
        raise TypeError("complex numbers")
    try:
        return np.asarray(value, dtype=np.float64)
    except OverflowError as error:
        raise ValueError("an integer that no float can hold") from error


def integer(name: str, value: Any, *, low: int | None = None, high: int | None = None) -> int:
    """Return `value` as an int of at least `low` and at most `high`."""
    if isinstance(value, (bool, np.bool_)):
        raise ArgumentTypeError(f"{name} must be an integer, got {short_repr(value)}")
    try:
        number = operator.index(value)
    except Exception as error:  # TypeError; what a user's class raises instead is the user's code
        raise ArgumentTypeError(f"{name} must be an integer, got {short_repr(value)}") from error
    if low is not None and number < low:
        raise ArgumentError(f"{name} must be an integer >= {low}, got {short_repr(number)}")
    if high is not None and number > high:
        raise ArgumentError(f"{name} must be an integer <= {high}, got {short_repr(number)}")
    return number


def one_of(name: str, value: object, options: Iterable[str]) -> str:
    """Return `value` if it is one of `options`, or raise with the closest one."""
    known = list(options)
    listed = ", ".join(map(repr, known))
    if not isinstance(value, str):
        raise ArgumentTypeError(f"{name} must be one of {listed}, got {short_repr(value)}")
    if value not in known:
        close = difflib.get_close_matches(value, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ArgumentError(f"{name} must be one of {listed}, got {value!r}{hint}")
    return value


def sequence(
    name: str, value: object, what: str, kinds: type | tuple[type, ...] = object
) -> list[Any]:
    """The entries of `value`, which are `what` to the reader and of the types `kinds`."""
    wanted = f"{name} must be a sequence of {what}, got"
    single = isinstance(value, (str, bytes)) or getattr(value, "shape", None) == ()
    if single or not isinstance(value, Iterable):
        raise ArgumentTypeError(f"{wanted} {short_repr(value)}")
    entries = list(value)
    for entry in entries:
        if not isinstance(entry, kinds):
            raise ArgumentTypeError(f"{wanted} {short_repr(entry)} in it")
    return entries


def boolean(name: str, value: object) -> bool:
    """Return `value` if it is True or False: of other things, "no" among them, most are true to
    Python.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ArgumentTypeError(f"{name} must be True or False, got {short_repr(value)}")
    return bool(value)


def callable_(name: str, value: Any, *given: str) -> Any:
    """Return `value` if it can be called, with the arguments `given` where any are named; what has
    no signature is taken as it is.
    """
    if not callable(value):
        raise ArgumentTypeError(f"{name} must be callable, got {short_repr(value)}")
    if given:
        try:
            signature = inspect.signature(value, follow_wrapped=False)
        except (TypeError, ValueError):
            return value
        try:
            signature.bind(*given)
        except TypeError as error:
            raise ArgumentTypeError(
                f"{name} is called with {' and '.join(given)}, which "
                f"{short_repr(value)} does not take: {error}"
            ) from error
    return value


def checked_by(check: Callable[..., object], **limits: object) -> dict[str, Callable[..., object]]:
    """Metadata of a dataclass field, for `check_fields`: ``check(name, value, **limits)``."""
    return {"check": partial(check, **limits)}


POSITIVE, NONNEGATIVE, BOOLEAN = map(checked_by, (positive, nonnegative, boolean))
NONNEGATIVE_FINITE = checked_by(real, low=0.0, open_high=True)
UNIT_INTERVAL = checked_by(unit_interval)
OPEN_UNIT_INTERVAL = checked_by(real, low=0.0, high=1.0, open_low=True, open_high=True)


def check_fields(settings: Any) -> None:
    """Check the fields of a dataclass as their metadata say."""
    for field in dataclasses.fields(settings):
        if "check" in field.metadata:
            field.metadata["check"](field.name, getattr(settings, field.name))


def reject_unknown_keywords(function: Callable[P, R], owner: type | None = None) -> Callable[P, R]:
    """Decorate `function` so that an unknown keyword raises with the closest known one, or with the
    one whose description in the docstring of `owner` begins with it in parentheses.

    Settings of an optimizer that are given to a function beside it get an error of their own.
    """
    parameters = inspect.signature(function).parameters
    # takes any name, and says itself what it does not know
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return function
    known = [name for name in parameters if name != "self"]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name in known:
                continue
            if "optimizer" in known and name in _OPTIMIZER_SETTINGS:
                raise ArgumentTypeError(
                    f"unknown option {name!r}; give it to the optimizer: ox.Adam(0.1), passed as "
                    f"optimizer="
                )
            ours = _described_as(name, owner)
            hint = f"; here it is called {ours!r}" if ours else did_you_mean(name, known)
            raise ArgumentTypeError(f"unknown option {name!r}{hint}")
        return function(*args, **kwargs)

    return checked


def _described_as(name: str, owner: type | None) -> str | None:
    """The parameter of `owner` that its docstring calls `name` elsewhere: ``(name) ...``."""
    doc = inspect.cleandoc(owner.__doc__ or "") if owner is not None else ""
    found = re.search(rf"^(\w+) : [^\n]*\n +\({re.escape(name)}\)", doc, re.MULTILINE)
    return found[1] if found else None


def plain_value(value: object) -> object:
    """A number of NumPy, an array that is one, a Fraction or a Decimal as a Python number; anything
    else as it is.

    A uint8 wraps around below zero, an array has no hash, ufuncs take no fractions or decimals.
    """
    if isinstance(value, (Decimal, Fraction)):
        try:
            return float(value)
        except (OverflowError, ValueError):
            return value
    if isinstance(value, (np.generic, np.ndarray)) and not value.ndim:
        kind = value.dtype.kind
        return float(value) if kind == "f" else value.item() if kind in "biu" else value
    return value


def reject_unknown_fields(kind: T) -> T:
    """Class decorator, above ``@dataclass``: unknown settings raise as in
    `reject_unknown_keywords`, and numbers become Python's (`plain_value`).

    The class is changed in place, so that ``super()`` and pickle still know it.
    """
    if isinstance(kind, type) and "__init__" in vars(kind):
        changed: Any = kind
        changed.__init__ = reject_unknown_keywords(_plain_arguments(changed.__init__), kind)
    return kind


def _plain_arguments(function: Callable[..., R]) -> Callable[..., R]:
    """Decorate a method so that it gets Python numbers."""

    @functools.wraps(function)
    def called(self: object, *args: object, **kwargs: object) -> R:
        return function(
            self,
            *map(plain_value, args),
            **{name: plain_value(value) for name, value in kwargs.items()},
        )

    return called


def working_directory() -> str:
    """The working directory of this process; ArgumentError where somebody has removed it."""
    try:
        return os.getcwd()
    except FileNotFoundError as error:
        raise ArgumentError(
            "the working directory of this process does not exist any more; change to one that "
            "does, with os.chdir"
        ) from error
