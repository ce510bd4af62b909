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
from optex_core.bench._tables import columns, short
from optex_core.cli.problem_source import ProblemSource
from optex_core.engine.status import Status
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
        hits = np.flatnonzero(self.trace.value <= value)
        return int(hits[0]) if len(hits) else None


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
    *,
    backend: str,
    bounds: object = None,
    seed: int,
    seconds: float,
    say: Callable[[str], None],
) -> list[BaselineRow]:
    """Run L-BFGS-B, then the optimizer alone, until `value` is reached, in about `seconds` in all.

    L-BFGS-B has no rate to choose and needs exact gradients: it is what a user would take instead.
    """
    evaluate = make_objective(source.fun, x0=source.x0).evaluate
    context = Context(id=0, seed=seed, iteration=0, slot=0)

    def fun(x: np.ndarray) -> tuple[float, np.ndarray]:
        found = evaluate(x, context)
        return math.nan if found.value is None else found.value, np.asarray(found.gradient)

    begin = time.perf_counter()
    trace, ended = run_lbfgsb(fun, source.x0, bounds=bounds, target=value, max_time=seconds / 2)
    row = BaselineRow("SciPy's L-BFGS-B", None, trace)
    rounds = row.reached(value)
    outcome = f"not reached ({ended})" if rounds is None else f"{rounds} rounds"
    say(f"  {row.label}: {outcome}")
    if isinstance(optimizer, LBFGS):  # alone it has no line search
        return [row]
    left = max(0.0, seconds - (time.perf_counter() - begin))
    alone = optimizer_alone(
        source,
        optimizer,
        value,
        backend=backend,
        bounds=bounds,
        seed=seed,
        seconds=left,
        allowed=seconds,
        say=say,
    )
    return [row, *alone]


def optimizer_alone(
    source: ProblemSource,
    optimizer: FirstOrderOptimizer,
    value: float,
    *,
    backend: str,
    bounds: object = None,
    seed: int,
    seconds: float,
    allowed: float,
    say: Callable[[str], None],
) -> list[BaselineRow]:
    """Run the optimizer without parallelism until `value` is reached, at the given rate and at
    multiples of it; the rows of the given rate and, where another was better, of the best one.

    No run goes on longer than the best one so far, and all of them together take about `seconds` at
    most.
    """
    from optex_core._minimize import minimize

    rate = getattr(optimizer, "learning_rate", None)
    varied = isinstance(rate, float | int) and dataclasses.is_dataclass(optimizer)
    factors = FACTORS if varied else (1.0,)
    deadline = time.perf_counter() + seconds
    entries: list[BaselineRow] = []
    best: BaselineRow | None = None
    for i, factor in enumerate(factors):
        left = deadline - time.perf_counter()
        # The first run decides how long the others may be, so it gets half of the time.
        share = left / 2 if i == 0 and varied else left / (len(factors) - i)
        if share <= 0:
            say(
                f"  no time left to try the other rates; --baseline-time allows more "
                f"than {allowed:g} s"
            )
            break
        other: Any = optimizer
        if varied and factor != 1.0:
            other = dataclasses.replace(optimizer, learning_rate=factor * rate)  # type: ignore[type-var,operator]
        rounds = None if best is None else best.reached(value)
        if rounds == 0:
            break
        result = minimize(
            source.fun,
            source.x0,
            optimizer=other,
            parallelism=1,
            strategy="sequential",
            backend=backend,
            bounds=bounds,
            rng=seed,
            target=value,
            maxiter=rounds,
            max_time=share,
        )
        label = "optimizer alone" if factor == 1.0 else f"optimizer alone, rate x {factor:g}"
        entry = BaselineRow(label, factor * rate if varied else None, result.history)  # type: ignore[operator]
        reached = entry.reached(value)
        outcome = (
            f"{reached} rounds"
            if reached is not None
            else f"not reached in {result.nit} rounds ({result.status.key})"
        )
        # another rate might have been the better one
        if reached is None and result.status is Status.MAX_TIME:
            outcome += f"; --baseline-time allows more than {allowed:g} s in all"
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
    head = (
        "",
        "rate",
        "rounds",
        "gradients",
        "seconds here",
        f"{parallelism} free cores",
        "fewer rounds",
    )
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
