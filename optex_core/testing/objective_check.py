"""Checks of an objective: purity, fresh answers, repeatability, threads, processes, batches; its
time and what parallelism would gain.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from optex_core._validation import boolean, positive, short_repr
from optex_core.adapters.call_signature import callable_name
from optex_core.adapters.objective import Objective, make_objective
from optex_core.adapters.return_validation import returned_pair
from optex_core.backends import for_array
from optex_core.engine.settings import as_bounds, as_x0, resolve_rng
from optex_core.errors import OptexError
from optex_core.execution.factory import make_evaluator
from optex_core.execution.workers.serialization import SerializedObjective
from optex_core.testing.assertions import same_bits
from optex_core.testing.check_suite import (
    CheckFailed,
    CheckReport,
    CheckSkipped,
    CheckSuite,
    require,
)
from optex_core.testing.function_under_test import (
    SAME_RTOL,
    FunctionUnderTest,
    Pair,
    as_pair,
    context,
    relative_difference,
)
from optex_core.testing.gradient_check.check import check_gradient
from optex_core.testing.gradient_check.report import GradientReport
from optex_core.testing.parallel_gain import ParallelGain, max_evaluations, measure_parallel_gain
from optex_core.types import Candidate, FirstOrderOptimizer

#: Calls at one point that estimate noise.
REPEATS = 6
#: Points that threads, processes and batches are given.
POINTS = 6


@dataclass
class ObjectiveSubject:
    """A function with a start, and what was measured of it."""

    function: FunctionUnderTest
    x0: np.ndarray
    points: np.ndarray
    noisy: bool
    radius: float
    workers: int
    budget: float
    deadline: float
    noise: float = 0.0

    @property
    def objective(self) -> Objective:
        return self.function.objective

    @property
    def call_seconds(self) -> float:
        """Median time of a call."""
        return float(np.median(self.function.seconds))

    @property
    def wants_seed(self) -> bool:
        callers = (self.objective.fun, self.objective.jac)
        return any(caller is not None and caller.wants_seed for caller in callers)

    def raw(self, x: np.ndarray) -> list[object]:
        """What user code returns when it is given `x` itself and not a copy: value and gradient, or
        the value where differences are taken.
        """
        o = self.objective
        point, at = (x[None], (context(),)) if o.vectorized else (x, context())
        out = [] if o.fun is None else [o.fun(point, at)]
        if o.fun is not None and o.jac is None and o.method is None:
            out = list(returned_pair(out[0], o.name))
        return out + ([] if o.jac is None else [o.jac(point, at)])

    def afford(self, calls: float, at_once: int = 1) -> None:
        """Skip the check if `calls` calls would not end in time."""
        need, left = calls * self.call_seconds / at_once, self.deadline - time.monotonic()
        if need > left:
            raise CheckSkipped(
                f"would take about {need:.0f} s, and {max(left, 0):.0f} s of "
                f"max_seconds={self.budget:g} are left"
            )

    def assert_same(self, found: Pair, expected: Pair, what: str) -> None:
        """Equal to the bit, or to the order of a sum; a noisy function to six times its noise,
        which is reported once and not by every check.
        """
        gap = relative_difference(found, expected)
        allowed = max(SAME_RTOL, 6 * self.noise)
        require(gap <= allowed, f"{what}; the answers differ by {gap:.1e} of their size")


def prepare_objective(
    fun: Callable[..., object] | None,
    x0: ArrayLike,
    *,
    args: tuple[object, ...] = (),
    jac: bool | str | Callable[..., object] = True,
    vectorized: bool = False,
    noisy: bool = False,
    radius: float | None = None,
    bounds: object = None,
    workers: int = 2,
    max_seconds: float = 60.0,
    rng: int | np.random.Generator = 0,
) -> tuple[str, ObjectiveSubject]:
    """The function's name and what the checks take, from the arguments of `check_objective`; calls
    the function once.
    """
    for name, flag in (("vectorized", vectorized), ("noisy", noisy)):
        boolean(name, flag)
    x = np.array(as_x0(x0))
    objective = make_objective(fun, args=args, jac=jac, x0=x, vectorized=vectorized)
    generator = resolve_rng(rng)
    size = float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) or 1.0
    radius = 0.1 * size if radius is None else positive("radius", radius)
    points = x + radius * generator.uniform(-1, 1, (POINTS, len(x)))
    if bounds is not None:
        points = np.clip(points, *as_bounds(bounds, x, for_array(x)))
    budget, points = positive("max_seconds", max_seconds), points.astype(x.dtype)
    function, end = FunctionUnderTest(objective, x.dtype), time.monotonic() + budget
    function(x)  # tells how long a call takes
    subject = ObjectiveSubject(function, x, points, noisy, radius, workers, budget, end)
    return objective.name, subject


SUITE = CheckSuite("objective", prepare_objective)


@dataclass(frozen=True, slots=True)
class ObjectiveReport:
    """What `check_objective` found; ``print(report)`` shows it.

    Attributes
    ----------
    results : CheckReport
        The checks.
    d : int
        Number of parameters.
    seconds : (float, float, float)
        Fastest, median and slowest call.
    noise : float
        By how much two answers at one point differ, relative; 0 where they are bitwise identical.
    gains : tuple of ParallelGain
        What 2, 4 and 8 gradients at once did in a short run; empty where no run was made.
    optimizer : str
        With which.
    """

    results: CheckReport
    d: int
    seconds: tuple[float, float, float]
    noise: float
    gains: tuple[ParallelGain, ...] = ()
    optimizer: str = ""

    @property
    def ok(self) -> bool:
        """Every check ran and passed."""
        return self.results.ok

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        low, middle, high = map(_time, self.seconds)
        same = "give the same bits" if self.noise == 0 else f"differ by {self.noise:.1e}"
        lines = [
            str(self.results),
            f"  a call takes {middle} ({low} to {high})",
            f"  two calls at one point {same}",
        ]
        if self.gains:
            lines.append(f"  what parallelism could gain, from a short run with {self.optimizer}:")
            lines += [f"    {gain}" for gain in self.gains]
        return "\n".join(lines)


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{1e6 * seconds:.3g} us"


def check_objective(
    fun: Callable[..., object] | None,
    x0: ArrayLike,
    *,
    args: tuple[object, ...] = (),
    jac: bool | str | Callable[..., object] = True,
    vectorized: bool = False,
    noisy: bool = False,
    radius: float | None = None,
    bounds: object = None,
    workers: int = 2,
    max_seconds: float = 60.0,
    optimizer: str | FirstOrderOptimizer | None = None,
    estimate: bool = True,
    rng: int | np.random.Generator = 0,
    expected_failures: Mapping[str, str] | None = None,
) -> ObjectiveReport:
    """Check that a function keeps what evaluating it many times at once assumes, and estimate what
    that would gain.

    Parameters
    ----------
    fun : callable
        As in `minimize`; None with a callable `jac`.
    x0 : array_like, shape (d,)
        Where.
    args, jac, vectorized :
        As in `minimize`.
    noisy : bool, default False
        True: two calls at one point may differ; other comparisons then allow six times that.
    radius : float, optional
        The region in which it must be finite, x0 +- radius; by default a tenth of the size of x0.
    bounds : scipy.optimize.Bounds or pairs, optional
        Which that region does not leave.
    workers : int, default 2
        Processes of the check with processes.
    max_seconds : float, default 60
        What would take longer is skipped, and the report then is not ok.
    optimizer : str or object, optional
        Of the estimate; by default Adam at the best of three rates.
    estimate : bool, default True
        Whether to run the estimate, at most 316 calls, where time allows.
    rng : int or numpy.random.Generator, default 0
        Draws the points.
    expected_failures : mapping of str to str, optional
        Check -> reason, such as ``{"returns_fresh_arrays": "one buffer is reused"}``. Strict: one
        that passes is a failure.

    Returns
    -------
    ObjectiveReport
        ``report.ok``, ``report.results``, times, noise and gains; ``print`` it.

    Examples
    --------
    >>> import numpy as np
    >>> from optex_core.testing import check_objective
    >>> report = check_objective(lambda x: (x @ x, 2 * x), np.ones(3), estimate=False)
    >>> report.ok, report.noise
    (True, 0.0)
    """
    boolean("estimate", estimate)
    name, s = prepare_objective(
        fun,
        x0,
        args=args,
        jac=jac,
        vectorized=vectorized,
        noisy=noisy,
        radius=radius,
        bounds=bounds,
        workers=workers,
        max_seconds=max_seconds,
        rng=rng,
    )
    results = SUITE.run_bound(name, s, expected_failures)
    seconds = min(s.function.seconds), s.call_seconds, max(s.function.seconds)
    gains: list[ParallelGain] = []
    in_time = max_evaluations(optimizer) * s.call_seconds <= s.deadline - time.monotonic()
    if estimate and in_time and s.objective.has_value and not results.failed:
        optimizer, gains = measure_parallel_gain(s.function, s.x0, optimizer)
    chosen = repr(optimizer) if gains else ""
    return ObjectiveReport(results, len(s.x0), seconds, s.noise, tuple(gains), chosen)


@dataclass(frozen=True, slots=True)
class SimulatorReport:
    """Both halves of `check_simulator`.

    Attributes
    ----------
    gradient : GradientReport or None
        None where there is no value to compare with.
    objective : ObjectiveReport
    """

    gradient: GradientReport | None
    objective: ObjectiveReport

    @property
    def ok(self) -> bool:
        """Both are."""
        return self.objective.ok and (self.gradient is None or self.gradient.ok)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        parts = [] if self.gradient is None else [str(self.gradient)]
        return "\n".join([*parts, str(self.objective)])


def check_simulator(
    fun: Callable[..., object] | None,
    x0: ArrayLike,
    *,
    accuracy: float | None = None,
    max_seconds: float = 600.0,
    rng: int = 0,
    **options: Any,
) -> SimulatorReport:
    """Check a simulator: its gradient (`check_gradient`) and its behaviour (`check_objective`).

    Parameters
    ----------
    fun, x0, rng :
        As in both.
    accuracy : float, optional
        The relative accuracy that the gradient is meant to have: the tolerance of its solvers.
    max_seconds : float, default 600
        For the behaviour and the estimate; the gradient takes about 170 calls.
    **options
        Of `check_objective`.

    Returns
    -------
    SimulatorReport
        ``report.ok``, ``report.gradient``, ``report.objective``; ``print`` it.

    Examples
    --------
    >>> import numpy as np
    >>> from optex_core.testing import check_simulator
    >>> check_simulator(lambda x: (x @ x, 2 * x), np.ones(3), estimate=False).ok
    True
    """
    gradient = None
    if fun is not None:
        shared = {name: options[name] for name in ("args", "jac", "noisy") if name in options}
        rows = options.get("vectorized", False)
        if rows and callable(shared.get("jac")):
            shared["jac"] = one_row(shared["jac"])
        one = one_row(fun) if rows else fun
        gradient = check_gradient(one, x0, accuracy=accuracy, rng=rng, **shared)
    objective = check_objective(fun, x0, max_seconds=max_seconds, rng=rng, **options)
    return SimulatorReport(gradient, objective)


def one_row(fun: Callable[..., Any]) -> Callable[..., object]:
    """A vectorized function, one point at a time."""

    def alone(x: np.ndarray, *args: object) -> object:
        out = fun(x[None], *args)
        return (out[0][0], out[1][0]) if isinstance(out, tuple) else out[0]

    alone.__qualname__ = callable_name(fun)
    return alone


# -- the checks ------------------------------------------------------------------------------------


@SUITE.check()
def returns_match_shape_of_x(s: ObjectiveSubject) -> None:
    """One finite real value and a finite real gradient of the shape of x."""
    value, gradient = s.function(s.x0)
    require(gradient.shape == s.x0.shape, f"the gradient has shape {gradient.shape}")
    bad = int((~np.isfinite(gradient)).sum())
    require(not bad, f"the gradient at x0 is not finite in {bad} of {gradient.size} entries")
    require(not s.objective.has_value or math.isfinite(value), f"the value at x0 is {value}")


@SUITE.check()
def is_deterministic(s: ObjectiveSubject) -> None:
    """Two calls at one point, other points between them, are bitwise identical; a noisy function
    says so.
    """
    first, others = s.function(s.x0), []
    for i in range(REPEATS):
        s.afford(2)
        s.function(s.points[i % POINTS])
        others.append(s.function(s.x0))
    s.noise = max(relative_difference(other, first) for other in others)
    how = "take its randomness from a keyword-only argument `seed`, or pass noisy=True"
    text = f"calls at one point differ by {s.noise:.1e} of their size: {how}"
    require(s.noisy or s.noise <= SAME_RTOL, text)


@SUITE.check()
def does_not_modify_argument(s: ObjectiveSubject) -> None:
    """x is the same before and after."""
    x = s.x0.copy()
    s.raw(x)
    changed = int((x != s.x0).sum())
    require(not changed, f"it changes {changed} entries of its argument: work on a copy")


@SUITE.check()
def does_not_retain_argument(s: ObjectiveSubject) -> None:
    """The caller may reuse the array it passed: overwriting it changes no answer, neither the last
    nor the next one.
    """
    x = s.x0.copy()
    references = sys.getrefcount(x)
    s.raw(x)
    require(sys.getrefcount(x) <= references, "it keeps the array that it was passed: keep a copy")
    first = s.raw(x)
    before, shared = _copies(first), _aliases(first, [x])
    x[:] = 12345.678
    kept = not shared and same_bits([np.asarray(part) for part in first], before)
    require(kept, "its answer is a view of its argument: return a new array")
    expected = s.function(s.points[0])
    text = "its answers depend on an array that was passed before"
    s.assert_same(s.function(s.points[0]), expected, text)


@SUITE.check()
def returns_fresh_arrays(s: ObjectiveSubject) -> None:
    """An answer stays as it is when the function is called again: no buffer is handed out twice."""
    first = s.raw(s.points[0].copy())
    before = _copies(first)
    second = s.raw(s.points[1].copy())
    kept = same_bits([np.asarray(part) for part in first], before)
    text = "the second call writes into the answer of the first: return a copy"
    require(kept and not _aliases(first, second), text)


def _copies(parts: list[object]) -> list[np.ndarray]:
    return [np.array(part, copy=True) for part in parts]


def _aliases(first: list[object], second: list[object]) -> bool:
    a, b = ([one for one in side if isinstance(one, np.ndarray)] for side in (first, second))
    return any(np.shares_memory(p, q) for p in a for q in b)


@SUITE.check(when=lambda s: s.wants_seed, why="it takes no keyword-only `seed`")
def seed_determines_noise(s: ObjectiveSubject) -> None:
    """The same seed is bitwise identical, another seed gives another answer."""
    first = s.function(s.x0, 1)
    s.function(s.x0, 2)
    s.assert_same(s.function(s.x0, 1), first, "the same seed gives two answers")
    text = "the seed changes nothing: if the function is not random, leave the argument out"
    require(not same_bits(s.function(s.x0, 3), first), text)


@SUITE.check()
def is_finite_in_region(s: ObjectiveSubject) -> None:
    """Value and gradient are finite at points drawn from the region."""
    bad = []
    for x in s.points:
        s.afford(1)
        value, gradient = s.function(x)
        if not np.isfinite(gradient).all() or (s.objective.has_value and not math.isfinite(value)):
            bad.append(x)
    example = short_repr(bad[0]) if bad else ""
    text = f"{len(bad)} of {POINTS} points within {s.radius:.3g} of x0 are not finite, "
    require(not bad, f"{text}such as {example}")


@SUITE.check()
def gradient_precision_matches_x(s: ObjectiveSubject) -> None:
    """What comes back has at least the precision of x: float64 in, float64 out."""
    for part in s.raw(s.x0.copy()):
        dtype = getattr(part, "dtype", None)
        if isinstance(dtype, np.dtype) and dtype.kind == "f":
            fine = dtype.itemsize >= s.x0.dtype.itemsize
            require(fine, f"x is {s.x0.dtype} and it returns {dtype}")


_ALONE: dict[str, Any] = {
    "when": lambda s: not s.objective.vectorized,
    "why": "all points go into one call",
}


@SUITE.check(**_ALONE)
def threads_give_the_same_answers(s: ObjectiveSubject) -> None:
    """Four threads at once get the answers of one: nothing is kept in globals or on the object."""
    s.afford(3 * POINTS)
    expected = [s.function(x) for x in s.points]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(s.function, [*s.points, *s.points]))
    for i, one in enumerate(found):
        text = f"point {i % POINTS} gets another answer in a thread beside others"
        s.assert_same(one, expected[i % POINTS], text)


@SUITE.check(**_ALONE)
def is_picklable(s: ObjectiveSubject) -> None:
    """It can be pickled (by cloudpickle, closures included)."""
    try:
        SerializedObjective(s.objective).serialize()
    except OptexError as error:
        raise CheckFailed(str(error)) from error


@SUITE.check(**_ALONE)
def processes_give_the_same_answers(s: ObjectiveSubject) -> None:
    """Worker processes, which are new interpreters, give the answers of this one."""
    s.afford(POINTS + POINTS / max(1, s.workers))
    expected = [s.function(x) for x in s.points]
    try:
        evaluator = make_evaluator(s.objective, s.workers, parallelism=s.workers)
    except OptexError as error:
        raise CheckFailed(str(error)) from error
    outcomes = []
    with evaluator:
        evaluator.submit([Candidate(i, x, 0, 0, 0) for i, x in enumerate(s.points)])
        while evaluator.pending:
            outcomes += evaluator.next()
    for o in outcomes:
        number = o.candidate.id
        require(o.error is None, f"in a worker process it raises {o.error!r}")
        text = f"point {number} gets another answer in a worker process"
        s.assert_same(as_pair(o), expected[number], text)


@SUITE.check(when=lambda s: s.objective.vectorized, why="it is not vectorized")
def batch_matches_rows(s: ObjectiveSubject) -> None:
    """A batch gives the answers of its rows one by one, in any order of the rows."""
    s.afford(3 * POINTS)
    alone = [s.function(x) for x in s.points]
    for rows in (np.arange(POINTS), np.random.default_rng(0).permutation(POINTS)):
        batch = s.objective.evaluate_batch([s.points[i] for i in rows], [context()] * POINTS)
        for i, one in zip(rows, batch, strict=True):
            s.assert_same(
                as_pair(one), alone[i], f"row {i} of a batch gets another answer than alone"
            )
