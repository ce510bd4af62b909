"""Simulators with adjoints on real worker processes: seconds first.

Run: python examples/studies/simulator.py [--quick|--full]
"""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path

import numpy as np
from _comparison import ALONE, IDEAL, LBFGSB, METHODS, RATELESS, Objective, Task, compare, task
from _report import finals_table, rounds_table
from _resistivity import ACROSS, DOWN, GROUND, Resistivity
from _study import Findings, Study, run_study

import optex_core as ox
from optex_core.bench._result_store import Store
from optex_core.problems import get_problem

TEXT = """Heat inversion: the conductivity of every cell of a plate from noisy temperatures, 48 x 48
unknowns, a gradient of about 10 ms; seeds draw plates. Resistivity: a section of the ground from 20
voltages at electrodes, simulated and differentiated by SimPEG (which this project did not write),
144 unknowns, a gradient of about 50 ms. Adam with the best of the same five rates for every
method; N = 2 on two worker processes. L-BFGS-B runs in the driver; its seconds are those of its
evaluations, one after another."""
#: On real workers. SimPEG's processes take seconds to start: the most likely methods only.
CLOCK = tuple(method for method in METHODS if method != IDEAL)
GROUND_CLOCK = (ALONE, "data_parallel", "paper", "auto", RATELESS, LBFGSB)
QUICK_CLOCK = (ALONE, "auto")
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
#: mode -> (cells a side, rounds, seeds, N), and (rounds, seeds) of the resistivity, N = 2
EXTENTS = {
    "quick": (12, 10, 1, (2,), 5, 1),
    "default": (48, 40, 5, (2,), 15, 5),
    "full": (96, 100, 10, (2, 4, 8), 60, 10),
}


def heat(size: int, seed: int) -> Objective:
    """A plate of this seed."""
    problem = get_problem("heat_inversion", size=size, seed=seed)
    return Objective(problem, problem.start())


def resistivity(seed: int) -> Objective:
    """A section of this seed, from the ground without bodies."""
    return Objective(Resistivity(seed), np.full(ACROSS * DOWN, GROUND))


def measure(mode: str, store: Store) -> Findings:
    size, rounds, seeds, numbers, ground_rounds, ground_seeds = EXTENTS[mode]
    tasks: list[Task] = [
        task(f"heat {N}", f"heat inversion, N = {N}", partial(heat, size), ox.Adam, RATES, rounds,
             N, seeds=seeds, clock=QUICK_CLOCK if mode == "quick" else CLOCK)
        for N in numbers
    ]  # fmt: skip
    skipped = []
    if importlib.util.find_spec("simpeg") is None:
        skipped.append(
            "the resistivity: SimPEG is not installed (python -m pip install 'optex_core[studies]')"
        )
    else:
        tasks.append(
            task("resistivity", "resistivity (SimPEG), N = 2", resistivity, ox.Adam, RATES,
                 ground_rounds, 2, seeds=ground_seeds,
                 clock=QUICK_CLOCK if mode == "quick" else GROUND_CLOCK)
        )  # fmt: skip
    found = compare(tasks, store)
    return Findings([rounds_table(found, clock=True), finals_table(found)], found, skipped=skipped)


STUDY = Study("simulator", "Simulators on worker processes", TEXT, Path(__file__), measure)

if __name__ == "__main__":
    raise SystemExit(run_study(STUDY))
