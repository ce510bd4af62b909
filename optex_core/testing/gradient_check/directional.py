"""One direction: a sweep of differences, the Taylor rate, kinks, and a line integral."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from optex_core.testing.function_under_test import Pair

#: Steps relative to each coordinate's scale; a wrong gradient disagrees at all of them, rounding
#: and truncation only at some.
STEPS = 10.0 ** -np.arange(1.0, 13.0)
#: Half lengths of the segments that the gradient is integrated over; the first that is short enough
#: for the function is taken.
LENGTHS = (3e-2, 3e-3, 3e-4, 3e-5)
#: Nodes and weights of the rules of Gauss (3 points) and Kronrod (7) on [-1, 1], from the end to
#: the middle; their difference bounds the error of the better one.
_HALF = np.array(
    [
        (0.96049126870802028, 0.10465622602646727, 0.0),
        (0.77459666924148338, 0.26848808986833344, 5 / 9),
        (0.43424374934680256, 0.40139741477596222, 0.0),
    ]
)
_MIDDLE = (0.0, 0.45091653865847414, 8 / 9)
NODES, KRONROD, GAUSS = np.vstack([_HALF * (-1, 1, 1), _MIDDLE, _HALF[::-1]]).T
#: A gap counts when it exceeds so many times all that quadrature, noise and rounding explain.
SIGNIFICANT = 20.0

Function = Callable[[np.ndarray], Pair]


@dataclass(frozen=True, slots=True)
class Precision:
    """What may be asked of values and gradients."""

    eps: float  # of the numbers that came back
    tolerance: float  # accepted relative disagreement of differences
    accuracy: float  # accepted relative error of the gradient along lines
    #: Standard deviations, of the value and of the slope along the first direction.
    noise: float
    gradient_noise: float


@dataclass(frozen=True, slots=True)
class Site:
    """A function at a point, and what may be asked of it."""

    function: Function
    x: np.ndarray
    f: float  # the value at x
    g: np.ndarray  # the gradient there
    p: Precision

    def at(self, x: np.ndarray) -> Site:
        """The same function at another point."""
        return Site(self.function, x, *self.function(x), self.p)


@dataclass(frozen=True, slots=True)
class LineIntegral:
    """The gradient integrated from x to x + 2hv, against the difference of values at its ends."""

    length: float  # h
    gap: float  # | integral of g.v - (f(x + 2hv) - f(x)) |
    doubt: float  # what quadrature, noise and rounding explain of it
    size: float  # the integral of |g.v|, or the difference of the values if that is larger
    rule: float  # the part of `doubt` that a shorter segment makes smaller

    @property
    def relative(self) -> float:
        """gap / size."""
        return self.gap / self.size if self.size > 0 else math.inf if self.gap > 0 else 0.0

    @property
    def wrong(self) -> bool:
        """The gap is more than can be explained."""
        return self.gap > SIGNIFICANT * self.doubt


@dataclass(frozen=True, slots=True)
class DirectionCheck:
    """One direction v of the check."""

    slope: float  # g.v, what the gradient claims
    #: shape (12,), float64: disagreement of the central difference with `slope` at each of `STEPS`,
    #: relative; nan where the function was not finite.
    errors: np.ndarray
    remainders: np.ndarray  # shape (12,), float64: |f(x + h v) - f(x) - h g.v|
    #: The power of h with which `remainders` falls: 2 for a right gradient, 1 for a wrong one, nan
    #: where rounding hides it.
    rate: float
    #: The slopes (f(x) - f(x - hv)) / h and (f(x + hv) - f(x)) / h towards which the differences go
    #: where x is a kink; equal elsewhere.
    one_sided: tuple[float, float] = (math.nan, math.nan)
    jump: float = 0.0  # what f changes by over arbitrarily short steps; 0 where it is continuous
    #: The gradient integrated along v; None where no segment was short enough.
    integral: LineIntegral | None = None

    @property
    def best(self) -> int:
        """The index of the step with the best agreement."""
        return int(np.nanargmin(self.errors)) if np.isfinite(self.errors).any() else 0

    @property
    def best_error(self) -> float:
        """The disagreement at that step; inf where no step gave finite values."""
        return float(np.nanmin(self.errors, initial=np.inf))

    @property
    def kink(self) -> bool:
        """The slopes on both sides differ."""
        return self.one_sided[0] != self.one_sided[1]


def check_direction(site: Site, v: np.ndarray) -> DirectionCheck:
    """Differences at all steps against the slope, and the gradient along a line from x.

    Errors of the central difference are relative to the largest of: both slopes, the change of
    slope over the step, what rounding and noise hide.
    """
    function, x, f, p = site.function, site.x, site.f, site.p
    slope = float(site.g @ v)
    plus, minus = (np.array([function(x + sign * h * v)[0] for h in STEPS]) for sign in (1, -1))
    difference = (plus - minus) / (2 * STEPS)
    large = STEPS >= 1e-4  # below, rounding alone could pass for agreement
    size = np.maximum(np.maximum(np.abs(plus), np.abs(minus)), abs(f))
    floor = np.maximum(64 * p.eps * size, 8 * p.noise)
    rounding = np.where(large, floor / (2 * STEPS) / p.tolerance, 0.0)
    # At a stationary point both slopes are nearly zero, and the curvature tells how near counts.
    # Its least estimate: a steep quartic must not excuse.
    bend = np.abs(plus + minus - 2 * f) / STEPS**2
    curvature = np.min(bend[large], initial=np.inf, where=np.isfinite(bend[large]))
    curved = STEPS * curvature / 2 if np.isfinite(curvature) else 0 * STEPS
    against = np.maximum.reduce([np.abs(difference), 0 * STEPS + abs(slope), rounding, curved])
    gap = np.abs(difference - slope)
    errors = np.divide(gap, against, out=np.zeros_like(gap), where=against > 0)
    errors[~np.isfinite(gap)] = np.nan
    remainders = np.abs(plus - f - STEPS * slope)
    seen = remainders > np.maximum(1e3 * p.eps * size, 10 * p.noise)
    logs = np.log10(remainders, out=np.full(len(STEPS), np.nan), where=seen)
    powers = logs[:-1] - logs[1:]
    powers = powers[np.isfinite(powers)]
    rate = float(np.median(powers)) if len(powers) else math.nan
    sides, jump = _one_sided_slopes(f, plus, minus, np.maximum(16 * p.eps * size, 8 * p.noise))
    return DirectionCheck(slope, errors, remainders, rate, sides, jump, integrate_line(site, v))


def _one_sided_slopes(
    f: float, plus: np.ndarray, minus: np.ndarray, floor: np.ndarray
) -> tuple[tuple[float, float], float]:
    """One-sided slopes, and the jump, from how fast f(x + hv) + f(x - hv) - 2 f(x) falls: with h^2,
    h or not at all, while noise lets it be seen.
    """
    bend = np.abs(plus + minus - 2 * f)
    usable = [k for k in range(1, 9) if np.isfinite(bend[k]) and bend[k] > 30 * floor[k]]
    central = float((plus[4] - minus[4]) / (2 * STEPS[4]))
    # Smooth functions fall below their rounding after three or four decades.
    if len(usable) >= 4 and usable[-1] >= 5:
        first, _, k = usable[-3:]
        power = math.log10(bend[first] / bend[k]) / (k - first)
        if power < 0.3:
            return (central, central), float(bend[k])
        if power < 1.4:
            return (float((f - minus[k]) / STEPS[k]), float((plus[k] - f) / STEPS[k])), 0.0
    return (central, central), 0.0


def gradient_is_stale(site: Site, high: Pair, low: Pair) -> bool:
    """Whether the function bends about x and its gradient has the same bits on both sides."""
    f, p = site.f, site.p
    floor = 100 * max(p.eps * max(abs(f), abs(high[0]), abs(low[0])), p.noise)
    return abs(high[0] + low[0] - 2 * f) > floor and bool(np.array_equal(high[1], low[1]))


def integrate_line(site: Site, v: np.ndarray) -> LineIntegral | None:
    """The gradient along v over the first of `LENGTHS` that the rule resolves, else the one with
    the least doubt; None where none is finite.

    A gap in a segment that is not resolved may be a kink in it: it has to be there in a shorter one
    too.
    """
    found: list[LineIntegral] = []
    for h in LENGTHS:
        one = integrate_segment(site, v, h)
        if one is None:
            continue
        found.append(one)
        # else a shorter one has less doubt
        accurate = SIGNIFICANT * one.doubt <= site.p.accuracy * one.size
        resolved = accurate or one.rule <= one.doubt / 2
        if resolved or (len(found) > 1 and one.wrong and found[-2].wrong):
            return one
    right = [one for one in found if not one.wrong] or found
    return min(right, key=lambda one: one.doubt / one.length, default=None)


def integrate_segment(site: Site, v: np.ndarray, h: float) -> LineIntegral | None:
    """The comparison over one segment: seven gradients and a value; None where something is not
    finite.

    The segment lies on one side of x: at a point of symmetry, as a minimum is, the errors of a
    wrong gradient on both sides cancel.
    """
    function, x, f, p = site.function, site.x, site.f, site.p
    end = function(x + 2 * h * v)[0]
    slopes, sizes = np.empty(len(NODES)), np.empty(len(NODES))
    for i, t in enumerate(NODES):
        g = function(x + h * (1 + t) * v)[1]
        slopes[i], sizes[i] = float(g @ v), float(np.abs(g) @ np.abs(v))
    if not (math.isfinite(end) and np.isfinite(slopes).all()):
        return None
    change = end - f
    fine, coarse = h * float(KRONROD @ slopes), h * float(GAUSS @ slopes)
    # Points and sums are rounded too: |x| eps g per coordinate, which the last term bounds with all
    # signs alike at random.
    steps = float(np.abs(g * x).max()) if len(x) else 0.0
    rounding = p.eps * (
        4 * max(abs(f), abs(end)) + 2 * h * float(sizes.max()) + steps * math.sqrt(len(x))
    )
    rule = abs(fine - coarse)
    doubt = rule + 2 * p.noise + 2 * h * p.gradient_noise + rounding
    size = max(abs(change), h * float(KRONROD @ np.abs(slopes)))
    return LineIntegral(h, abs(fine - change), doubt, size, rule)
