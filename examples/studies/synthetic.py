"""The synthetic functions of the OptEx paper, and its ablations, with controls.

Run: python examples/studies/synthetic.py [--quick|--full]
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _comparison import IDEAL, METHODS, Objective, compare, minimized, task
from _report import finals_table, rounds_table, spread
from _study import Findings, Study, Table, run_study

import optex_core as ox
from optex_core.bench._result_store import Store
from optex_core.bench._tables import first_hit
from optex_core.problems import get_problem

TEXT = """Ackley, Sphere, Rosenbrock and Levy, functions of the OptEx paper, from its start
(uniform on [-1, 1]^d) with Adam and N = 5. Every method with a rate has the same six trials on a
seed that is not reported; rates at d = 10,000 and 100,000 are those found at d = 1,000, since the
steps of Adam do not depend on d here. L-BFGS-B and the call without a rate need no trials.
Rosenbrock, d = 100,000, also on real workers, two processes: a gradient takes a millisecond. The
ablations (figure 6 of the paper) change one setting on Rosenbrock, d = 1,000."""
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
N = 5
FUNCTIONS = ("sphere", "ackley", "rosenbrock", "levy")
#: mode -> (d of the tuned tasks, the larger d, rounds, seeds)
EXTENTS: dict[str, tuple[int, tuple[int, ...], int, int]] = {
    "quick": (50, (), 15, 1),
    "default": (1_000, (10_000, 100_000), 60, 5),
    "full": (1_000, (10_000, 100_000), 100, 10),
}
#: The task that also runs on real workers, and its methods there.
CLOCKED = ("rosenbrock", 100_000)
CLOCK = tuple(method for method in METHODS if method != IDEAL)
#: The setting -> what is tried; the first is what `auto` has by default.
ABLATIONS: dict[str, tuple[Any, ...]] = {
    "N": (5, 1, 2, 4, 8, 16),
    "history": (None, 5, 10, 60),
    "kernel": ("matern52", "matern12", "matern32", "rbf", "rational_quadratic"),
    "mean": (None, "zero", "constant", "linear"),
    "tune": ("likelihood", "median", "fixed"),
    "selection": ("last", "value", "gradient_norm"),
    "kernel_dims": (None, 500, 50, 5),
}


def make(name: str, d: int, seed: int) -> Objective:
    """The function, from a start of this seed."""
    return Objective(get_problem(name, d=d), np.random.default_rng(seed).uniform(-1, 1, d))


def measure(mode: str, store: Store) -> Findings:
    d, larger, rounds, seeds = EXTENTS[mode]
    small = [
        task(f"{name} {d}", f"{name} d = {d:,}", partial(make, name, d), ox.Adam, RATES, rounds, N,
             seeds=seeds)
        for name in FUNCTIONS
    ]  # fmt: skip
    large = [
        task(f"{name} {size}", f"{name} d = {size:,}", partial(make, name, size), ox.Adam, RATES,
             rounds, N, seeds=seeds, rates_of=f"{name} {d}",
             clock=CLOCK if (name, size) == CLOCKED else ())
        for size in larger
        for name in FUNCTIONS
    ]  # fmt: skip
    found = compare([*small, *large], store)
    rosenbrock = next(one for one in found if one["task"] == f"rosenbrock {d}")
    ablations = ablate(rosenbrock, d, rounds, seeds, store)
    return Findings(
        [rounds_table(found, clock=bool(larger)), finals_table(found), ablation_table(ablations)],
        found,
        figures={"ablations": ablations},
    )


def ablate(
    tuned: dict[str, Any], d: int, rounds: int, seeds: int, store: Store
) -> list[dict[str, Any]]:
    """Rounds to the goal of `tuned` with one setting changed, at the rates of `tuned`."""
    rows = []
    for setting, values in ABLATIONS.items():
        for value in values:
            if setting == "kernel_dims" and value is not None and value > d:
                continue
            row: dict[str, Any] = {"setting": setting, "value": value}
            for method in ("paper", "auto"):
                if setting == "selection" and method == "auto":
                    continue
                row[method] = [
                    _ablated(tuned, d, rounds, method, setting, value, seed, store)
                    for seed in range(seeds)
                ]
            rows.append(row)
    return rows


def _ablated(
    tuned: dict[str, Any],
    d: int,
    rounds: int,
    method: str,
    setting: str,
    value: Any,
    seed: int,
    store: Store,
) -> int | None:
    options: dict[str, Any] = {}
    if setting == "selection":
        options["strategy"] = ox.strategies.Paper(selection=value)
    elif setting != "N":
        options["estimator"] = ox.GradientEstimator(**{setting: value})

    def run() -> dict[str, Any]:
        done = minimized(
            partial(make, "rosenbrock", d), ox.Adam, rounds, value if setting == "N" else N,
            method, tuned["rates"][method], seed, **options,
        )  # fmt: skip
        return {"rounds": first_hit(done.values, tuned["goals"][seed])}

    found: int | None = store.compute(f"ablation/{setting}/{value}/{method}/{seed}", run)["rounds"]
    return found


def ablation_table(rows: list[dict[str, Any]]) -> Table:
    return Table(
        "Rosenbrock, one setting changed: rounds to the goal (first of each setting: the default).",
        ["setting", "value", "paper", "auto"],
        [
            [
                row["setting"],
                "default" if row["value"] is None else str(row["value"]),
                *(spread(row[m]) if m in row else "-" for m in ("paper", "auto")),
            ]
            for row in rows
        ],
    )


STUDY = Study("synthetic", "Synthetic functions", TEXT, Path(__file__), measure)

if __name__ == "__main__":
    raise SystemExit(run_study(STUDY))
