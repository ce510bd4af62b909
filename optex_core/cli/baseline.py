"""Baselines, one gradient after another, until they reach the same value: SciPy's L-BFGS-B, and the
optimizer alone at the same rate and at its best.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from optex_core.adapters.objective import make_objective
from optex_core.bench._lbfgsb import run_lbfgsb
from optex_core.bench._tables import columns, first_hit, short
from optex_core.cli.problem_source import ProblemSource
from optex_core.engine.stopping import Status
from optex_core.engine.trace import Trace
from optex_core.optimizers.lbfgs import LBFGS
from optex_core.types import Context, FirstOrderOptimizer

#: The optimizer alone is tried at these multiples of the rate, in this order.
FACTORS = (1.0, 2.0, 4.0, 0.5)
#: The last share of the way down that is not compared: there rounding decides.
FINAL_FRACTION = 1e-10


@dataclass(frozen=True, slots=True)
class BaselineRow:
    """One line of the comparison."""

    label: str
    rate: float | None  # learning rate
    trace: Trace
    njev: int | None = None  # all gradients of the run, for the run that ended at the value

    def gradients(self, row: int) -> int:
        """Gradients until the value of row `row` is known, its own included."""
        if self.njev is not None and row == len(self.trace) - 1:
            return self.njev
        return int(self.trace.gradients[row]) + 1

    def reached(self, value: float) -> int | None:
        """The first row at or below `value`: the rounds it took."""
        return first_hit(self.trace.value, value)


def common_value(trace: Trace) -> float:
    """The value at which runs are compared: the least that the run has reached, but for a last
    1e-10 of its way; nan if it has not come down.
    """
    values = trace.value[np.isfinite(trace.value)]
    if not len(values) or values.min() >= values[0]:
        return float("nan")
    return float(values.min() + FINAL_FRACTION * (values[0] - values.min()))


def baselines(
    source: ProblemSource,
    optimizer: FirstOrderOptimizer,
    value: float,
    say: Callable[[str], None],
    seconds: float,
    **settings: Any,
) -> list[BaselineRow]:
    """Run L-BFGS-B, which is what a user would take instead, then the optimizer alone, until
    `value` is reached, in about `seconds` in all; `settings`: "bounds", "rng" and "backend" of
    `minimize`.
    """
    begin = time.perf_counter()
    first, ended = _lbfgsb(source, value, seconds / 2, settings["bounds"], settings["rng"])
    rounds = first.reached(value)
    outcome = f"not reached ({ended})" if rounds is None else f"{rounds} rounds"
    say(f"  {first.label}: {outcome}")
    if isinstance(optimizer, LBFGS):  # alone it has no line search
        return [first]
    left = max(0.0, seconds - (time.perf_counter() - begin))
    more = f"--baseline-time allows more than {seconds:g} s"
    return [first, *_optimizer_alone(source, optimizer, value, say, left, more, settings)]


def _lbfgsb(
    source: ProblemSource, value: float, seconds: float, bounds: object, seed: int
) -> tuple[BaselineRow, str]:
    evaluate = make_objective(source.fun, x0=source.x0).evaluate
    context = Context(id=0, seed=seed, iteration=0, slot=0)

    def fun(x: np.ndarray) -> tuple[float, np.ndarray]:
        found = evaluate(x, context)
        return math.nan if found.value is None else found.value, np.asarray(found.gradient)

    trace, ended = run_lbfgsb(fun, source.x0, bounds=bounds, target=value, max_time=seconds)
    return BaselineRow("SciPy's L-BFGS-B", None, trace), ended


def _optimizer_alone(
    source: ProblemSource,
    optimizer: Any,
    value: float,
    say: Callable[[str], None],
    seconds: float,
    more: str,
    settings: dict[str, Any],
) -> list[BaselineRow]:
    """Run the optimizer without parallelism until `value` is reached, at the given rate and at
    multiples of it; the rows of the given rate and, where another was better, of the best one.

    No run goes on longer than the best one so far, and all of them together take about `seconds` at
    most; `more` says how to get more.
    """
    from optex_core._minimize import minimize

    given = getattr(optimizer, "learning_rate", None)
    rate = given if isinstance(given, float | int) and dataclasses.is_dataclass(optimizer) else None
    factors = FACTORS if rate is not None else (1.0,)
    deadline = time.perf_counter() + seconds
    entries: list[BaselineRow] = []
    best: BaselineRow | None = None
    for i, factor in enumerate(factors):
        left = deadline - time.perf_counter()
        # The first run decides how long the others may be, so it gets half of the time.
        share = left / 2 if i == 0 and rate is not None else left / (len(factors) - i)
        if share <= 0:
            say(f"  no time left to try the other rates; {more}")
            break
        other = optimizer
        if rate is not None and factor != 1.0:
            other = dataclasses.replace(optimizer, learning_rate=factor * rate)
        rounds = None if best is None else best.reached(value)
        if rounds == 0:
            break
        result = minimize(
            source.fun, source.x0, optimizer=other, parallelism=1, strategy="sequential",
            target=value, maxiter=rounds, max_time=share, **settings,
        )  # fmt: skip
        label = "optimizer alone" if factor == 1.0 else f"optimizer alone, rate x {factor:g}"
        entry = BaselineRow(label, None if rate is None else factor * rate, result.history)
        reached = entry.reached(value)
        outcome = f"{reached} rounds"
        if reached is None:
            outcome = f"not reached in {result.nit} rounds ({result.status.key})"
            # another rate might have been the better one
            outcome += f"; {more} in all" if result.status is Status.MAX_TIME else ""
        say(f"  {label}: {outcome}")
        if factor == 1.0:
            entries.append(entry)
        if reached is not None and (rounds is None or reached < rounds):
            best = entry
    if best is None:
        return entries
    named = BaselineRow(f"{best.label} (its best)", best.rate, best.trace)
    return [named] if best in entries else [*entries, named]


def comparison(entries: list[BaselineRow], value: float, parallelism: int) -> str:
    """The table: the first entry is the run itself, the others are what it is compared with."""
    own = entries[0].reached(value)
    cores = f"{parallelism} free cores"
    head = ("", "rate", "rounds", "gradients", "seconds here", cores, "fewer rounds")
    rows = []
    for entry in entries:
        row = entry.reached(value)
        mark = "" if row is not None else "> "
        last = row if row is not None else len(entry.trace) - 1
        seconds = np.cumsum(np.nan_to_num(entry.trace.seconds))
        gain = "" if entry is entries[0] or not own else f"{mark}{short(last / own)} x"
        rows.append((
            entry.label,
            "-" if entry.rate is None else short(entry.rate),
            f"{mark}{last}",
            f"{mark}{entry.gradients(last)}",
            f"{mark}{short(seconds[last - 1] if last else 0.0)}",
            f"{mark}{short(entry.trace.ideal_seconds[last])}",
            gain,
        ))  # fmt: skip
    return columns(head, rows)
