"""One cell of a benchmark: one strategy on one case in one setting, run and reduced to a few
numbers.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optex_core._minimize import minimize
from optex_core.bench._lbfgsb import NAME, run_lbfgsb
from optex_core.bench._runner import Row
from optex_core.bench.efficiency.curves import envelope, first_hit, goals, not_slower, speed_up
from optex_core.bench.efficiency.suite import Case
from optex_core.engine.status import Status
from optex_core.errors import EvaluationError
from optex_core.model.estimator import GradientEstimator
from optex_core.problems.noisy import Noisy

if TYPE_CHECKING:
    from optex_core.engine.result import Result

#: The rival that uses one gradient a round: SciPy's, listed beside the strategies.
LBFGSB = NAME
#: The optimizer alone, which everything is compared with.
PLAIN = "sequential"
#: One gradient a round, whatever N: measured once, shown beside every N.
ALONE = (PLAIN, LBFGSB)
#: Multiples of the case's rate, for "each at its best rate".
FACTORS = (0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured."""

    #: {"given", "best", "noise", "every"}: at the given rate; at the best of FACTORS; under
    #: gradient noise; with rarer searches of the likelihood.
    part: str
    case: str
    strategy: str
    parallelism: int  # N; 1 for what has no use for more
    level: float = 0.0  # norm of the noise in units of the gradient's at the start
    seed: int = 0  # of the run
    #: Rounds between searches of the likelihood; None: as the library does by default.
    every: int | None = None

    @property
    def key(self) -> str:
        """All settings as one text."""
        return "/".join(str(value) for value in asdict(self).values())


class Laboratory:
    """Runs cells; remembers what the optimizer alone does, since every cell is compared with it.

    Parameters
    ----------
    cases : mapping of str to Case
    """

    def __init__(self, cases: Mapping[str, Case]) -> None:
        self.cases = cases
        self._plain: dict[tuple[str, float], np.ndarray] = {}

    def run(self, cell: Cell) -> Row:
        """The cell's settings and numbers, all of it JSON.

        Parts "given", "best" and "every": the most rounds (`limit`); rounds of the optimizer alone
        to each goal (`plain`) and of this one (`hits`, None for never); `speed_ups`; `not_slower`;
        `gradients` spent to the last goal, or in all; `factor`, the rate that reached the last goal
        first. Part "noise": values without noise at the `start`, at the `final` iterate, and at
        that of the optimizer alone without noise (`clean`). All: `rounds`, `status`, `diverged`,
        median `work_ms` of the engine per round, `seconds` that the measurement took.
        """
        begin = time.perf_counter()
        case = self.cases[cell.case]
        # A run that diverges overflows on its way; what it ends as is in its status.
        with np.errstate(all="ignore"):
            found = self._noise(case, cell) if cell.part == "noise" else self._speed(case, cell)
        return {**asdict(cell), **found, "seconds": round(time.perf_counter() - begin, 3)}

    def plain(self, case: Case, factor: float = 1.0) -> np.ndarray:
        """The values of the optimizer alone at `factor` times its rate, after 0, 1, ... steps."""
        if (case.name, factor) not in self._plain:
            result = _minimize(case, Cell("given", case.name, PLAIN, 1), factor=factor)
            self._plain[case.name, factor] = result.history.value.copy()
        return self._plain[case.name, factor]

    def _speed(self, case: Case, cell: Cell) -> Row:
        tuned = cell.part == "best"
        factors = FACTORS if tuned and cell.strategy != LBFGSB else (1.0,)
        plain = envelope((self.plain(case, f) for f in (FACTORS if tuned else (1.0,))), case.steps)
        wanted = goals(plain, case.steps)
        base = [first_hit(plain, goal) or 0 for goal in wanted]
        hits: list[int | None] = [None] * len(wanted)
        outcome: Row = {}
        diverged = []
        for factor in factors:
            # Nothing that takes longer than the best rate so far can become the best.
            rounds = case.steps if hits[-1] is None else hits[-1]
            curve, one = (
                _lbfgsb(case, rounds)
                if cell.strategy == LBFGSB
                else _curve(case, cell, factor, wanted[-1], rounds)
            )
            found = [first_hit(curve, goal) for goal in wanted]
            diverged.append(one["diverged"])
            if not outcome or (
                found[-1] is not None and (hits[-1] is None or found[-1] < hits[-1])
            ):
                outcome = {"factor": factor, **one}
            hits = [
                new if old is None or (new is not None and new < old) else old
                for old, new in zip(hits, found, strict=True)
            ]
        return {
            "limit": case.steps,
            "plain": base,
            "hits": hits,
            "speed_ups": [speed_up(p, h) for p, h in zip(base, hits, strict=True)],
            "not_slower": [not_slower(p, h) for p, h in zip(base, hits, strict=True)],
            **outcome,
            # At the best rate, a rate that diverges is one that is not taken.
            "diverged": all(diverged),
        }

    def _noise(self, case: Case, cell: Cell) -> Row:
        result = _minimize(case, cell)
        start, final = case.problem.value(case.x0), case.problem.value(np.asarray(result.x))
        clean = self.plain(case)
        return {
            "start": start,
            "final": _finite(final),
            "clean": _finite(float(clean[-1])),
            **_facts(result, start),
            "gradients": result.njev,
        }


def _curve(
    case: Case, cell: Cell, factor: float, target: float, rounds: int
) -> tuple[np.ndarray, Row]:
    result = _minimize(case, cell, factor=factor, target=target, rounds=rounds)
    values = result.history.value.copy()
    hit = first_hit(values, target)
    spent = int(result.njev if hit is None else result.history.gradients[hit])
    return values, {**_facts(result, float(values[0])), "gradients": spent}


def _minimize(
    case: Case,
    cell: Cell,
    *,
    factor: float = 1.0,
    target: float | None = None,
    rounds: int | None = None,
) -> Result:
    fun: object = case.problem
    if cell.level:
        # In units of the gradient at this case's start, which need not be the problem's own.
        level = cell.level * float(np.linalg.norm(case.problem.gradient(case.x0)))
        fun = Noisy(case.problem, level, relative=False)
    optimizer: Any = case.optimizer
    if factor != 1.0:
        optimizer = dataclasses.replace(optimizer, learning_rate=factor * optimizer.learning_rate)
    estimator = None if cell.every is None else GradientEstimator(every=cell.every)
    try:
        return minimize(
            fun,
            case.x0,
            optimizer=optimizer,
            parallelism=cell.parallelism,
            strategy=cell.strategy,
            estimator=estimator,
            workers=None,
            rng=cell.seed,
            target=target,
            maxiter=case.steps if rounds is None else rounds,
        )
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
    facts = {
        "rounds": len(trace) - 1,
        "status": ended,
        "diverged": not math.isfinite(min(trace.value)),
        "work_ms": None,
        "gradients": len(trace) - 1,
    }
    return trace.value, facts


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
