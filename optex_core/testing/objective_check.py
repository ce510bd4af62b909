"""`check_objective` and `check_simulator`: checks, times, noise, and gains of parallelism."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from optex_core import minimize
from optex_core._validation import boolean
from optex_core.adapters.call_signature import callable_name
from optex_core.testing.check_suite import CheckReport
from optex_core.testing.gradient_check.check import check_gradient
from optex_core.testing.gradient_check.report import GradientReport
from optex_core.testing.suites.objective import SUITE, ObjectiveSubject, prepare_objective
from optex_core.types import FirstOrderOptimizer

# -- what parallelism would gain -------------------------------------------------------------------

#: Rounds of one gradient, whose best value is the target of the others, and N.
SEQUENTIAL_ROUNDS, PARALLELISM = 20, (2, 4, 8)
#: Calls of the whole measurement, at most; every run evaluates a closing point.
MAX_CALLS = (SEQUENTIAL_ROUNDS + 1) * (1 + sum(PARALLELISM))


@dataclass(frozen=True, slots=True)
class ParallelGain:
    """What N gradients at once did in a short run."""

    parallelism: int  # N
    iterations: int  # iterations to the target
    reached: bool  # False where as many iterations as with one gradient did not reach it
    gradients: int  # gradients it took
    sequential_iterations: int  # iterations to the same value with one gradient at a time
    overhead_seconds: float  # time of an iteration outside the function
    call_seconds: float  # time of one call

    @property
    def fewer(self) -> float:
        """Iterations with one gradient over those with N."""
        return self.sequential_iterations / self.iterations

    @property
    def faster(self) -> float:
        """The same in seconds with N free workers, overhead included; < 1: slower."""
        return self.fewer * self.call_seconds / (self.call_seconds + self.overhead_seconds)

    def __str__(self) -> str:
        n = self.parallelism
        if not self.reached:
            return f"N = {n}: no gain in {self.iterations} iterations"
        text = (
            f"N = {n}: {self.iterations} iterations where one gradient at a time takes "
            f"{self.sequential_iterations} ({self.fewer:.1f} x fewer), {self.gradients} gradients; "
        )
        if self.faster < 1.05:
            call, own = _time(self.call_seconds), _time(self.overhead_seconds)
            return f"{text}not in seconds: a call takes {call}, an iteration's overhead {own}"
        return f"{text}about {self.faster:.1f} x in seconds with {n} free workers"


def measure_parallel_gain(
    subject: ObjectiveSubject, optimizer: str | FirstOrderOptimizer | None = None
) -> list[ParallelGain]:
    """The gain for each N, of a function with values, by `minimize` and its default optimizer."""
    function = subject.function
    call_seconds = subject.call_seconds

    def seeded(x: np.ndarray, *, seed: int) -> tuple[float, np.ndarray]:
        return function(x, seed)

    fun: Callable[..., object] = seeded if subject.wants_seed else function

    def run(n: int, **limits: Any) -> tuple[Any, float]:
        start, before = time.perf_counter(), len(function.seconds)
        given: dict[str, Any] = {"optimizer": optimizer, "on_error": "drop", "gtol": 0.0, "rng": 0}
        result = minimize(fun, subject.x0, parallelism=n, **given, **limits)
        inside = sum(function.seconds[before:])
        return result, (time.perf_counter() - start - inside) / (result.nit + 1)

    values = run(1, maxiter=SEQUENTIAL_ROUNDS)[0].history.value
    best = float(np.nanmin(values))
    rounds, gains = max(1, int(np.nanargmin(values))), []
    for n in PARALLELISM:
        result, overhead = run(n, maxiter=rounds, target=best)
        done, reached = max(1, result.nit), "target" in result.stop
        gains.append(ParallelGain(n, done, reached, result.njev, rounds, overhead, call_seconds))
    return gains


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{1e6 * seconds:.3g} us"


# -- checks ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ObjectiveReport:
    """What `check_objective` found; ``print(report)`` shows it."""

    results: CheckReport
    d: int  # number of parameters
    seconds: tuple[float, float, float]  # fastest, median and slowest call
    noise: float  # by how much two answers at one point differ, relative; 0: bitwise identical
    #: What 2, 4 and 8 gradients at once did in a short run; empty where no run was made.
    gains: tuple[ParallelGain, ...] = ()

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
            lines.append("  what parallelism could gain, from short runs:")
            lines += [f"    {gain}" for gain in self.gains]
        return "\n".join(lines)


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
        Of the estimate; by default that of `minimize`.
    estimate : bool, default True
        Whether to run the estimate, at most 315 calls, where time allows.
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
    results = SUITE.run(name, s, expected_failures)
    seconds = min(s.function.seconds), s.call_seconds, max(s.function.seconds)
    gains: list[ParallelGain] = []
    in_time = MAX_CALLS * s.call_seconds <= s.deadline - time.monotonic()
    if estimate and in_time and s.objective.has_value and not results.failed:
        gains = measure_parallel_gain(s, optimizer)
    return ObjectiveReport(results, len(s.x0), seconds, s.noise, tuple(gains))


@dataclass(frozen=True, slots=True)
class SimulatorReport:
    """Both halves of `check_simulator`."""

    gradient: GradientReport | None  # None where there is no value to compare with
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
