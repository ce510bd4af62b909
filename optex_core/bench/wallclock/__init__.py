"""Real workers, gradients of 1 ms to 1 s: time to target against one worker, data parallel and the
ideal, for every executor.

The ideal is the speed-up in rounds, as if workers, transport and the engine took no time. Gradients
that compute are limited by this machine's cores; gradients that sleep are not. The folder of the
run holds ``wallclock.json``, ``wallclock.txt`` and ``wallclock.png``, which shows who worked when.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

import numpy as np

from optex_core._validation import one_of
from optex_core.backends import BACKEND_NAMES
from optex_core.bench._runner import Row, choose, finish, make_parser, numbers, output_folder, say
from optex_core.bench._tables import columns, short
from optex_core.bench.wallclock.cell import ALONE, EXECUTORS, Setting, run, why_not
from optex_core.engine.plots import new_figure

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
    wanted = [replace(setting, backend=args.backend) for setting in _settings(args)]
    folder = output_folder("wallclock", args)
    reasons = {name: why_not(name) for name in dict.fromkeys(s.executor for s in wanted)}
    for name, reason in reasons.items():
        if reason:
            say(f"{name} is left out: {reason}")
    wanted = [s for s in wanted if not reasons[s.executor]]
    begin, cells = time.perf_counter(), []
    former = signal.signal(signal.SIGTERM, _leave)
    try:
        for number, setting in enumerate(wanted, 1):
            cell = run(setting)
            cells.append(cell)
            elapsed = time.perf_counter() - begin
            say(
                f"[{number}/{len(wanted)}, {elapsed:.0f} s] {setting.key}: "
                f"{cell['seconds']:.2f} s, {cell['rounds']} rounds"
            )
    finally:
        signal.signal(signal.SIGTERM, former)
    text = f"{LEGEND}\n\n{report(cells)}\n"
    return finish(
        "wallclock", folder, text, {"cells": cells}, lambda path: draw_timelines(cells, path)
    )


def _leave(_signal: int, _frame: FrameType | None) -> None:
    """End by an exception, so that the folder of a setting goes, and its workers; once, as
    `timeout` sends the signal to the group too.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + signal.SIGTERM)


def report(cells: Sequence[Row]) -> str:
    """The table."""
    head = (
        "gradient",
        "executor",
        "N",
        "rounds",
        "seconds",
        "x one worker",
        "x data parallel",
        "ideal",
        "of ideal",
        "busy",
        "transport",
        "",
        "engine",
    )
    rows = []
    for c in cells:
        faster, ideal = c["one_worker_s"] / c["seconds"], (ALONE + 1) / (c["rounds"] + 1)
        rows.append(
            [
                f"{c['kind']} {c['milliseconds']:g} ms, d = {c['d']}",
                c["executor"],
                str(c["workers"]),
                f"{c['rounds']}{'' if c['reached'] else '!'}",
                short(c["seconds"]),
                short(faster),
                short(c["data_parallel_s"] / c["seconds"]),
                short(ideal),
                f"{faster / ideal:.2f}",
                f"{c['utilisation']:.0%}",
                f"{c['transport_ms']:.2f}",
                f"{c['transport_ms'] / c['milliseconds']:.1%}",
                f"{c['engine_ms']:.2f}",
            ]
        )
    return columns(head, rows, left=(0, 1))


def draw_timelines(cells: Sequence[Row], path: Path) -> None:
    """Draw who evaluated when: one panel per executor, at its largest N and the gradient nearest to
    50 ms; colours tell the rounds apart.
    """
    chosen = {}
    for c in sorted(cells, key=lambda c: (c["workers"], -abs(np.log(c["milliseconds"] / 50)))):
        chosen[c["kind"], c["executor"]] = c
    figure = new_figure(11, 2.4 * max(1, len(chosen)))
    for i, c in enumerate(chosen.values()):
        axes = figure.add_subplot(len(chosen), 1, i + 1)
        for worker, iteration, _, start, end in c["timeline"]:
            axes.barh(
                worker,
                end - start,
                left=start,
                height=0.8,
                color=f"C{int(iteration) % 10}",
                linewidth=0,
            )
        axes.set_title(
            f"{c['executor']}: {c['workers']} workers, gradients {c['kind']} "
                f"{c['milliseconds']:g} ms, "
            f"{c['rounds']} rounds in {c['seconds']:.2f} s, workers busy "
                f"{c['utilisation']:.0%}", fontsize="medium",
        )  # fmt: skip
        axes.set_ylabel("worker")
        axes.set_yticks(range(c["workers"]))
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    if chosen:
        axes.set_xlabel("seconds; one colour per round")
    figure.savefig(path, dpi=110)


def _settings(args: argparse.Namespace) -> list[Setting]:
    d = numbers("-d", args.d)
    executors = choose("executor", args.executors, EXECUTORS)
    kinds = choose("kind", args.kinds, KINDS)
    given = bool(args.ms or args.workers or args.executors or args.kinds or args.full)
    if given:
        times = numbers(
            "--ms", args.ms or ("1,10,50,100,1000" if args.full else "50"), float, 0.0, above=True
        )
        workers = numbers("-N", args.workers or "2,4,8,16")
        return [
            Setting(k, t, e, n, size)
            for k in kinds
            for e in executors
            for t in times
            for n in workers
            for size in d
        ]
    # A look at everything in a few minutes: times and numbers of workers along a cross, clusters at
    # its centre.
    found = [
        Setting("sleep", t, e, 8, size)
        for e in ("threads", "processes")
        for t in (1, 10, 50, 200, 1000)
        for size in d
    ]
    found += [
        Setting("sleep", 50, e, n, size)
        for e in ("threads", "processes")
        for n in (2, 4, 16)
        for size in d
    ]
    found += [
        Setting("sleep", t, e, 4, size)
        for e in ("dask", "ray", "mpi")
        for t in (50, 200)
        for size in d
    ]
    return found + [
        Setting("compute", t, "processes", n, size) for t in (10, 50) for n in (2, 4) for size in d
    ]


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "wallclock",
        __doc__,
        EXAMPLES,
        full="all times, numbers of workers and executors with each other",
    )
    parser.add_argument("--kinds", metavar="KIND,...", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--ms", metavar="T,...", help="milliseconds of a gradient")
    parser.add_argument("-N", "--workers", metavar="N,...", help="workers, and gradients at once")
    parser.add_argument("--executors", metavar="NAME,...", help=f"of {', '.join(EXECUTORS)}")
    parser.add_argument("-d", default="1000", metavar="D,...", help="parameters (default 1000)")
    parser.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help="of the engine (default auto); compiled and loaded before anything is measured",
    )
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    return parser
