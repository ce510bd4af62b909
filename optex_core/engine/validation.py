"""Strict reading of what users tell the engine: an error says what was expected and what came."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from optex_core._validation import short_repr
from optex_core.backends import is_cupy, real_array
from optex_core.backends.base import Backend
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.strategies.base import Observation
from optex_core.types import Array


def as_value(value: Any) -> float:
    """A value as a float; arrays of one number are taken."""
    if type(value) is float:
        return value
    try:
        # float() reads text, and drops the imaginary part of NumPy's complex numbers with no more
        # than a warning.
        if (
            isinstance(value, (str, bytes))
            or getattr(getattr(value, "dtype", None), "kind", "f") in "USc"
        ):
            raise ArgumentTypeError(f"value must be a real number, got {short_repr(value)}")
        return float(value.reshape(()) if getattr(value, "size", 0) == 1 else value)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"value must be a number, got {short_repr(value)}") from error
    except OverflowError as error:  # an integer beyond 1.8e308
        raise ArgumentError(
            f"value must be a number that a float can hold, got {short_repr(value)}"
        ) from error


def as_gradient(gradient: object, x: Array, backend: Backend, name: str = "the gradient") -> Array:
    """A copy of `gradient` in the shape and dtype of `x`, on its device; what is on another one is
    refused.
    """
    if (
        type(gradient) is type(x) is np.ndarray
        and gradient.dtype == x.dtype
        and gradient.shape == x.shape
    ):
        return backend.copy_in(gradient, x.dtype)
    g = real_array(name, gradient)
    if is_cupy(g) != is_cupy(x):
        places = ("on the GPU", "a NumPy array")
        there, here = places if is_cupy(g) else places[::-1]
        raise ArgumentTypeError(
            f"{name} is {there} but x is {here}; arrays are never moved silently, pass "
            f"cupy.{'asarray' if is_cupy(x) else 'asnumpy'}(...)"
        )
    if g.shape != x.shape and not (g.size == 1 == len(x)):
        raise ArgumentError(f"{name} must have the shape of x, {x.shape}, got {g.shape}")
    # 1e300 becomes inf in float32, which is then a failed evaluation
    with np.errstate(all="ignore"):
        return backend.copy_in(g.reshape(-1), x.dtype)


def as_observations(X: object, G: object, x: Array, backend: Backend) -> list[tuple[Array, Array]]:
    """Copies of the rows of `X` and `G`, both of shape (n, d), in pairs; `x` is a point of shape
    (d,), whose dtype they get.
    """
    X, G = real_array("X", X), real_array("G", G)
    if X.ndim != 2 or X.shape != G.shape or X.shape[1] != len(x):
        raise ArgumentError(
            f"X and G must both have shape (n, {len(x)}), got {X.shape} and {G.shape}"
        )
    rows = [
        (as_gradient(point, x, backend), as_gradient(g, x, backend))
        for point, g in zip(X, G, strict=True)
    ]
    for i, pair in enumerate(rows):
        if not all(backend.all_finite(row) for row in pair):
            raise ArgumentError(f"X and G must be finite, row {i} is not")
    return rows


def nonfinite_reason(observed: Observation, valued: bool, backend: Backend) -> str:
    """ "" or what in an evaluation is not finite."""
    if valued and not math.isfinite(observed.value):
        return f"the value is {observed.value}"
    if not backend.all_finite(
        observed.gradient
    ):  # a square that is not finite may just be too large
        host = backend.to_host(observed.gradient)
        bad = np.flatnonzero(~np.isfinite(host))
        return (
            f"the gradient has {len(bad)} entries that are not finite, the first is "
            f"{host[bad[0]]} at index {bad[0]}"
        )
    return ""


def squares_overflow(gradient: Array, backend: Backend) -> bool:
    """True if the square of an entry is beyond the numbers of the gradient's dtype."""
    largest = backend.max_abs(gradient)
    return largest * largest > float(np.finfo(gradient.dtype).max)
