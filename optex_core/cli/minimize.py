"""Minimize a built-in problem or a function of your own, show what the parallel gradients gain, and
save the run.
"""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from optex_core.adapters.objective import make_objective
from optex_core.bench._tables import short
from optex_core.cli import problem_source
from optex_core.cli.baseline import BaselineRow, baselines, common_value, comparison
from optex_core.cli.optimizer_text import read_optimizer
from optex_core.cli.problem_source import ProblemSource, get_problem_source, program_source
from optex_core.cli.run_folder import PICTURE, Run, draw_run, folder_for, new_folder, save_run
from optex_core.engine.stopping import DEFAULT_MAXITER, Status
from optex_core.errors import ArgumentError, MissingExtraError
from optex_core.optimizers import OPTIMIZERS
from optex_core.optimizers.lbfgs import LBFGS
from optex_core.problems import PROBLEMS
from optex_core.runs.progress import LEGEND
from optex_core.types import Context, FirstOrderOptimizer

SUMMARY = "minimize a problem, module:function or an external program"
EXAMPLES = """  optex-core minimize rosenbrock --size 100
  optex-core minimize heat_inversion --parallelism 8 --maxiter 60
  optex-core minimize sphere --set d=1000 --optimizer adam --learning-rate 0.05
  optex-core minimize mymodule:fun --x0 start.npy --optimizer sgd --learning-rate 0.1 --gtol 1e-5
  optex-core minimize mymodule:fun --dimension 50 --checkpoint run.optex --resume
  optex-core minimize --program './simulate {parameters} {gradient} {value}' --x0 start.npy

the progress line:
""" + textwrap.indent(LEGEND, "  ")

#: The default gtol in units of the first gradient's largest entry. The API's 1e-6 has no unit
#: either, but knows no problem: on heat_inversion it more than doubles the rounds without changing
#: the fifth digit of the value.
RELATIVE_GTOL = 1e-4
#: Ends of a run that scripts must not take for a result.
FAILED_STATUSES = (Status.DIVERGED, Status.FAILED, Status.TOO_MANY_FAILURES, Status.INTERRUPTED)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    what = "a built-in problem, or a function that returns (value, gradient)"
    parser.add_argument("name", nargs="?", metavar="NAME|module:function", help=what)
    listed = "list problems, optimizers, strategies and kernels, and stop"
    parser.add_argument("--list", action="store_true", help=listed)
    problem_source.add_arguments(parser)
    within = "keep every parameter in here; a file holds (d, 2): low and high of each"
    parser.add_argument("--bounds", metavar="LOW,HIGH|FILE.npy", help=within)

    add = parser.add_argument_group(
        "an external program in place of NAME: it reads a file and writes files, in a "
        "directory of its own"
    ).add_argument
    command = "such as './simulate {parameters} {gradient} {value}'; no shell reads it"
    add("--program", metavar="COMMAND", help=command)
    reads = "what it reads: .npy, .bin (raw), .txt (default %(default)s)"
    add("--parameters", metavar="FILE", default="parameters.npy", help=reads)
    writes = "what it writes (default %(default)s)"
    add("--gradient", metavar="FILE", default="gradient.npy", help=writes)
    value = (
        "the same (default %(default)s). stdout.txt is what it prints; FILE=TEMPLATE finds "
        "the numbers within text: 'stdout.txt=energy: {value} J', 'out.txt=dJ/dp = {gradient}'"
    )
    add("--value", metavar="FILE", default="value.txt", help=value)
    killed = "seconds after which it is killed, with all that it has started"
    add("--timeout", type=float, metavar="S", help=killed)
    add("--files", metavar="FILE", nargs="*", default=[], help="files it finds in its directory")

    add = parser.add_argument_group("method").add_argument
    at_once = "gradients evaluated at once (default 4)"
    add("--parallelism", type=int, default=4, metavar="N", help=at_once)
    rule = (
        "a name, or with settings: 'sgd(learning_rate=0.5, momentum=0.9)' (default: L-BFGS, "
        "without a rate)"
    )
    add("--optimizer", metavar="NAME|NAME(...)", help=rule)
    rate = "default: the problem's, or the optimizer's"
    add("--learning-rate", type=float, metavar="RATE", help=rate)
    add("--strategy", default="auto", help="default auto")
    add("--backend", default="auto", help="auto, numpy, numba or cupy (default auto)")
    workers = (
        "worker processes, 0: none; threads; or the address of a Dask scheduler, such as "
        "tcp://10.0.0.1:8786 (default: as many processes as cores, at most N)"
    )
    add("--workers", metavar="W|threads|ADDRESS", help=workers)

    add = parser.add_argument_group(
        f"when to stop (none given: the problem's goal, 1000 iterations, or "
        f"{RELATIVE_GTOL:g} of the first gradient)"
    ).add_argument
    add("--maxiter", type=int, help="most iterations")
    add("--gtol", type=float, help="largest entry of the gradient")
    add("--ftol", type=float, help="relative change of the value")
    add("--target", type=float, help="value to reach")
    add("--max-time", type=float, metavar="S", help="seconds")
    add("--max-evals", type=int, metavar="K", help="most gradients")

    add = parser.add_argument_group("what is kept and shown").add_argument
    add("--checkpoint", metavar="FILE", help="save the state there in every iteration")
    add("--resume", action="store_true", help="go on from --checkpoint if it exists")
    folder = "where run.npz and run.png go (default: a new folder in optex-runs)"
    add("--output", metavar="DIR", help=folder)
    alone = "do not run SciPy's L-BFGS-B and the optimizer alone for comparison"
    add("--no-baseline", action="store_true", help=alone)
    seconds = "seconds for the comparison (default 60)"
    add("--baseline-time", type=float, default=60.0, metavar="S", help=seconds)
    add("--no-plot", action="store_true", help="draw no picture")
    add("--quiet", action="store_true", help="no progress, only the results")


