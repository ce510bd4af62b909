"""Does a function keep what parallel evaluation assumes? Purity, fresh answers, repeatability,
threads, processes, batches; time and gain.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

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
from optex_core.testing.gradient_check.check import check_gradient
from optex_core.testing.gradient_check.report import GradientReport
from optex_core.testing.parallel_gain import ParallelGain, max_evaluations, measure_parallel_gain
from optex_core.types import Candidate, Context

#: Two answers that differ by less, relative, differ by the order of a sum.
SAME = 1e-12
#: Calls at one point that estimate noise.
REPEATS = 6
#: Points that threads, processes and batches are given.
POINTS = 6


@dataclass
class Subject:
    """A function with a start, and what was measured of it."""

    label: str
    fun: Any
    objective: Objective
    x0: np.ndarray
    points: np.ndarray
    noisy: bool
    rough: float
    workers: int
    budget: float
    deadline: float
    seconds: list[float] = field(default_factory=list)
    noise: float = 0.0

    def __call__(self, x: np.ndarray, seed: int = 0) -> tuple[float, np.ndarray]:
        """Value (nan without one) and gradient, as the engine gets them."""
        start = time.perf_counter()
        observed = self.objective.evaluate(x, context(seed))
        self.seconds.append(time.perf_counter() - start)
        return math.nan if observed.value is None else observed.value, np.asarray(observed.gradient)

    def raw(self, x: np.ndarray) -> list[Any]:
        """What user code returns when it is given `x` itself and not a copy: value and gradient, or
        the value where differences are taken.
        """
        o = self.objective
        if o.vectorized:
            out = (
                []
                if o.fun is None
                else list(returned_pair(o.fun(x[None], (context(0),)), o.name))
                if o.jac is None
                else [o.fun(x[None], (context(0),))]
            )
            return out + ([] if o.jac is None else [o.jac(x[None], (context(0),))])
        out = [] if o.fun is None else [o.fun(x, context(0))]
        if o.fun is not None and o.jac is None and o.method is None:
            out = list(returned_pair(out[0], o.name))
        return out + ([] if o.jac is None else [o.jac(x, context(0))])

    def afford(self, calls: float, at_once: int = 1) -> None:
        """Skip the check if `calls` calls would not end in time."""
        need = calls * float(np.median(self.seconds)) / at_once
        left = self.deadline - time.monotonic()
        if need > left:
            raise CheckSkipped(
                f"would take about {need:.0f} s, and {max(left, 0):.0f} s of "
                f"max_seconds={self.budget:g} are left"
            )

    def need_same(
        self, found: tuple[float, np.ndarray], expected: tuple[float, np.ndarray], what: str
    ) -> None:
        """Equal to the bit, or to the order of a sum; a noisy function to six times its noise,
        which is observed once and not by every check.
        """
        if same_bits(found, expected):
            return
        allowed = max(SAME, 6 * self.noise)
        gap = _relative(found, expected)
        require(gap <= allowed, f"{what}; the answers differ by {gap:.1e} of their size")


def context(seed: int) -> Context:
    """Of a call outside any run."""
    return Context(id=0, seed=seed, iteration=0, slot=0)


def _relative(a: tuple[float, np.ndarray], b: tuple[float, np.ndarray]) -> float:
    """The largest difference relative to the size of value and gradient."""
    value = (
        0.0
        if a[0] == b[0] or (math.isnan(a[0]) and math.isnan(b[0]))
        else abs(a[0] - b[0]) / max(abs(a[0]), abs(b[0]))
    )
    top = max(float(np.abs(a[1]).max()), float(np.abs(b[1]).max()))
    slope = float(np.abs(a[1] - b[1]).max()) / top if top > 0 else 0.0
    return max(value, slope) if math.isfinite(value + slope) else math.inf


def prepare(
    fun: Any, *, x0: Any, args: tuple[Any, ...] = (), jac: Any = True, vectorized: bool = False, noisy: bool = False, radius: float | None = None,
    bounds: Any = None, workers: int = 2, max_seconds: float = 60.0, rng: Any = 0,
) -> Subject:  # fmt: skip
    """Bind the function to a start; one call tells how long it takes."""
    x = np.array(as_x0(x0))
    boolean("vectorized", vectorized)
    boolean("noisy", noisy)
    objective = make_objective(fun, args=args, jac=jac, x0=x, vectorized=vectorized)
    generator = resolve_rng(rng)
    size = float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) or 1.0
    radius = 0.1 * size if radius is None else positive("radius", radius)
    points = x + radius * generator.uniform(-1, 1, (POINTS, len(x)))
    if bounds is not None:
        points = np.clip(points, *as_bounds(bounds, x, for_array(x)))
    budget = positive("max_seconds", max_seconds)
    s = Subject(
        objective.name,
        fun,
        objective,
        x,
        points.astype(x.dtype),
        noisy,
        radius,
        workers,
        budget,
        time.monotonic() + budget,
    )
    s(x)
    return s


SUITE = CheckSuite("objective", prepare, lambda: [])


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
        By how much two answers at one point differ, relative; 0 where they have the same bits.
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
        low, middle, high = self.seconds
        lines = [
            str(self.results),
            f"  a call takes {_time(middle)} ({_time(low)} to {_time(high)})",
        ]
        lines.append(
            "  two calls at one point give the same bits"
            if self.noise == 0
            else f"  two calls at one point differ by {self.noise:.1e}"
        )
        if self.gains:
            lines.append(f"  what parallelism could gain, from a short run with {self.optimizer}:")
            lines += [f"    {gain}" for gain in self.gains]
        return "\n".join(lines)


def _time(seconds: float) -> str:
    return (
        f"{seconds:.3g} s"
        if seconds >= 1
        else f"{1e3 * seconds:.3g} ms"
        if seconds >= 1e-3
        else f"{1e6 * seconds:.3g} us"
    )


def check_objective(
    fun: Callable[..., Any],
    x0: Any,
    *,
    args: tuple[Any, ...] = (),
    jac: bool | str | Callable[..., Any] = True,
    vectorized: bool = False,
    noisy: bool = False,
    radius: float | None = None,
    bounds: Any = None,
    workers: int = 2,
    max_seconds: float = 60.0,
    optimizer: Any = None,
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
    options = {
        "x0": x0, "args": args, "jac": jac, "vectorized": vectorized, "noisy": noisy, "radius": radius, "bounds": bounds, "workers": workers,
        "max_seconds": max_seconds, "rng": rng,
    }  # fmt: skip
    kept: list[Subject] = []

    def preparing(subject: Any, **given: Any) -> Subject:
        kept.append(prepare(subject, **given))
        return kept[0]

    boolean("estimate", estimate)
    suite = CheckSuite(SUITE.kind, preparing, SUITE.registered)
    suite.definitions = SUITE.definitions
    results = suite.run(fun, expected_failures, **options)
    s = kept[0]
    gains: list[ParallelGain] = []
    chosen: Any = ""
    middle = float(np.median(s.seconds))
    if (
        estimate
        and s.objective.has_value
        and max_evaluations(optimizer) * middle <= s.deadline - time.monotonic()
        and not results.failed
    ):
        chosen, gains = measure_parallel_gain(
            lambda c: s.objective.evaluate(c.x, context(c.seed)), s.x0, middle, optimizer
        )
    times = (min(s.seconds), middle, max(s.seconds))
    return ObjectiveReport(
        results, len(s.x0), times, s.noise, tuple(gains), repr(chosen) if gains else ""
    )


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
        return "\n".join(
            [*([] if self.gradient is None else [str(self.gradient)]), str(self.objective)]
        )


def check_simulator(
    fun: Callable[..., Any],
    x0: Any,
    *,
    accuracy: float | None = None,
    max_seconds: float = 600.0,
    rng: int = 0,
    **options: Any,
) -> SimulatorReport:
    """Check a simulator: its gradient (`check_gradient`) and its manners (`check_objective`).

    Parameters
    ----------
    fun, x0, rng :
        As in both.
    accuracy : float, optional
        The relative accuracy that the gradient is meant to have: the tolerance of its solvers.
    max_seconds : float, default 600
        For the manners and the estimate; the gradient takes about 170 calls.
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
    shared = {name: options[name] for name in ("args", "jac", "noisy") if name in options}
    one = fun
    if options.get("vectorized", False):
        one = None if fun is None else one_row(fun)
        if callable(shared.get("jac")):
            shared["jac"] = one_row(shared["jac"])
    gradient = (
        None if fun is None else check_gradient(one, x0, accuracy=accuracy, rng=rng, **shared)
    )
    return SimulatorReport(
        gradient, check_objective(fun, x0, max_seconds=max_seconds, rng=rng, **options)
    )


