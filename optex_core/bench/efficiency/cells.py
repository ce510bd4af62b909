"""One cell of `efficiency`: one strategy on one case in one setting, run and reduced to a few
numbers.

Entry k of a curve is the value after k rounds. A goal is the best value of the optimizer alone
within one of the SHARES of its steps; a hit is the first round at or below a goal.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optex_core._minimize import minimize
from optex_core.bench._lbfgsb import NAME as LBFGSB
from optex_core.bench._lbfgsb import run_lbfgsb
from optex_core.bench._runner import Row
from optex_core.bench._tables import first_hit
from optex_core.bench.efficiency.rates import rates_suite, run_rates
from optex_core.bench.efficiency.suite import Case
from optex_core.engine.stopping import Status
from optex_core.errors import EvaluationError
from optex_core.problems.noisy import Noisy

if TYPE_CHECKING:
    from optex_core.engine.result import Result

#: The optimizer alone, which everything is compared with.
PLAIN = "sequential"
#: One gradient a round, whatever N: measured once, shown beside every N.
ALONE = (PLAIN, LBFGSB)
#: Multiples of the case's rate, for "each at its best rate".
FACTORS = (0.5, 1.0, 2.0, 4.0, 8.0)
SHARES = (0.3, 0.6, 1.0)
#: A goal is missed by rounding when a value lies above it by less than this share of the way down:
#: the mean of five equal gradients differs from them in the last digit, and `data_parallel` without
#: noise would otherwise never reach what it repeats.
ROUNDING = 1e-12
#: "Not slower" allows this share more rounds, or one.
TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured."""

    #: {"given", "best", "noise", "rates"}: at the given rate; at the best of FACTORS; under
    #: gradient noise; the same at `rate`.
    part: str
    case: str
    strategy: str
    parallelism: int  # N; 1 for what has no use for more
    level: float = 0.0  # norm of the noise in units of the gradient's at the start
    seed: int = 0  # of the run
    rate: float | None = None  # the learning rate; None: the case's

    @property
    def key(self) -> str:
        """All settings as one text."""
        return "/".join(str(value) for value in asdict(self).values())


class Laboratory:
    """Runs cells; remembers what the optimizer alone does, since every cell is compared with it."""

    def __init__(self, cases: Mapping[str, Case]) -> None:
        self.cases, self._noisy = cases, rates_suite()
        self._plain: dict[tuple[str, float], np.ndarray] = {}

    def run(self, cell: Cell) -> Row:
        """The cell's settings and numbers.

        Parts "given" and "best": the most rounds (`limit`); rounds of the optimizer alone to each
        goal (`plain`) and of this one (`hits`, None for never); `speed_ups`; `not_slower`;
        `gradients` spent to the last goal, or in all; `factor`, the rate that reached the last goal
        first. Part "noise": values without noise at the `start`, at the `final` iterate, and at
        that of the optimizer alone without noise (`clean`). Part "rates": the `final` value
        without noise. Others: `rounds`, `status`, `diverged`, median `work_ms` of the engine per
        round. All: `seconds` that the measurement took.
        """
        begin = time.perf_counter()
        # A run that diverges overflows on its way; what it ends as is in its status.
        with np.errstate(all="ignore"):
            if cell.part == "rates":
                found = run_rates(self._noisy[cell.case], cell)
            elif cell.part == "noise":
                found = self._noise(self.cases[cell.case], cell)
            else:
                found = self._speed(self.cases[cell.case], cell)
        return {**asdict(cell), **found, "seconds": round(time.perf_counter() - begin, 3)}

    def _alone(self, case: Case, factor: float = 1.0) -> np.ndarray:
        """The curve of the optimizer alone at `factor` times its rate."""
        if (case.name, factor) not in self._plain:
            result = _minimize(case, Cell("given", case.name, PLAIN, 1), factor)
            self._plain[case.name, factor] = result.history.value.copy()
        return self._plain[case.name, factor]

    def _speed(self, case: Case, cell: Cell) -> Row:
        rates = FACTORS if cell.part == "best" else (1.0,)
        plain = envelope([self._alone(case, rate) for rate in rates], case.steps)
        wanted = goals(plain, case.steps)
        alone = [first_hit(plain, goal) or 0 for goal in wanted]
        hits: list[int | None] = [None] * len(wanted)
        outcome: Row = {}
        diverged = []
        for factor in (1.0,) if cell.strategy == LBFGSB else rates:
            # Nothing that takes longer than the best rate so far can become the best.
            rounds = case.steps if hits[-1] is None else hits[-1]
            if cell.strategy == LBFGSB:
                curve, facts = _lbfgsb(case, rounds)
            else:
                curve, facts = _curve(case, cell, factor, wanted[-1], rounds)
            found = [first_hit(curve, goal) for goal in wanted]
            diverged.append(facts["diverged"])
            last = found[-1]
            if not outcome or (last is not None and (hits[-1] is None or last < hits[-1])):
                outcome = {"factor": factor, **facts}
            hits = [
                min((hit for hit in pair if hit is not None), default=None)
                for pair in zip(hits, found, strict=True)
            ]
        pairs = list(zip(alone, hits, strict=True))
        return {
            "limit": case.steps,
            "plain": alone,
            "hits": hits,
            "speed_ups": [speed_up(*pair) for pair in pairs],
            "not_slower": [not_slower(*pair) for pair in pairs],
            **outcome,
            # At the best rate, a rate that diverges is one that is not taken.
            "diverged": all(diverged),
        }

    def _noise(self, case: Case, cell: Cell) -> Row:
        result = _minimize(case, cell)
        start = case.problem.value(case.x0)
        return {
            "start": start,
            "final": case.problem.value(np.asarray(result.x)),
            "clean": float(self._alone(case)[-1]),
            **_facts(result, start),
            "gradients": result.njev,
        }


