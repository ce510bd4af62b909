"""Plain text tables."""

from __future__ import annotations

import math
from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be, the first to the left, the others to the right."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "  ".join((cells[0].ljust(widths[0]), *rest)).rstrip()

    return "\n".join(
        (line(head), "  ".join("-" * width for width in widths), *(line(row) for row in rows))
    )


def number(value: float, digits: int = 3) -> str:
    """Short: ``-`` for nan, no exponent between 0.001 and 100000."""
    if math.isnan(value):
        return "-"
    return f"{value:.{digits}g}" if not 1000 <= abs(value) < 100_000 else f"{value:.0f}"
