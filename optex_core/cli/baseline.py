"""The honest comparison: the same optimizer alone, at the same rate and at its best, until it
reaches the same value.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from optex_core.cli.problem_source import Subject
from optex_core.cli.table import number, table
from optex_core.engine.status import Status
from optex_core.engine.trace import Trace
from optex_core.types import FirstOrderOptimizer

#: The optimizer alone is tried at these multiples of the rate, in this order.
FACTORS = (1.0, 2.0, 4.0, 0.5)
#: The last share of the way down that is not compared: there rounding decides.
REST = 1e-10


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the comparison.

    Attributes
    ----------
    label : str
    rate : float or None
        Learning rate.
    trace : Trace
    """

    label: str
    rate: float | None
    trace: Trace

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
    return float(values.min() + REST * (values[0] - values.min()))


def optimizer_alone(
    subject: Subject,
    optimizer: FirstOrderOptimizer,
    value: float,
    *,
    backend: str,
    bounds: Any = None,
    seed: int,
    seconds: float,
    say: Callable[[str], None],
) -> list[Entry]:
    """Run the optimizer without parallelism until `value` is reached, at the given rate and at
    multiples of it.

    No run goes on longer than the best one so far, and all of them together take about `seconds` at
    most.

    Returns
    -------
    list of Entry
        At the given rate and, where another was better, at the best one.
    """
    from optex_core._minimize import minimize

    rate = getattr(optimizer, "learning_rate", None)
    varied = isinstance(rate, float | int) and dataclasses.is_dataclass(optimizer)
    factors = FACTORS if varied else (1.0,)
    deadline = time.perf_counter() + seconds
    entries: list[Entry] = []
    best: Entry | None = None
    for i, factor in enumerate(factors):
        left = deadline - time.perf_counter()
        # The first run decides how long the others may be, so it gets half of the time.
        share = left / 2 if i == 0 and varied else left / (len(factors) - i)
        if share <= 0:
            say(
                f"  no time left to try the other rates; --baseline-time allows more "
                f"than {seconds:g} s"
            )
            break
        other: Any = optimizer
        if varied and factor != 1.0:
            other = dataclasses.replace(optimizer, learning_rate=factor * rate)  # type: ignore[type-var,operator]
        rounds = None if best is None else best.reached(value)
        if rounds == 0:
            break
        result = minimize(
            subject.fun, subject.x0, optimizer=other, parallelism=1, strategy="sequential", backend=backend, bounds=bounds, rng=seed,
            target=value, maxiter=rounds, max_time=share,
        )  # fmt: skip
        label = "optimizer alone" if factor == 1.0 else f"optimizer alone, rate x {factor:g}"
        entry = Entry(label, factor * rate if varied else None, result.history)  # type: ignore[operator]
        reached = entry.reached(value)
        outcome = (
            f"{reached} rounds"
            if reached is not None
            else f"not reached in {result.nit} rounds ({result.status.key})"
        )
        # another rate might have been the better one
        if reached is None and result.status is Status.MAX_TIME:
            outcome += f"; --baseline-time allows more than {seconds:g} s in all"
        say(f"  {label}: {outcome}")
        if factor == 1.0:
            entries.append(entry)
        if reached is not None and (rounds is None or reached < rounds):
            best = entry
    if best is None:
        return entries
    named = Entry(f"{best.label} (its best)", best.rate, best.trace)
    return [named] if best in entries else [*entries, named]


def comparison(entries: list[Entry], value: float, parallelism: int) -> str:
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
        gain = "" if entry is entries[0] or not own else f"{mark}{number(last / own)} x"
        rows.append((
            entry.label,
            "-" if entry.rate is None else number(entry.rate),
            f"{mark}{last}",
            f"{mark}{entry.trace.gradients[last]}",
            f"{mark}{number(seconds[last - 1] if last else 0.0)}",
            f"{mark}{number(entry.trace.ideal_seconds[last])}",
            gain,
        ))  # fmt: skip
    return table(head, rows)
