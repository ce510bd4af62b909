"""What a hit is, and what follows from hits: pure functions of values per round. Entry k of a curve
is the value after k rounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

#: A goal is the best value of the optimizer alone within these shares of its run.
SHARES = (0.3, 0.6, 1.0)
#: A goal is missed by rounding when a value lies above it by less than this share of the way down:
#: the mean of five equal gradients differs from them in the last digit, and `data_parallel` without
#: noise would otherwise never reach what it repeats.
ROUNDING = 1e-12
#: "Not slower" allows this share more rounds, or one.
TOLERANCE = 0.05


def goals(plain: np.ndarray, steps: int) -> tuple[float, ...]:
    """The best values of the curve `plain` within the SHARES of its `steps` steps, but for
    ROUNDING; values that are not finite do not count.
    """
    usable = np.where(np.isfinite(plain), plain, np.inf)
    lowest = [float(usable[: int(steps * share) + 1].min()) for share in SHARES]
    return tuple(low + ROUNDING * (float(usable[0]) - low) for low in lowest)


def first_hit(curve: np.ndarray, goal: float) -> int | None:
    """The first round whose value is at most `goal`; None if there is none."""
    hits = np.flatnonzero(curve <= goal)  # comparisons with nan are False
    return int(hits[0]) if len(hits) else None


def envelope(curves: Iterable[np.ndarray], steps: int) -> np.ndarray:
    """The lowest value that any of the curves has reached within k rounds, shape (steps + 1,): the
    optimizer at its best rate for every goal.
    """
    best = np.full(steps + 1, np.inf)
    for curve in curves:
        padded = np.full(steps + 1, np.inf)
        padded[: len(curve)] = np.where(np.isfinite(curve), curve, np.inf)[: steps + 1]
        best = np.minimum(best, np.minimum.accumulate(padded))
    return best


def speed_up(plain: int, hit: int | None) -> float | None:
    """Rounds of the optimizer alone over rounds to the hit; a hit at once counts as one round, and
    never is None.
    """
    return None if hit is None else max(plain, 1) / max(hit, 1)


def not_slower(plain: int, hit: int | None) -> bool:
    """At most max(1 round, 5 %) more than the optimizer alone."""
    return hit is not None and hit <= plain + max(1.0, TOLERANCE * plain)


def geometric_mean(ratios: Sequence[float]) -> float:
    """exp(mean(log ratio)); nan of nothing."""
    return math.exp(math.fsum(math.log(r) for r in ratios) / len(ratios)) if ratios else math.nan
