"""Is this gradient the derivative of this function? Differences along random directions, over a sweep of steps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optex_core._checks import shown
from optex_core.adapters.caller import name_of
from optex_core.adapters.objective import make_objective
from optex_core.errors import ArgumentError
from optex_core.types import Context

#: Steps relative to each coordinate's scale; a wrong gradient disagrees at all of them, rounding and truncation only at some.
STEPS = 10.0 ** -np.arange(1.0, 13.0)
#: Random directions: an error hides from one of them with probability about the tolerance.
DIRECTIONS = 3
#: Coordinates looked at one by one, to say where an error sits.
COORDINATES = 20


@dataclass(frozen=True, slots=True)
class DirectionCheck:
    """One direction v of the check.

    Attributes
    ----------
    slope : float
        g.v, what the gradient claims.
    errors : array, shape (12,), float64
        Disagreement of the central difference with `slope` at each of `STEPS`, relative; nan where the function was not finite.
    remainders : array, shape (12,), float64
        |f(x + h v) - f(x) - h g.v|.
    rate : float
        The power of h with which `remainders` falls: 2 for a right gradient, 1 for a wrong one, nan where rounding hides it.
    """

    slope: float
    errors: np.ndarray
    remainders: np.ndarray
    rate: float

    @property
    def best(self) -> int:
        """The index of the step with the best agreement."""
        return int(np.nanargmin(self.errors)) if np.isfinite(self.errors).any() else 0


@dataclass(frozen=True, slots=True)
class GradientReport:
    """What `check_gradient` found; ``print(report)`` shows it.

    Attributes
    ----------
    name : str
        The function.
    d : int
        Number of parameters.
    value, gradient_norm : float
        At x0; the norm is the largest entry.
    directions : tuple of DirectionCheck
        The sweeps.
    coordinates : tuple of (int, float, float)
        Index, gradient entry and central difference, those that disagree most first.
    tolerance : float
        Largest accepted relative disagreement at the best step.
    deterministic : bool
        Two evaluations at x0 gave the same bits.
    pure : bool
        The function left its argument as it was.
    problems : tuple of str
        Sentences, empty if all is well.
    """

    name: str
    d: int
    value: float
    gradient_norm: float
    directions: tuple[DirectionCheck, ...]
    coordinates: tuple[tuple[int, float, float], ...]
    tolerance: float
    deterministic: bool
    pure: bool
    problems: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """True if nothing was found."""
        return not self.problems

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        lines = [f"gradient of {self.name}, d = {self.d}: {'ok' if self.ok else 'NOT OK'}"]
        lines += [f"  * {problem}" for problem in self.problems]
        lines.append(f"  value {self.value:.8g}, largest |gradient| entry {self.gradient_norm:.4g}")
        lines.append(
            f"  relative disagreement with central differences along {len(self.directions)} random directions (accepted: {self.tolerance:.1e})"
        )
        lines.append("     step  " + "".join(f"{f'direction {i + 1}':>14}" for i in range(len(self.directions))))
        for k, step in enumerate(STEPS):
            marks = (f"{check.errors[k]:.1e}{'*' if k == check.best else ' '}" for check in self.directions)
            lines.append(f"    {step:.0e}  " + "".join(f"{mark:>14}" for mark in marks))
        lines.append("    slope  " + "".join(f"{check.slope:>13.4g} " for check in self.directions))
        lines.append("    Taylor " + "".join(f"{check.rate:>13.2f} " for check in self.directions) + " (2: right, 1: wrong, nan: hidden by rounding)")
        lines.append(f"  coordinates that disagree most, of {min(self.d, COORDINATES)} looked at:")
        lines.append(f"    {'index':>8} {'gradient':>16} {'difference':>16}")
        lines += [f"    {i:>8} {given:>16.8g} {difference:>16.8g}" for i, given, difference in self.coordinates[:5]]
        lines.append(f"  same bits when called twice: {'yes' if self.deterministic else 'no'}; leaves x alone: {'yes' if self.pure else 'no'}")
        return "\n".join(lines)


class _Watched:
    """A callable that notes whether its argument was changed, and the coarsest precision of what came back."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)  # keeps the signature: `seed` and `ctx` are read from it
        self.__name__ = name_of(function)  # objects, such as the built-in problems, have none
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


