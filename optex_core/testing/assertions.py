"""Assertions of the check suites: bitwise identity, leaves of states, bounds that follow from
rounding.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from optex_core.errors import ArgumentTypeError
from optex_core.optimizers._pytree import tree_leaves
from optex_core.testing.check_suite import CheckFailed
from optex_core.types import Array

EPS = float(np.finfo(np.float64).eps)


A = TypeVar("A", bound=Array)


def leaves(tree: Any) -> list[Any]:
    """The arrays and scalars of a nested state; of one that is no tree, the object itself."""
    try:
        return tree_leaves(tree)
    except ArgumentTypeError:
        return [tree]


def array_leaves(tree: object) -> list[np.ndarray]:
    """The NumPy arrays in a nested state."""
    return [leaf for leaf in leaves(tree) if isinstance(leaf, np.ndarray)]


def same_bits(a: object, b: object) -> bool:
    """True if two nested states are bitwise identical."""
    left, right = leaves(a), leaves(b)
    return len(left) == len(right) and all(_same(p, q) for p, q in zip(left, right, strict=True))


def _same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        p, q = np.asarray(a), np.asarray(b)
        return p.dtype == q.dtype and p.shape == q.shape and p.tobytes() == q.tobytes()
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


def assert_same_bits(found: object, expected: object, what: str) -> None:
    """Raise `CheckFailed` with the largest difference unless both are bitwise identical."""
    if same_bits(found, expected):
        return
    gaps = [
        float(np.abs(np.subtract(p, q, dtype=np.float64)).max(initial=0.0))
        for p, q in zip(leaves(found), leaves(expected), strict=False)
        if np.asarray(p).dtype.kind in "fiub" and np.shape(p) == np.shape(q)
    ]
    raise CheckFailed(f"{what}; largest difference {max(gaps, default=math.nan):.3g}")


def assert_within(found: ArrayLike, expected: ArrayLike, bound: ArrayLike, what: str) -> None:
    """Raise `CheckFailed` with a wrong entry unless ``|found - expected| <= bound`` everywhere."""
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if found.shape != expected.shape:
        raise CheckFailed(f"{what}: shape {found.shape}, expected {expected.shape}")
    bound = np.broadcast_to(np.asarray(bound, dtype=np.float64), expected.shape)
    with np.errstate(invalid="ignore"):
        close = np.abs(found - expected) <= bound
    wrong = ~(close | (found == expected) | (np.isnan(found) & np.isnan(expected)))
    if wrong.any():
        i = tuple(int(k) for k in np.argwhere(wrong)[0])
        place = f" at {i if len(i) > 1 else i[0]}" if i else ""
        raise CheckFailed(
            f"{what}: {int(wrong.sum())} of {wrong.size} entries; {found[i]!r} in "
            f"place of {expected[i]!r}{place}, allowed {float(bound[i]):.3g}"
        )


def readonly(array: A) -> A:
    """`array`, made read-only."""
    array.flags.writeable = False
    return array


def noncontiguous_copy(array: Array) -> np.ndarray:
    """The same numbers in an array that is not contiguous."""
    wide = np.zeros((*array.shape, 2), array.dtype)
    wide[..., 0] = array
    return wide[..., 0]
