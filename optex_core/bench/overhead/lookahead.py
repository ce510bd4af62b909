"""Own work of a round of the default method, N = 8, on Rosenbrock's function.

``python -m optex_core.bench.overhead.lookahead D`` measures one d in this process and prints one
line of JSON.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from optex_core.bench._runner import Row
from optex_core.bench._tables import columns, short
from optex_core.engine.optex import OptEx
from optex_core.problems import get_problem

PARALLELISM = 8
#: Rounds that are not measured: code is compiled, and the history of 96 rows is not full.
FIRST, MEASURED = 16, 20
#: From this d on float32: both histories of 10^6 parameters then have 0.8 GB.
SINGLE_PRECISION_FROM = 1_000_000


def measure(d: int) -> Row:
    """Milliseconds in `ask` and `tell` of a round, and of all threads' processor time in them."""
    dtype = "float32" if d >= SINGLE_PRECISION_FROM else "float64"
    problem = get_problem("rosenbrock", d=d)
    engine = OptEx(
        problem.start(0).astype(dtype), parallelism=PARALLELISM, rng=0, gtol=0.0, maxiter=10**9
    )
    own, processor = [], []
    for number in range(FIRST + MEASURED):
        work, cpu = time.perf_counter(), time.process_time()
        candidates = engine.ask()
        work, cpu = time.perf_counter() - work, time.process_time() - cpu
        for c in candidates:
            value, gradient = problem(np.asarray(c.x))
            begin, worked = time.perf_counter(), time.process_time()
            engine.tell(c.id, value=float(value), gradient=gradient)
            work += time.perf_counter() - begin
            cpu += time.process_time() - worked
        if number >= FIRST:
            own.append(1e3 * work)
            processor.append(1e3 * cpu)
    middle, busy = float(np.median(own)), float(np.median(processor))
    return {"d": d, "dtype": dtype, "own": middle, "fastest": min(own), "processor": busy}


def table(rows: list[Row]) -> str:
    """One line for each d."""
    return columns(
        ("d", "dtype", "median ms", "fastest ms", "processor ms"),
        [
            [f"{row['d']:,}: {row['error']}", "", "", "", ""]
            if "error" in row
            else [f"{row['d']:,}", row["dtype"]]
            + [short(row[kind]) for kind in ("own", "fastest", "processor")]
            for row in rows
        ],
    )


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
