"""Shampoo against tuned Adam in steps and seconds on problems with matrices, SOAP and Shampoo
against Adam in the loss of a network, and how long and how even their steps are.

Both optimizers are tuned on the same budget, 36 settings: nine rates from 1e-3 to 10, momentum 0.8
and 0.9, and two of what matters most beside them (Adam: b2 of 0.99 and 0.999; Shampoo: a ridge of
1e-6 and 1e-3). A goal is what Adam's best setting has after a third, two thirds and all of its
steps; counted are the steps that the best setting of each needs, the mean of the seeds. The part
"losses" compares losses after 100 steps of Adam, Shampoo and SOAP, 18 settings each; "peer", which
must be named, adds the same trials of pytorch_optimizer's SOAP. "seconds"
times steps on the tasks, "times" on tiles of one size; what is compared is interleaved in one run.
The folder of the run holds ``trials.jsonl`` (one line for each finished trial of the parts "steps"
and "losses"), ``shampoo.json``, ``.txt`` and ``.png``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from optex_core._validation import integer
from optex_core.bench._result_store import Store
from optex_core.bench._runner import Row, choose, finish, make_parser, output_folder, say
from optex_core.bench._tables import columns, short
from optex_core.bench.shampoo.losses import (
    PEER_ROWS,
    ROWS,
    STEPS,
    least_losses,
    losses_table,
)
from optex_core.bench.shampoo.step_time import SMALL, measure, measure_small
from optex_core.bench.shampoo.tasks import TASKS
from optex_core.bench.shampoo.tuning import (
    EVERY,
    compared,
    seconds,
    seconds_table,
    steps_table,
    tried,
)
from optex_core.engine.plots import new_figure

EXAMPLES = """  optex-core bench shampoo             all tasks, three seeds, and times: an hour
  optex-core bench shampoo --quick     two tasks, one seed, short times: half a minute
  optex-core bench shampoo --parts steps --resume     stop it and start it again as you like
  optex-core bench shampoo --parts times --size 512 --tiles 2"""
PARTS = ("steps", "losses", "seconds", "times", "peer")


def main(argv: Sequence[str]) -> int:
    """Run the benchmark with the options `argv`; the exit status."""
    args = _parser().parse_args(argv)
    names = choose("task", args.tasks, TASKS)
    if args.quick and not args.tasks:
        names = ("ill_conditioned", "halves")
    parts = choose("part", args.parts or ",".join(PARTS[:-1]), PARTS)
    for name in ("tiles", "size", "interval"):
        integer(f"--{name}", getattr(args, name), low=1)
    seeds = integer("--seeds", args.seeds or (1 if args.quick else 3), low=1)
    # Wide enough that the best are not at its ends.
    rates = (np.logspace(-2, 0, 3) if args.quick else np.logspace(-3, 1, 9)).tolist()
    folder = output_folder("shampoo", args)
    document: Row = {"seeds": seeds, "rates": rates, "tasks": {}}
    texts = []
    # The problems' own products then have the same bits everywhere.
    with threadpool_limits(limits=1, user_api="blas"):
        if {"steps", "losses", "peer"} & set(parts):
            store = Store(folder / "trials.jsonl", resume=args.resume)
            document["source"] = store.source
        if {"losses", "peer"} & set(parts):
            few = rates[:: len(rates) - 1] if args.quick else np.logspace(-2, 0, 9).tolist()
            chosen = (ROWS if "losses" in parts else ()) + (PEER_ROWS if "peer" in parts else ())
            document["losses"] = least_losses(seeds, few, store, say, chosen)
            title = f"Loss of a network 64-64-10 on digits after {STEPS} steps"
            texts.append(f"{title}\n\n{losses_table(document['losses'])}")
        if "steps" in parts:
            tried(names, seeds, rates, store, say)
            document["tasks"] = {name: compared(name, seeds, rates, store) for name in names}
            title = (
                "Steps to the value that tuned Adam has after a third, two thirds and all of its"
            )
            texts.append(f"{title} steps\n\n{steps_table(document['tasks'])}")
        if "seconds" in parts:
            document["seconds"] = seconds(names, 2 if args.quick else 9, say)
            table = seconds_table(document["seconds"], document["tasks"])
            texts.append(f"Processor time\n\n{table}")
    if "times" in parts:
        steps = max(2 * args.interval, 20 if args.quick else 60)
        repeats = 1 if args.quick else 5
        t = document["times"] = measure(
            args.tiles, args.size, args.interval, args.dtype, steps, repeats, say
        )
        title = (
            f"A step on {t['tiles']} tiles of {t['size']} x {t['size']}, {t['dtype']}, "
            f"roots every {t['interval']} steps"
        )
        texts.append(f"{title}\n\n{times_table(t['ways'])}")
        document["small"] = small = measure_small(5 if args.quick else 50)
        shapes = ", ".join(" x ".join(map(str, shape)) for shape in SMALL.values())
        rows = [[name, f"{1e3 * s:.3f}"] for name, s in small.items()]
        table = columns(("", "processor ms"), rows)
        texts.append(f"A step on small tensors ({shapes})\n\n{table}")
    tasks = document["tasks"]
    return finish(
        "shampoo",
        folder,
        "\n\n\n".join(texts) + "\n",
        document,
        (lambda path: draw(tasks, path)) if tasks else None,
    )


def times_table(ways: Row) -> str:
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


def draw(tasks: Row, path: Path) -> None:
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


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "shampoo",
        __doc__,
        EXAMPLES,
        parts=PARTS,
        quick="two tasks, one seed, three rates, short times",
    )
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
    return parser
