"""Check of a gradient against the values: differences and integrals along random directions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from optex_core._validation import boolean, callable_, positive, short_repr
from optex_core.adapters.call_signature import callable_name
from optex_core.adapters.objective import make_objective
from optex_core.engine.settings import as_x0, resolve_rng
from optex_core.errors import ArgumentError
from optex_core.testing.function_under_test import (
    SAME_RTOL,
    FunctionUnderTest,
    Pair,
    relative_difference,
)
from optex_core.testing.gradient_check.coordinates import check_coordinates, worst_coordinate
from optex_core.testing.gradient_check.directional import (
    SIGNIFICANT,
    DirectionCheck,
    Function,
    LineIntegral,
    Precision,
    Site,
    check_direction,
    gradient_is_stale,
    integrate_line,
)
from optex_core.testing.gradient_check.noise_level import POINTS, noise_level, rounding_level
from optex_core.testing.gradient_check.report import GradientReport

#: Random directions: an error hides from one of them with probability about the tolerance.
DIRECTIONS = 3
#: Where noise is looked for, in units of the first direction: beside x0, which may be a kink.
BESIDE = 0.0123456789
#: Where a second line in each direction begins, in units of another direction.
ASIDE = 0.03
#: Sizes of values and gradients whose squares are far from the ends of float64; others are scaled.
MODERATE = 1e-100, 1e100


class _PurityMonitor:
    """A callable that notes changes of its argument and the coarsest precision of answers."""

    def __init__(self, function: Callable[..., object]) -> None:
        # keeps the signature: `seed` and `ctx` are read from it
        functools.update_wrapper(self, function)
        self.__name__ = callable_name(function)  # objects, such as the built-in problems, have none
        self.function, self.pure, self.eps = function, True, 0.0

    def __call__(self, x: np.ndarray, *args: object, **keywords: object) -> object:
        before = np.array(x, copy=True)
        out = self.function(x, *args, **keywords)
        self.pure &= bool(np.array_equal(before, x, equal_nan=True))
        for part in out if isinstance(out, tuple) else (out,):
            dtype = getattr(part, "dtype", None)
            if isinstance(dtype, np.dtype) and dtype.kind == "f":
                self.eps = max(self.eps, float(np.finfo(dtype).eps))
        return out


def check_gradient(
    fun: Callable[..., object],
    x0: ArrayLike,
    *,
    args: tuple[object, ...] = (),
    jac: bool | str | Callable[..., object] = True,
    accuracy: float | None = None,
    noisy: bool = False,
    rng: int | np.random.Generator = 0,
) -> GradientReport:
    """Compare a gradient with its function.

    First the noise of value and gradient is estimated from closely spaced points. Then, along three
    random directions v, with v_k normal times |x_k| (1 where x_k = 0):

    - The central difference (f(x + hv) - f(x - hv)) / 2h is compared with g.v for h = 1e-1, ...,
      1e-12. No single step is right for every function, so the best agreement counts. It must be
      better than 5 eps^(1/3), with eps that of the returned numbers.
    - The gradient integrated from x to x + 2hv (Gauss and Kronrod, 7 points) is compared with f(x +
      2hv) - f(x). Over a finite distance nothing cancels, so ten digits of a smooth gradient can be
      seen, where differences show five: one wrong entry in 10^4 stands out. On one side of x
      nothing cancels by symmetry either: a gradient that is right at a stationary point and wrong
      beside it is found. The gap must be smaller than `accuracy`, unless quadrature, noise or
      rounding explain it.

    Then up to 20 entries are compared one by one, and if something is wrong, the worst entry is
    found by halving. About 200 evaluations of value and gradient, whatever d. At a kink a gradient
    between the one-sided slopes is accepted, with a note. Values of any size are taken: beyond
    1e100 and below 1e-100 they are scaled by a power of two.

    Parameters
    ----------
    fun : callable
        As in `minimize`. A keyword-only ``seed`` is always given the same number.
    x0 : array_like, shape (d,)
        Where. What is wrong elsewhere only is not found.
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
        ``report.ok``, ``report.problems``, and all numbers; ``print`` and ``plot`` it.

    Raises
    ------
    ArgumentError
        If there is no value to compare with, or the value at x0 is not finite.

    References
    ----------
    Farrell, Ham, Funke, Rognes, SIAM J. Sci. Comput. 35, 2013 (the Taylor test); More, Wild, SIAM
    J. Sci. Comput. 33, 2011 (noise).

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
    x0 = np.array(as_x0(x0))
    # what cannot be called so says it under its own name
    make_objective(fun, args=args, jac=jac, x0=x0)
    monitors = [_PurityMonitor(one) for one in (fun, jac) if callable(one)]
    watched_jac = monitors[1] if len(monitors) > 1 else jac
    objective = make_objective(monitors[0], args=args, jac=watched_jac, x0=x0)
    x, at = x0.astype(np.float64), FunctionUnderTest(objective, x0.dtype)
    f, g = at(x)
    if not (math.isfinite(f) and np.isfinite(g).all()):
        raise ArgumentError(
            f"the value and the gradient at x0 must be finite to be checked, got {f!r} "
            f"and {short_repr(g)}"
        )
    rng = resolve_rng(rng)
    size = np.where(np.abs(x) < 1e-150, 1.0, np.abs(x))
    draws = [rng.standard_normal(len(x)) * size for _ in range(DIRECTIONS)]
    unit = at.scale = _scale(at, x, f, g, draws[0], size)
    f, g, again = f / unit, g / unit, at(x)
    eps = max(float(np.finfo(x0.dtype).eps), *(one.eps for one in monitors))
    # long steps may leave the domain; what is not finite is left out
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        p = _precision(at, x, draws[0], eps, accuracy, jac)
        site = Site(at, x, f, g, p)
        found = [check_direction(site, v) for v in draws]
        # Of a gradient A x, a line through 0 shows the symmetric part of A alone.
        bases = [site.at(x + ASIDE * v) for v in (*draws[1:], draws[0])]
        aside = [integrate_line(base, v) for base, v in zip(bases, draws, strict=True)]
        rows, bad, stale = check_coordinates(site, size, rng)
        for v in draws:
            stale += gradient_is_stale(site, at(x + 1e-5 * v), at(x - 1e-5 * v))
        judge = _Judge(found, aside, bad, p)
        if judge.suspicious and not bad:
            worst = worst_coordinate(site, draws[0])
            if worst is not None:
                rows, judge.bad = (worst, *rows), 1
        single = _single_precision(at, x, draws[0]) if eps < 1e-10 else ""
    answers = [again, at(x), at(x)]

    pure = all(one.pure for one in monitors)
    deterministic = all(relative_difference((f, g), one) == 0 for one in answers)
    if not deterministic:
        judge.repeats((f, g), answers, noisy)
    if not pure:
        judge.problems.append("the function changes its argument x: work on a copy")
    if single:
        judge.problems.append(single)
    if stale and not judge.kinks:
        judge.problems.append(
            "x moves, the function bends, and the gradient keeps its bits: it is kept "
            "from another point, by a cache with too coarse a key"
        )
    judge.slopes(rows, unit)
    if deterministic:
        judge.scatter(max(float(np.abs(g) @ np.abs(v)) for v in draws))
    if p.noise > 1e4 * eps * max(abs(f), 1e-300):
        judge.notes.append(
            f"the value carries noise of {p.noise * unit:.1e} "
            f"({p.noise / max(abs(f), 1e-300):.0e} of it): differences over short "
            f"steps tell nothing, and errors of the gradient below {judge.hidden:.0e} of it are "
            f"not seen"
        )
    return GradientReport(
        name=objective.name,
        d=len(x),
        value=f * unit,
        gradient_norm=float(np.abs(g).max()) * unit,
        unit=unit,
        directions=tuple(found),
        coordinates=rows,
        tolerance=p.tolerance,
        accuracy=p.accuracy,
        deterministic=deterministic,
        pure=pure,
        smooth=not judge.kinks,
        noise=p.noise * unit,
        gradient_noise=p.gradient_noise * unit,
        evaluations=len(at.seconds),
        problems=tuple(judge.problems),
        notes=tuple(judge.notes),
    )


