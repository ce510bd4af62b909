"""Steps of Shampoo and SOAP for what tuned Adam reaches, on matrices.

Run: python examples/studies/shampoo.py [--quick|--full]
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import optex_core as ox
from optex_core.bench._result_store import Store
from optex_core.bench._runner import say
from optex_core.bench._tables import short
from optex_core.bench.shampoo.tasks import TASKS
from optex_core.bench.shampoo.tuning import (
    EVERY,
    INTERVAL,
    SETTINGS,
    compared,
    seconds,
    trained,
    tried,
)
from optex_core.bench.studies.study import Findings, Study, Table, run_study
from optex_core.engine.plots import COLOURS

TEXT = """Steps to the value that tuned Adam has after a third, two thirds and all of its steps,
and the processor time of a step beside it, on one thread: three tasks of `optex-core bench
shampoo`. Every optimizer is tuned on the same number of settings: at each of six rates four of what
matters most to it beside the rate. Counted is the mean over the seeds, of the one setting that
reaches the goals of all of them soonest."""
#: What SOAP is tried with at every rate, as the benchmark tries two values of two settings.
SOAPS = [{"b1": b1, "b2": b2} for b1 in (0.8, 0.9) for b2 in (0.9, 0.95)]
KINDS = (*SETTINGS, "SOAP")
#: mode -> (tasks, rates, seeds, repeats of the timing)
EXTENTS: dict[str, tuple[Sequence[str], Sequence[float], int, int]] = {
    "quick": (("ill_conditioned",), (0.1, 1.0), 1, 1),
    "default": (
        ("halves", "ill_conditioned", "completion"),
        np.logspace(-2.5, 1.0, 6).tolist(),
        5,
        5,
    ),
    "full": (tuple(TASKS), np.logspace(-3, 1, 9).tolist(), 10, 9),
}


def measure(mode: str, store: Store) -> Findings:
    names, rates, seeds, repeats = EXTENTS[mode]
    tried(names, seeds, rates, store, say)
    tasks = {name: compared(name, seeds, rates, store) for name in names}
    times = store.compute("seconds", lambda: seconds(names, repeats, say))
    for name, one in tasks.items():
        one["SOAP"] = soap(name, one["goals"], rates, seeds, store)
        times[name]["SOAP"] = store.compute(
            f"{name}/SOAP/seconds",
            lambda name=name: {"s": soap_seconds(name)},  # type: ignore[misc]
        )["s"]
    return Findings(
        [table(tasks, times)], losses=losses(tasks, times), figures={"tasks": tasks, "ms": times}
    )


def soap(
    name: str, goals: Sequence[Sequence[float]], rates: Sequence[float], seeds: int, store: Store
) -> dict[str, Any]:
    """Steps of SOAP to the goals of `compared`, in its form."""
    _, steps, make = TASKS[name]
    tried = []
    for rate, setting in product(rates, SOAPS):
        curves = []
        for seed in range(seeds):

            def run(rate: float = rate, setting: Any = setting, seed: int = seed) -> dict[str, Any]:
                task = make(seed)
                rule = ox.SOAP(rate, task.shapes, interval=INTERVAL, **task.settings, **setting)
                curve = trained(task, rule, steps)
                return {"curve": [v if math.isfinite(v) else None for v in curve]}

            key = f"{name}/SOAP/{rate:.6g}/{setting['b1']}/{setting['b2']}/{seed}"
            cell = store.compute(key, run)["curve"]
            curves.append([math.inf if v is None else v for v in cell])
        tried.append((rate, curves))
    found: dict[str, Any] = {"reached": [], "edge": [], "curves": []}
    for each in goals:
        counts = []
        for rate, curves in tried:
            hits = [np.flatnonzero(np.array(c) <= g) for c, g in zip(curves, each, strict=True)]
            steps_each = [EVERY * int(h[0]) if len(h) else math.inf for h in hits]
            counts.append((float(np.mean(steps_each)), rate, curves))
        count, rate, curves = min(counts, key=lambda one: one[0])
        found["reached"].append(count if math.isfinite(count) else None)
        found["edge"].append(rate in (rates[0], rates[-1]))
        found["curves"] = [[v if math.isfinite(v) else None for v in c] for c in curves]
    return found


def soap_seconds(name: str) -> float:
    """Processor seconds of a step of SOAP with its gradient: the median of whole intervals."""
    task = TASKS[name][2](0)
    rule = ox.SOAP(1e-3, task.shapes, interval=INTERVAL, **task.settings)
    x, state, times = task.start, rule.init(task.start), []
    for t in range(10 * INTERVAL):
        if t % INTERVAL == 0:
            times.append(time.process_time())
        x, state = rule.step(x, task.gradient(x, t)[1], state)
    return float(np.median(np.diff(times[1:]))) / INTERVAL


def table(tasks: Mapping[str, Any], times: Mapping[str, Any]) -> Table:
    """Steps to the three goals, and milliseconds of a step."""
    rows = []
    for name, one in tasks.items():
        cells = [one["title"], f"{one['d']:,}"]
        for kind in KINDS:
            steps = ", ".join("never" if s is None else f"{s:.0f}" for s in one[kind]["reached"])
            met = one[kind]["reached"][-1] is not None
            edge = " !" if met and one[kind]["edge"][-1] else ""
            cells += [f"{steps}{edge}", short(1e3 * times[name][kind])]
        rows.append([*cells, short(1e3 * times[name]["gradient"])])
    seeds = next(iter(tasks.values()))["seeds"]
    head = ["", "d"]
    for kind in KINDS:
        head += [f"{kind}, steps", f"{kind}, ms a step"]
    caption = (
        f"Steps to three goals, mean of {seeds} seeds ({next(iter(tasks.values()))['trials']} "
        f"settings each), and processor ms of a step with its gradient. !: at an end of the grid "
        f"of rates."
    )
    return Table(caption, [*head, "gradient, ms"], rows)


def losses(tasks: Mapping[str, Any], times: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Where an optimizer needs more steps, or processor seconds, than the best to the last goal."""
    rows = []
    for unit in ("steps", "seconds"):
        for kind in KINDS:
            lost = []
            for name, one in tasks.items():
                cost = {}
                for other in KINDS:
                    steps, each = one[other]["reached"][-1], times[name][other]
                    cost[other] = (
                        np.inf if steps is None else steps * (1.0 if unit == "steps" else each)
                    )
                best = min(cost, key=lambda k: cost[k])
                if cost[kind] > 1.1 * cost[best]:
                    own = "never" if np.isinf(cost[kind]) else short(cost[kind])
                    said = f"{one['title']}: {own} against {short(cost[best])}"
                    lost.append((cost[kind] / cost[best], said, best))
            if lost:
                _, said, best = max(lost)
                what = unit.replace("seconds", "processor seconds")
                rows.append((f"{kind}, by {what}", f"{len(lost)} of {len(tasks)}", said, best))
    return rows


def draw(findings: Findings, figure: Any) -> None:
    tasks = findings.figures["tasks"]
    figure.set_size_inches(3.6 * len(tasks), 3.4)
    for i, one in enumerate(tasks.values()):
        axes = figure.add_subplot(1, len(tasks), i + 1)
        for kind, colour in zip(KINDS, COLOURS, strict=False):
            if one[kind]["reached"][-1] is None:
                continue  # of settings that never reach the last goal none is the best
            for curve in one[kind]["curves"]:
                values = [np.nan if v is None else v for v in curve]
                axes.plot(EVERY * np.arange(len(values)), values, color=colour, linewidth=1.2,
                          label=kind if curve is one[kind]["curves"][0] else None)  # fmt: skip
        axes.set_yscale("log")
        axes.set_title(one["title"], fontsize="x-small")
        axes.set_xlabel("steps")
        axes.grid(visible=True, alpha=0.25)
        if not i:
            axes.legend(fontsize="x-small")


STUDY = Study("shampoo", "Shampoo and SOAP", TEXT, Path(__file__), measure, draw)

if __name__ == "__main__":
    raise SystemExit(run_study(STUDY))
