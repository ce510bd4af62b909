"""How many steps Shampoo needs for what tuned Adam reaches, and how long a step of either takes.

Both have the same budget of trials: every rate, times two values of the momentum, times two of what
matters most to each beside them: the decay of Adam's squares, the ridge of Shampoo's roots. One
trial is one setting on one seed of one task; each is a line in a file as soon as it is done.

A goal is what Adam's best setting (the least geometric mean over the seeds) has after a third, two
thirds and all of its steps; counted are the steps of the one setting that reaches the goals of all
seeds soonest, the mean of the seeds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np

from optex_core.bench._result_store import Store
from optex_core.bench._runner import Row
from optex_core.bench._tables import columns, short
from optex_core.bench.shampoo.tasks import TASKS, Task
from optex_core.optimizers.adam import Adam
from optex_core.optimizers.shampoo import Shampoo
from optex_core.types import FirstOrderOptimizer

#: What is tried at every rate.
SETTINGS: dict[str, list[dict[str, float]]] = {
    "Adam": [{"b1": b1, "b2": b2} for b1 in (0.8, 0.9) for b2 in (0.99, 0.999)],
    "Shampoo": [
        {"momentum": momentum, "ridge": ridge} for momentum in (0.8, 0.9) for ridge in (1e-6, 1e-3)
    ],
}
#: Not tuned, nor the defaults of 10 and 0.99, which are for costlier gradients and longer runs than
#: these.
INTERVAL, DECAY = 5, 0.95
#: Steps between looks at the value on all data.
EVERY = 5


def optimizer_of(kind: str, task: Task, rate: float, setting: dict[str, float]) -> Adam | Shampoo:
    """What a trial runs; everything else is the default, or the task's."""
    if kind == "Adam":
        return Adam(rate, **setting)
    settings: Row = {**task.settings, **setting}
    return Shampoo(rate, shapes=task.shapes, b2=DECAY, interval=INTERVAL, **settings)


def tried(
    names: Sequence[str],
    seeds: int,
    rates: Sequence[float],
    store: Store,
    say: Callable[[str], None],
) -> None:
    """Run the trials that `store` does not hold yet."""
    for name in names:
        _, steps, make = TASKS[name]
        for seed, kind in product(range(seeds), SETTINGS):
            left = [
                (rate, one)
                for rate, one in product(rates, SETTINGS[kind])
                if _key(name, kind, rate, one, seed) not in store.cells
            ]
            task = make(seed) if left else None
            for rate, one in left:
                assert task is not None
                curve = trained(task, optimizer_of(kind, task, rate, one), steps)
                store.add(
                    _key(name, kind, rate, one, seed),
                    {"curve": [_finite(v) for v in curve], "d": len(task.start)},
                )
            say(f"{name}: {kind}, seed {seed}")


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


def compared(name: str, seeds: int, rates: Sequence[float], store: Store) -> Row:
    """Goals, steps, settings and best curves of both optimizers on one task, from finished trials;
    JSON.
    """
    title, steps, _ = TASKS[name]
    marks = [max(1, round(share * steps / EVERY)) for share in (1 / 3, 2 / 3, 1)]
    curves: dict[str, list[tuple[float, dict[str, float], np.ndarray]]] = {
        kind: [
            (
                rate,
                one,
                np.array(
                    [
                        _infinite(store.cells[_key(name, kind, rate, one, seed)]["curve"])
                        for seed in range(seeds)
                    ]
                ),
            )
            for rate, one in product(rates, settings)
        ]
        for kind, settings in SETTINGS.items()
    }
    with np.errstate(divide="ignore"):
        best = [
            min(
                (curve[:, mark] for *_, curve in curves["Adam"]),
                key=lambda values: float(np.log(values).mean()),
            )
            for mark in marks
        ]
    result: Row = {
        "title": title,
        "d": store.cells[_key(name, "Adam", rates[0], SETTINGS["Adam"][0], 0)]["d"],
        "steps": steps,
        "trials": len(curves["Adam"]),
        "seeds": seeds,
        "goals": [goal.tolist() for goal in best],
    }
    for kind, many in curves.items():
        found: Row = {"reached": [], "each": [], "settings": [], "edge": []}
        for goal in best:
            counts, rate, one, curve = min(
                ((_steps(curve, goal), rate, one, curve) for rate, one, curve in many),
                key=lambda f: (float(np.mean(f[0])), _mean_log(f[-1])),
            )
            found["reached"].append(_finite(float(np.mean(counts))))
            found["each"].append([_finite(count) for count in counts])
            found["settings"].append({"rate": rate, **one})
            found["edge"].append(rate in (rates[0], rates[-1]))
        found["curves"] = [[_finite(v) for v in values] for values in curve]
        result[kind] = found
    return result


