"""Few combinations of parameters in place of their product."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any


def covering_pairs(*levels: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Combinations in which every pair of values of two parameters occurs at least once.

    The next one is always the first that has most pairs that are missing.
    """
    values = [list(level) for level in levels]
    rows = list(product(*(range(len(level)) for level in values)))

    def pairs(row: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
        return set(combinations(enumerate(row), 2))

    missing, chosen = set().union(*map(pairs, rows)), []
    while missing:
        best = max(rows, key=lambda row: len(pairs(row) & missing))
        missing -= pairs(best)
        chosen.append(tuple(level[i] for level, i in zip(values, best, strict=True)))
    return chosen
