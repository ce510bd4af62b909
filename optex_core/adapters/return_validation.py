"""Strict reading of what user callables return: anything that is not a real scalar, or a real
vector of the right size, ends the run.

Numbers that are not finite pass: they are failed evaluations, which the engine treats by its
policy; a wrong shape is a bug.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from optex_core._validation import has_masked_entries, short_repr
from optex_core.backends import for_array, is_cupy
from optex_core.errors import ObjectiveError, message_of
from optex_core.types import Array


def returned_pair(raw: Any, name: str) -> tuple[Any, Any]:
    """Split what ``jac=True`` promises, ``(value, gradient)``."""
    sequence = isinstance(raw, (tuple, list))
    if sequence and len(raw) == 2:
        return raw[0], raw[1]
    got = f"a {type(raw).__name__} of length {len(raw)}" if sequence else short_repr(raw)
    raise ObjectiveError(
        f"{name} must return (value, gradient) because jac=True, got {got}; "
        "if it returns the value alone, pass the gradient as jac=callable, or jac='2-point'"
    )


def _real_array(raw: Any, name: str, what: str, *, allow_complex: bool = False) -> Array:
    """`raw` as an array of real numbers of its own library, not copied if it is one already."""
    if raw is None:
        raise ObjectiveError(f"{name} returned None as its {what}; is a `return` missing?")
    try:
        array = raw if is_cupy(raw) else np.asarray(raw)
    except (TypeError, ValueError) as error:
        raise ObjectiveError(
            f"{name} returned a {what} that is no array of numbers: {short_repr(raw)} "
            f"({message_of(error)})"
        ) from error
    if has_masked_entries(raw):
        raise ObjectiveError(
            f"{name} returned a {what} with masked entries, which are no numbers; fill them first"
        )
    kind = array.dtype.kind
    if kind == "c" and not allow_complex:
        raise ObjectiveError(
            f"{name} returned a complex {what} (dtype {array.dtype}); real numbers are expected"
        )
    if kind not in "iufc":
        raise ObjectiveError(
            f"{name} returned a {what} of dtype {array.dtype}, expected real numbers, got "
            f"{short_repr(raw)}"
        )
    return array


def _values(raw: object, name: str, complex_step: bool) -> Array:
    array = _real_array(raw, name, "value", allow_complex=complex_step)
    if complex_step and array.dtype.kind != "c":  # the imaginary part is the derivative
        raise ObjectiveError(
            f"jac='cs' needs a fun that computes with complex x, but {name} returned the real "
            f"value {short_repr(raw)}; use jac='3-point'"
        )
    return array


def returned_value(raw: object, name: str, *, complex_step: bool = False) -> complex:
    """A scalar as a float: a Python or NumPy number, a 0-d array, an array with one entry. For
    complex-step differences a complex one.
    """
    if isinstance(raw, (tuple, list)) and len(raw) == 2:
        raise ObjectiveError(
            f"{name} must return one number as its value, got {short_repr(raw)}; if it returns "
            "(value, gradient), pass jac=True"
        )
    array = _values(raw, name, complex_step)
    if array.size != 1:
        raise ObjectiveError(f"{name} must return one number as its value, got {short_repr(raw)}")
    number = array.reshape(())[()]
    return complex(number) if complex_step else float(number)


def returned_values(
    raw: object, n: int, name: str, *, complex_step: bool = False
) -> Sequence[complex]:
    """The values of a batch: shape (n,), or n entries in one column."""
    array = _values(raw, name, complex_step)
    if array.shape not in ((n,), (n, 1)) and not (n == 1 and array.size == 1):
        raise ObjectiveError(
            f"{name} must return one value per row, shape ({n},), because vectorized=True, got "
            f"shape {array.shape}"
        )
    kind: type[complex] = complex if complex_step else float
    return [kind(v) for v in array.reshape(n).tolist()]


def returned_gradient(raw: object, like: Array, name: str) -> Array:
    """A copy of a gradient, or of those of a batch, in the library, dtype and shape of `like`.
    Where that has one entry a row, any array with as many entries will do.
    """
    array = _real_array(raw, name, "gradient")
    if is_cupy(like) != is_cupy(array):
        places = ("on the GPU", "a NumPy array")
        here, there = places if is_cupy(like) else reversed(places)
        raise ObjectiveError(
            f"{name} returned a gradient that is {there} for an x that is {here}; arrays are never "
            "moved silently"
        )
    if array.shape != like.shape and not (like.shape[-1] == 1 and array.size == like.size):
        raise ObjectiveError(
            f"{name} must return a gradient of shape {like.shape}, got shape {array.shape}"
        )
    # 1e300 becomes inf in float32: the engine sees it and says so.
    with np.errstate(over="ignore", invalid="ignore"):
        return for_array(like).copy_in(array, like.dtype).reshape(like.shape)
