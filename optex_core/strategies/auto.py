"""The default: `verified` where gradients are exact, safe averaging where they are noisy, decided
by what the gradients themselves show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from optex_core.model.estimator import Posterior
from optex_core.strategies.base import (
    STRATEGIES,
    EngineView,
    Observation,
    Proposal,
    Strategy,
    Update,
    equally_spaced,
    means_at,
    usable_prefix,
)
from optex_core.strategies.trust_window import (
    COLD_START_WINDOW,
    corrected_rollout,
    next_window,
    truncate_outliers,
)

#: Noise is suspected when its estimated squared length exceeds this share of |g_0|^2 (a noise of
#: 1e-2 of the gradient). 1e-6 asked twice where nothing was noisy and cost one round in twenty;
#: 1e-3 sees a noise of 0.03 late.
NOISE_THRESHOLD_UNKNOWN = 1e-4
#: The same for a function that has been seen to repeat itself. At 1e-2 the speed-up at N = 2 fell
#: from 4.8 to 4.1 (13 noise-free problems).
NOISE_THRESHOLD_EXACT = 0.1
#: Two gradients at one point are the same when they differ by less than this, squared and relative.
EQUAL_RTOL = 1e-24

UNKNOWN, EXACT, NOISY = 0, 1, 2
#: By nature, the share of |g_0|^2 above which the estimated noise is heeded. A function that
#: repeats itself may still be rough (a solver's tolerance); but where it is only hard to model the
#: likelihood calls that noise too, so far more of it is asked for.
NOISE_THRESHOLDS = (NOISE_THRESHOLD_UNKNOWN, NOISE_THRESHOLD_EXACT, NOISE_THRESHOLD_UNKNOWN)


@dataclass(frozen=True, slots=True)
class AutoState:
    """The memory.

    Attributes
    ----------
    steps : int
        S, the window to predict.
    nature : int
        0: not known whether gradients are exact; 1: a repeated gradient was the same; 2: it was
        not.
    """

    steps: int
    noise_status: int = UNKNOWN


@STRATEGIES.register
@dataclass(frozen=True, slots=True)
class Auto(Strategy):
    """Verified replay with a window chosen by signal against noise, down to averaging N gradients
    at one point.

    Exact gradients: as `verified`. As soon as the likelihood's noise exceeds 1e-2 of the gradient,
    one slot repeats theta_t (with a seed of its own): equal gradients prove that the function
    repeats itself, and no slot is spent on that again; its noise is then heeded from 0.3 of the
    gradient on (rough functions). Otherwise, with the noise variance s2 = lambda d s^2:

    - a replay step j + 1 from y_j is taken only while (j + 1)^2 s2 |w_j|^2 <= |mu_j|^2 - s2
      |w_j|^2, and the distance test of `verified` holds;
    - every replay step, the first included, takes the refitted mean: the kernel averages the noise
      of the rows;
    - the same test in the prediction, with |w|^2 as it will be after N more evaluations, sets the
      window; points are spread over it, with repeats;
    - a window of one step puts all N slots at theta_t: the mean gradient, which is `data_parallel`.

    Notes
    -----
    Not in the paper. What was tried and did not work: windows without a signal, j |w|^2 <= 0.3 or 1
    in place of the first test (Adam and momentum ended up to 70 x above data_parallel: the errors
    of one round are coherent); the distance test alone (blind for Adam, whose steps have one
    length).
    """

    name: ClassVar[str] = "auto"
    rejects_outliers: ClassVar[bool] = True
    mean: ClassVar[str] = "linear"

    def init(self, view: EngineView) -> AutoState:
        return AutoState(view.parallelism)

    def plan(self, view: EngineView, strategy_state: AutoState) -> Proposal:
        posterior = view.posterior() if view.parallelism > 1 else None
        if posterior is None:
            return Proposal([view.x])
        noise, limit = posterior.noise_variance, NOISE_THRESHOLDS[strategy_state.noise_status]
        path, means, size = predict_window(
            view,
            posterior,
            strategy_state.steps
            if posterior.n > 1
            else min(strategy_state.steps, COLD_START_WINDOW),
            noise,
            limit,
        )
        suspected = noise > limit * size
        N = view.parallelism
        if strategy_state.noise_status == NOISY and suspected:
            at = [int(i) for i in np.round(np.linspace(0, len(path) - 1, N))]
        elif strategy_state.noise_status == UNKNOWN and suspected:
            at = [*equally_spaced(len(path), N - 1), 0] if N > 2 else [0, 0]
        else:
            at = equally_spaced(len(path), N)
        return Proposal(
            view.materialize([path[i] for i in at])[0],
            means_at(posterior, path, means, at),
            len(path),
            (path, at),
        )

    def filter_observations(
        self, view: EngineView, proposal: Proposal, observations: Sequence[Observation | None]
    ) -> Sequence[Observation | None]:
        return truncate_outliers(observations)

    def advance(
        self,
        view: EngineView,
        strategy_state: AutoState,
        proposal: Proposal,
        observations: Sequence[Observation | None],
    ) -> Update:
        first = observations[0]
        assert first is not None
        if proposal.cache is None:
            x, state = view.step(view.x, first.gradient, view.state, value=first.value)
            return Update(x, state, strategy_state)
        path, at = proposal.cache
        noise_status = (
            strategy_state.noise_status
            if strategy_state.noise_status != UNKNOWN
            else detect_noise(view, at, observations)
        )
        usable = [
            (i, one)
            for i, one in zip(at[: usable_prefix(observations)], observations, strict=False)
            if one is not None
        ]
        last = max(i for i, _ in usable) + 1
        posterior = view.posterior()
        assert posterior is not None
        noise = posterior.noise_variance
        here = [one.gradient for i, one in usable if i == 0]
        gradient = here[0] if len(here) == 1 or noise_status == EXACT else view.average(here)
        noisy = noise > NOISE_THRESHOLDS[noise_status] * view.squared_norm(first.gradient)
        smooth = noisy and last > 1
        # Trusted, smoothed or not: it is the estimate at theta_t itself, made of the gradients that
        # were evaluated there and around it. Were it not, an optimizer that learns from trusted
        # gradients alone (Shampoo's statistics) would learn nothing while a run is noisy. On a
        # regression (24 x 12, singular values over two decades, N = 5, 80 rounds, five seeds, three
        # rates) it then ended 1.08 to 2.0 times higher at a noise of 0.3 of the first gradient,
        # 1.05 to 1.5 times at 1, and the same within 1 % at 3, where gradients are averaged at one
        # point, not smoothed.
        if smooth:
            point, before = view.lift(view.x, view.state)
            x, state = view.step(point, posterior.mean(point), before, value=first.value)
        else:
            x, state = view.step(view.x, gradient, view.state, value=first.value)

        def accept(mean: Any, left: float, steps: int) -> bool:
            return signal_exceeds_noise(view, mean, noise, left, left, steps)

        x, state, steps = corrected_rollout(
            view, posterior, x, state, path, last, accept=accept if noisy else None
        )
        window = strategy_state.steps
        # else the one spare slot (N = 2) asked for the repeat, and the window was not tried
        if len(path) == 1 or max(at) > 0:
            whole = steps >= len(path) >= strategy_state.steps
            window = next_window(
                strategy_state.steps,
                steps,
                whole,
                view.parallelism,
                2 if noisy else view.parallelism,
            )
        return Update(
            x,
            state,
            AutoState(window, noise_status),
            steps,
            note="noisy gradients" if noisy else "",
        )


def predict_window(
    view: EngineView, posterior: Posterior, steps: int, noise: float, limit: float
) -> tuple[list[Any], list[Any], float]:
    """Predicted path, means as those of `rollout_path`, |mu(theta_t)|^2; noise above `limit` of
    that cuts it where N more gradients bring out no signal.
    """
    x, state = view.rollout_start()
    rollout = view.rollout(posterior, x, state, steps - 1)
    path, means, size = [x], [rollout.mean()], view.squared_norm(rollout.mean())
    noisy = noise > limit * size
    wanted = equally_spaced(steps, view.parallelism)
    while len(path) < steps and rollout.step():
        if noisy:
            mean, left = rollout.mean_and_noise_factor()
            if not signal_exceeds_noise(
                view, mean, noise, left, 1.0 / (1.0 / left + view.parallelism), len(path) + 1
            ):
                # The point is still evaluated where a window is left; one step that is not trusted
                # is no window: all slots go to theta_t.
                return ([*path, rollout.x], means, size) if len(path) > 1 else (path, means, size)
            means.append(mean)
        elif len(path) + 1 < steps:  # the mean at the last point is needed for the test only
            means.append(rollout.mean() if len(path) in wanted else None)
        path.append(rollout.x)
    return path, means, size


def signal_exceeds_noise(
    view: EngineView, mean: Any, noise: float, left: float, later: float, steps: int
) -> bool:
    """True while the noise that `steps` steps accumulate, each ``later * noise``, stays below one
    step's signal.

    Errors within a round are coherent, so j steps multiply them by j. Bolder rules, eps^2 |mu|^2 on
    the right with j to a lower power, were faster at a noise of 0.1 but ended up to 1.29 x above
    data_parallel with Adam (this one 1.17 x at half time, 1.0 x at the end).
    """
    return steps * steps * noise * later <= view.squared_norm(mean) - noise * left


def detect_noise(
    view: EngineView, at: Sequence[int], observations: Sequence[Observation | None]
) -> int:
    """EXACT or NOISY if theta_t was evaluated twice, else UNKNOWN."""
    here = [one for i, one in zip(at, observations, strict=False) if i == 0 and one is not None]
    if len(here) < 2:
        return UNKNOWN
    difference = view.backend.squared_distance(here[0].gradient, here[1].gradient)
    return EXACT if difference <= EQUAL_RTOL * here[0].squared_norm else NOISY
