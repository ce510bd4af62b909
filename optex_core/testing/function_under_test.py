"""The user's function as checks call it: value and gradient at a point, counted and timed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np

from optex_core.adapters.objective import Objective
from optex_core.types import Context, EvaluationResult

#: Two answers that differ by less, relative, differ by the order of a sum.
SAME_RTOL = 1e-12

#: Value (nan without one) and gradient.
Pair = tuple[float, np.ndarray]


@dataclass
class FunctionUnderTest:
    """An objective at single points."""

    objective: Objective
    dtype: np.dtype  # of the points that the user's code gets
    #: Values and gradients are divided by it; a power of two, so that no bit is lost.
    scale: float = 1.0
    seconds: list[float] = field(default_factory=list)  # time of every call

    def __call__(self, x: np.ndarray, seed: int = 0) -> Pair:
        """Value and float64 gradient, shape (d,)."""
        start = time.perf_counter()
        found = self.objective.evaluate(x.astype(self.dtype), context(seed))
        self.seconds.append(time.perf_counter() - start)
        value, gradient = as_pair(found)
        return value / self.scale, gradient.astype(np.float64) / self.scale


def as_pair(evaluation: EvaluationResult) -> Pair:
    """An evaluation as value and gradient."""
    value = evaluation.value
    return math.nan if value is None else value, np.asarray(evaluation.gradient)


def context(seed: int = 0) -> Context:
    """The context of a call outside any run."""
    return Context(id=0, seed=seed, iteration=0, slot=0)


def relative_difference(a: Pair, b: Pair) -> float:
    """The largest difference of values or gradients, relative to their size; inf beside nan."""

    def relative(p: np.ndarray | np.float64, q: np.ndarray | np.float64) -> float:
        if np.array_equal(p, q, equal_nan=True):
            return 0.0
        return float(np.abs(p - q).max() / max(np.abs(p).max(), np.abs(q).max()))

    with np.errstate(invalid="ignore"):
        found = max(relative(np.float64(a[0]), np.float64(b[0])), relative(a[1], b[1]))
    return found if math.isfinite(found) else math.inf
