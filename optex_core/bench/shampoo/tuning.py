"""Steps that Shampoo needs for what tuned Adam reaches, and how long a step of either takes.

All have the same budget of trials: every rate, times two values of the momentum, times two of what
matters most to each beside them: the decay of Adam's squares, the ridge of Shampoo's roots. One
trial is one setting on one seed of one task; each is a line in a file as soon as it is done.

A goal is what Adam's best setting (the least geometric mean over the seeds) has after a third, two
thirds and all of its steps; counted are the steps of the one setting that reaches the goals of all
seeds soonest, the mean of the seeds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from optex_core.bench._result_store import Store
from optex_core.bench._runner import Row, as_json, say
from optex_core.bench._tables import columns, first_hit, short
from optex_core.bench.shampoo.tasks import TASKS, Task
from optex_core.optimizers.adam import Adam
from optex_core.optimizers.shampoo import Shampoo
from optex_core.optimizers.soap import SOAP
from optex_core.types import FirstOrderOptimizer

KINDS = ("Adam", "Shampoo")
_MOMENTA = (0.8, 0.9)
#: What is tried at every rate; SOAP: in the study.
SETTINGS: dict[str, list[dict[str, float]]] = {
    "Adam": [{"b1": b1, "b2": b2} for b1 in _MOMENTA for b2 in (0.99, 0.999)],
    "Shampoo": [{"momentum": m, "ridge": ridge} for m in _MOMENTA for ridge in (1e-6, 1e-3)],
    "SOAP": [{"b1": b1, "b2": b2} for b1 in _MOMENTA for b2 in (0.9, 0.95)],
}
#: Not tuned, nor the defaults of 10 and 0.99, which are for costlier gradients and longer runs than
#: these.
INTERVAL, DECAY = 5, 0.95
#: Steps between looks at the value on all data.
EVERY = 5


def optimizer_of(
    kind: str, task: Task, rate: float, setting: dict[str, float]
) -> FirstOrderOptimizer:
    """What a trial runs; everything else is the default, or the task's."""
    if kind == "Adam":
        return Adam(rate, **setting)
    settings: Row = {"interval": INTERVAL, **task.settings, **setting}
    if kind == "SOAP":
        return SOAP(rate, task.shapes, **settings)
    return Shampoo(rate, task.shapes, b2=DECAY, **settings)


