"""Calibration of predicted gradients under noise, by a regression slope that noise does not bias.

Notes
-----
Measured without the rule: a slope of 0.8 to 0.9 where windows paid (a network on minibatches, Adam
at 1e-3), 0 to 0.4 where they did not (Adam at 3e-2, momentum at 1). |mu - g|, the obvious test, has
the length of the noise in both. It is careful: windows that it forbids may pay on minibatches, and
what tells them from those that do not is not known (bench/RESULTS.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from optex_core.model.subspace import Vector
from optex_core.strategies.base import Observations
from optex_core.strategies.rollout import EngineView

#: Windows are taken while the slope of observed on predicted gradients is above this.
LEVEL = 0.6
#: Iterations without a window after it was not, the first time; twice as many each time after.
BACKOFF, LONGEST_BACKOFF = 4, 64


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration slope: that of the regression of observed on predicted gradients.

    sum mu_j . g_j / sum |mu_j|^2, over the points ahead of theta_t.

    mu_j was predicted before g_j was observed, so that the noise of g_j has nothing to do with it:
    the slope is 1 on average where predictions are right, however large the noise, and 0 where they
    know nothing.
    """

    slope: float = 0.5  # its average over iterations, the newest half
    #: Iterations without a window to come; how many the next time.
    rest: int = 0
    backoff: int = BACKOFF

    @property
    def trusted(self) -> bool:
        """True while windows may be taken; else they are tried with few points."""
        return self.slope >= LEVEL

    def advance(self, measured: float) -> Calibration:
        """After an iteration with a window, or without one (nan)."""
        if math.isnan(measured):
            return replace(self, rest=max(self.rest - 1, 0))
        slope = 0.5 * (self.slope + min(max(measured, -1.0), 2.0))
        if slope < LEVEL:
            return Calibration(slope, self.backoff, min(2 * self.backoff, LONGEST_BACKOFF))
        return Calibration(slope, 0, max(self.backoff // 2, BACKOFF))


def calibration_slope(
    view: EngineView, means: Sequence[Vector | None], observations: Observations
) -> float:
    """The slope of `observations` on the `means` in the same slots, None where there is none; nan
    where nothing can be compared.
    """
    products = squares = 0.0
    for mean, one in zip(means, observations, strict=False):
        if mean is None or one is None:
            continue
        square, product = view.space.products(mean, one.gradient)
        if math.isfinite(square + product):
            products += product
            squares += square
    return products / squares if squares > 0.0 else math.nan