def run(args: argparse.Namespace) -> int:
    """Do it; 1 if the run diverged, failed, was interrupted, or missed its target."""
    if args.list:
        print(catalogue())
        return 0
    if args.name is None and args.program is None:
        raise ArgumentError(
            "what shall be minimized? give a problem (--list shows them), "
            "module:function, or --program"
        )
    if args.name is not None and args.program is not None:
        raise ArgumentError(
            f"{args.name} and --program are two things to be minimized; give one of them"
        )
    folder_for(args.output)
    # Both load SciPy's optimizers, which takes half a second: before the clock starts.
    import optex_core.engine.result  # noqa: F401
    from optex_core._minimize import minimize

    source = get_problem_source(args.name, args) if args.program is None else program_source(args)
    bounds = _bounds(args.bounds, len(source.x0))
    optimizer = _optimizer(source, args)
    criteria = _criteria(source, args)

    def say(text: str) -> None:
        if not args.quiet:
            print(text, flush=True)

    rate = getattr(optimizer, "learning_rate", None)
    at_rate = "" if rate is None else f" at rate {rate}"
    name = getattr(optimizer, "name", type(optimizer).__name__)
    with _workers(args) as (workers, where):
        say(
            f"{source.name}: {len(source.x0)} parameters, {name}{at_rate}, "
            f"{args.parallelism} gradients at once, in {where}"
        )
        result = minimize(
            source.fun, source.x0, optimizer=optimizer, parallelism=args.parallelism,
            strategy=args.strategy, workers=workers, backend=args.backend, bounds=bounds,
            rng=args.seed, checkpoint=args.checkpoint, resume=args.resume,
            progress=not args.quiet, tag=source.name, **criteria,
        )  # fmt: skip
    trace = result.history
    start = trace.value[0] if len(trace) else float("nan")
    print(
        f"{result.message} Value {start:.6g} -> {result.fun:.6g}, largest |gradient| "
        f"entry {abs(result.jac).max():.3g}."
    )
    print(
        f"{result.nit} rounds with {result.njev} gradients made {result.nsteps} "
        f"optimizer steps in {short(float(np.nansum(trace.seconds)))} s."
    )
    if result.failures:
        print(f"{len(result.failures)} evaluations failed; the first: {result.failures[0].message}")

    label = f"{args.strategy}, {args.parallelism} gradients at once"
    own = BaselineRow(label, rate if isinstance(rate, float | int) else None, trace, result.njev)
    rows = [own]
    value = common_value(trace)
    if not args.no_baseline and result.status not in FAILED_STATUSES and not math.isnan(value):
        say(f"\nOne gradient after another, until the value is {value:.6g} too:")
        rows += baselines(
            source, optimizer, value, say, args.baseline_time, backend=args.backend,
            bounds=bounds, rng=args.seed,
        )  # fmt: skip
        print(f"\n{comparison(rows, value, args.parallelism)}")
        print(
            f"'{args.parallelism} free cores': the slowest gradient of each round and "
            f"the engine's own work, as if no gradient waited for a core."
        )

    summary = {
        "name": source.name,
        "d": len(source.x0),
        "optimizer": repr(optimizer),
        "strategy": args.strategy,
        "parallelism": args.parallelism,
        "workers": workers if isinstance(workers, int | str | None) else args.workers,
        "backend": args.backend,
        "status": result.status.name,
        "value": float(result.fun),
        **{key: result[key] for key in ("seed", "message", "nit", "nfev", "njev", "nsteps")},
    }
    others = {row.label: row.trace for row in rows[1:]}
    folder = Path(args.output or new_folder(f"{source.name}-{args.parallelism}"))
    saved = Run(np.asarray(result.x), trace, summary, others)
    print(f"\nsaved: {save_run(saved, folder)}")
    if len(trace) and not args.no_plot:
        try:
            print(f"plot:  {draw_run(saved, folder / PICTURE)}")
        except MissingExtraError as error:
            # the run itself is done and saved: only its picture is missing
            print(f"no picture: {error}", file=sys.stderr)
    missed = args.target is not None and result.status is not Status.TARGET
    return 1 if result.status in FAILED_STATUSES or missed else 0