def check_gradient(
    fun: Callable[..., Any],
    x0: Any,
    *,
    args: tuple[Any, ...] = (),
    jac: bool | str | Callable[..., Any] = True,
    rng: int | np.random.Generator = 0,
) -> GradientReport:
    """Compare a gradient with differences of its function.

    Along random directions v, with v_k normal times |x_k| (1 where x_k = 0), the central difference (f(x + hv) - f(x - hv)) / 2h is compared with
    g.v for h = 1e-1, ..., 1e-12. No single step is right for every function, so the best agreement counts. It must be better than 5 eps^(1/3), with
    eps that of the returned numbers: central differences reach eps^(2/3) at the best step of a smooth function. Then up to 20 entries are compared
    one by one. About 150 evaluations, whatever d.

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
    rng : int or numpy.random.Generator, default 0
        Draws the directions.

    Returns
    -------
    GradientReport
        ``report.ok``, ``report.problems``, and all numbers; ``print(report)`` shows it.

    Raises
    ------
    ArgumentError
        If there is no value to compare with, or the value at x0 is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from optex_core.testing.gradient import check_gradient
    >>> check_gradient(lambda x: (x @ x, 2 * x), np.arange(1.0, 5.0)).ok
    True
    >>> check_gradient(lambda x: (x @ x, 2 * x + 0.01), np.arange(1.0, 5.0)).ok
    False
    """
    if fun is None:
        raise ArgumentError("check_gradient needs the value to compare with, got fun=None")
    x = np.atleast_1d(np.array(x0))
    x = x if x.dtype.kind == "f" else x.astype(np.float64)
    watched = _Watched(fun)
    watched_jac = _Watched(jac) if callable(jac) and not isinstance(jac, bool) else jac
    objective = make_objective(watched, args=args, jac=watched_jac, x0=x)
    context = Context(id=0, seed=0, iteration=0, slot=0)

    def at(point: np.ndarray) -> tuple[float, np.ndarray]:
        told = objective.evaluate(point, context)
        return float("nan") if told.value is None else told.value, np.asarray(told.gradient, np.float64)

    def value(point: np.ndarray) -> float:
        return at(point.astype(x.dtype))[0]

    f, g = at(x)
    if not (np.isfinite(f) and np.isfinite(g).all()):
        raise ArgumentError(f"the value and the gradient at x0 must be finite to be checked, got {f!r} and {shown(g)}")
    f2, g2 = at(x)
    eps = max(float(np.finfo(x.dtype).eps), watched.eps, getattr(watched_jac, "eps", 0.0))
    tolerance = 5 * eps ** (1 / 3)
    generator = np.random.default_rng(rng)
    wide = x.astype(np.float64)
    scale = np.where(x == 0, 1.0, np.abs(wide))

    directions = []
    with np.errstate(over="ignore", invalid="ignore"):  # the largest steps may leave the domain; what is not finite is left out
        for _ in range(DIRECTIONS):
            v = generator.standard_normal(len(x)) * scale
            plus, minus = (np.array([value(wide + sign * h * v) for h in STEPS]) for sign in (1, -1))
            directions.append(_compare(f, float(g @ v), plus, minus, eps, tolerance))
        coordinates, bad = _by_coordinate(value, wide, g, scale, eps, tolerance, generator)

    deterministic = f == f2 and bool(np.array_equal(g, g2))
    pure = watched.pure and getattr(watched_jac, "pure", True)
    problems = []
    if not deterministic:
        problems.append("two evaluations at x0 differ, so differences say little: take the randomness from a keyword-only argument `seed`")
    if not pure:
        problems.append("the function changes its argument x: work on a copy")
    wrong = [check for check in directions if not np.nanmin(check.errors, initial=np.inf) <= tolerance]
    if wrong:
        worst = max(float(np.nanmin(check.errors, initial=np.inf)) for check in wrong)
        sentence = f"along {len(wrong)} of {len(directions)} directions it is off by {worst:.1e} or more at every step"
        problems.append(f"the gradient is not the derivative: {sentence}")
    if bad:
        i, given, difference = coordinates[0]
        problems.append(
            f"{bad} of {len(coordinates)} entries looked at are wrong, such as entry {i}: gradient {given:.8g}, difference {difference:.8g}"
        )
    return GradientReport(
        objective.name, len(x), f, float(np.abs(g).max()), tuple(directions), coordinates, tolerance, deterministic, pure, tuple(problems)
    )


