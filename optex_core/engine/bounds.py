"""The bounds of a run: where points are moved to, and what of a gradient counts at them."""

from __future__ import annotations

from dataclasses import dataclass

from optex_core.backends.base import Backend
from optex_core.types import Array


@dataclass(frozen=True, slots=True)
class BoxConstraints:
    """low <= x <= high, or no bounds at all."""

    #: shape (d,), or None
    low: Array | None
    high: Array | None
    backend: Backend

    def project(self, x: Array) -> Array:
        """P(x), the point of the box that is nearest to `x`; `x` itself without bounds."""
        return (
            x
            if self.low is None or self.high is None
            else self.backend.clip(x, self.low, self.high)
        )

    def gradient_norm(self, x: Array, g: Array) -> float:
        """max |g|; under bounds that of the projected gradient x - P(x - g)."""
        return self.backend.max_abs(
            g if self.low is None or self.high is None else x - self.project(x - g)
        )