def one_row(fun: Callable[..., Any]) -> Callable[..., Any]:
    """A vectorized function, one point at a time."""

    def alone(x: np.ndarray, *args: Any) -> Any:
        out = fun(x[None], *args)
        return (out[0][0], out[1][0]) if isinstance(out, tuple) else out[0]

    alone.__qualname__ = callable_name(fun)
    return alone


def _wants_seed(s: Subject) -> bool:
    return any(
        caller is not None and caller.wants_seed for caller in (s.objective.fun, s.objective.jac)
    )


# -- the checks ------------------------------------------------------------------------------------


@SUITE.check()
def returns_match_shape_of_x(s: Subject) -> None:
    """One finite real value and a finite real gradient of the shape of x."""
    value, gradient = s(s.x0)
    require(gradient.shape == s.x0.shape, f"the gradient has shape {gradient.shape}")
    require(
        np.isfinite(gradient).all(),
        f"the gradient at x0 is not finite in {int((~np.isfinite(gradient)).sum())} of "
        f"{gradient.size} entries",
    )
    require(not s.objective.has_value or math.isfinite(value), f"the value at x0 is {value}")


@SUITE.check()
def is_deterministic(s: Subject) -> None:
    """Two calls at one point, other points between them, have the same bits; a noisy function says
    so.
    """
    first = s(s.x0)
    others = []
    for i in range(REPEATS):
        s.afford(2)
        s(s.points[i % POINTS])
        others.append(s(s.x0))
    s.noise = max(_relative(other, first) for other in others)
    if not s.noisy:
        how = "take its randomness from a keyword-only argument `seed`, or pass noisy=True"
        require(s.noise <= SAME, f"calls at one point differ by {s.noise:.1e} of their size: {how}")