def _compare(f: float, slope: float, plus: np.ndarray, minus: np.ndarray, eps: float, tolerance: float) -> DirectionCheck:
    """Errors of the central difference relative to the largest of: both slopes, the change of slope over the step, what rounding hides."""
    difference = (plus - minus) / (2 * STEPS)
    large = STEPS >= 1e-4  # below, rounding alone could pass for agreement
    size = np.maximum(np.maximum(np.abs(plus), np.abs(minus)), abs(f))
    rounding = np.where(large, 64 * eps * size / (2 * STEPS) / tolerance, 0.0)
    # At a stationary point both slopes are nearly zero, and the curvature tells how near counts. Its least estimate: a steep quartic must not excuse.
    bend = np.abs(plus + minus - 2 * f) / STEPS**2
    curvature = np.min(bend[large], initial=np.inf, where=np.isfinite(bend[large]))
    curved = STEPS * curvature / 2 if np.isfinite(curvature) else 0.0
    against = np.maximum.reduce([np.abs(difference), np.full_like(STEPS, abs(slope)), rounding, np.broadcast_to(curved, STEPS.shape)])
    gap = np.abs(difference - slope)
    errors = np.where(np.isfinite(gap), np.divide(gap, against, out=np.zeros_like(gap), where=against > 0), np.nan)
    remainders = np.abs(plus - f - STEPS * slope)
    seen = remainders > 1e3 * eps * size
    powers = np.log10(remainders[:-1], out=np.full(len(STEPS) - 1, np.nan), where=seen[:-1] & seen[1:])
    powers -= np.log10(remainders[1:], out=np.full(len(STEPS) - 1, np.nan), where=seen[:-1] & seen[1:])
    rate = float(np.median(powers[np.isfinite(powers)])) if np.isfinite(powers).any() else float("nan")
    return DirectionCheck(slope, errors, remainders, rate)


def _by_coordinate(
    value: Callable[[np.ndarray], float],
    x: np.ndarray,
    g: np.ndarray,
    scale: np.ndarray,
    eps: float,
    tolerance: float,
    generator: np.random.Generator,
) -> tuple[tuple[tuple[int, float, float], ...], int]:
    """Central differences of single coordinates, half of them the largest of the gradient, half drawn, the worst first; and how many are wrong.

    Along a direction, the large entries drown an error in a small one. Here each entry is compared with its own size, and an entry counts as wrong
    only if its gap exceeds ten times what halving the step changes, and what rounding may hide.
    """
    if len(x) <= COORDINATES:
        chosen = np.arange(len(x))
    else:
        large = np.argsort(-np.abs(g) * scale, kind="stable")[: COORDINATES // 2]
        others = np.setdiff1d(np.arange(len(x)), large)
        chosen = np.concatenate([large, generator.choice(others, COORDINATES - len(large), replace=False)])
    rows = []
    for i in chosen:
        differences = []
        size = 0.0
        for h in (eps ** (1 / 3) * scale[i], 0.5 * eps ** (1 / 3) * scale[i]):
            up, down = x.copy(), x.copy()
            up[i] += h
            down[i] -= h
            high, low = value(up), value(down)
            differences.append((high - low) / float(up[i] - down[i]))
            size = max(size, abs(high), abs(low))
        gap, doubt = abs(g[i] - differences[1]), abs(differences[0] - differences[1])
        hidden = 1e3 * eps * size / (eps ** (1 / 3) * scale[i])
        wrong = gap > max(10 * doubt + hidden, tolerance * abs(g[i]))
        rows.append((bool(wrong), float(gap * scale[i]), (int(i), float(g[i]), differences[1])))
    rows.sort(key=lambda row: (not row[0], -row[1]))
    return tuple(row[2] for row in rows), sum(row[0] for row in rows)
