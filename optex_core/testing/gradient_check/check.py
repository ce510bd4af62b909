"""Is this gradient the derivative of this function? Differences and integrals along random
directions, noise and kinks taken into account.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from optex_core._validation import boolean, callable_, positive, short_repr
from optex_core.adapters.call_signature import callable_name
from optex_core.adapters.objective import make_objective
from optex_core.engine.settings import as_x0, resolve_rng
from optex_core.errors import ArgumentError
from optex_core.testing.gradient_check.coordinates import (
    COORDINATES,
    check_coordinates,
    worst_coordinate,
)
from optex_core.testing.gradient_check.directional import (
    STEPS,
    DirectionCheck,
    difference_sweep,
    gradient_is_stale,
    integrate_line,
)
from optex_core.testing.gradient_check.report import GradientReport
from optex_core.testing.noise_level import POINTS, noise_level
from optex_core.types import Context

#: Random directions: an error hides from one of them with probability about the tolerance.
DIRECTIONS = 3
#: Two calls that differ by less, relative, differ by the order of a sum.
SAME = 1e-12

__all__ = [
    "COORDINATES",
    "DIRECTIONS",
    "STEPS",
    "DirectionCheck",
    "GradientReport",
    "check_gradient",
]


class _PurityMonitor:
    """A callable that notes whether its argument was changed, and the coarsest precision of what
    came back.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        # keeps the signature: `seed` and `ctx` are read from it
        functools.update_wrapper(self, function)
        self.__name__ = callable_name(function)  # objects, such as the built-in problems, have none
        self.function = function
        self.pure = True
        self.eps = 0.0

    def __call__(self, x: Any, *args: Any, **keywords: Any) -> Any:
        before = np.array(x, copy=True)
        out = self.function(x, *args, **keywords)
        self.pure &= bool(np.array_equal(before, x, equal_nan=True))
        for part in out if isinstance(out, tuple) else (out,):
            dtype = getattr(part, "dtype", None)
            if isinstance(dtype, np.dtype) and dtype.kind == "f":
                self.eps = max(self.eps, float(np.finfo(dtype).eps))
        return out


