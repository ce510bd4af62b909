"""Plain-text tables of the benchmark cases."""

from __future__ import annotations

import math
from collections.abc import Sequence


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

    return "\n".join(
        (line(head), "  ".join("-" * width for width in widths), *(line(row) for row in rows))
    )


def short(value: float | None) -> str:
    """Three digits; ``-`` for what does not exist."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.0f}" if 100 <= abs(value) < 100_000 else f"{value:.3g}"