def goals(plain: np.ndarray, steps: int) -> tuple[float, ...]:
    """The best values of the curve `plain` within the SHARES of its `steps` steps, but for
    ROUNDING; values that are not finite do not count.
    """
    usable = np.where(np.isfinite(plain), plain, np.inf)
    lowest = [float(usable[: int(steps * share) + 1].min()) for share in SHARES]
    return tuple(low + ROUNDING * (float(usable[0]) - low) for low in lowest)


def envelope(curves: Iterable[np.ndarray], steps: int) -> np.ndarray:
    """The lowest value that any of the curves has reached within k rounds, shape (steps + 1,): the
    optimizer at its best rate for every goal.
    """
    best = np.full(steps + 1, np.inf)
    for curve in curves:
        n = min(len(curve), steps + 1)
        best[:n] = np.fmin(best[:n], np.where(np.isfinite(curve[:n]), curve[:n], np.inf))
    return np.minimum.accumulate(best)


def speed_up(plain: int, hit: int | None) -> float | None:
    """Rounds of the optimizer alone over rounds to the hit; a hit at once counts as one round, and
    never is None.
    """
    return None if hit is None else max(plain, 1) / max(hit, 1)


def not_slower(plain: int, hit: int | None) -> bool:
    """At most max(1 round, 5 %) more than the optimizer alone."""
    return hit is not None and hit <= plain + max(1.0, TOLERANCE * plain)


def _curve(
    case: Case, cell: Cell, factor: float, target: float, rounds: int
) -> tuple[np.ndarray, Row]:
    result = _minimize(case, cell, factor, target=target, maxiter=rounds)
    values = result.history.value.copy()
    hit = first_hit(values, target)
    spent = int(result.njev if hit is None else result.history.gradients[hit])
    return values, {**_facts(result, float(values[0])), "gradients": spent}


def _minimize(case: Case, cell: Cell, factor: float = 1.0, **limits: Any) -> Result:
    fun: object = case.problem
    if cell.level:
        # In units of the gradient at this case's start, which need not be the problem's own.
        level = cell.level * float(np.linalg.norm(case.problem.gradient(case.x0)))
        fun = Noisy(case.problem, level, relative=False)
    optimizer: Any = case.optimizer
    if factor != 1.0:
        optimizer = dataclasses.replace(optimizer, learning_rate=factor * optimizer.learning_rate)
    try:
        return minimize(
            fun, case.x0, optimizer=optimizer, parallelism=cell.parallelism,
            strategy=cell.strategy, rng=cell.seed, **{"maxiter": case.steps, **limits},
        )  # fmt: skip
    except EvaluationError as error:
        # A simulator refuses points far outside its range: the run ended there.
        partial: Result = error.partial_result
        return partial


def _facts(result: Result, start: float) -> Row:
    work = result.history.overhead
    work = work[np.isfinite(work)]
    # A run that ends far above its start has left the function's basin, finite or not.
    lost = not math.isfinite(result.fun) or result.fun > start + 10 * abs(start)
    return {
        "rounds": int(result.nit),
        "status": result.status.key,
        "diverged": result.status in (Status.DIVERGED, Status.FAILED) or lost,
        "work_ms": round(1e3 * float(np.median(work)), 4) if len(work) else None,
    }


def _lbfgsb(case: Case, rounds: int) -> tuple[np.ndarray, Row]:
    """Values of L-BFGS-B by evaluation, x0 first, and what became of the run."""
    trace, ended = run_lbfgsb(case.problem, case.x0, max_evals=rounds)
    last, lost = len(trace) - 1, not math.isfinite(min(trace.value))
    facts = {"rounds": last, "gradients": last, "status": ended, "diverged": lost, "work_ms": None}
    return trace.value, facts
