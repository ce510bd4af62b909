"""Long windows: the corrected rollout with its test of distances, and the size of the next window.

One huge gradient far along the window ruins the fit of all others: Rosenbrock (d = 50, momentum 0.9
at 8e-4, N = 5) diverged without the outlier test.
"""

from __future__ import annotations

import math

from optex_core.strategies.base import Observation, Observations
from optex_core.strategies.rollout import Rollout

#: Steps are taken while |y_j - z_j| <= TRUST_RADIUS max_{i<=j} |z_i - theta_t|.
TRUST_RADIUS = 0.6
#: The window grows by GROWTH when all of it was accepted, else it becomes SLACK times the accepted
#: length; at most MAX_WINDOW_PER_SLOT x N.
GROWTH, SLACK, MAX_WINDOW_PER_SLOT = 1.5, 1.2, 8
#: A gradient longer than OUTLIER_FACTOR |g_0| ends what is taken as data.
OUTLIER_FACTOR = 10.0
#: Points of the window while the history has one row, whose gradient is then repeated.
COLD_START_WINDOW = 3


def truncate_outliers(observations: Observations) -> Observations:
    """Replace by None all from the first gradient longer than OUTLIER_FACTOR |g_0| or missing."""
    first = observations[0]
    assert first is not None
    limit = OUTLIER_FACTOR**2 * first.squared_norm
    kept: list[Observation | None] = [first]
    for one in observations[1:]:
        if one is None or not one.squared_norm <= limit:
            break
        kept.append(one)
    return kept + [None] * (len(observations) - len(kept))


def run_corrected(
    rollout: Rollout,
    *,
    trust: float = TRUST_RADIUS,
) -> int:
    """Take steps 2, 3, ... of a window with the refitted mean, while they can be trusted; the steps
    of the window, the first included.

    `rollout` begins at y_1, with the posterior fitted to the new rows, beside the predicted z_0 =
    theta_t, z_1, ... A caller that keeps y_1 and the optimizer's state there keeps that memory.
    """
    reach = 0.0
    for j in range(1, rollout.steps + 1):
        # |z_j - theta_t| is not monotone on oscillating paths: the largest so far.
        reach = max(reach, rollout.path_length(j))
        distance = rollout.distance_to_path(j)
        if not (distance <= trust * reach and math.isfinite(reach)):  # nan is no trust
            break
        if not rollout.step():
            break
    return 1 + rollout.taken


def next_window(window: int, accepted: int, whole: bool, parallelism: int, low: int) -> int:
    """S for the next iteration: grown, or shrunk to the accepted length but not below `low`."""
    if parallelism == 1:
        return 1
    if whole:
        return min(MAX_WINDOW_PER_SLOT * parallelism, math.ceil(GROWTH * window))
    return max(low, math.ceil(SLACK * accepted))
