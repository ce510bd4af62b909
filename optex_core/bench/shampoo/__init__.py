"""Shampoo against tuned Adam in steps and seconds on problems with matrices, and how long and how
even its steps are.

Both optimizers are tuned on the same budget, 36 settings: nine rates from 1e-3 to 10, momentum 0.8
and 0.9, and two of what matters most beside them (Adam: b2 of 0.99 and 0.999; Shampoo: a ridge of
1e-6 and 1e-3). A goal is what Adam's best setting has after a third, two thirds and all of its
steps; counted are the steps that the best setting of each needs, the mean of the seeds. The part
"seconds" times steps on the same tasks, "times" on tiles of one size, "rival" beside a maintained
PyTorch implementation, where that is installed; what is compared is interleaved in one run. The
folder of the run holds ``trials.jsonl`` (one line for each finished trial of the part "steps"),
``shampoo.json``, ``.txt`` and ``.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import optex_core
from optex_core._validation import integer
from optex_core.bench._result_store import Store
from optex_core.bench.efficiency.tables import columns, short
from optex_core.bench.shampoo.step_time import measure
from optex_core.bench.shampoo.tasks import TASKS
from optex_core.bench.shampoo.tuning import (
    EVERY,
    compared,
    seconds,
    seconds_table,
    steps_table,
    tried,
)
from optex_core.bench.shampoo.vs_pytorch import against, missing, rival_table
from optex_core.engine.plots import new_figure
from optex_core.errors import ArgumentError, MissingExtraError, did_you_mean

EXAMPLES = """examples:
  optex-core bench shampoo                        all tasks, three seeds, and times: half an hour
  optex-core bench shampoo --quick                two tasks, one seed, short times: half a minute
  optex-core bench shampoo --parts steps --resume    stop it and start it again as you like
  optex-core bench shampoo --parts times --size 512 --tiles 2
  optex-core bench shampoo --parts rival          against PyTorch's; needs: python -m pip install torch pytorch_optimizer"""
