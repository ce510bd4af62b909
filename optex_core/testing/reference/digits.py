"""Arithmetic in 50 decimal digits, in which conditioning plays no part."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import ArrayLike

#: Digits of every sum, product, root and exponential.
DIGITS = 50

P = ParamSpec("P")
R = TypeVar("R")


def in_digits(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that computes with `DIGITS`."""

    @wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        with localcontext(prec=DIGITS):
            return function(*args, **kwargs)

    return computed


def exact(values: ArrayLike) -> np.ndarray:
    """The same numbers as an array of `Decimal`: NumPy's arithmetic, `sqrt` and `exp` take it."""
    array = np.asarray(values)
    out = np.empty(array.shape, dtype=object)
    for i, value in np.ndenumerate(array):
        out[i] = Decimal(float(value))
    return out


def rounded(values: ArrayLike) -> np.ndarray:
    """The nearest float64 of every number."""
    return np.asarray(values).astype(np.float64)