def trained(task: Task, optimizer: FirstOrderOptimizer, steps: int) -> list[float]:
    """The least value on all data so far after 0, EVERY, 2 EVERY, ... steps; infinite from where it
    is not a number.
    """
    x: Any = task.start
    state = optimizer.init(x)
    values = [task.value(x)]
    with np.errstate(all="ignore"):  # rates that are too high
        for t in range(steps):
            x, state = optimizer.step(x, task.gradient(x, t)[1], state)
            if (t + 1) % EVERY == 0:
                value = task.value(x)
                if not math.isfinite(value):
                    values += [math.inf] * (steps // EVERY + 1 - len(values))
                    break
                values.append(min(value, values[-1]))
    return values


def compared(
    name: str, seeds: int, rates: Sequence[float], store: Store, kinds: Sequence[str] = KINDS
) -> Row:
    """Goals, steps, settings and best curves of the optimizers on one task, JSON; trials that the
    store does not hold yet are run.
    """
    title, steps, make = TASKS[name]
    curves: dict[str, list[tuple[float, dict[str, float], np.ndarray]]] = {}
    for kind in kinds:
        curves[kind] = []
        for rate, setting in product(rates, SETTINGS[kind]):
            each = []
            for seed in range(seeds):
                at = (name, kind, f"{rate:.6g}", *(f"{v:g}" for v in setting.values()), str(seed))
                key = "/".join(at)
                if key not in store.cells:
                    task = make(seed)
                    rule = optimizer_of(kind, task, rate, setting)
                    store.add(key, {"curve": trained(task, rule, steps)})
                each.append([math.inf if v is None else v for v in store.cells[key]["curve"]])
            curves[kind].append((rate, setting, np.array(each)))
        say(f"{name}: {kind}")
    marks = [max(1, round(share * steps / EVERY)) for share in (1 / 3, 2 / 3, 1)]
    goals = [min((curve[:, mark] for *_, curve in curves["Adam"]), key=_mean_log) for mark in marks]
    result: Row = {
        "title": title,
        "d": len(make(0).start),
        "steps": steps,
        "trials": len(curves["Adam"]),
        "seeds": seeds,
        "goals": goals,
    }
    for kind, many in curves.items():
        found: Row = {"reached": [], "each": [], "settings": [], "edge": []}
        for goal in goals:
            # Settings that do not reach a goal for every seed are told apart by lowest values.
            counts, rate, setting, curve = min(
                ((steps_to(curve, goal), rate, one, curve) for rate, one, curve in many),
                key=lambda f: (float(np.mean(f[0])), _mean_log(f[-1].min(axis=1))),
            )
            found["reached"].append(float(np.mean(counts)))
            found["each"].append(counts)
            found["settings"].append({"rate": rate, **setting})
            found["edge"].append(rate in (rates[0], rates[-1]))
        result[kind] = {**found, "curves": curve}
    ready: Row = as_json(result)
    return ready


def _mean_log(values: np.ndarray) -> float:
    with np.errstate(divide="ignore"):
        return float(np.log(values).mean())


def steps_to(curves: np.ndarray, goals: np.ndarray) -> list[float]:
    """Steps until each seed's goal; infinite where it is not reached."""
    hits = [first_hit(curve, goal) for curve, goal in zip(curves, goals, strict=True)]
    return [math.inf if hit is None else float(EVERY * hit) for hit in hits]


def seconds(
    names: Sequence[str], rounds: int, kinds: Sequence[str] = KINDS
) -> dict[str, dict[str, float]]:
    """Processor seconds, which other programs hardly touch, of the gradient alone, and of a step of
    the optimizers with its gradient: means over whole intervals, interleaved, their medians.
    """
    found = {}
    for name in names:
        task = TASKS[name][2](0)
        held: dict[str, list[Any]] = {}
        for kind in kinds:
            optimizer = optimizer_of(kind, task, 1e-3, SETTINGS[kind][0])
            held[kind] = [optimizer, task.start, optimizer.init(task.start), 0]
        times: dict[str, list[float]] = {kind: [] for kind in ("gradient", *held)}
        for repeat in range(rounds + 1):  # the first warms up
            for kind, spent in times.items():
                begin = time.process_time()
                for t in range(2 * INTERVAL):
                    if kind == "gradient":
                        task.gradient(task.start, t)
                        continue
                    optimizer, x, state, t = held[kind]
                    held[kind][1:] = [*optimizer.step(x, task.gradient(x, t)[1], state), t + 1]
                if repeat:
                    spent.append((time.process_time() - begin) / (2 * INTERVAL))
        found[name] = {kind: float(np.median(spent)) for kind, spent in times.items()}
        say(f"{name}: " + ", ".join(f"{kind} {1e3 * s:.2f} ms" for kind, s in found[name].items()))
    return found


def steps_table(tasks: Row) -> str:
    """One line for each task: steps to the three goals, and the settings that took so few to the
    last ("!" at an end of the grid).
    """
    settings = ("Adam's rate, b1, b2", "Shampoo's rate, momentum, ridge")
    rows = []
    for one in tasks.values():
        row = [one["title"], str(one["d"]), *(_many(one[kind]["reached"]) for kind in KINDS)]
        row.append(_many(_ratios(one)))
        for kind in KINDS:
            last = " ".join(f"{value:.2g}" for value in one[kind]["settings"][-1].values())
            row.append(last + (" !" if one[kind]["edge"][-1] else ""))
        rows.append(row)
    return columns(("", "d", *KINDS, "x fewer steps", *settings), rows)


def seconds_table(times: dict[str, dict[str, float]], tasks: Row) -> str:
    """One line for each task: milliseconds of the processor, and how much less of it the goals take
    where the steps are known.
    """
    steps = (f"step with {kind} ms" for kind in KINDS)
    rows = []
    for name, one in times.items():
        slower = one["Shampoo"] / one["Adam"]
        ratios = _ratios(tasks[name]) if name in tasks else []
        gain = _many([None if r is None else r / slower for r in ratios])
        ms = (short(1e3 * one[kind]) for kind in ("gradient", *KINDS))
        rows.append([TASKS[name][0], *ms, gain])
    return columns(("", "gradient ms", *steps, "x less to the goals"), rows)


def _ratios(task: Row) -> list[float | None]:
    return [
        a / s if a and s else None
        for a, s in zip(task["Adam"]["reached"], task["Shampoo"]["reached"], strict=True)
    ]


def _many(values: Sequence[float | None]) -> str:
    return " ".join("never" if v is None else short(v) for v in values)
