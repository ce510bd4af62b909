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
#: So many first gradients are kept: their digits tell single precision.
KEPT = 12

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
    values: list[float] = field(default_factory=list)  # of every call, before the division
    gradients: list[np.ndarray] = field(default_factory=list)  # of the first calls

    def __call__(self, x: np.ndarray, seed: int = 0) -> Pair:
        """Value and float64 gradient, shape (d,)."""
        start = time.perf_counter()
        found = self.objective.evaluate(x.astype(self.dtype), context(seed))
        self.seconds.append(time.perf_counter() - start)
        value, gradient = as_pair(found)
        gradient = gradient.astype(np.float64)
        self.values.append(value)
        if len(self.gradients) < KEPT:
            self.gradients.append(gradient)
        return value / self.scale, gradient / self.scale


def as_pair(evaluation: EvaluationResult) -> Pair:
    """An evaluation as value and gradient."""
    value = evaluation.value
    return math.nan if value is None else value, np.asarray(evaluation.gradient)


def context(seed: int = 0) -> Context:
    """The context of a call outside any run."""
    return Context(id=0, seed=seed, iteration=0, slot=0)


def relative_difference(a: Pair, b: Pair) -> float:
    """The largest difference of values or gradients, relative to their size; inf beside nan."""
    found = [0.0]
    with np.errstate(invalid="ignore"):
        for one, other in zip(a, b, strict=True):
            p, q = np.asarray(one), np.asarray(other)
            if not np.array_equal(p, q, equal_nan=True):
                found.append(float(np.abs(p - q).max() / max(np.abs(p).max(), np.abs(q).max())))
    return max(found) if all(map(math.isfinite, found)) else math.inf
