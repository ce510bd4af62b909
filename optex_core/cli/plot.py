"""Draw a saved run again, alone or beside others."""

from __future__ import annotations

import argparse
from pathlib import Path

from optex_core.cli.run_folder import PICTURE, described, draw_run, load_run
from optex_core.errors import ArgumentError

SUMMARY = "draw a saved run"
EXAMPLES = """  optex-core plot optex-runs/heat-8
  optex-core plot optex-runs/heat-8 --with optex-runs/heat-2 --output both.pdf"""

#: What Matplotlib writes everywhere.
SUFFIXES = (".png", ".pdf", ".svg", ".jpg", ".eps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("file", metavar="RUN", help="run.npz, or the folder that holds it")
    beside = "another run to draw beside it, may be repeated"
    add("--with", action="append", default=[], metavar="RUN", dest="others", help=beside)
    add("--output", metavar="FILE", help="the picture (default: run.png beside the run)")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    drawn = load_run(args.file)
    others = {}
    for name in args.others:
        other = load_run(name)
        others[f"{described(other)} ({name})"] = other.trace
    folder = Path(args.file) if Path(args.file).is_dir() else Path(args.file).parent
    path = Path(args.output) if args.output else folder / PICTURE
    if path.suffix.lower() not in SUFFIXES:
        raise ArgumentError(
            f"--output {path}: the suffix says what kind of picture it is; known are "
            f"{', '.join(SUFFIXES)}"
        )
    draw_run(drawn, path, others)
    summary = drawn.summary
    print(
        f"{summary['name']}: {summary['message']} value {summary['value']:.6g} after "
        f"{summary['nit']} rounds, {summary['njev']} gradients"
    )
    print(f"plot: {path}")
    return 0
