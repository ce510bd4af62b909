"""Real workers: time to target against one worker, data parallel and the ideal.

Gradients of 1 ms to 1 s, every executor. The ideal is the speed-up in rounds, as if workers,
transport and the engine took no time. Gradients that compute are limited by this machine's cores;
gradients that sleep are not. The folder of the run holds ``wallclock.json``, ``wallclock.txt`` and
``wallclock.png``, which shows who worked when.
"""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Iterable, Sequence
from itertools import chain, product
from types import FrameType
from typing import TYPE_CHECKING

import numpy as np

from optex_core._validation import one_of
from optex_core.backends import BACKEND_NAMES
from optex_core.bench._runner import (
    Row,
    choose,
    finish,
    make_parser,
    numbered,
    numbers,
    output_folder,
    say,
)
from optex_core.bench._tables import columns, short
from optex_core.bench.wallclock.cell import ALONE, EXECUTORS, Setting, run, why_not

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("sleep", "compute")
EXAMPLES = """  optex-core bench wallclock             about five minutes on two cores
  optex-core bench wallclock --full      everything with everything: an hour
  optex-core bench wallclock --kinds sleep -N 8 --ms 100 -d 100000
  optex-core bench wallclock --kinds sleep -N 8 --executors threads,processes --backend numba"""

LEGEND = f"""Seconds to the value that the optimizer alone has after {ALONE} rounds. x one worker,
x data parallel: how many times faster than these. Ideal: how many times less often one waits for
gradients, which is once more than there are rounds, since the value at the last iterate must be
known. Of ideal: x one worker / ideal. Busy: share of the workers' time spent on gradients.
Transport: ms per round that are neither the slowest gradient nor the engine's own work, and their
share of a gradient; engine: its work per round, ms, which larger d and longer windows raise."""


def main(argv: Sequence[str]) -> int:
    """Run the benchmark with the options `argv`; the exit status."""
    args = _parser().parse_args(argv)
    if args.cell:  # within an MPI job, for the process that has started it
        print("cell", json.dumps(run(Setting(**json.loads(args.cell)))))
        return 0
    one_of("--backend", args.backend, ("auto", *BACKEND_NAMES))
    wanted = _settings(args)
    reasons = {name: why_not(name) for name in dict.fromkeys(s.executor for s in wanted)}
    for name, reason in reasons.items():
        if reason:
            say(f"{name} is left out: {reason}")
    cells = []
    former = signal.signal(signal.SIGTERM, _leave)
    try:
        for progress, setting in numbered([s for s in wanted if not reasons[s.executor]]):
            cells.append(run(setting))
            seconds, rounds = cells[-1]["seconds"], cells[-1]["rounds"]
            say(f"{progress} {setting.key}: {seconds:.2f} s, {rounds} rounds")
    finally:
        signal.signal(signal.SIGTERM, former)
    text = f"{LEGEND}\n\n{report(cells)}\n"
    return finish(
        "wallclock",
        output_folder("wallclock", args),
        text,
        {"cells": cells},
        lambda figure: draw_timelines(cells, figure),
    )


def _leave(_signal: int, _frame: FrameType | None) -> None:
    """End by an exception, so that the folder of a setting goes, and its workers; once, as
    `timeout` sends the signal to the group too.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + signal.SIGTERM)


def report(cells: Sequence[Row]) -> str:
    """The table."""
    times = ("seconds", "x one worker", "x data parallel", "ideal", "of ideal", "busy")
    head = ("gradient", "executor", "N", "rounds", *times, "transport", "", "engine")
    rows = []
    for c in cells:
        faster, ideal = c["one_worker_s"] / c["seconds"], (ALONE + 1) / (c["rounds"] + 1)
        rows.append([
            f"{c['kind']} {c['milliseconds']:g} ms, d = {c['d']}",
            c["executor"],
            str(c["workers"]),
            f"{c['rounds']}{'' if c['reached'] else '!'}",
            *map(short, (c["seconds"], faster, c["data_parallel_s"] / c["seconds"], ideal)),
            f"{faster / ideal:.2f}",
            f"{c['utilisation']:.0%}",
            f"{c['transport_ms']:.2f}",
            f"{c['transport_ms'] / c['milliseconds']:.1%}",
            f"{c['engine_ms']:.2f}",
        ])  # fmt: skip
    return columns(head, rows, left=(0, 1))


def draw_timelines(cells: Sequence[Row], figure: Figure) -> None:
    """Draw who evaluated when: one panel per executor, at its largest N and the gradient nearest to
    50 ms; colours tell the rounds apart.
    """
    chosen = {}
    for c in sorted(cells, key=lambda c: (c["workers"], -abs(np.log(c["milliseconds"] / 50)))):
        chosen[c["kind"], c["executor"]] = c
    figure.set_size_inches(11, 2.4 * max(1, len(chosen)))
    for i, c in enumerate(chosen.values()):
        axes = figure.add_subplot(len(chosen), 1, i + 1)
        for worker, iteration, _, start, end in c["timeline"]:
            colour = f"C{int(iteration) % 10}"
            axes.barh(worker, end - start, left=start, height=0.8, color=colour, linewidth=0)
        axes.set_title(
            f"{c['executor']}: {c['workers']} workers, gradients {c['kind']} "
            f"{c['milliseconds']:g} ms, {c['rounds']} rounds in {c['seconds']:.2f} s, workers busy "
            f"{c['utilisation']:.0%}",
            fontsize="medium",
        )
        axes.set_ylabel("worker")
        axes.set_yticks(range(c["workers"]))
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    if chosen:
        axes.set_xlabel("seconds; one colour per round")


def _settings(args: argparse.Namespace) -> list[Setting]:
    executors = choose("executor", args.executors, EXECUTORS)
    kinds = choose("kind", args.kinds, KINDS)
    full = args.mode == "full"
    if full or args.ms or args.workers or args.executors or args.kinds:
        usual = "1,10,50,100,1000" if full else "50"
        times = numbers("--ms", args.ms or usual, float, 0.0, above=True)
        found: Iterable[tuple[str, str, float, int]] = product(
            kinds, executors, times, numbers("-N", args.workers or "2,4,8,16")
        )
    else:
        # A look at everything in a few minutes: times and numbers of workers along a cross,
        # clusters at its centre.
        local = ("threads", "processes")
        found = chain(
            product(("sleep",), local, (1, 10, 50, 200, 1000), (8,)),
            product(("sleep",), local, (50,), (2, 4, 16)),
            product(("sleep",), ("dask", "ray", "mpi"), (50, 200), (4,)),
            product(("compute",), ("processes",), (10, 50), (2, 4)),
        )
    sizes = numbers("-d", args.d)
    return [
        Setting(kind, ms, executor, workers, d, args.backend)
        for kind, executor, ms, workers in found
        for d in sizes
    ]


def _parser() -> argparse.ArgumentParser:
    every = "all times, numbers of workers and executors with each other"
    parser = make_parser("wallclock", __doc__, EXAMPLES, full=every)
    add = parser.add_argument
    add("--kinds", metavar="KIND,...", help=f"of {', '.join(KINDS)}")
    add("--ms", metavar="T,...", help="milliseconds of a gradient")
    add("-N", "--workers", metavar="N,...", help="workers, and gradients at once")
    add("--executors", metavar="NAME,...", help=f"of {', '.join(EXECUTORS)}")
    add("-d", default="1000", metavar="D,...", help="parameters (default 1000)")
    add("--backend", default="auto", metavar="NAME", help="of the engine (default auto)")
    add("--cell", help=argparse.SUPPRESS)
    return parser