@SUITE.check()
def does_not_modify_argument(s: Subject) -> None:
    """x is the same before and after."""
    x = s.x0.copy()
    s.raw(x)
    require(
        np.array_equal(x, s.x0),
        f"it changes {int((x != s.x0).sum())} entries of its argument: work on a copy",
    )


@SUITE.check()
def does_not_retain_argument(s: Subject) -> None:
    """The caller may reuse the array it passed: overwriting it changes no answer, neither the last
    nor the next one.
    """
    x = s.x0.copy()
    references = sys.getrefcount(x)
    s.raw(x)
    require(sys.getrefcount(x) <= references, "it keeps the array that it was passed: keep a copy")
    first = s.raw(x)
    observed = [np.array(part, copy=True) for part in first]
    shared = [part for part in first if isinstance(part, np.ndarray) and np.shares_memory(part, x)]
    x[:] = 12345.678
    require(
        not shared and same_bits([np.asarray(p) for p in first], observed),
        "its answer is a view of its argument: return a new array",
    )
    expected = s(s.points[0])
    s.need_same(s(s.points[0]), expected, "its answers depend on an array that was passed before")


@SUITE.check()
def returns_fresh_arrays(s: Subject) -> None:
    """An answer stays as it is when the function is called again: no buffer is handed out twice."""
    first = s.raw(s.points[0].copy())
    observed = [np.array(part, copy=True) for part in first]
    second = s.raw(s.points[1].copy())
    shared = any(
        np.shares_memory(a, b)
        for a in first
        for b in second
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    )
    require(
        not shared and same_bits([np.asarray(p) for p in first], observed),
        "the second call writes into the answer of the first: return a copy",
    )


