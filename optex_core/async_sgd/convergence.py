"""Convergence theory: the largest stable step for a staleness, and a bound on the mean squared
gradient norm.

Assumptions of the bound: f is L-smooth and at least f(v_0) - Delta; gradients are unbiased with
variance sigma^2; samples are independent of delays and of what was read stale; delays are at most
D; every inner read is u = v_{t - tau} - gamma sum_{j in J} S_j g_j with J any subset of the earlier
steps of the burst, of any core, and S_j any 0/1 masks (mixed reads, lost writes); the push is the
full sum of B steps, applied with eta; alpha = eta gamma. If `step_condition`, 4 L^2 B^2 (alpha^2
D^2 + gamma^2) + 2 L alpha B, is at most 1, then

    1/T sum_t E|grad f(v_t)|^2
        <=  2 Delta / (alpha B T) + 2 L alpha sigma^2 + 4 L^2 B (alpha^2 D + gamma^2) sigma^2.

With eta = 1 and gamma = sqrt(Delta / (L B T sigma^2)) this falls as (B T)^(-1/2): linear speed-up
in all gradients while D = O(sqrt(T / B)). The number of cores does not appear: private sums remove
it.

The bound is our own, not the theorem of the paper (arXiv 2210.02882), whose text was not available.
It leaves out momentum, workers with different f, and delays that depend on the samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from optex_core._validation import integer, nonnegative, positive
from optex_core.types import Array


def stability_cap(delay: float) -> float:
    """The largest a L for which x_{t+1} = x_t - a L x_{t-D} is stable: 2 sin(pi / (2 (2 D + 1))),
    about pi / (2 D + 1). The delay D is at least 0; fractions interpolate.

    Examples
    --------
    >>> [round(stability_cap(delay), 3) for delay in (0, 1, 7, 15)]
    [2.0, 1.0, 0.209, 0.101]
    """
    delay = nonnegative("delay", delay)
    return 2.0 * math.sin(math.pi / (2.0 * (2.0 * delay + 1.0)))


def effective_step(rate: float, smoothness: float, inner_steps: int, eta: float = 1.0) -> float:
    """a L of a burst on a quadratic of curvature L: eta (1 - (1 - gamma L)^B), about eta gamma L B
    while that is small.

    Where gamma L > 1 the inner steps themselves overshoot and the largest over all curvatures up to
    L counts; from gamma L = 2 they diverge.
    """
    gL = positive("rate", rate) * positive("smoothness", smoothness)
    B = integer("inner_steps", inner_steps, low=1)
    if gL >= 2.0:
        return math.inf
    if gL <= 1.0 or B % 2 == 0:
        # for even B the most that any curvature <= L gives is 1, at gamma L = 1
        return eta * (1.0 - (1.0 - min(gL, 1.0)) ** B)
    return eta * (1.0 - (1.0 - gL) ** B)


def step_condition(
    smoothness: float, rate: float, inner_steps: int, delay: float, eta: float = 1.0
) -> float:
    """C = 4 L^2 B^2 (alpha^2 D^2 + gamma^2) + 2 L alpha B; the bound holds for C <= 1."""
    L, gamma, B, alpha = smoothness, rate, inner_steps, eta * rate
    return 4 * L**2 * B**2 * (alpha**2 * delay**2 + gamma**2) + 2 * L * alpha * B


def gradient_bound(
    updates: int,
    *,
    smoothness: float,
    variance: float,
    gap: float,
    rate: float,
    inner_steps: int,
    delay: float,
    eta: float = 1.0,
) -> float:
    """The bound above on the mean of |grad f(v_t)|^2 over T `updates`; nan where the condition does
    not hold.

    `smoothness`, `variance` and `gap` are L, sigma^2 (the trace of the covariance of one gradient)
    and Delta = f(v_0) - inf f; `rate`, `inner_steps` and `delay` are gamma, B and D.
    """
    L, gamma, B, alpha = smoothness, rate, inner_steps, eta * rate
    if step_condition(L, gamma, B, delay, eta) > 1.0:
        return math.nan
    return (
        2 * gap / (alpha * B * updates)
        + 2 * L * alpha * variance
        + 4 * L**2 * B * (alpha**2 * delay + gamma**2) * variance
    )


def suggested_rate(
    updates: int, *, smoothness: float, variance: float, gap: float, inner_steps: int
) -> float:
    """gamma = sqrt(Delta / (L B T sigma^2)), which balances the first two terms for eta = 1."""
    return math.sqrt(gap / (smoothness * inner_steps * updates * variance))


def estimate_smoothness(
    gradient: Callable[[Array], Array], x: Array, *, rng: int = 0, iterations: int = 8
) -> float:
    """The largest curvature at `x`, |H|, by power iteration on differences of gradients; iterations
    + 1 gradients of the same sample.

    A lower estimate of L, which is the largest curvature anywhere: within some 10 % of |H| after
    eight iterations, where the spectrum has a gap.
    """
    g = gradient(x)
    direction = np.random.default_rng(rng).standard_normal(x.shape).astype(x.dtype)
    found = 0.0
    step = math.sqrt(float(np.finfo(x.dtype).eps)) * max(1.0, float(np.linalg.norm(x)))
    for _ in range(iterations):
        direction /= np.linalg.norm(direction)
        image = (gradient(x + x.dtype.type(step) * direction) - g) / x.dtype.type(step)
        found = float(np.linalg.norm(image))
        if not math.isfinite(found) or found == 0.0:
            break
        direction = image
    return found
