"""The window under noise: from one step with N gradients to a few with fewer gradients each.

Notes
-----
Where windows do not pay, f is higher at the predicted points than at theta_t. Fixed windows of two
steps on minibatches (N = 8, 100 iterations): the second point was higher by 0 to .05 of the value
(median) in runs that ended at 0.4 to 0.85 times the value of averages, by .16 to .47 in runs that
ended 1.6 to 120 times above. With momentum at the edge of stability the rise is 0.8 to 1.8 of the
value, seen before a step of a window is taken. It is unbiased: paths are predicted before their
gradients are drawn.

Chosen on networks (ReLU with batches of 64, tanh 64-32-10, softmax) and quadratics of
bench/RESULTS.md, N = 8, three to eight seeds; the others were held out. Within the spread between
seeds: averages over 5 to 10 paths, differences over 6 to 10 iterations, windows that begin at half
of the rise. Measured alternatives, some with other constants beside, final value over that of
averages:

- rises of up to twice the decrease of the values, without the slope: 0.73 for softmax with Adam at
  0.3 (this rule 0.78), but 1.9 for the tanh network with Adam at 0.1 (0.87);
- rises of up to 0.08 of the value: as good on minibatches, but the loss plus a constant would be
  another rule; 2.7 on a quadratic with noise of 0.1 and Adam at 0.1;
- without `FAR`: 1.26 and 1.07 for tanh and ReLU at momentum 1 (20 seeds; 1.17 and 0.78);
- NEEDED for four paths: 1.33 for ReLU at momentum 1 (20 seeds);
- a MAX_NOISE_SHARE of 4: 0.54 in place of 0.64 for ReLU with momentum at 0.03, but 1.6 to 1.8 on
  quadratics with additive noise; without the limit 2.7 there;
- looks ahead where the noise scale allows no window: 1.06 to 1.10 on quadratics and Rosenbrock at
  their noise floor (1.00 to 1.07);
- at N = 2 the noise of rounds of repeats alone, none within windows: 1.62, 1.35 and 1.28 on three
  of 25 pairs (1.27, 1.05 and 1.10), but 0.76 in place of 0.91 for tanh with Adam at 0.01;
- windows of four at N = 4: 3 with additive noise; of eight at N = 16: no gain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

import numpy as np

from optex_core.strategies.base import Observation, Observations
from optex_core.strategies.rollout import EngineView
from optex_core.types import Array

#: The most steps of a window, from so many gradients an iteration on; two with fewer.
LONGEST, LONGEST_FROM = 4, 8
#: Rises may grow with the steps to this power: fixed windows of two steps paid up to a rise of 0.08
#: of the value at point 1, of four steps up to 0.4 at point 3.
POWER = 1.5
#: Windows that are taken already may rise by so much more.
MORE_WHERE_TAKEN = 2.0
#: The noise scale may be at most this times the gradients at one point.
MAX_NOISE_SHARE = 2.0
#: What is left of averages of rises, and of the noise scale, after an iteration; the weight that
#: rises need before they count, which is six paths.
KEPT, NEEDED = 0.8, 3.6
#: From the second path on, rises so many times too high end the look ahead: its slots are missed
#: in the mean at theta_t, which momentum at the edge of stability does not forgive.
FAR = 4.0
#: The decrease is the difference of the means over so many iterations and as many before.
SPAN = 10
#: Iterations without a path at first and after rises that were too high; at most.
PAUSE, LONGEST_PAUSE = 4, 64


@dataclass(frozen=True, slots=True)
class NoisyWindow:
    """What decides how many steps are taken an iteration where gradients do not repeat.

    With the means m_j of the gradients observed at the predicted points z_0 = theta_t, z_1, ...,
    the rise of the path is

        r_j = sum_{i<j} (m_i + m_{i+1}) . (z_{i+1} - z_i) / 2.

    A window of j + 1 steps is taken while, on average over iterations,

    - r_j is at most j^POWER times what an iteration descends: the smaller of the decrease of the
      values and -m_0 . (z_1 - z_0) (this alone where there are no values); twice that in windows
      that are taken already;
    - the noise scale tr Sigma / |grad F|^2, in gradients, is at most MAX_NOISE_SHARE N / (j + 1).
    """

    steps: int = 1  # of the window
    #: Iterations without a path to come; how many after the next rise that is too high.
    pause: int = PAUSE
    next_pause: int = PAUSE
    noise: float = 0.0  # recent sums of estimates of tr Sigma, and of |grad F|^2
    signal: float = 0.0
    slope: float = 0.0  # recent sum of m_0 . (z_1 - z_0)
    rises: np.ndarray = field(default_factory=lambda: np.zeros(LONGEST - 1))  # recent sums of r_j
    weights: np.ndarray = field(default_factory=lambda: np.zeros(LONGEST - 1))  # their weights
    #: Mean values at theta_t, the newest last; nan where there is none.
    values: np.ndarray = field(default_factory=lambda: np.full(2 * SPAN, math.nan))

    def path_length(self, parallelism: int) -> int:
        """Points to predict: up to twice the window, to see whether it can grow."""
        longest = LONGEST if parallelism >= LONGEST_FROM else 2
        hopeless = self.steps == 1 and not self._noise_allows(2, parallelism)
        return 1 if self.pause or hopeless else min(longest, 2 * self.steps)

    def _noise_allows(self, steps: int, parallelism: int) -> bool:
        return self.noise * steps <= MAX_NOISE_SHARE * parallelism * self.signal

    def slots(self, length: int, parallelism: int) -> list[int]:
        """The index on a path of `length` points for each slot: few beyond the window."""
        steps = min(self.steps, length)
        few = 1 if self.steps > 1 or parallelism < LONGEST_FROM else 2
        beyond = [j for j in range(steps, length) for _ in range(few)]
        within = [i % steps for i in range(parallelism - len(beyond))]
        return sorted(within) + beyond

    def advance(
        self,
        view: EngineView,
        points: Sequence[Array],
        at: Sequence[int],
        observations: Observations,
    ) -> tuple[NoisyWindow, Array]:
        """The window after an iteration, and the mean gradient at theta_t.

        Parameters
        ----------
        view : EngineView
        points : sequence of arrays
        at : sequence of int
            The index on the path for each point: 0, 1, ...
        observations : sequence of (Observation or None)
            At the points; not all at theta_t are missing. A point where they are ends the path.
        """
        found: list[list[Observation]] = [[] for _ in range(max(at) + 1)]
        for j, one in zip(at, observations, strict=True):
            if one is not None:
                found[j].append(one)
        groups = list(takewhile(bool, found))
        means = [view.average([one.gradient for one in group]) for group in groups]
        z = [points[at.index(j)] for j in range(len(groups))]
        dot, rise, slope = view.backend.dot, [0.0], 0.0
        for j in range(len(groups) - 1):
            step = view.backend.axpy(-1.0, z[j], z[j + 1])
            before = dot(means[j], step)
            slope = before if j == 0 else slope
            rise.append(rise[-1] + 0.5 * (before + dot(means[j + 1], step)))
        if len(groups) == len(observations):  # no repeats: neighbours stand for them
            every = [[one for group in groups for one in group]]
            mean = view.average([one.gradient for one in every[0]])
            new = self._with_noise(every, [dot(mean, mean)])
        else:
            new = self._with_noise(groups, [dot(m, m) for m in means])
        value = float(
            np.mean([o.value - r for r, group in zip(rise, groups, strict=True) for o in group])
        )
        new = replace(new, values=np.append(self.values[1:], value), pause=max(self.pause - 1, 0))
        if len(found) > 1:
            new = new._with_path(rise[1:], slope, view.parallelism)
        return new, means[0]

    def _with_noise(
        self, groups: Sequence[Sequence[Observation]], squares: Sequence[float]
    ) -> NoisyWindow:
        """After gradients at several points, and the squared norms of their means there.

        The estimates are unbiased: those of McCandlish et al., arXiv 1812.06162, appendix A.1. (Of
        single gradients at neighbours the noise contains their difference.)
        """
        sizes = [len(group) for group in groups]
        degrees = sum(sizes) - len(sizes)
        if not degrees:
            return self
        total = sum(one.squared_norm for group in groups for one in group)
        within = total - sum(n * square for n, square in zip(sizes, squares, strict=True))
        noise = within / degrees
        signal = squares[0] - noise / sizes[0]
        return replace(self, noise=KEPT * self.noise + noise, signal=KEPT * self.signal + signal)

    def _with_path(self, rise: Sequence[float], slope: float, parallelism: int) -> NoisyWindow:
        """After a path, of which the first points were observed."""
        seen = len(rise)
        rises, weights = self.rises.copy(), self.weights.copy()
        rises[:seen] = KEPT * rises[:seen] + rise
        weights[:seen] = KEPT * weights[:seen] + 1.0
        slope = KEPT * self.slope + slope
        descent = min(self.decrease(), -slope / weights[0]) if seen else 0.0
        far = weights[0] > 1.0 and rises[0] > FAR * max(descent, 0.0) * weights[0]
        if seen and weights[0] < NEEDED and not far:
            return replace(self, rises=rises, weights=weights, slope=slope)
        steps = 1
        while steps <= seen and weights[steps - 1] >= NEEDED:
            limit = steps**POWER * descent
            limit *= MORE_WHERE_TAKEN if steps < self.steps else 1.0
            low = rises[steps - 1] <= limit * weights[steps - 1]
            if not (low and self._noise_allows(steps + 1, parallelism)):
                break
            steps += 1
        if steps == 1:
            longer = min(2 * self.next_pause, LONGEST_PAUSE)
            none = np.zeros_like(rises)
            return replace(
                self,
                steps=1,
                pause=self.next_pause,
                next_pause=longer,
                slope=0.0,
                rises=none,
                weights=none,
            )
        shorter = max(self.next_pause // 2, PAUSE)
        return replace(
            self, steps=steps, next_pause=shorter, slope=slope, rises=rises, weights=weights
        )

    def decrease(self) -> float:
        """Of the values, an iteration; infinite without values, 0 while there are few."""
        if math.isnan(self.values[-1]):
            return math.inf
        known = self.values[~np.isnan(self.values)]
        half = len(known) // 2
        if half < 2:
            return 0.0
        return float(np.mean(known[:half]) - np.mean(known[half:])) / half