def _scale(
    function: Function, x: np.ndarray, f: float, g: np.ndarray, v: np.ndarray, size: np.ndarray
) -> float:
    """A power of two of about the size of values and changes at and beside x, 1 where moderate."""
    with np.errstate(over="ignore", invalid="ignore"):
        value, gradient = function(x + BESIDE * v)
        sizes = [abs(f), abs(value), *(float((np.abs(one) * size).max()) for one in (g, gradient))]
    found = max((one for one in sizes if math.isfinite(one)), default=1.0)
    if found == 0.0 or MODERATE[0] < found < MODERATE[1]:
        return 1.0
    return 2.0 ** min(max(round(math.log2(found)), -1000), 1000)


def _precision(
    function: Function,
    x: np.ndarray,
    v: np.ndarray,
    eps: float,
    accuracy: float | None,
    jac: object,
) -> Precision:
    """Noise from points so close that the function is a line between them, rounding from others."""
    apart = [function(x + t * v)[0] for h in (0.1, 0.03, BESIDE, 1e-3) for t in (-h, h)]
    step, x = math.sqrt(eps) * v, x + BESIDE * v
    pairs = [function(x + (i - POINTS // 2) * step) for i in range(POINTS)]
    levels = (
        noise_level(np.array(one))
        for one in ([value for value, _ in pairs], [g @ v for _, g in pairs])
    )
    noise, slope_noise = (0.0 if math.isnan(level) else level for level in levels)
    noise = max(noise, rounding_level(np.array(apart)))
    if accuracy is None:
        by_method = {"2-point": 50 * math.sqrt(eps), "3-point": 50 * eps ** (2 / 3)}
        default = 5 * eps ** (2 / 3)
        accuracy = by_method.get(jac, default) if isinstance(jac, str) else default
    else:
        accuracy = positive("accuracy", accuracy)
    return Precision(eps, max(5 * eps ** (1 / 3), accuracy), accuracy, noise, slope_noise)


class _Judge:
    """Turns numbers into sentences: `problems`, and `notes` on what is no fault."""

    def __init__(
        self,
        directions: Sequence[DirectionCheck],
        aside: Sequence[LineIntegral | None],
        bad: int,
        p: Precision,
    ) -> None:
        self.directions, self.bad, self.p = directions, bad, p
        self.problems: list[str] = []
        self.notes: list[str] = []
        #: Directions along which x0 is a kink or a jump, and those along which no step agrees.
        self.kinks = [c for c in directions if c.kink or c.jump]
        self.wrong = [c for c in directions if not c.kink and not c.best_error <= p.tolerance]
        #: Integrals, and the relative gaps that nothing explains, where two or more have one.
        self.lines = [one for one in (*(c.integral for c in directions), *aside) if one]
        gaps = [one.relative for one in self.lines if one.wrong and one.relative > p.accuracy]
        self.inexact = gaps if len(gaps) > 1 else []

    @property
    def suspicious(self) -> bool:
        """Something is wrong along directions, and it is no kink."""
        return bool(self.wrong or self.inexact) and not any(c.kink for c in self.directions)

    @property
    def hidden(self) -> float:
        """The relative error of the gradient that noise hides along every line."""
        seen = [SIGNIFICANT * one.doubt / one.size for one in self.lines if one.size > 0.0]
        return min(seen, default=math.inf)

    def slopes(self, rows: tuple[tuple[int, float, float], ...], unit: float) -> None:
        """Judge the derivative itself."""
        add, p, total = self.problems.append, self.p, len(self.directions)
        jump = unit * max(c.jump for c in self.directions)
        if jump:
            add(f"the function jumps at x0 by about {jump:.3g}: it has no gradient there")
            return
        if self.kinks:
            pairs = [[unit * side for side in c.one_sided] for c in self.kinks]
            sides = "; ".join(f"{left:.4g} and {right:.4g}" for left, right in pairs)
            text = f"x0 is a kink, with the slopes {sides} on its two sides"
            outside = [unit * c.slope for c in self.kinks if not _is_between(c, p.tolerance)]
            if outside:
                add(f"{text}, and the gradient's slope {outside[0]:.4g} is not between them")
            else:
                self.notes.append(
                    f"{text}: the gradient is one of many there; check it elsewhere too"
                )
        if self.wrong:
            off = max(c.best_error for c in self.wrong)
            add(
                f"the gradient is not the derivative: along {len(self.wrong)} of {total} "
                f"directions it is off by {off:.1e} or more at every step"
            )
        elif self.inexact and not self.kinks:
            off, n = float(np.median(self.inexact)), len(self.inexact)
            if off > p.tolerance:
                add(
                    f"the gradient is not the derivative: along {n} of {len(self.lines)} lines "
                    f"that begin at x0 or near it its integral is off by {off:.1e}"
                )
            elif not self.bad:
                add(
                    f"the gradient is off by {off:.1e} along {n} lines, where "
                    f"{p.accuracy:.0e} is asked and noise hides less: {_SOURCES}, or a term that "
                    f"is small here; if that is meant, pass accuracy="
                )
        if self.bad and not self.kinks:
            i, given, difference = rows[0]
            add(
                f"{self.bad} of {len(rows)} entries looked at are wrong, such as entry {i}: "
                f"gradient {unit * given:.8g}, difference {unit * difference:.8g}"
            )

    def scatter(self, size: float) -> None:
        """Judge the noise of the gradient against its size at x0 and about it."""
        size = max([size, *(one.size / one.length for one in self.lines)])
        if self.p.gradient_noise > self.p.accuracy * size and not (self.problems or self.kinks):
            share = self.p.gradient_noise / size if size else math.inf
            self.problems.append(
                f"between close points the gradient scatters by {share:.1e} of itself, where "
                f"{self.p.accuracy:.0e} is asked: {_SOURCES}; if that is meant, pass accuracy="
            )

    def repeats(self, first: Pair, answers: list[Pair], noisy: bool) -> None:
        """Judge calls at one point that differ: rounding, a kept answer, or noise."""
        gaps, text = [relative_difference(first, one) for one in answers], "two evaluations at x0"
        if max(gaps) <= SAME_RTOL:
            self.notes.append(f"{text} differ in their last digits: sums in another order")
        elif gaps[0] == 0 and gaps[2] == 0:
            self.problems.append(
                "after a call elsewhere, x0 gets another answer than when it is asked "
                "twice in a row: something is kept from the call before"
            )
        elif noisy:
            self.notes.append(f"{text} differ: only what exceeds the noise was counted")
        else:
            self.problems.append(
                f"{text} differ, so differences say little: take the randomness from a "
                f"keyword-only argument `seed`"
            )


_SOURCES = "single precision somewhere, differences, or a loose solver"


def _is_between(check: DirectionCheck, tolerance: float) -> bool:
    low, high = sorted(check.one_sided)
    slack = 100 * tolerance * max(abs(low), abs(high))
    return low - slack <= check.slope <= high + slack


def _single_precision(at: FunctionUnderTest, x: np.ndarray, v: np.ndarray) -> str:
    """A sentence if float64 answers carry digits of float32, or see no more of x than it does."""
    values = np.array([value for value in at.values if math.isfinite(value)]) / at.scale
    rows = np.array([g for g in at.gradients if np.isfinite(g).all()]) / at.scale
    varying = np.ptp(rows, axis=0) > 0 if len(rows) > 2 else np.zeros(len(x), bool)
    for what, numbers in (("values are", values), ("gradient is", rows[:, varying])):
        if numbers.size and np.ptp(numbers) > 0 and _fit_into_float32(numbers):
            return (
                f"the {what} float64 with the digits of float32: something on the way is "
                "computed in single precision"
            )
    point = x + BESIDE * v
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


def _fit_into_float32(numbers: np.ndarray) -> bool:
    """True if all numbers fit into float32 without rounding, and are not all whole."""
    with np.errstate(over="ignore", under="ignore"):
        fits = (numbers.astype(np.float32).astype(np.float64) == numbers).all()
    return bool(fits) and bool(np.any(numbers != np.round(numbers)))
