"""Check a function before it runs for days: is its gradient right, is it pure, does it repeat
itself, can it run in threads and processes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from optex_core.bench._runner import as_json
from optex_core.cli import problem_source
from optex_core.cli.problem_source import function_at, get_problem_source

SUMMARY = "check a function: gradient, purity, repeatability, threads, processes"
EXAMPLES = """  optex-core check mymodule:fun --dimension 100
  optex-core check mymodule:simulate --x0 start.npy --accuracy 1e-6 --max-seconds 3600
  optex-core check mymodule:fun --x0 start.npy --json report.json --plot sweep.png
  optex-core check mymodule:value --jac mymodule:gradient --x0 start.npy
  optex-core check mymodule:rows --vectorized --dimension 100
  optex-core check rosenbrock --size 20 --gradient-only"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "name",
        metavar="module:function|NAME",
        help="a function that returns (value, gradient), or a built-in problem",
    )
    problem_source.add_arguments(parser)
    parser.add_argument(
        "--jac",
        metavar="module:function|METHOD",
        help="the gradient, where the function returns the value alone; or 2-point, 3-point, cs",
    )
    parser.add_argument(
        "--vectorized",
        action="store_true",
        help="the function takes (n, d) and returns n values and n gradients",
    )
    parser.add_argument(
        "--accuracy",
        type=float,
        metavar="E",
        help="relative accuracy that the gradient is meant to have, such as a solver's tolerance",
    )
    parser.add_argument("--noisy", action="store_true", help="two calls at one point may differ")
    parser.add_argument(
        "--gradient-only", action="store_true", help="check the gradient alone (about 170 calls)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        metavar="W",
        help="processes of the check with processes (default 2)",
    )
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=600.0,
        metavar="S",
        help="what would take longer is skipped, and the status is 1 (default 600)",
    )
    parser.add_argument(
        "--no-estimate",
        action="store_true",
        help="do not run the short probe that says what parallelism would gain",
    )
    parser.add_argument(
        "--optimizer", help="of that probe (default: Adam at the best of three rates)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the report there as well")
    parser.add_argument("--plot", metavar="FILE", help="draw the sweep of steps")


def run(args: argparse.Namespace) -> int:
    """Do it; 1 if something is wrong."""
    from optex_core.testing import check_gradient, check_simulator
    from optex_core.testing.objective_check import one_row

    source = get_problem_source(args.name, args)
    jac = True if args.jac is None else function_at(args.jac) if ":" in args.jac else args.jac
    report: Any
    if args.gradient_only:
        fun, jac = (
            (one_row(source.fun), one_row(jac) if callable(jac) else jac)
            if args.vectorized
            else (source.fun, jac)
        )
        report = gradient = check_gradient(
            fun, source.x0, jac=jac, accuracy=args.accuracy, noisy=args.noisy, rng=args.seed
        )
    else:
        report = check_simulator(
            source.fun,
            source.x0,
            jac=jac,
            vectorized=args.vectorized,
            accuracy=args.accuracy,
            noisy=args.noisy,
            rng=args.seed,
            max_seconds=args.max_seconds,
            workers=args.workers,
            estimate=not args.no_estimate,
            optimizer=args.optimizer,
        )
        gradient = report.gradient
    print(report)
    if args.json:
        Path(args.json).write_text(
            json.dumps({"name": source.name, "ok": report.ok, **as_json(report)}, indent=1) + "\n",
            encoding="utf-8",
        )
    if args.plot:
        gradient.plot(args.plot)
    return 0 if report.ok else 1
