"""Plain-text tables of the benchmark cases, and what they count."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Plain text in columns as wide as they need to be; those of `left` to the left, the others to
    the right.
    """
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            c.ljust(w) if i in left else c.rjust(w)
            for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    return "\n".join([line(head), "  ".join("-" * w for w in widths), *map(line, rows)])


def short(value: float | None) -> str:
    """Three digits; ``-`` for what does not exist."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.0f}" if 100 <= abs(value) < 100_000 else f"{value:.3g}"


def first_hit(values: ArrayLike, goal: float) -> int | None:
    """The first entry that is at most `goal`; None if there is none."""
    hits = np.flatnonzero(np.asarray(values) <= goal)  # comparisons with nan are False
    return int(hits[0]) if len(hits) else None
