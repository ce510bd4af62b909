"""Pairwise testing: fewer cases than the product, in which every two values still meet."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any


def pairs(*factors: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Rows of the product of `factors` that contain every pair of values of every two of them.

    Greedy: the next row is the first of those with the most new pairs.
    """
    values = [list(factor) for factor in factors]
    rows = list(itertools.product(*(range(len(factor)) for factor in values)))
    cells = {row: set(itertools.combinations(enumerate(row), 2)) for row in rows}
    missing = set().union(*cells.values())
    found = []
    while missing:
        best = max(rows, key=lambda row: len(cells[row] & missing))
        missing -= cells[best]
        found.append(best)
    return [
        tuple(factor[i] for factor, i in zip(values, row, strict=True)) for row in sorted(found)
    ]
