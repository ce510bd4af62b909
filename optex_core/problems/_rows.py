"""What the closed-form problems share: one formula over the rows of a matrix, and the check of a
point at the door.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.problems.base import Problem


def as_points(name: str, X: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return `X` as float64 of the given shape (-1: any length), or raise with a sentence; `X`
    itself where it is float64 already.
    """
    array = np.asarray(X)
    if array.dtype.kind not in "fiu":
        raise ArgumentTypeError(f"problem {name!r} takes real numbers, got dtype {array.dtype}")
    if array.ndim != len(shape) or any(
        want not in (-1, got) for want, got in zip(shape, array.shape, strict=True)
    ):
        wanted = f"({', '.join('n' if n == -1 else str(n) for n in shape)}{',' if len(shape) == 1 else ''})"
        raise ArgumentError(f"problem {name!r} takes an array of shape {wanted}, got {array.shape}")
    return array.astype(np.float64, copy=False)


def frozen(array: np.ndarray) -> np.ndarray:
    """Mark `array` as read-only and return it: derived data are shared by threads and handed out."""
    array.flags.writeable = False
    return array


class RowsProblem(Problem):
    """A problem given by one formula over rows; a single point is a matrix of one row.

    Overflow far from the minimum is no warning: a diverging run is recognised by its infinite
    value.
    """

    @abstractmethod
    def rows(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values (n,) and gradients (n, d), float64, at the rows of X, (n, d), float64; X is not
        changed and not kept.
        """

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        X = as_points(self.name, x, (self.d,))[None]
        with np.errstate(over="ignore", invalid="ignore"):
            values, gradients = self.rows(X)
        return float(values[0]), gradients[0]

    def batch(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        X = as_points(self.name, X, (-1, self.d))
        with np.errstate(over="ignore", invalid="ignore"):
            return self.rows(X)