#: "rival" needs libraries that no extra of ours has.
PARTS = ("steps", "seconds", "times", "rival")


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
    names = (
        tuple(args.tasks.split(","))
        if args.tasks
        else ("ill_conditioned", "halves")
        if args.quick
        else tuple(TASKS)
    )
    parts = tuple(args.parts.split(",")) if args.parts else PARTS
    for kind, given, known in (("task", names, TASKS), ("part", parts, PARTS)):
        for name in given:
            if name not in known:
                raise ArgumentError(f"unknown {kind} {name!r}{did_you_mean(name, known)}")
    for name in ("tiles", "size", "interval"):
        integer(f"--{name}", getattr(args, name), low=1)
    seeds = integer(
        "--seeds", args.seeds if args.seeds is not None else 1 if args.quick else 3, low=1
    )
    # wide enough that the best are not at its ends
    rates = (np.logspace(-2, 0, 3) if args.quick else np.logspace(-3, 1, 9)).tolist()
    folder = Path(args.output or Path("optex-runs", "shampoo-quick" if args.quick else "shampoo"))
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "format": "optex_core shampoo", "version": optex_core.__version__, "seeds": seeds, "rates": rates,
        "machine": {"python": platform.python_version(), "numpy": np.__version__, "cores": os.cpu_count(), "system": platform.platform()},
    }  # fmt: skip
    texts = []
    document["tasks"] = {}
    # the problems' own products have the same bits everywhere
    with threadpool_limits(limits=1, user_api="blas"):
        if "steps" in parts:
            store = Store(folder / "trials.jsonl", resume=args.resume)
            document["source"] = store.source
            tried(names, seeds, rates, store, _say)
            document["tasks"] = {name: compared(name, seeds, rates, store) for name in names}
            texts.append(
                "Steps to the value that tuned Adam has after a third, two thirds and "
                "all of its steps\n\n" + steps_table(document["tasks"])
            )
        if "seconds" in parts:
            document["seconds"] = seconds(names, 2 if args.quick else 9, _say)
            texts.append("Seconds\n\n" + seconds_table(document["seconds"], document["tasks"]))
    if "times" in parts:
        few = args.quick
        document["times"] = measure(
            args.tiles,
            args.size,
            args.interval,
            args.dtype,
            max(2 * args.interval, 20 if few else 60),
            1 if few else 5,
            _say,
        )
        t = document["times"]
        texts.append(
            f"A step on {t['tiles']} tiles of {t['size']} x {t['size']}, {t['dtype']}, "
            f"roots every {t['interval']} steps\n\n" + times_table(t["ways"])
        )
    if "rival" in parts:
        if args.parts or not missing():
            document["rival"] = r = against(
                args.tiles, args.size, args.interval, args.dtype, 2 if args.quick else 15, _say
            )
            title = (
                f"A step with its share of the roots on {r['tiles']} tiles of {r['size']} "
                f"x {r['size']}, {r['dtype']}, roots every {r['interval']}"
            )
            texts.append(f"{title} steps, in pairs\n\n{rival_table(r)}")
        else:
            texts.append(f"No comparison with PyTorch: {missing()}")
    text = "\n\n\n".join(texts) + "\n"
    (folder / "shampoo.txt").write_text(text, encoding="utf-8")
    (folder / "shampoo.json").write_text(
        json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    print(text)
    if "steps" in parts:
        try:
            draw(document["tasks"], folder / "shampoo.png")
        except MissingExtraError as error:
            # the figures are measured and saved: only their picture is missing
            print(f"no picture: {error}", file=sys.stderr)
    print(f"saved in {folder}")
    return 0


def times_table(ways: dict[str, Any]) -> str:
    """One line for each way to take a step."""
    head = (
        "",
        "median ms",
        "mean ms",
        "median / products",
        "mean / products",
        "p95 / median",
        "best of repeats",
        "worst ms",
    )
    rows = []
    for name, one in ways.items():
        numbers = (
            one["over_products"],
            one["mean_over_products"],
            one["p95_over_median"],
            one["best_p95_over_median"],
        )
        rows.append(
            [
                name,
                short(1e3 * one["median"]),
                short(1e3 * one["mean"]),
                *(f"{n:.2f}" for n in numbers),
                short(1e3 * one["worst"]),
            ]
        )
    return columns(head, rows)


def draw(tasks: dict[str, Any], path: Path) -> None:
    """Values against steps, both at their best setting, every seed a line."""
    down = -(-len(tasks) // 2)
    figure = new_figure(11.0, 3.4 * down)
    for i, one in enumerate(tasks.values()):
        axes = figure.add_subplot(down, 2, i + 1)
        for kind, colour in (("Adam", "tab:gray"), ("Shampoo", "tab:blue")):
            for seed, curve in enumerate(one[kind]["curves"]):
                values = [np.nan if v is None else v for v in curve]
                axes.semilogy(
                    EVERY * np.arange(len(values)),
                    values,
                    color=colour,
                    label=kind if seed == 0 else None,
                )
        axes.set_title(one["title"], fontsize="medium")
        axes.set_xlabel("steps")
        axes.legend()
    figure.savefig(path, dpi=110)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optex-core bench shampoo",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--quick", action="store_true", help="two tasks, one seed, three rates, short times"
    )
    parser.add_argument("--parts", metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--tasks", metavar="NAME,...", help=f"of {', '.join(TASKS)}")
    parser.add_argument("--seeds", type=int, metavar="K", help="default 3")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the trials that the same code has left in the folder",
    )
    parser.add_argument(
        "--tiles", type=int, default=8, metavar="K", help="for the times (default 8)"
    )
    parser.add_argument(
        "--size", type=int, default=256, metavar="N", help="of each tile (default 256)"
    )
    parser.add_argument(
        "--interval", type=int, default=10, metavar="K", help="steps between roots (default 10)"
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    parser.add_argument(
        "--output", metavar="DIR", help="where to save (default optex-runs/shampoo...)"
    )
    return parser
