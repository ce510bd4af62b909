"""Line search with one trial a round: weak Wolfe conditions, safeguarded cubic interpolation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from optex_core.types import Array

#: Sufficient decrease and curvature (Nocedal, Wright, Numerical Optimization, 2006, section 3.1).
ARMIJO, WOLFE = 1e-4, 0.9
#: Trials after which any decrease is taken, and after which the search is given up.
ENOUGH, MOST = 20, 30


def _nothing() -> np.ndarray:
    return np.full(3, math.nan)


@dataclass(frozen=True, slots=True)
class WolfeSearch:
    """A search along P(x + t p), with P the projection onto the bounds.

    Attributes
    ----------
    direction : float64 array, shape (d,), or None
        p; None between searches.
    t : float
        The next trial.
    slope : float
        Derivative of the value at t = 0, negative.
    low, high : float arrays, shape (3,)
        (t, value, slope) of the best decrease, and of the end that is too far; nan without one.
    kept_x, kept_g : arrays or None
        The point of the best decrease, and its gradient.
    kept_value : float
    trials : int
    """

    direction: np.ndarray | None = None
    t: float = 1.0
    slope: float = 0.0
    low: np.ndarray = field(default_factory=_nothing)
    high: np.ndarray = field(default_factory=_nothing)
    kept_x: Array | None = None
    kept_g: Array | None = None
    kept_value: float = math.nan
    trials: int = 0

    def tell(
        self,
        value: float,
        x: Array,
        g: Array | None,
        slope: float,
        start: float,
        fall: float,
        bounded: bool,
    ) -> tuple[WolfeSearch, str]:
        """The search after a trial, and what becomes of it: "accept", "go on", or "failed".

        Parameters
        ----------
        value : float
            Infinite where the trial failed.
        x, g : arrays
            The trial and its gradient.
        slope : float
            Derivative of the value along the path at the trial.
        start : float
            Value at t = 0.
        fall : float
            g_0'(x - x_0), of which a decrease must reach a share (Bertsekas, SIAM J. Control Optim.
            20, 1982): t times the slope where no bound bends the path.
        bounded : bool
            Some parameters are at bounds: steps of t = 1 are the longest.
        """
        here = np.array([self.t, value, slope])
        found = replace(self, trials=self.trials + 1)
        if value <= start + ARMIJO * min(fall, 0.0):
            low = self.low
            found = replace(found, low=here, kept_x=x, kept_g=g, kept_value=value)
            limit = bounded and self.t >= 1
            if slope >= WOLFE * self.slope or found.trials > ENOUGH or limit:
                return found, "accept"
            if math.isnan(self.high[0]):
                t = cubic_minimizer(low, here)
                longer = math.isfinite(t) and t > self.t
                t = min(max(t, 1.5 * self.t), 5 * self.t) if longer else 4 * self.t
                return replace(found, t=min(t, 1.0) if bounded else t), "go on"
        else:
            found = replace(found, high=here)
        a, b = found.low, found.high
        width, known = b[0] - a[0], math.isfinite(b[1])
        t = cubic_minimizer(a, b) if known else math.nan
        if math.isfinite(t):
            t = min(max(t, a[0] + 0.1 * width), a[0] + 0.7 * width)
        else:
            t = a[0] + (0.5 if known else 0.1) * width
        if found.trials > MOST or width < 1e-12 * max(b[0], 1e-12):
            return found, "failed" if found.kept_x is None else "accept"
        return replace(found, t=float(t)), "go on"


def cubic_minimizer(a: np.ndarray, b: np.ndarray) -> float:
    """Minimiser of the cubic through (t, value, slope) at two places; nan if there is none."""
    with np.errstate(all="ignore"):
        d = a[2] + b[2] - 3 * (a[1] - b[1]) / (a[0] - b[0])
        square = d * d - a[2] * b[2]
        if not square >= 0:
            return math.nan
        r = np.copysign(np.sqrt(square), b[0] - a[0])
        return float(b[0] - (b[0] - a[0]) * (b[2] + r - d) / (b[2] - a[2] + 2 * r))
