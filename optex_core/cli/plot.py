"""Draw a saved run again, alone or beside others."""

from __future__ import annotations

import argparse
from pathlib import Path

from optex_core.cli.run_folder import PICTURE, load_run
from optex_core.errors import ArgumentError

SUMMARY = "draw a saved run"
EXAMPLES = """  optex-core plot optex-runs/heat-8
  optex-core plot optex-runs/heat-8 --with optex-runs/heat-2 --output both.pdf"""

#: What Matplotlib writes everywhere.
SUFFIXES = (".png", ".pdf", ".svg", ".jpg", ".eps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("file", metavar="RUN", help="run.npz, or the folder that holds it")
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        metavar="RUN",
        dest="others",
        help="another run to draw beside it, may be repeated",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="the picture (.png, .pdf, .svg; default: run.png beside the run)",
    )


def run(args: argparse.Namespace) -> int:
    """Do it."""
    from optex_core.engine.plots import plot_trace

    main = load_run(args.file)
    others = dict(main.baselines)
    for name in args.others:
        other = load_run(name)
        others[
            f"{other.summary['strategy']}, {other.summary['parallelism']} gradients at "
            f"once ({name})"
        ] = other.trace
    folder = Path(args.file) if Path(args.file).is_dir() else Path(args.file).parent
    path = Path(args.output) if args.output else folder / PICTURE
    if path.suffix.lower() not in SUFFIXES:
        raise ArgumentError(
            f"--output {path}: the suffix says what kind of picture it is; known are "
            f"{', '.join(SUFFIXES)}"
        )
    summary = main.summary
    label = f"{summary['strategy']}, {summary['parallelism']} gradients at once"
    plot_trace(
        main.trace,
        label=label,
        baselines=others,
        title=f"{summary['name']}, d = {summary['d']}",
        path=path,
    )
    print(
        f"{summary['name']}: {summary['message']} value {summary['value']:.6g} after "
        f"{summary['nit']} rounds, {summary['njev']} gradients"
    )
    print(f"plot: {path}")
    return 0
