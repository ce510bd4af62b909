"""Minimize a built-in problem or a function of your own, show what the parallel gradients gain, and
save the run.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from optex_core.adapters.objective import make_objective
from optex_core.cli import problem_source as subjects
from optex_core.cli.baseline import Entry, common_value, comparison, optimizer_alone
from optex_core.cli.problem_source import Subject, get_subject, program_subject
from optex_core.cli.run_folder import PICTURE, Run, folder_for, new_folder, save_run
from optex_core.cli.system_info import usable_cores
from optex_core.cli.table import number
from optex_core.engine.status import Status
from optex_core.engine.stopping import DEFAULT_MAXITER
from optex_core.errors import ArgumentError, MissingExtraError
from optex_core.optimizers import OPTIMIZERS, get_optimizer
from optex_core.types import Context, FirstOrderOptimizer

SUMMARY = "minimize a problem, module:function or an external program"
EXAMPLES = """  optex-core minimize rosenbrock --size 100
  optex-core minimize heat_inversion --parallelism 8 --maxiter 60
  optex-core minimize sphere --set d=1000 --optimizer adam --learning-rate 0.05
  optex-core minimize mymodule:fun --x0 start.npy --optimizer sgd --learning-rate 0.1 --gtol 1e-5
  optex-core minimize mymodule:fun --dimension 50 --checkpoint run.optex --resume
  optex-core minimize --program './simulate {parameters} {gradient} {value}' --x0 start.npy --timeout 600"""

#: The default gtol in units of the first gradient's largest entry. The API's 1e-6 has no unit
#: either, but knows no problem: on heat_inversion it more than doubles the rounds without changing
#: the fifth digit of the value.
RELATIVE_GTOL = 1e-4
#: Ends of a run that scripts must not take for a result.
BAD = (Status.DIVERGED, Status.FAILED, Status.TOO_MANY_FAILURES, Status.INTERRUPTED)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME|module:function",
        help="a built-in problem, or a function that returns (value, gradient)",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="list problems, optimizers, strategies and kernels, and stop",
    )
    subjects.add_arguments(parser)
    parser.add_argument(
        "--bounds",
        metavar="LOW,HIGH|FILE.npy",
        help="keep every parameter in here; a file holds (d, 2): low and high of each",
    )

    program = parser.add_argument_group(
        "an external program in place of NAME: it reads a file and writes files, in a "
        "directory of its own"
    )
    program.add_argument(
        "--program",
        metavar="COMMAND",
        help="such as './simulate {parameters} {gradient} {value}'; no shell reads it",
    )
    program.add_argument(
        "--parameters",
        metavar="FILE",
        default="parameters.npy",
        help="what it reads: .npy, .bin (raw), .txt (default %(default)s)",
    )
    program.add_argument(
        "--gradient",
        metavar="FILE",
        default="gradient.npy",
        help="what it writes (default %(default)s)",
    )
    program.add_argument(
        "--value",
        metavar="FILE",
        default="value.txt",
        help="the same; stdout.txt is what it prints (default %(default)s)",
    )
    program.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help="seconds after which it is killed, with all that it has started",
    )
    program.add_argument(
        "--files", metavar="FILE", nargs="*", default=[], help="files it finds in its directory"
    )

    method = parser.add_argument_group("method")
    method.add_argument(
        "--parallelism",
        type=int,
        default=4,
        metavar="N",
        help="gradients evaluated at once (default 4)",
    )
    method.add_argument("--optimizer", help="default: the problem's own, adam for functions")
    method.add_argument(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help="default: the problem's, or the optimizer's",
    )
    method.add_argument("--strategy", default="auto", help="default auto")
    method.add_argument(
        "--backend", default="auto", help="auto, numpy, numba or cupy (default auto)"
    )
    method.add_argument(
        "--workers",
        type=int,
        metavar="W",
        help="worker processes; 0: none (default: as many as cores, at most N)",
    )

    stop = parser.add_argument_group(
        f"when to stop (none given: the problem's goal, 1000 iterations, or "
        f"{RELATIVE_GTOL:g} of the first gradient)"
    )
    stop.add_argument("--maxiter", type=int, help="most iterations")
    stop.add_argument("--gtol", type=float, help="largest entry of the gradient")
    stop.add_argument("--ftol", type=float, help="relative change of the value")
    stop.add_argument("--target", type=float, help="value to reach")
    stop.add_argument("--max-time", type=float, metavar="S", help="seconds")
    stop.add_argument("--max-evals", type=int, metavar="K", help="most gradients")

    keep = parser.add_argument_group("what is kept and shown")
    keep.add_argument(
        "--checkpoint", metavar="FILE", help="save the state there in every iteration"
    )
    keep.add_argument("--resume", action="store_true", help="go on from --checkpoint if it exists")
    keep.add_argument(
        "--output",
        metavar="DIR",
        help="where run.npz and run.png go (default: a new folder in optex-runs)",
    )
    keep.add_argument(
        "--no-baseline", action="store_true", help="do not run the optimizer alone for comparison"
    )
    keep.add_argument(
        "--baseline-time",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds for the comparison (default 60)",
    )
    keep.add_argument("--no-plot", action="store_true", help="draw no picture")
    keep.add_argument("--quiet", action="store_true", help="no progress, only the results")


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

    subject = get_subject(args.name, args) if args.program is None else program_subject(args)
    bounds = _bounds(args.bounds, len(subject.x0))
    optimizer = _optimizer(subject, args)
    workers = _workers(args)
    criteria = _criteria(subject, args)

    def say(text: str) -> None:
        if not args.quiet:
            print(text, flush=True)

    rate = getattr(optimizer, "learning_rate", None)
    where = (
        "processes of its own"
        if args.program
        else f"{workers} worker processes"
        if workers
        else "this process"
    )
    say(
        f"{subject.name}: {len(subject.x0)} parameters, {_name(optimizer)} at rate "
        f"{rate}, {args.parallelism} gradients at once, in {where}"
    )
    result = minimize(
        subject.fun, subject.x0, optimizer=optimizer, parallelism=args.parallelism, strategy=args.strategy, workers=workers,
        backend=args.backend, bounds=bounds, rng=args.seed, checkpoint=args.checkpoint, resume=args.resume,
        progress=not args.quiet, tag=subject.name, **criteria,
    )  # fmt: skip
    trace = result.history
    start = trace.value[0] if len(trace) else float("nan")
    print(
        f"{result.message} Value {start:.6g} -> {result.fun:.6g}, largest |gradient| "
        f"entry {abs(result.jac).max():.3g}."
    )
    print(
        f"{result.nit} rounds with {result.njev} gradients made {result.nsteps} "
        f"optimizer steps in {number(float(np.nansum(trace.seconds)))} s."
    )
    if result.failures:
        print(f"{len(result.failures)} evaluations failed; the first: {result.failures[0].message}")

    own = Entry(
        f"{args.strategy}, {args.parallelism} gradients at once",
        rate if isinstance(rate, float | int) else None,
        trace,
    )
    entries = [own]
    value = common_value(trace)
    if not args.no_baseline and result.status not in BAD and not math.isnan(value):
        say(f"\nThe optimizer alone, until it reaches {value:.6g} too:")
        entries += optimizer_alone(
            subject,
            optimizer,
            value,
            backend=args.backend,
            bounds=bounds,
            seed=args.seed,
            seconds=args.baseline_time,
            say=say,
        )
        print(f"\n{comparison(entries, value, args.parallelism)}")
        print(
            f"'{args.parallelism} free cores': the slowest gradient of each round and "
            f"the engine's own work, as if no gradient waited for a core."
        )

    summary = {
        "name": subject.name, "d": len(subject.x0), "optimizer": repr(optimizer), "strategy": args.strategy, "parallelism": args.parallelism,
        "workers": workers, "backend": args.backend, "seed": result.seed, "status": result.status.name, "message": result.message,
        "value": float(result.fun), "nit": result.nit, "nfev": result.nfev, "njev": result.njev, "nsteps": result.nsteps,
    }  # fmt: skip
    _keep(Run(result.x, trace, summary, {e.label: e.trace for e in entries[1:]}), own.label, args)
    missed = args.target is not None and result.status is not Status.TARGET
    return 1 if result.status in BAD or missed else 0


def catalogue() -> str:
    """Everything that has a name, with its first line of documentation."""
    from optex_core.model.kernels import KERNELS
    from optex_core.problems import PROBLEMS
    from optex_core.strategies import STRATEGIES

    lines = []
    for title, registry in (
        ("problems", PROBLEMS),
        ("optimizers", OPTIMIZERS),
        ("strategies", STRATEGIES),
        ("kernels", KERNELS),
    ):
        entries: dict[str, Any] = dict(registry)
        width = max(len(name) for name in entries)
        lines.append(f"{title}:")
        for name, entry in entries.items():
            lines.append(f"  {name:<{width}}  {(entry.__doc__ or '').strip().splitlines()[0]}")
            if title == "problems":
                settings = ", ".join(
                    f"{key}={default!r}" for key, default in subjects.settings_of(name).items()
                )
                lines.append(f"  {'':<{width}}  settings: {settings or 'none'}")
        lines.append("")
    return "\n".join(lines).rstrip()


def _optimizer(subject: Subject, args: argparse.Namespace) -> FirstOrderOptimizer:
    name = args.optimizer or subject.optimizer
    rate = args.learning_rate
    if rate is None and name == subject.optimizer:
        rate = subject.rate
    if rate is None:
        try:
            return get_optimizer(name)
        except ArgumentError as error:
            if name in OPTIMIZERS:  # it exists, and has no default rate
                raise ArgumentError(
                    f"{name} has no default learning rate; give --learning-rate"
                ) from error
            raise
    kind: Any = OPTIMIZERS[name]
    return kind(rate)


def _criteria(subject: Subject, args: argparse.Namespace) -> dict[str, Any]:
    criteria = {
        key: getattr(args, key)
        for key in ("maxiter", "gtol", "ftol", "target", "max_time", "max_evals")
    }
    if all(value is None for value in criteria.values()):
        # The one gradient that the run itself does not count.
        first = make_objective(subject.fun, x0=subject.x0).evaluate(
            subject.x0, Context(id=0, seed=args.seed, iteration=0, slot=0)
        )
        criteria.update(
            maxiter=DEFAULT_MAXITER,
            gtol=RELATIVE_GTOL * float(np.abs(first.gradient).max()),
            target=subject.goal,
        )
    return criteria


def _name(optimizer: FirstOrderOptimizer) -> str:
    return getattr(optimizer, "name", type(optimizer).__name__)


def _bounds(text: str | None, d: int) -> Any:
    """What ``--bounds`` says, as pairs."""
    if text is None:
        return None
    if text.endswith(".npy"):
        pairs = subjects.numbers_in("--bounds", text)
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


def _workers(args: argparse.Namespace) -> int | str | None:
    if args.program is not None:
        return "threads" if args.parallelism > 1 else None  # the program is a process by itself
    if args.workers is not None:
        return args.workers or None
    workers = min(args.parallelism, usable_cores())
    return workers if workers > 1 else None


def _keep(run: Run, label: str, args: argparse.Namespace) -> None:
    folder = (
        Path(args.output)
        if args.output
        else new_folder(f"{run.summary['name']}-{args.parallelism}")
    )
    print(f"\nsaved: {save_run(run, folder)}")
    if args.no_plot or not len(run.trace):
        return
    from optex_core.engine.plots import plot_trace

    try:
        plot_trace(
            run.trace,
            label=label,
            baselines=run.baselines,
            title=f"{run.summary['name']}, d = {run.summary['d']}",
            path=folder / PICTURE,
        )
    except MissingExtraError as error:
        # the run itself is done and saved: only its picture is missing
        print(f"no picture: {error}", file=sys.stderr)
        return
    print(f"plot:  {folder / PICTURE}")