def catalogue() -> str:
    """Everything that has a name, with its first line of documentation."""
    from optex_core.model.kernels import KERNELS
    from optex_core.strategies import STRATEGIES

    lines = []
    for registry in (PROBLEMS, OPTIMIZERS, STRATEGIES, KERNELS):
        title = "strategies" if registry is STRATEGIES else f"{registry.kind}s"
        width = max(map(len, registry))
        lines.append(f"{title}:")
        for name, entry in registry.items():
            lines.append(f"  {name:<{width}}  {(entry.__doc__ or '').strip().splitlines()[0]}")
            if registry is PROBLEMS:
                defaults = problem_source.default_settings(name)
                settings = ", ".join(f"{key}={value!r}" for key, value in defaults.items())
                lines.append(f"  {'':<{width}}  settings: {settings or 'none'}")
        lines.append("")
    return "\n".join(lines).rstrip()


def _optimizer(source: ProblemSource, args: argparse.Namespace) -> FirstOrderOptimizer:
    rate = args.learning_rate
    if args.optimizer is None and rate is None:
        return LBFGS()
    if rate is None and args.optimizer == source.optimizer:
        rate = source.rate
    return read_optimizer(args.optimizer or source.optimizer, rate)


def _criteria(source: ProblemSource, args: argparse.Namespace) -> dict[str, Any]:
    criteria = {
        key: getattr(args, key)
        for key in ("maxiter", "gtol", "ftol", "target", "max_time", "max_evals")
    }
    if all(value is None for value in criteria.values()):
        # The one gradient that the run itself does not count.
        first = make_objective(source.fun, x0=source.x0).evaluate(
            source.x0, Context(id=0, seed=args.seed, iteration=0, slot=0)
        )
        criteria.update(
            maxiter=DEFAULT_MAXITER,
            gtol=RELATIVE_GTOL * float(np.abs(np.asarray(first.gradient)).max()),
            target=source.goal,
        )
    return criteria


def _bounds(text: str | None, d: int) -> np.ndarray | list[tuple[float, float]] | None:
    """What ``--bounds`` says, as pairs."""
    if text is None:
        return None
    if text.endswith(".npy"):
        pairs = problem_source.numbers_in("--bounds", text)
        if pairs.shape != (d, 2):
            raise ArgumentError(
                f"--bounds {text} must hold {d} rows of low and high, got an array of "
                f"shape {pairs.shape}"
            )
        return pairs
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ArgumentError(
            f"--bounds takes LOW,HIGH (such as --bounds=-1,1 or 0,inf) or a .npy file, got {text!r}"
        ) from error
    return [(low, high)] * d


@contextmanager
def _workers(args: argparse.Namespace) -> Iterator[tuple[object, str]]:
    """What ``--workers`` names, and in words; a client of Dask is closed at the end."""
    text = args.workers
    if text is None and args.program is not None:
        # The program is a process by itself.
        yield "threads" if args.parallelism > 1 else None, "processes of its own"
    elif text == "threads":
        yield "threads", "threads"
    elif text is not None and "://" in text:
        from optex_core.execution.factory import dask

        with dask(text) as pool:
            yield pool, f"workers of {text}"
    elif text is None or text.isdecimal():
        from loky import cpu_count  # the cores that this process may use

        number = int(text) if text else min(args.parallelism, cpu_count())
        number = 0 if text is None and number == 1 else number  # one gains nothing
        yield number or None, f"{number} worker processes" if number else "this process"
    else:
        raise ArgumentError(
            f"--workers takes a number of processes, threads, or the address of a Dask scheduler "
            f"(tcp://host:port), got {text!r}"
        )
