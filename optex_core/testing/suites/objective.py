"""Checks of objectives: purity, fresh answers, repeatability, threads, processes, batches."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from optex_core._validation import boolean, integer, positive, short_repr
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
    CheckSkipped,
    CheckSuite,
    require,
    require_equal,
)
from optex_core.testing.function_under_test import (
    SAME_RTOL,
    FunctionUnderTest,
    Pair,
    as_pair,
    context,
    relative_difference,
)
from optex_core.types import Candidate

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
    noise: float = 0.0  # measured by `is_deterministic`

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
        """What user code returns when it is given `x` itself: value and gradient."""
        o = self.objective
        point, at = (x[None], (context(),)) if o.vectorized else (x, context())
        out = [caller(point, at) for caller in (o.fun, o.jac) if caller is not None]
        pair = o.fun is not None and o.jac is None and o.method is None
        return list(returned_pair(out[0], o.name)) if pair else out

    def afford(self, calls: float, at_once: int = 1) -> None:
        """Skip the check if `calls` calls would not end in time."""
        need, left = calls * self.call_seconds / at_once, self.deadline - time.monotonic()
        if need > left:
            raise CheckSkipped(
                f"would take about {need:.0f} s, and {max(left, 0):.0f} s of "
                f"max_seconds={self.budget:g} are left"
            )

    def assert_same(self, found: Pair, expected: Pair, what: str) -> None:
        """Equal to the order of a sum; a noisy function to six times its noise."""
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
    """The function's name and what the checks take; calls the function once."""
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
    workers = integer("workers", workers, low=1)
    function, end = FunctionUnderTest(objective, x.dtype), time.monotonic() + budget
    function(x)  # tells how long a call takes
    subject = ObjectiveSubject(function, x, points, noisy, radius, workers, budget, end)
    return objective.name, subject


SUITE = CheckSuite("objective", prepare_objective)


@SUITE.check()
def returns_match_shape_of_x(s: ObjectiveSubject) -> None:
    """One finite real value and a finite real gradient of the shape of x."""
    value, gradient = s.function(s.x0)
    require_equal(gradient.shape, s.x0.shape, "shape of the gradient")
    bad = int((~np.isfinite(gradient)).sum())
    require(not bad, f"the gradient at x0 is not finite in {bad} of {gradient.size} entries")
    require(not s.objective.has_value or math.isfinite(value), f"the value at x0 is {value}")


@SUITE.check()
def is_deterministic(s: ObjectiveSubject) -> None:
    """Two calls at one point, others between, are bitwise identical, unless noise is meant."""
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
    """Overwriting the array that was passed changes no answer, neither the last nor the next."""
    x = s.x0.copy()
    references = sys.getrefcount(x)
    s.raw(x)
    require(sys.getrefcount(x) <= references, "it keeps the array that it was passed: keep a copy")
    first = s.raw(x)
    before, shared = _copies(first), _aliases(first, [x])
    x[:] = 12345.678
    kept = not shared and same_bits(_copies(first), before)
    require(kept, "its answer is a view of its argument: return a new array")
    expected = s.function(s.points[0])
    s.assert_same(s.function(s.points[0]), expected, "an array that was passed before matters")


@SUITE.check()
def returns_fresh_arrays(s: ObjectiveSubject) -> None:
    """An answer stays as it is when the function is called again: no buffer is handed out twice."""
    first = s.raw(s.points[0].copy())
    before = _copies(first)
    second = s.raw(s.points[1].copy())
    text = "the second call writes into the answer of the first: return a copy"
    require(same_bits(_copies(first), before) and not _aliases(first, second), text)


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


def _alone(function: Callable[[ObjectiveSubject], None]) -> Callable[[ObjectiveSubject], None]:
    """Add a check of functions that take one point."""
    add = SUITE.check(when=lambda s: not s.objective.vectorized, why="all points go into one call")
    return add(function)


@_alone
def threads_give_the_same_answers(s: ObjectiveSubject) -> None:
    """Four threads at once get the answers of one: nothing is kept in globals or on the object."""
    s.afford(3 * POINTS)
    expected = [s.function(x) for x in s.points]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(s.function, [*s.points, *s.points]))
    for i, one in enumerate(found):
        s.assert_same(one, expected[i % POINTS], "a point gets another answer beside threads")


@_alone
def is_picklable(s: ObjectiveSubject) -> None:
    """It can be pickled (by cloudpickle, closures included)."""
    try:
        SerializedObjective(s.objective).serialize()
    except OptexError as error:
        raise CheckFailed(str(error)) from error


@_alone
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
        require(o.error is None, f"in a worker process it raises {o.error!r}")
        s.assert_same(as_pair(o), expected[o.candidate.id], "another answer in a worker process")


@SUITE.check(when=lambda s: s.objective.vectorized, why="it is not vectorized")
def batch_matches_rows(s: ObjectiveSubject) -> None:
    """A batch gives the answers of its rows one by one, in any order of the rows."""
    s.afford(3 * POINTS)
    alone = [s.function(x) for x in s.points]
    for rows in (np.arange(POINTS), np.random.default_rng(0).permutation(POINTS)):
        batch = s.objective.evaluate_batch([s.points[i] for i in rows], [context()] * POINTS)
        for i, one in zip(rows, batch, strict=True):
            s.assert_same(as_pair(one), alone[i], f"row {i} of a batch gets another answer")
