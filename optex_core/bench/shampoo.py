"""Shampoo against tuned Adam in steps and seconds on problems with matrices, and how long and how even its steps are.

Both optimizers are tuned on the same budget: so many rates from 1e-3 to 1, and two settings beside them (Adam: b2 of 0.99 and 0.999; Shampoo: 0.95
and 0.99). A goal is the best value that any of Adam's settings has after a third, two thirds and all of its steps; counted are the steps that the
best setting of each needs, the mean of the seeds. Step times are interleaved in one run, on tiles of one size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import optex_core
from optex_core._checks import integer
from optex_core.bench._matrices import TASKS, Task
from optex_core.bench._report import columns, short
from optex_core.bench._step_times import measure
from optex_core.errors import ArgumentError, MissingExtraError, did_you_mean
from optex_core.optimizers.adam import Adam
from optex_core.optimizers.shampoo import Shampoo

EXAMPLES = """examples:
  optex-core bench shampoo                        all tasks, three seeds, and step times: some minutes
  optex-core bench shampoo --quick                two tasks, one seed, short times: half a minute
  optex-core bench shampoo --parts times --size 512 --tiles 2"""
PARTS = ("steps", "times")
#: The setting that is tuned beside the rate.
SECOND = {"Adam": (0.99, 0.999), "Shampoo": (0.95, 0.99)}
#: Steps between looks at the value on all data.
EVERY = 5


def main(argv: Sequence[str]) -> int:
    """Measure, print, save.

    Parameters
    ----------
    argv : sequence of str
        The options.

    Returns
    -------
    int
        0.
    """
    args = _parser().parse_args(argv)
    names = tuple(args.tasks.split(",")) if args.tasks else ("ill_conditioned", "halves") if args.quick else tuple(TASKS)
    parts = tuple(args.parts.split(",")) if args.parts else PARTS
    for kind, given, known in (("task", names, TASKS), ("part", parts, PARTS)):
        for name in given:
            if name not in known:
                raise ArgumentError(f"unknown {kind} {name!r}{did_you_mean(name, known)}")
    seeds = integer("--seeds", args.seeds if args.seeds is not None else 1 if args.quick else 3, low=1)
    rates = np.logspace(-3, 0, 4 if args.quick else 7)
    folder = Path(args.output or Path("optex-runs", "shampoo-quick" if args.quick else "shampoo"))
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "format": "optex_core shampoo", "version": optex_core.__version__, "seeds": seeds, "rates": rates.tolist(),
        "machine": {"python": platform.python_version(), "numpy": np.__version__, "cores": os.cpu_count(), "system": platform.platform()},
    }  # fmt: skip
    texts = []
    if "steps" in parts:
        with threadpool_limits(limits=1, user_api="blas"):  # the problems' own products have the same bits everywhere
            document["tasks"] = {name: compared(name, seeds, rates, _say) for name in names}
        texts.append("Steps to the value that tuned Adam has after a third, two thirds and all of its steps\n\n" + steps_table(document["tasks"]))
    if "times" in parts:
        few = args.quick
        document["times"] = measure(
            args.tiles, args.size, args.interval, args.dtype, max(2 * args.interval, 20 if few else 60), 1 if few else 5, _say
        )
        t = document["times"]
        texts.append(
            f"A step on {t['tiles']} tiles of {t['size']} x {t['size']}, {t['dtype']}, roots every {t['interval']} steps\n\n" + times_table(t["ways"])
        )
    text = "\n\n\n".join(texts) + "\n"
    (folder / "shampoo.txt").write_text(text, encoding="utf-8")
    (folder / "shampoo.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(text)
    if "steps" in parts:
        try:
            draw(document["tasks"], folder / "shampoo.png")
        except MissingExtraError as error:  # the figures are measured and saved: only their picture is missing
            print(f"no picture: {error}", file=sys.stderr)
    print(f"saved in {folder}")
    return 0


def compared(name: str, seeds: int, rates: np.ndarray, say: Callable[[str], None]) -> dict[str, Any]:
    """Both optimizers with all their settings on one task: goals, steps, seconds and the curves of the best."""
    title, steps, make = TASKS[name]
    tasks = [make(seed) for seed in range(seeds)]
    made: dict[str, Callable[[float, float, Task], Any]] = {
        "Adam": lambda rate, b2, _task: Adam(rate, b2=b2),
        "Shampoo": lambda rate, b2, task: Shampoo(rate, shapes=task.shapes, b2=b2, interval=5),
    }
    curves: dict[str, dict[str, list[np.ndarray]]] = {kind: {} for kind in made}
    seconds: dict[str, list[float]] = {kind: [] for kind in made}
    for kind, optimizer in made.items():
        for rate, b2 in product(rates, SECOND[kind]):
            found = [trained(task, optimizer(float(rate), b2, task), steps) for task in tasks]
            curves[kind][f"rate {rate:.3g}, b2 {b2}"] = [curve for curve, _ in found]
            seconds[kind] += [spent for _, spent in found]
        say(f"{name}: {kind} {np.median(seconds[kind]) * 1e3:.2f} ms a step")
    marks = [max(1, round(share * steps / EVERY)) for share in (1 / 3, 2 / 3, 1)]
    goals = [[min(curve[seed][mark] for curve in curves["Adam"].values()) for seed in range(seeds)] for mark in marks]
    result: dict[str, Any] = {"title": title, "steps": steps, "goals": goals, "d": len(tasks[0].start)}
    for kind, many in curves.items():
        result[kind] = {"seconds": float(np.median(seconds[kind])), "reached": [], "settings": []}
        for goal in goals:
            label, mean = min(((label, _mean_steps(curve, goal)) for label, curve in many.items()), key=lambda pair: pair[1])
            result[kind]["reached"].append(mean if np.isfinite(mean) else None)
            result[kind]["settings"].append(label)
        best = result[kind]["settings"][-1]
        result[kind]["curves"] = [[float(v) if np.isfinite(v) else None for v in curve] for curve in many[best]]
    return result


def trained(task: Task, optimizer: Any, steps: int) -> tuple[np.ndarray, float]:
    """The least value on all data so far after 0, EVERY, 2 EVERY, ... steps, and the median seconds of a step with its gradient."""
    x = task.start
    state = optimizer.init(x)
    values, spent = [task.value(x)], []
    with np.errstate(all="ignore"):  # rates that are too high
        for t in range(steps):
            begin = time.perf_counter()
            _, g = task.gradient(x, t)
            x, state = optimizer.step(x, g, state)
            spent.append(time.perf_counter() - begin)
            if (t + 1) % EVERY == 0:
                values.append(task.value(x))
                if not np.isfinite(values[-1]):
                    values += [np.inf] * (steps // EVERY + 1 - len(values))
                    break
    return np.minimum.accumulate(np.nan_to_num(values, nan=np.inf)), float(np.median(spent))


def _mean_steps(curves: Sequence[np.ndarray], goals: Sequence[float]) -> float:
    """Steps until each seed's goal, the mean; infinite if one is not reached."""
    found = [EVERY * int(np.argmax(curve <= goal)) if (curve <= goal).any() else np.inf for curve, goal in zip(curves, goals, strict=True)]
    return float(np.mean(found))


