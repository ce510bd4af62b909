"""The gradient of `wallclock`: a quadratic that takes a set time. It imports little, since each
worker does: 0.4 s, where the engine takes 1.3.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import numpy as np

from optex_core.types import Context

#: Iteration number of the calls that only wake the workers up, and seconds that these take.
WARM, WARM_SECONDS = -1, 0.2


@dataclass(frozen=True, slots=True)
class Slow:
    """0.5 sum h_i x_i^2 with h from 1 to 0.01, taking a set time."""

    d: int
    seconds: float
    busy: bool  # keeps its core busy and does not sleep

    def value_and_grad(self, x: np.ndarray, ctx: Context) -> tuple[float, np.ndarray]:
        """Value and gradient, late."""
        warm = ctx.iteration == WARM
        end = time.perf_counter() + (WARM_SECONDS if warm else self.seconds)
        gradient = _curvatures(self.d) * x
        value = float(0.5 * x @ gradient)
        if self.busy and not warm:
            work, spent = np.ones(1000), time.thread_time() + self.seconds
            # its own time on the core, however many wait for that core
            while time.thread_time() < spent:
                np.sqrt(work, out=work)
        else:
            time.sleep(max(0.0, end - time.perf_counter()))
        return value, gradient


@cache
def _curvatures(d: int) -> np.ndarray:
    """h: made once in each worker, or the gradients that are to sleep would compute for 7 ms at d =
    1e5, eight at a time on two cores.
    """
    return np.geomspace(1.0, 0.01, d)
