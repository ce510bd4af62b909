"""Shampoo and SOAP against tuned Adam: steps and seconds to goals, losses, times of a step.

Both optimizers are tuned on the same budget, 36 settings: nine rates from 1e-3 to 10, momentum 0.8
and 0.9, and two of what matters most beside them (Adam: b2 of 0.99 and 0.999; Shampoo: a ridge of
1e-6 and 1e-3). A goal is what Adam's best setting has after a third, two thirds and all of its
steps; counted are the steps that the best setting of each needs, the mean of the seeds. The part
"losses" compares losses after 100 steps of Adam, Shampoo and SOAP, 18 settings each; "peer", which
must be named, adds the same trials of pytorch_optimizer's SOAP. "seconds"
times steps on the tasks, "times" on tiles of one size; what is compared is interleaved in one run.
The folder of the run holds ``trials.jsonl`` (one line for each finished trial of the parts "steps"
and "losses"), ``shampoo.json`` and ``.txt``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from optex_core._validation import integer
from optex_core.bench._result_store import Store
from optex_core.bench._runner import Row, choose, finish, make_parser, output_folder
from optex_core.bench._tables import columns
from optex_core.bench.shampoo.losses import PEER_ROWS, ROWS, STEPS, least_losses, losses_table
from optex_core.bench.shampoo.step_time import SMALL, measure, measure_small, times_table
from optex_core.bench.shampoo.tasks import TASKS
from optex_core.bench.shampoo.tuning import compared, seconds, seconds_table, steps_table

EXAMPLES = """  optex-core bench shampoo             all tasks, three seeds, and times: an hour
  optex-core bench shampoo --quick     two tasks, one seed, short times: half a minute
  optex-core bench shampoo --parts steps --resume     stop it and start it again as you like
  optex-core bench shampoo --parts times --size 512 --tiles 2"""
PARTS = ("steps", "losses", "seconds", "times", "peer")


def main(argv: Sequence[str]) -> int:
    """Run the benchmark with the options `argv`; the exit status."""
    args = _parser().parse_args(argv)
    quick = args.mode == "quick"
    some = "ill_conditioned,halves" if quick else None
    names = choose("task", args.tasks or some, TASKS)
    parts = choose("part", args.parts or ",".join(PARTS[:-1]), PARTS)
    for name in ("tiles", "size", "interval"):
        integer(f"--{name}", getattr(args, name), low=1)
    seeds = integer("--seeds", args.seeds or (1 if quick else 3), low=1)
    # Wide enough that the best are not at its ends.
    rates = (np.logspace(-2, 0, 3) if quick else np.logspace(-3, 1, 9)).tolist()
    folder = output_folder("shampoo", args)
    document: Row = {"seeds": seeds, "rates": rates, "tasks": {}}
    texts = []
    # The problems' own products then have the same bits everywhere.
    with threadpool_limits(limits=1, user_api="blas"):
        if {"steps", "losses", "peer"} & set(parts):
            store = Store(folder / "trials.jsonl", resume=args.resume)
            document["source"] = store.source
        if {"losses", "peer"} & set(parts):
            few = rates[:: len(rates) - 1] if quick else np.logspace(-2, 0, 9).tolist()
            chosen = (ROWS if "losses" in parts else ()) + (PEER_ROWS if "peer" in parts else ())
            document["losses"] = least_losses(seeds, few, store, chosen)
            title = f"Loss of a network 64-64-10 on digits after {STEPS} steps"
            texts.append(f"{title}\n\n{losses_table(document['losses'])}")
        if "steps" in parts:
            document["tasks"] = {name: compared(name, seeds, rates, store) for name in names}
            title = (
                "Steps to the value that tuned Adam has after a third, two thirds and all of its"
            )
            texts.append(f"{title} steps\n\n{steps_table(document['tasks'])}")
        if "seconds" in parts:
            document["seconds"] = seconds(names, 2 if quick else 9)
            table = seconds_table(document["seconds"], document["tasks"])
            texts.append(f"Processor time\n\n{table}")
    if "times" in parts:
        steps, repeats = max(2 * args.interval, 20 if quick else 60), 1 if quick else 5
        t = measure(args.tiles, args.size, args.interval, args.dtype, steps, repeats)
        document["times"] = t
        title = (
            f"A step on {t['tiles']} tiles of {t['size']} x {t['size']}, {t['dtype']}, "
            f"roots every {t['interval']} steps"
        )
        texts.append(f"{title}\n\n{times_table(t['ways'])}")
        document["small"] = small = measure_small(5 if quick else 50)
        shapes = ", ".join(" x ".join(map(str, shape)) for shape in SMALL.values())
        table = columns(("", "processor ms"), [[n, f"{1e3 * s:.3f}"] for n, s in small.items()])
        texts.append(f"A step on small tensors ({shapes})\n\n{table}")
    return finish("shampoo", folder, "\n\n\n".join(texts) + "\n", document)


def _parser() -> argparse.ArgumentParser:
    quick = "two tasks, one seed, three rates, short times"
    parser = make_parser("shampoo", __doc__, EXAMPLES, parts=PARTS, quick=quick)
    add = parser.add_argument
    add("--tasks", metavar="NAME,...", help=f"of {', '.join(TASKS)}")
    add("--seeds", type=int, metavar="K", help="default 3")
    add("--resume", action="store_true", help="keep the trials of the same code in the folder")
    add("--tiles", type=int, default=8, metavar="K", help="for the times (default 8)")
    add("--size", type=int, default=256, metavar="N", help="of each tile (default 256)")
    add("--interval", type=int, default=10, metavar="K", help="steps between roots (default 10)")
    add("--dtype", choices=("float32", "float64"), default="float64")
    return parser