def steps_table(tasks: dict[str, Any]) -> str:
    """One line for each task."""
    head = ("", "d", "Adam", "Shampoo", "x fewer steps", "ms/step Adam", "ms/step Shampoo", "x less time")
    rows = []
    for one in tasks.values():
        adam, shampoo = one["Adam"], one["Shampoo"]
        ratios = [a / s if a is not None and s else None for a, s in zip(adam["reached"], shampoo["reached"], strict=True)]
        slower = shampoo["seconds"] / adam["seconds"]
        rows.append([
            one["title"], str(one["d"]), _many(adam["reached"]), _many(shampoo["reached"]), _many(ratios),
            short(1e3 * adam["seconds"]), short(1e3 * shampoo["seconds"]), _many([None if r is None else r / slower for r in ratios]),
        ])  # fmt: skip
    return columns(head, rows)


def times_table(ways: dict[str, Any]) -> str:
    """One line for each way to take a step."""
    head = ("", "median ms", "mean ms", "median / products", "mean / products", "p95 / median", "best of repeats", "worst ms")
    rows = []
    for name, one in ways.items():
        numbers = (one["over_products"], one["mean_over_products"], one["p95_over_median"], one["best_p95_over_median"])
        rows.append([name, short(1e3 * one["median"]), short(1e3 * one["mean"]), *(f"{n:.2f}" for n in numbers), short(1e3 * one["worst"])])
    return columns(head, rows)


def draw(tasks: dict[str, Any], path: Path) -> None:
    """Values against steps, both at their best setting, every seed a line."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("matplotlib", "cli", "a plot") from error
    down = -(-len(tasks) // 2)
    figure = Figure(figsize=(11.0, 3.4 * down), layout="constrained")
    for i, one in enumerate(tasks.values()):
        axes = figure.add_subplot(down, 2, i + 1)
        for kind, colour in (("Adam", "tab:gray"), ("Shampoo", "tab:blue")):
            for seed, curve in enumerate(one[kind]["curves"]):
                values = [np.nan if v is None else v for v in curve]
                axes.semilogy(EVERY * np.arange(len(values)), values, color=colour, label=kind if seed == 0 else None)
        axes.set_title(one["title"], fontsize="medium")
        axes.set_xlabel("steps")
        axes.legend()
    figure.savefig(path, dpi=110)


def _many(values: Sequence[float | None]) -> str:
    return " ".join("never" if v is None else short(v) for v in values)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optex-core bench shampoo", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two tasks, one seed, four rates, short times")
    parser.add_argument("--parts", metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--tasks", metavar="NAME,...", help=f"of {', '.join(TASKS)}")
    parser.add_argument("--seeds", type=int, metavar="K", help="default 3")
    parser.add_argument("--tiles", type=int, default=8, metavar="K", help="for the times (default 8)")
    parser.add_argument("--size", type=int, default=256, metavar="N", help="of each tile (default 256)")
    parser.add_argument("--interval", type=int, default=10, metavar="K", help="steps between roots (default 10)")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    parser.add_argument("--output", metavar="DIR", help="where to save (default optex-runs/shampoo...)")
    return parser