class _CountingObjective:
    """Value and float64 gradient at any point, counted; and the points and answers that tell single
    precision.
    """

    def __init__(self, objective: Any, dtype: Any) -> None:
        self.objective, self.dtype = objective, dtype
        self.context = Context(id=0, seed=0, iteration=0, slot=0)
        self.calls = 0
        self.values: list[float] = []
        self.sample: list[np.ndarray] = []

    def __call__(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        self.calls += 1
        observed = self.objective.evaluate(point.astype(self.dtype), self.context)
        value = float("nan") if observed.value is None else observed.value
        gradient = np.asarray(observed.gradient, np.float64)
        self.values.append(value)
        if len(self.sample) < 12:
            self.sample.append(gradient)
        return value, gradient

    def value(self, point: np.ndarray) -> float:
        return self(point)[0]


@dataclass(frozen=True, slots=True)
class _Precision:
    """What may be asked: eps of the numbers, tolerance of differences, accuracy of the gradient,
    noise of value and slope.
    """

    eps: float
    tolerance: float
    accuracy: float
    noise: float
    gradient_noise: float


def check_gradient(
    fun: Callable[..., Any],
    x0: Any,
    *,
    args: tuple[Any, ...] = (),
    jac: bool | str | Callable[..., Any] = True,
    accuracy: float | None = None,
    noisy: bool = False,
    rng: int | np.random.Generator = 0,
) -> GradientReport:
    """Compare a gradient with its function.

    First the noise of value and gradient is estimated from closely spaced points. Then, along three
    random directions v, with v_k normal times |x_k| (1 where x_k = 0):

    - the central difference (f(x + hv) - f(x - hv)) / 2h is compared with g.v for h = 1e-1, ...,
      1e-12. No single step is right for every function, so the best agreement counts. It must be
      better than 5 eps^(1/3), with eps that of the returned numbers;
    - the gradient integrated over x - hv ... x + hv (Gauss and Kronrod, 7 points) is compared with
      f(x + hv) - f(x - hv). Over a finite distance nothing cancels, so ten digits of a smooth
      gradient can be seen, where differences show five: one wrong entry in 10^4 stands out. It must
      be better than `accuracy`, unless quadrature, noise or rounding explain the gap.

    Then up to 20 entries are compared one by one, and if something is wrong, the worst entry is
    found by halving. About 160 evaluations of value and gradient, whatever d. A kink at x0 is observed
    apart from a wrong gradient: there a gradient between the one-sided slopes is accepted, and
    said.

    Parameters
    ----------
    fun : callable
        As in `minimize`. A keyword-only ``seed`` is always given the same number.
    x0 : array_like, shape (d,)
        Where. A point of zero gradient tells little; a random one is better.
    args : tuple, default ()
        Extra arguments.
    jac : True, callable or str, default True
        As in `minimize`.
    accuracy : float, optional
        The relative accuracy that the gradient is meant to have, such as a solver's tolerance. By
        default 5 eps^(2/3), 2e-10 in float64: more than that is called a loss of precision. For
        differences (`jac` a string) what they can reach.
    noisy : bool, default False
        True: two calls at one point may differ, and only what exceeds the noise counts.
    rng : int or numpy.random.Generator, default 0
        Draws the directions.

    Returns
    -------
    GradientReport
        ``report.ok``, ``report.problems``, and all numbers; ``print(report)`` shows it,
        ``report.plot()`` draws it.

    Raises
    ------
    ArgumentError
        If there is no value to compare with, or the value at x0 is not finite.

    References
    ----------
    Farrell, Ham, Funke, Rognes, Automated derivation of the adjoint of high-level transient finite
    element programs, SIAM J. Sci. Comput. 35, 2013 (the Taylor test); More, Wild, Estimating
    computational noise, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from optex_core.testing import check_gradient
    >>> check_gradient(lambda x: (x @ x, 2 * x), np.arange(1.0, 5.0)).ok
    True
    >>> check_gradient(lambda x: (x @ x, 2 * x + 0.01), np.arange(1.0, 5.0)).ok
    False
    """
    if fun is None:
        raise ArgumentError("check_gradient needs the value to compare with, got fun=None")
    callable_("fun", fun)
    boolean("noisy", noisy)
    x = np.array(as_x0(x0))
    # what cannot be called so says it under its own name
    make_objective(fun, args=args, jac=jac, x0=x)
    watched = _PurityMonitor(fun)
    watched_jac = _PurityMonitor(jac) if callable(jac) and not isinstance(jac, bool) else jac
    at = _CountingObjective(make_objective(watched, args=args, jac=watched_jac, x0=x), x.dtype)
    wide = x.astype(np.float64)
    f, g = at(wide)
    if not (math.isfinite(f) and np.isfinite(g).all()):
        raise ArgumentError(
            f"the value and the gradient at x0 must be finite to be checked, got {f!r} "
            f"and {short_repr(g)}"
        )
    again = at(wide)
    eps = max(float(np.finfo(x.dtype).eps), watched.eps, getattr(watched_jac, "eps", 0.0))
    generator = resolve_rng(rng)
    scale = np.where(x == 0, 1.0, np.abs(wide))
    # long steps may leave the domain; what is not finite is left out
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        draws = [generator.standard_normal(len(x)) * scale for _ in range(DIRECTIONS)]
        p = _precision(at, wide, draws[0], eps, accuracy, jac)
        directions = tuple(_direction(at, wide, f, g, v, p) for v in draws)
        coordinates, bad, frozen = check_coordinates(
            at, wide, f, g, scale, p.eps, p.tolerance, p.noise, generator
        )
        frozen += sum(
            gradient_is_stale(f, at(wide + 1e-5 * v), at(wide - 1e-5 * v), p.eps, p.noise)
            for v in draws
        )
        wrong = _wrong(directions, p)
        inexact = [
            c
            for c in directions
            if c.integral is not None and c.integral.wrong and c.integral.relative > p.accuracy
        ]
        if (
            (wrong or len(inexact) > 1)
            and len(x) > COORDINATES
            and not bad
            and not any(c.kink for c in directions)
        ):
            worst = worst_coordinate(at, wide, draws[0], p.eps, p.noise)
            if worst is not None:
                coordinates, bad = (worst, *coordinates), 1
        single = _single(at, wide, draws[0]) if eps < 1e-10 else ""
    last, once_more = at(wide), at(wide)

    problems: list[str] = []
    notes: list[str] = []
    deterministic = all(_equal((f, g), other) for other in (again, last, once_more))
    if not deterministic:
        _judge_repeats((f, g), again, last, once_more, noisy, problems, notes)
    if not (watched.pure and getattr(watched_jac, "pure", True)):
        problems.append("the function changes its argument x: work on a copy")
    if single:
        problems.append(single)
    kinks = [c for c in directions if c.kink or c.jump]
    if frozen and not kinks:
        problems.append(
            "x moves, the function bends, and the gradient keeps its bits: it is kept "
            "from another point, by a cache with too coarse a key"
        )
    _judge_slopes(directions, wrong, inexact, bad, coordinates, p, problems, notes)
    # At a stationary point the gradient about it tells the size.
    size = max(
        *(float(np.abs(g) @ np.abs(v)) for v in draws),
        *(c.integral.size / c.integral.length for c in directions if c.integral),
        0.0,
    )
    if p.gradient_noise > p.accuracy * size and deterministic and not (problems or kinks):
        share = p.gradient_noise / size if size else math.inf
        problems.append(
            f"between close points the gradient scatters by {share:.1e} of itself, "
            f"where {p.accuracy:.0e} is asked: single precision somewhere, "
            "differences, or a loose solver; if that is meant, pass accuracy="
        )
    if p.noise > 1e4 * eps * max(abs(f), 1e-300):
        notes.append(
            f"the value carries noise of {p.noise:.1e} "
            f"({p.noise / max(abs(f), 1e-300):.0e} of it): differences over short "
            f"steps tell nothing"
        )
    return GradientReport(
        at.objective.name, len(x), f, float(np.abs(g).max()), directions, coordinates, p.tolerance, p.accuracy, deterministic,
        watched.pure and getattr(watched_jac, "pure", True), not kinks, p.noise, p.gradient_noise, at.calls, tuple(problems), tuple(notes),
    )  # fmt: skip


def _precision(
    at: _CountingObjective,
    x: np.ndarray,
    v: np.ndarray,
    eps: float,
    accuracy: float | None,
    jac: Any,
) -> _Precision:
    """Noise from points so close that the function is a line between them; beside x0, which may be
    a kink.
    """
    step, x = math.sqrt(eps) * v, x + 0.0123456789 * v
    values, slopes = np.empty(POINTS), np.empty(POINTS)
    for i in range(POINTS):
        values[i], gradient = at(x + (i - POINTS // 2) * step)
        slopes[i] = float(gradient @ v)
    noise, slope_noise = (
        0.0 if math.isnan(level) else level for level in (noise_level(values), noise_level(slopes))
    )
    if accuracy is None:
        by_method = {"2-point": 50 * math.sqrt(eps), "3-point": 50 * eps ** (2 / 3)}
        accuracy = (
            by_method.get(jac, 5 * eps ** (2 / 3)) if isinstance(jac, str) else 5 * eps ** (2 / 3)
        )
    else:
        accuracy = positive("accuracy", accuracy)
    return _Precision(eps, max(5 * eps ** (1 / 3), accuracy), accuracy, noise, slope_noise)


def _direction(
    at: _CountingObjective, x: np.ndarray, f: float, g: np.ndarray, v: np.ndarray, p: _Precision
) -> DirectionCheck:
    plus, minus = (np.array([at.value(x + sign * h * v) for h in STEPS]) for sign in (1, -1))
    one = difference_sweep(f, float(g @ v), plus, minus, p.eps, p.noise, p.tolerance)
    integral = integrate_line(at, x, v, p.eps, p.noise, p.gradient_noise, p.accuracy)
    return DirectionCheck(
        one.slope, one.errors, one.remainders, one.rate, one.one_sided, one.jump, integral
    )


def _wrong(directions: tuple[DirectionCheck, ...], p: _Precision) -> list[DirectionCheck]:
    """Directions along which no step agrees, kinks aside."""
    return [
        c
        for c in directions
        if not c.kink and not np.nanmin(c.errors, initial=np.inf) <= p.tolerance
    ]


def _judge_slopes(
    directions: tuple[DirectionCheck, ...],
    wrong: list[DirectionCheck],
    inexact: list[DirectionCheck],
    bad: int,
    coordinates: tuple[tuple[int, float, float], ...],
    p: _Precision,
    problems: list[str],
    notes: list[str],
) -> None:
    """Sentences about the derivative itself."""
    jumps, kinks = [c for c in directions if c.jump], [c for c in directions if c.kink]
    if jumps:
        problems.append(
            f"the function jumps at x0 by about {max(c.jump for c in jumps):.3g}: it "
            f"has no gradient there"
        )
        return
    if kinks:
        outside = [c for c in kinks if not _between(c, p.tolerance)]
        sides = "; ".join(f"{c.one_sided[0]:.4g} and {c.one_sided[1]:.4g}" for c in kinks)
        if outside:
            problems.append(
                f"x0 is a kink, with the slopes {sides} on its two sides, and the "
                f"gradient's slope {outside[0].slope:.4g} is not between them"
            )
        else:
            notes.append(
                f"x0 is a kink, with the slopes {sides} on its two sides: the gradient "
                f"is one of many there; check it elsewhere too"
            )
    if wrong:
        off = max(float(np.nanmin(check.errors, initial=np.inf)) for check in wrong)
        sentence = (
            f"along {len(wrong)} of {len(directions)} directions it is off by {off:.1e} or "
            f"more at every step"
        )
        problems.append(f"the gradient is not the derivative: {sentence}")
    if bad and not kinks:
        i, given, difference = coordinates[0]
        problems.append(
            f"{bad} of {len(coordinates)} entries looked at are wrong, such as entry "
            f"{i}: gradient {given:.8g}, difference {difference:.8g}"
        )
    if len(inexact) > 1 and not (wrong or bad or kinks):
        off = float(np.median([c.integral.relative for c in inexact if c.integral is not None]))
        why = (
            "single precision somewhere, differences, a loose solver, or a term that is small here"
        )
        problems.append(
            f"the gradient is off by {off:.1e} along {len(inexact)} directions, where "
            f"{p.accuracy:.0e} is asked and noise hides less: {why}; "
            "if that is meant, pass accuracy="
        )


def _between(check: DirectionCheck, tolerance: float) -> bool:
    low, high = sorted(check.one_sided)
    slack = 100 * tolerance * max(abs(low), abs(high))
    return low - slack <= check.slope <= high + slack


def _equal(a: tuple[float, np.ndarray], b: tuple[float, np.ndarray]) -> bool:
    return a[0] == b[0] and bool(np.array_equal(a[1], b[1]))


def _near(a: tuple[float, np.ndarray], b: tuple[float, np.ndarray]) -> bool:
    return abs(a[0] - b[0]) <= SAME * abs(a[0]) and bool(
        np.abs(a[1] - b[1]).max() <= SAME * np.abs(a[1]).max()
    )


def _judge_repeats(
    first: Any,
    again: Any,
    last: Any,
    once_more: Any,
    noisy: bool,
    problems: list[str],
    notes: list[str],
) -> None:
    """Sentences about calls at one point that differ: rounding, an answer of the call before, or
    noise.
    """
    if all(_near(first, other) for other in (again, last, once_more)):
        notes.append("two calls at x0 differ in their last digits: sums in another order")
    elif _equal(first, again) and _equal(first, once_more):
        problems.append(
            "after a call elsewhere, x0 gets another answer than when it is asked "
            "twice in a row: something is kept from the call before"
        )
    elif noisy:
        notes.append("two evaluations at x0 differ: only what exceeds the noise was counted")
    else:
        problems.append(
            "two evaluations at x0 differ, so differences say little: take the "
            "randomness from a keyword-only argument `seed`"
        )


def _single(at: _CountingObjective, x: np.ndarray, v: np.ndarray) -> str:
    """A sentence if float64 answers carry the digits of float32, or do not see more of x than
    float32 does.
    """
    values = np.array([value for value in at.values if math.isfinite(value)])
    rows = np.array([g for g in at.sample if np.isfinite(g).all()])
    varying = np.ptp(rows, axis=0) > 0 if len(rows) > 2 else np.zeros(len(x), bool)
    if np.ptp(values) > 0 and _short(values):
        return (
            "the values are float64 with the digits of float32: something on their way is "
            "computed in single precision"
        )
    if varying.any() and _short(rows[:, varying]):
        return (
            "the gradient is float64 with the digits of float32: something on its way is "
            "computed in single precision"
        )
    point = x + 0.0123456789 * v
    rough = point.astype(np.float32).astype(np.float64)
    if not np.isfinite(rough).all() or np.array_equal(point, rough):
        return ""
    # Only entries that would show a change of 1e-8 in x: a hundredth of what a change of 1e-5 does
    # is far above rounding there.
    fine, moved, coarse = at(point)[1], at(point * (1 + 1e-5))[1], at(rough)[1]
    seeing = 1e-5 * np.abs(moved - fine) > 100 * np.finfo(np.float64).eps * np.abs(fine)
    if seeing.any() and np.array_equal(fine[seeing], coarse[seeing]):
        return (
            "the gradient does not change when x is rounded to float32: x is cast to "
            "single precision"
        )
    return ""


def _short(numbers: np.ndarray) -> bool:
    """True if all numbers fit into float32 without rounding."""
    with np.errstate(over="ignore", under="ignore"):
        return bool((numbers.astype(np.float32).astype(np.float64) == numbers).all()) and bool(
            np.any(numbers != np.round(numbers))
        )
