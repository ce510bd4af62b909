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
    add = parser.add_argument
    what = "a function that returns (value, gradient), or a built-in problem"
    add("name", metavar="module:function|NAME", help=what)
    problem_source.add_arguments(parser)
    gradient = "the gradient, where the function returns the value alone; or 2-point, 3-point, cs"
    add("--jac", metavar="module:function|METHOD", help=gradient)
    rows = "the function takes (n, d) and returns n values and n gradients"
    add("--vectorized", action="store_true", help=rows)
    accuracy = "relative accuracy that the gradient is meant to have, such as a solver's tolerance"
    add("--accuracy", type=float, metavar="E", help=accuracy)
    add("--noisy", action="store_true", help="two calls at one point may differ")
    alone = "check the gradient alone (about 170 calls)"
    add("--gradient-only", action="store_true", help=alone)
    processes = "processes of the check with processes (default 2)"
    add("--workers", type=int, default=2, metavar="W", help=processes)
    skipped = "what would take longer is skipped, and the status is 1 (default 600)"
    add("--max-seconds", type=float, default=600.0, metavar="S", help=skipped)
    probe = "do not run the short probe that says what parallelism would gain"
    add("--no-estimate", action="store_true", help=probe)
    add("--optimizer", help="of that probe (default: that of minimize)")
    add("--json", metavar="FILE", help="write the report there as well")
    add("--plot", metavar="FILE", help="draw the sweep of steps")


def run(args: argparse.Namespace) -> int:
    """Do it; 1 if something is wrong."""
    from optex_core.testing import check_gradient, check_simulator
    from optex_core.testing.objective_check import one_row

    source = get_problem_source(args.name, args)
    fun, jac = source.fun, True if args.jac is None else args.jac
    if args.jac and ":" in args.jac:
        jac = function_at(args.jac)
    common = {"accuracy": args.accuracy, "noisy": args.noisy, "rng": args.seed}
    report: Any
    if args.gradient_only:
        if args.vectorized:
            fun, jac = one_row(fun), one_row(jac) if callable(jac) else jac
        report = gradient = check_gradient(fun, source.x0, jac=jac, **common)
    else:
        report = check_simulator(
            fun, source.x0, jac=jac, vectorized=args.vectorized, max_seconds=args.max_seconds,
            workers=args.workers, estimate=not args.no_estimate, optimizer=args.optimizer, **common,
        )  # fmt: skip
        gradient = report.gradient
    print(report)
    if args.json:
        document = {"name": source.name, "ok": report.ok, **as_json(report)}
        Path(args.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if args.plot:
        gradient.plot(args.plot)
    return 0 if report.ok else 1
