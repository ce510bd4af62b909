"""Differences of vectors as index pairs, and what products of consecutive ones say of all pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from optex_core.types import Array


class RowDifferences(NamedTuple):
    """Differences of arrays, as index pairs of shape (k, 2); -1 stands for no array."""

    arrays: list[Array]
    pairs: np.ndarray

    @classmethod
    def unique(cls, pairs: Sequence[tuple[Array, Array | None]]) -> RowDifferences:
        """The different arrays in (a, b) pairs, and the index pairs over them."""
        arrays: list[Array] = []
        place: dict[int | None, int] = {id(None): -1}
        for v in (v for pair in pairs for v in pair):
            if v is not None and id(v) not in place:
                place[id(v)] = len(arrays)
                arrays.append(v)
        return cls(arrays, np.array([[place[id(a)], place[id(b)]] for a, b in pairs]))

    def joined(self, other: RowDifferences, length: int) -> RowDifferences:
        """Both; the arrays of this one hold `length` vectors."""
        moved = np.where(other.pairs < 0, -1, other.pairs + length)
        return RowDifferences([*self.arrays, *other.arrays], np.concatenate([self.pairs, moved]))


def products_from_newest(S: np.ndarray) -> np.ndarray:
    """Products of rows minus the newest from those of consecutive differences, S."""
    n = len(S) + 1
    A = np.zeros((n, n))
    A[:-1, :-1] = S[::-1, ::-1].cumsum(0).cumsum(1)[::-1, ::-1]
    return A


def pairwise_products(S: np.ndarray) -> np.ndarray:
    """(a_i - a_j)'(b_i - b_j) for all pairs of rows from products of consecutive differences, S."""
    A = products_from_newest(S)
    a = A.diagonal()
    found: np.ndarray = a[:, None] + a[None] - A - A.T
    return found