def _mean_log(curves: np.ndarray) -> float:
    """Of the lowest values: what tells settings apart that do not reach a goal for every seed."""
    with np.errstate(divide="ignore"):
        return float(np.log(curves.min(axis=1)).mean())


def _steps(curves: np.ndarray, goals: np.ndarray) -> list[float]:
    """Steps until each seed's goal; infinite where it is not reached."""
    return [
        float(EVERY * np.argmax(curve <= goal)) if (curve <= goal).any() else math.inf
        for curve, goal in zip(curves, goals, strict=True)
    ]


def seconds(
    names: Sequence[str], rounds: int, say: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Processor seconds, which other programs hardly touch, of the gradient alone, and of a step of
    both optimizers with its gradient: means over whole intervals, interleaved, their medians.
    """
    found = {}
    for name in names:
        task = TASKS[name][2](0)
        held: dict[str, list[Any]] = {}
        for kind, settings in SETTINGS.items():
            optimizer = optimizer_of(kind, task, 1e-3, settings[0])
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
    head = (
        "",
        "d",
        "Adam",
        "Shampoo",
        "x fewer steps",
        "Adam's rate, b1, b2",
        "Shampoo's rate, momentum, ridge",
    )
    rows = []
    for one in tasks.values():
        adam, shampoo = one["Adam"], one["Shampoo"]
        rows.append(
            [
                one["title"],
                str(one["d"]),
                _many(adam["reached"]),
                _many(shampoo["reached"]),
                _many(_ratios(one)),
                _settings(adam),
                _settings(shampoo),
            ]
        )
    return columns(head, rows)


def seconds_table(times: dict[str, dict[str, float]], tasks: Row) -> str:
    """One line for each task: milliseconds of the processor, and how much less of it the goals take
    where the steps are known.
    """
    head = (
        "",
        "gradient ms",
        "step with Adam ms",
        "step with Shampoo ms",
        "x less to the goals",
    )
    rows = []
    for name, one in times.items():
        slower = one["Shampoo"] / one["Adam"]
        gain = (
            [None if r is None else r / slower for r in _ratios(tasks[name])]
            if name in tasks
            else []
        )
        rows.append(
            [
                TASKS[name][0],
                *(short(1e3 * one[kind]) for kind in ("gradient", "Adam", "Shampoo")),
                _many(gain),
            ]
        )
    return columns(head, rows)


def _ratios(task: Row) -> list[float | None]:
    return [
        a / s if a and s else None
        for a, s in zip(task["Adam"]["reached"], task["Shampoo"]["reached"], strict=True)
    ]


def _settings(found: Row) -> str:
    """Those of the last goal."""
    return " ".join(f"{value:.2g}" for value in found["settings"][-1].values()) + (
        " !" if found["edge"][-1] else ""
    )


def _many(values: Sequence[float | None]) -> str:
    return " ".join("never" if v is None else short(v) for v in values)


def _key(name: str, kind: str, rate: float, setting: dict[str, float], seed: int) -> str:
    return "/".join(
        (name, kind, f"{rate:.6g}", *(f"{value:g}" for value in setting.values()), str(seed))
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _infinite(curve: Sequence[float | None]) -> list[float]:
    return [math.inf if v is None else v for v in curve]
