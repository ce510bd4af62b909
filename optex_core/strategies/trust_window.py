"""What the strategies that predict long windows share: the replay with its test of distances, and
the size of the next window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from optex_core.model.estimator import Posterior
from optex_core.strategies.base import EngineView, Observation
from optex_core.types import Array

#: Go on while |y_j - z_j| <= TRUST max_{i<=j} |z_i - theta_t|: replayed against predicted, relative
#: to the path.
TRUST_RADIUS = 0.6
#: Tried: halving it whenever the value rose after a window of several steps (and raising it again
#: by 1.3) cost 4 % of the speed-up over 13 cases and did not help the one that is slower than its
#: optimizer (heavy ball at 3.6 / L, N = 2). The window grows by this factor when all of it was
#: accepted, else it becomes SLACK times the accepted length; at most LONGEST x N.
GROWTH, SLACK, LONGEST = 1.5, 1.2, 8
#: A gradient longer than FAR |g_0| ends the believed prefix: one huge row far along the window
#: ruins the fit of all others (Rosenbrock, d = 50, momentum 0.9 at 8e-4, N = 5 diverged without it;
#: 3 and 30 did as well on two other cases).
OUTLIER_FACTOR = 10.0
#: Points of the window while the history has one row, whose gradient is then repeated: with N,
#: Nesterov and Rosenbrock lost a round or two, with 1 the geometric mean of the speed-ups fell from
#: 5.78 to 5.56.
COLD_START_WINDOW = 3


def truncate_outliers(observations: Sequence[Observation | None]) -> list[Observation | None]:
    """`observations` with everything from the first gradient longer than FAR |g_0|, or the first
    missing one, left out.
    """
    first = observations[0]
    assert first is not None
    limit = OUTLIER_FACTOR**2 * first.squared_norm
    kept: list[Observation | None] = [first]
    for one in observations[1:]:
        if one is None or not one.squared_norm <= limit:
            break
        kept.append(one)
    return kept + [None] * (len(observations) - len(kept))


def corrected_rollout(
    view: EngineView,
    posterior: Posterior,
    x: Array,
    state: Any,
    path: Sequence[Any],
    last: int,
    *,
    trust: float = TRUST_RADIUS,
    accept: Callable[[Any, float, int], bool] | None = None,
) -> tuple[Array, Any, int]:
    """Steps 2, 3, ... of the window with the refitted mean, from y_1 = `x`, while they can be
    trusted.

    Parameters
    ----------
    view : View
    posterior : Posterior
        Fitted to the new rows.
    x, state : y_1 and the optimizer's state there
    path : sequence
        The predicted z_0 = theta_t, z_1, ..., from `rollout_path`.
    last : int
        Most steps to take in all: one more than the index of the last point that was evaluated.
    trust : float
    accept : callable, optional
        ``accept(mean, |w|^2, j)``: a further test before step j, in gradient space.

    Returns
    -------
    x, state, steps : where the replay ended, after how many steps in all
    """
    steps, reach = 1, 0.0
    y_1 = x, state
    rollout = view.rollout(posterior, *view.lift(x, state), last - 1, path)
    while steps < last:
        # |z_j - theta_t| is not monotone on oscillating paths: the largest so far.
        reach = max(reach, rollout.path_length(steps))
        if not rollout.distance_to_path(steps) <= trust * reach:  # nan is no trust
            break
        if accept is not None and not accept(*rollout.mean_and_noise_factor(), steps + 1):
            break
        if not rollout.step():
            break
        steps += 1
    x, state = y_1 if steps == 1 else (rollout.x, rollout.state)
    (x,), (state,) = view.materialize([x], [state])
    return x, state, steps


def next_window(window: int, accepted: int, whole: bool, parallelism: int, low: int) -> int:
    """S for the next round: 1 when the parallelism is 1, else grown, or shrunk to the accepted
    length but not below `low`.
    """
    if parallelism == 1:
        return 1
    if whole:
        return min(LONGEST * parallelism, math.ceil(GROWTH * window))
    return max(low, math.ceil(SLACK * accepted))
