"""The default: long windows where gradients are exact, safe averaging where they are noisy.

Notes
-----
A noise threshold of 1e-6 repeated a point where nothing was noisy and cost one iteration in twenty;
1e-3 sees a noise of 0.03 late.

The smoothed step is a trusted one: an optimizer that learns from trusted gradients alone (Shampoo's
statistics) would learn nothing in a noisy run. On a regression (24 x 12, N = 5, 80 iterations, five
seeds, three rates) it ended 1.08 to 2.0 times higher at a noise of 0.3 of the first gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from optex_core._validation import boolean
from optex_core.model.posterior import Posterior
from optex_core.strategies._noise import EXACT, NOISY, UNKNOWN, detect_noise
from optex_core.strategies._noisy_window import NoisyWindow
from optex_core.strategies._safeguard import Safeguard
from optex_core.strategies.base import STRATEGIES, Observations, Proposal, Strategy, Update
from optex_core.strategies.rollout import EngineView, Path, equally_spaced
from optex_core.strategies.trust_window import (
    COLD_START_WINDOW,
    next_window,
    run_corrected,
    truncate_outliers,
)

#: The share of |g_0|^2 above which the estimated noise has a gradient repeated. Where a function is
#: only hard to model the likelihood calls that noise too.
NOISE_THRESHOLD = 1e-4


@dataclass(frozen=True, slots=True)
class AutoState:
    """The state of `Auto`.

    Attributes
    ----------
    steps : int
        S, the window to predict.
    noise_status : int
        UNKNOWN, EXACT (a repeated gradient was the same) or NOISY (it was not).
    safeguard : Safeguard
        The undisturbed optimizer beside the windows, where gradients are not noisy.
    retired : tuple
        Not read. It keeps the place of the calibration slope, which files before 30 November 2026
        hold for N = 2 and 3.
    window : NoisyWindow
        The window where gradients are noisy.
    """

    steps: int
    noise_status: int = UNKNOWN
    safeguard: Safeguard = Safeguard()
    retired: tuple[float, int, int] = (0.5, 0, 4)
    # Leaves of saved files keep their places: a new one comes last.
    window: NoisyWindow = field(default_factory=NoisyWindow)


@STRATEGIES.register
@dataclass(frozen=True, slots=True)
class Auto(Strategy):
    """`Verified` with a window chosen by signal against noise, down to N gradients at one point.

    Exact gradients: as `verified`. As soon as the likelihood's noise exceeds 1e-2 of the gradient,
    one slot repeats theta_t (with its own seed): equal gradients prove that the function repeats
    itself, and no slot is spent on that again.

    Beside the windows runs the undisturbed optimizer, on one gradient an iteration (N = 2: only
    while windows are in doubt). As soon as its value is below all iterates since the two parted,
    the run goes on from it; without values gradients tell the difference. So with exact values and
    N >= 3 the lowest value is never above that of the optimizer alone, and the best evaluated point
    is the result.

    Gradients that do not repeat: a window of a few steps (two; up to four with N >= 8) is
    predicted, with N / steps gradients at each point, and corrected with the refitted mean, the
    first step included: the kernel averages the noise of the rows. It is taken only while f is not
    seen to rise along the path by more than an iteration descends, and while the noise scale allows
    for fewer gradients at a point (`NoisyWindow`). Else all N slots are at theta_t, which is
    `data_parallel`, and few look ahead every now and then. The value and gradient of an iteration
    are means over the slots at theta_t.

    Parameters
    ----------
    stochastic : bool, default False
        True: gradients are known to differ from seed to seed. The first iteration then has N points
        at theta_0 in place of one, and the first step takes their mean. `minimize` sets it where
        the function takes ``seed``. Nothing to `LBFGS` as it is, for which `Lookahead` runs.

    Notes
    -----
    Not in the paper. `stochastic` is for Adam's second moment, which keeps the square of the first
    gradient, noise included, for a thousand steps: on minibatches (N = 8, five seeds, tuned rates)
    runs that began with one gradient ended up to 1.4 times higher than batches of N.
    """

    name: ClassVar[str] = "auto"
    stochastic: bool = False
    rejects_outliers: ClassVar[bool] = True
    prior_mean: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        boolean("stochastic", self.stochastic)

    def init(self, view: EngineView) -> AutoState:
        safeguard = Safeguard(view.x, view.state) if view.parallelism > 1 else Safeguard()
        return AutoState(view.parallelism, safeguard=safeguard)

    def returns_best(self, strategy_state: AutoState) -> bool:
        return strategy_state.safeguard.x is not None and strategy_state.noise_status != NOISY

    def averages_gradients(self, strategy_state: AutoState) -> bool:
        return strategy_state.noise_status == NOISY

    def plan(self, view: EngineView, strategy_state: AutoState) -> Proposal:
        s, N = strategy_state, view.parallelism
        if s.noise_status == NOISY:
            return _plan_noisy(view, s.window)
        posterior = view.posterior()
        if posterior is None:
            repeats = N - 1 if self.stochastic and s.noise_status != EXACT else 0
            return Proposal([view.x] * (1 + repeats), unrecorded=repeats)
        steps = min(s.steps, COLD_START_WINDOW) if posterior.n == 1 else s.steps
        path, alone = view.predict(steps - 1, posterior=posterior), s.safeguard.evaluations(N)
        if s.noise_status == UNKNOWN and _is_suspect(view, posterior, path):
            alone = min(alone, N - 2)
            at = [*equally_spaced(len(path), max(N - alone - 1, 1)), 0]
        else:
            at = equally_spaced(len(path), N - alone)
            # Slots that the first window leaves over tell the noise status. Equal rows tell the
            # likelihood, too, that there is no noise: without them the speed-up at N = 8 was 4.23
            # in place of 4.47 (31 noise-free problems).
            if posterior.n == 1:
                at += [0] * (N - alone - len(at))
        proposal = Proposal.along(path, at)
        points = [*proposal.points, *([s.safeguard.x] if alone else [])]
        return replace(proposal, points=points, unrecorded=alone)

    def filter_observations(self, observations: Observations) -> Observations:
        return truncate_outliers(observations)

    def advance(
        self,
        view: EngineView,
        strategy_state: AutoState,
        proposal: Proposal,
        observations: Observations,
    ) -> Update:
        s, N, path = strategy_state, view.parallelism, proposal.path
        if s.noise_status == NOISY:
            return _advance_noisy(view, s, proposal, observations)
        posterior = None if path is None else view.posterior()
        if path is None or posterior is None:
            # Points of a path that no model is left for are not at theta_t.
            return self._average(view, s, observations if path is None else observations[:1])
        alone = observations[-1] if proposal.unrecorded else None
        observations = observations[: len(observations) - proposal.unrecorded]
        usable = self.usable(observations)
        first = usable[0]
        at = path.at[: len(usable)]
        last, status = max(at) + 1, s.noise_status
        if status == UNKNOWN:
            status = detect_noise(view.backend, path.at, observations)
        if status == NOISY:
            return self._average(view, s, [one for i, one in zip(at, usable, strict=True) if not i])
        halved = N == 2 and s.safeguard.evaluations(N) > 0  # one gradient is left, at theta_t
        if halved:
            last = len(path)
        x, state = view.step(view.x, first.gradient, view.state, value=first.value)
        plain = (x, state) if s.safeguard.needs_step(N) else None
        rollout = view.rollout(last - 1, x, state, posterior=posterior, path=path.points)
        del x, state  # as large as Adam's three vectors, and another three are made now
        steps = run_corrected(rollout)
        x, state = rollout.x, rollout.state
        del rollout  # its last mean
        window = s.steps
        whole = steps >= len(path) >= window
        if halved:
            window = next_window(window, steps, whole, N, 2)
            window = window if first.value <= s.safeguard.low else 2
        # Else the one spare slot (N = 2) repeated theta_t, and the window was not tried.
        elif len(path) == 1 or max(path.at) > 0:
            window = next_window(window, steps, whole, N, N)
        safeguard, behind = s.safeguard.advance(view, first, alone, plain, x, steps)
        if behind:
            note = "went on from the undisturbed optimizer"
            new = AutoState(N, status, safeguard)
            return Update(safeguard.x, safeguard.state, new, note=note)
        return Update(x, state, AutoState(window, status, safeguard), steps)

    def _average(self, view: EngineView, s: AutoState, observations: Observations) -> Update:
        """The step without a model, with the mean of gradients at theta_t if they are noisy."""
        known = [one for one in observations if one is not None]
        first, status = known[0], s.noise_status
        if status == UNKNOWN:
            status = detect_noise(view.backend, [0] * len(known), known)
        gradients = [one.gradient for one in known]
        gradient = view.average(gradients) if status == NOISY else first.gradient
        x, state = view.step(view.x, gradient, view.state, value=first.value)
        guard = s.safeguard
        guard = guard if guard.apart and status != NOISY else guard.restarted(x, state)
        return Update(x, state, replace(s, noise_status=status, safeguard=guard))


def _plan_noisy(view: EngineView, window: NoisyWindow) -> Proposal:
    """All points at theta_t, or most of them on the window and few beyond it."""
    N, length = view.parallelism, window.path_length(view.parallelism)
    posterior = view.posterior() if length > 1 else None
    if posterior is None:
        return Proposal([view.x] * N, keep_outliers=True)
    path = view.predict(length - 1, posterior=posterior)
    return replace(Proposal.along(path, window.slots(len(path), N)), keep_outliers=True)


def _advance_noisy(
    view: EngineView, s: AutoState, proposal: Proposal, observations: Observations
) -> Update:
    """The step with the mean gradient at theta_t, or a window of steps with the refitted mean."""
    path, first = proposal.path, observations[0]
    assert first is not None
    at = [0] * len(observations) if path is None else path.at
    window, gradient = s.window.advance(view, proposal.points, at, observations)
    value, steps = first.value, 1
    posterior = view.posterior() if path is not None and s.window.steps > 1 else None
    if path is None or posterior is None:
        x, state = view.step(view.x, gradient, view.state, value=value)
    else:
        x, state = view.smoothed_step(posterior, value)
        ahead = min(s.window.steps, window.steps) - 1
        rollout = view.rollout(ahead, x, state, posterior=posterior, path=path.points)
        steps = run_corrected(rollout)
        x, state = rollout.x, rollout.state
    new = replace(s, safeguard=s.safeguard.restarted(x, state), window=window)
    return Update(x, state, new, steps, note="noisy gradients")


def _is_suspect(view: EngineView, posterior: Posterior, path: Path) -> bool:
    """True if the likelihood's noise counts beside mu(theta_t)."""
    start = path.means[0] if path.means else None
    if start is None:  # no step could be predicted
        return False
    return posterior.noise_variance > NOISE_THRESHOLD * view.space.squared_norm(start)
