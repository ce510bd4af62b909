"""Schedule-free Prodigy: Adam's direction, with an estimated step length and averaged iterates."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from optex_core._validation import POSITIVE, UNIT_INTERVAL, check_fields
from optex_core.backends import for_array
from optex_core.backends.base import Backend
from optex_core.optimizers.base import OPTIMIZERS, Optimizer
from optex_core.optimizers.schedules import LearningRate, check_rate, initial_state, rate_at
from optex_core.types import Array

#: The first phase multiplies the step by GROWTH while successive gradients agree by more than
#: AGREEMENT (their cosine). 6 in place of 4, 0.3 or 0.7 in place of 0.5: equal within 10 %.
GROWTH, AGREEMENT = 4.0, 0.5
#: Steps fall as (1 + t / HORIZON)^(-1/2). Without: minibatches gain 5 %, additive noise loses 40 %.
HORIZON = 20.0


def schedule_free_rule(xp):
    def step(g, z, average, v, b1, b2, c2, root, length, share, eps):
        v = b2 * v + c2 * g * g
        z = z - length * g / (xp.sqrt(v) / root + eps)
        average = average + share * (z - average)
        return z + b1 * (average - z), z, average, v

    return step


def decayed_sum_rule(_xp):
    return lambda s, g, decay, weight: (decay * s + weight * g,)


@dataclass(frozen=True, slots=True)
class ProdigyState:
    """The state of `Prodigy`."""

    t: int  # steps taken
    #: shape (d,): as in `Prodigy`; in the first phase z and s are the last point with a true
    #: gradient, and that gradient.
    z: Array
    average: Array
    v: Array
    s: Array
    x0: Array
    #: d, r and the sum of d^2.
    distance: float
    numerator: float = 0.0
    weights: float = 0.0
    searching: bool = True  # True in the first phase
    schedule: tuple[float, ...] = ()  # the state of a stateful schedule


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class Prodigy(Optimizer):
    """Schedule-free Prodigy: no learning rate to choose, made for noisy gradients.

    First phase: x <- x - rate d g / (sqrt(v^) + eps), v^ as in Adam; d <- 4 d before each further
    step, as long as cos(g, g of the step before) > 1/2. At the first gradient for which it is not,
    d <- d / 4; where the cosine is even negative, that last step is taken back. Then, with x0 the
    first point, z = a = x, and d an estimate of max |x0 - x*|:

    r <- c r + (1 - c) d^2 g . (x0 - x);  s <- c s + (1 - c) d^2 g;  c = sqrt(b2);
    z <- z - rate d (1 + t / 20)^(-1/2) g / (sqrt(v^) + eps);  a <- a + (d^2 / sum d^2) (z - a);
    x <- (1 - b1) z + b1 a;  d <- max(d, r / |s|_1).

    Parameters
    ----------
    learning_rate : float or schedule, default 1.0
        A factor on the estimated length; 1 needs no tuning.
    b1 : float, default 0.9
        Share of the average in x.
    b2 : float, default 0.999
        Decay of v.
    first_step : float, default 1e-6
        d of the first step, in units of x. Too small costs one step for each factor of 4, too large
        cannot be undone. A tenth of a known step length is a good choice.
    eps : float, default 1e-30
        In units of the gradient: keeps coordinates without gradient in place.

    Notes
    -----
    Intended differences from the sources. From Prodigy (algorithm 4): the first phase; v without
    the factor d^2; schedule-free averaging in place of the first moment; steps that fall. From
    schedule-free Adam: averaging weights d^2 in place of the squared learning rate, no warm-up, and
    r is measured at x, where the gradient is. Predicted gradients (``trusted=False``) leave d, r
    and s as they are: they are statements about true gradients.

    Against Adam at the best of six rates, on eleven problems with noise: RESULTS.md, last section.
    With exact gradients a tuned optimizer, or L-BFGS, is the better choice.

    References
    ----------
    Mishchenko, Defazio, Prodigy: an expeditiously adaptive parameter-free learner, ICML 2024, arXiv
    2306.06101, algorithm 4; Defazio, Yang, Mehta, Mishchenko, Khaled, Cutkosky, The road less
    scheduled, NeurIPS 2024, arXiv 2405.15682.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer, x = Prodigy(), np.array([3.0, -400.0])
    >>> state = optimizer.init(x)
    >>> for _ in range(100):
    ...     x, state = optimizer.step(x, 2.0 * x, state)
    >>> bool(abs(x).max() < 40.0)
    True
    """

    name = "prodigy"
    learning_rate: LearningRate = 1.0
    b1: float = field(default=0.9, metadata=UNIT_INTERVAL)
    b2: float = field(default=0.999, metadata=UNIT_INTERVAL)
    first_step: float = field(default=1e-6, metadata=POSITIVE)
    eps: float = field(default=1e-30, metadata=POSITIVE)

    def __post_init__(self) -> None:
        check_rate("learning_rate", self.learning_rate)
        check_fields(self)

    def init(self, x: Array, *, backend: Backend | None = None) -> ProdigyState:
        backend = backend or for_array(x)
        zeros, x0 = backend.zeros(len(x), x.dtype), backend.copy_in(x, x.dtype)
        schedule = initial_state(self.learning_rate)
        return ProdigyState(0, x0, x0, zeros, zeros, x0, self.first_step, schedule=schedule)

    def step(
        self,
        x: Array,
        g: Array,
        state: ProdigyState,
        *,
        value: float = math.nan,
        trusted: bool = True,
        backend: Backend | None = None,
    ) -> tuple[Array, ProdigyState]:
        backend, t = backend or for_array(x), state.t + 1
        rate, schedule = rate_at(self.learning_rate, state.t, state.schedule, value)
        x, g = backend.copy_in(x, x.dtype), backend.copy_in(g, x.dtype)
        z, average, s, searching = state.z, state.average, state.s, state.searching
        d, r, weights = state.distance, state.numerator, state.weights
        if searching and t > 1 and trusted:
            agreement = _cosine(backend, g, s)
            if agreement > AGREEMENT:
                d *= GROWTH
            else:
                searching, d, weights = False, d / GROWTH, 0.0
                if agreement < 0.0:
                    x, g = z, s
                z, average, s = x, x, backend.zeros(len(x), x.dtype)
        estimate = 0.0
        if searching:
            start, average = x, x
            z, s = (x, g) if trusted else (z, s)
        else:
            start = z
            if trusted:
                decay = math.sqrt(self.b2)
                weight = (1.0 - decay) * d * d
                r = decay * r + weight * (backend.dot(g, state.x0) - backend.dot(g, x))
                (s,) = backend.apply(decayed_sum_rule, (s, g), (decay, weight))
                with backend.ignore_fp_warnings():
                    sum_abs = float(backend.xp.abs(s).sum(dtype=np.float64))
                estimate = r / max(sum_abs, 1e-300)
        weights += d * d
        length = rate * d / math.sqrt(1.0 + t / HORIZON)
        b1, root = 0.0 if searching else self.b1, math.sqrt(1.0 - self.b2**t)
        scalars = (b1, self.b2, 1.0 - self.b2, root, length, d * d / weights, self.eps)
        arrays = (g, start, average, state.v)
        x, moved, average, v = backend.apply(schedule_free_rule, arrays, scalars)
        z, d = (z, d) if searching else (moved, max(d, estimate))
        return x, ProdigyState(t, z, average, v, s, state.x0, d, r, weights, searching, schedule)


def _cosine(backend: Backend, a: Array, b: Array) -> float:
    lengths = math.sqrt(backend.dot(a, a)) * math.sqrt(backend.dot(b, b))
    return backend.dot(a, b) / lengths if lengths > 0.0 else 0.0