@SUITE.check(when=_wants_seed, why="it takes no keyword-only `seed`")
def seed_determines_noise(s: Subject) -> None:
    """The same seed gives the same bits, another seed another answer."""
    first = s(s.x0, 1)
    s(s.x0, 2)
    s.need_same(s(s.x0, 1), first, "the same seed gives two answers")
    require(
        not same_bits(s(s.x0, 3), first),
        "the seed changes nothing: if the function is not random, leave the argument out",
    )


@SUITE.check()
def is_finite_in_region(s: Subject) -> None:
    """Value and gradient are finite at points drawn from the region."""
    bad = []
    for x in s.points:
        s.afford(1)
        value, gradient = s(x)
        if not np.isfinite(gradient).all() or (s.objective.has_value and not math.isfinite(value)):
            bad.append(x)
    require(
        not bad,
        f"{len(bad)} of {POINTS} points within {s.rough:.3g} of x0 are not finite, "
        f"such as {short_repr(bad[0]) if bad else ''}",
    )


@SUITE.check()
def gradient_precision_matches_x(s: Subject) -> None:
    """What comes back has at least the precision of x: float64 in, float64 out."""
    for part in s.raw(s.x0.copy()):
        dtype = getattr(part, "dtype", None)
        if isinstance(dtype, np.dtype) and dtype.kind == "f":
            require(
                dtype.itemsize >= s.x0.dtype.itemsize, f"x is {s.x0.dtype} and it returns {dtype}"
            )


@SUITE.check(when=lambda s: not s.objective.vectorized, why="all points go into one call")
def threads_give_the_same_answers(s: Subject) -> None:
    """Four threads at once get the answers of one: nothing is kept in globals or on the object."""
    s.afford(3 * POINTS)
    expected = [s(x) for x in s.points]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(s, [*s.points, *s.points]))
    for i, one in enumerate(found):
        s.need_same(
            one,
            expected[i % POINTS],
            f"point {i % POINTS} gets another answer in a thread beside others",
        )


@SUITE.check(when=lambda s: not s.objective.vectorized, why="all points go into one call")
def is_picklable(s: Subject) -> None:
    """It can be pickled (by cloudpickle, closures included)."""
    try:
        SerializedObjective(s.objective).serialize()
    except OptexError as error:
        raise CheckFailed(str(error)) from error


@SUITE.check(when=lambda s: not s.objective.vectorized, why="all points go into one call")
def processes_give_the_same_answers(s: Subject) -> None:
    """Worker processes, which are new interpreters, give the answers of this one."""
    s.afford(POINTS + POINTS / max(1, s.workers))
    expected = [s(x) for x in s.points]
    try:
        evaluator = make_evaluator(s.objective, s.workers, parallelism=s.workers)
    except OptexError as error:
        raise CheckFailed(str(error)) from error
    with evaluator:
        evaluator.submit([Candidate(i, x, 0, 0, 0) for i, x in enumerate(s.points)])
        outcomes = []
        while evaluator.pending:
            outcomes += evaluator.next()
    for outcome in outcomes:
        require(outcome.error is None, f"in a worker process it raises {outcome.error!r}")
        if outcome.evaluation is not None:
            observed = outcome.evaluation
            found = (
                math.nan if observed.value is None else observed.value,
                np.asarray(observed.gradient),
            )
            s.need_same(
                found,
                expected[outcome.candidate.id],
                f"point {outcome.candidate.id} gets another answer in a worker process",
            )


@SUITE.check(when=lambda s: s.objective.vectorized, why="it is not vectorized")
def batch_matches_rows(s: Subject) -> None:
    """A batch gives the answers of its rows one by one, in any order of the rows."""
    s.afford(3 * POINTS)
    alone = [s(x) for x in s.points]
    order = np.random.default_rng(0).permutation(POINTS)
    for rows in (np.arange(POINTS), order):
        observed = s.objective.evaluate_batch([s.points[i] for i in rows], [context(0)] * POINTS)
        for i, one in zip(rows, observed, strict=True):
            found = (math.nan if one.value is None else one.value, np.asarray(one.gradient))
            s.need_same(found, alone[i], f"row {i} of a batch gets another answer than alone")
