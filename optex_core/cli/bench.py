"""Run a benchmark case; without a name, list them."""

from __future__ import annotations

import argparse
from importlib.resources import files

from optex_core.bench import case_names, get_case

SUMMARY = "run a benchmark"
EXAMPLES = """  optex-core bench                        list the cases
  optex-core bench efficiency --help      options of one case"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--results", action="store_true", help="print the measured results of this version"
    )
    parser.add_argument("case", nargs="?", metavar="CASE", help="the case; without it, the list")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="...", help="options of the case"
    )


def run(args: argparse.Namespace) -> int:
    """Do it; the status is that of the case."""
    if args.results:
        print(files("optex_core.bench").joinpath("RESULTS.md").read_text(encoding="utf-8"))
        return 0
    if args.case is None:
        width = max(map(len, case_names()))
        for name in case_names():
            first = (get_case(name).__doc__ or "").strip().partition("\n")[0]
            print(f"{name:<{width}}  {first}")
        return 0
    return int(get_case(args.case).main(args.options))
