"""Rounds to the same value against the optimizer alone: all strategies, baselines and L-BFGS-B over
the problem suite.

Three parts: speed-ups at the given rates; each method at its best rate; and final values under
gradient noise. A fourth, with ``--every``, shows what rarer searches of the likelihood cost. The
folder of the run holds ``cells.jsonl`` (one line for each finished cell), ``efficiency.json``
(settings, cells, summaries), ``efficiency.txt`` (the tables) and ``efficiency.png``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy

import optex_core
from optex_core.bench._result_store import Store
from optex_core.bench.efficiency.cells import ALONE, FACTORS, LBFGSB, PLAIN, Cell, Laboratory
from optex_core.bench.efficiency.curves import SHARES
from optex_core.bench.efficiency.plot import draw_efficiency
from optex_core.bench.efficiency.suite import Case, suite
from optex_core.bench.efficiency.summary import summarize
from optex_core.bench.efficiency.tables import report
from optex_core.errors import ArgumentError, MissingExtraError, did_you_mean
from optex_core.strategies.base import STRATEGIES

PARTS = ("given", "best", "noise", "every")
EXAMPLES = """examples:
  optex-core bench efficiency --quick                    a first look, about 20 seconds
  optex-core bench efficiency                            the tables of the documentation, about ten minutes on two cores
  optex-core bench efficiency --full                     everything; stop it and start it again as you like
  optex-core bench efficiency --strategies auto,target -N 10,20,40 --parts given
  optex-core bench efficiency --every 1,2,4,8 --parts every"""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured.

    Attributes
    ----------
    cases, strategies : tuple of str
    parallelism, best, noise : tuple of int
        N at the given rates; where each is at its best rate; under noise.
    tuned : tuple of str
        The strategies that get their best rate.
    levels : tuple of float
        Of the noise.
    seeds : int
        Runs under noise.
    every : tuple of int
        Rounds between searches, for `auto`; empty: not measured.
    parts : tuple of str
        Which of PARTS are measured.
    """

    cases: tuple[str, ...]
    strategies: tuple[str, ...]
    parallelism: tuple[int, ...] = (2, 5, 20)
    best: tuple[int, ...] = (5,)
    noise: tuple[int, ...] = (5,)
    tuned: tuple[str, ...] = (PLAIN, "auto", LBFGSB)
    levels: tuple[float, ...] = (0.1, 1.0, 5.0)
    seeds: int = 5
    every: tuple[int, ...] = ()
    parts: tuple[str, ...] = PARTS


def main(argv: Sequence[str]) -> int:
    """Run the benchmark.

    Parameters
    ----------
    argv : sequence of str
        The options.

    Returns
    -------
    int
        0.
    """
    from threadpoolctl import threadpool_limits

    cases = suite()
    args = _parser().parse_args(argv)
    mode = "full" if args.full else "quick" if args.quick else "default"
    extent = _extent(args, mode, cases)
    folder = (
        Path(args.output)
        if args.output
        else Path("optex-runs", "efficiency" if mode == "default" else f"efficiency-{mode}")
    )
    store = Store(folder / "cells.jsonl", resume=args.full)
    # One BLAS thread: the problems' own products then have the same bits everywhere, and shared
    # cores do no harm.
    with threadpool_limits(limits=1, user_api="blas"):
        cells = measure(
            plan(extent, cases), cases, store, lambda text: print(text, file=sys.stderr, flush=True)
        )
    text = report(cells, cases)
    (folder / "efficiency.txt").write_text(text, encoding="utf-8")
    (folder / "efficiency.json").write_text(
        _document(mode, extent, cases, store, cells), encoding="utf-8"
    )
    print(text)
    try:
        draw_efficiency(cells, cases, folder / "efficiency.png")
    except MissingExtraError as error:
        # the figures are measured and saved: only their picture is missing
        print(f"no picture: {error}", file=sys.stderr)
    print(f"saved in {folder}")
    return 0


def plan(extent: Extent, cases: dict[str, Case]) -> list[Cell]:
    """The cells of an extent, in the order of the tables. What has one gradient a round is measured
    once and not for every N.
    """
    shown = (*(s for s in extent.strategies if s != PLAIN), LBFGSB)
    found = []
    for name in extent.cases:
        if "given" in extent.parts:
            found += [Cell("given", name, PLAIN, 1)] if PLAIN in extent.strategies else []
            found += _cells("given", name, shown, extent.parallelism)
    for name in extent.cases:
        if "best" in extent.parts:
            found += _cells(
                "best",
                name,
                [s for s in extent.tuned if s == LBFGSB or s in extent.strategies],
                extent.best,
            )
    for name in extent.cases:
        if "every" in extent.parts and "auto" in extent.strategies:
            found += [
                cell
                for k in extent.every
                for cell in _cells("every", name, ("auto",), extent.best, every=k)
            ]
    for name in extent.cases:
        if "noise" in extent.parts and cases[name].noisy:
            # always with what the others are compared with
            noisy = dict.fromkeys((PLAIN, *extent.strategies))
            for level in extent.levels:
                found += [
                    cell
                    for seed in range(extent.seeds)
                    for cell in _cells("noise", name, noisy, extent.noise, level=level, seed=seed)
                ]
    return found


def _cells(
    part: str, case: str, strategies: Any, parallelism: Sequence[int], **settings: Any
) -> list[Cell]:
    return (
        [
            Cell(part, case, s, N, **settings)
            for s in strategies
            for N in ((1,) if s in ALONE else parallelism)
        ]
        if parallelism
        else []
    )


def measure(
    cells: Sequence[Cell], cases: dict[str, Case], store: Store, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Run the cells that `store` does not hold yet; all of them, in order."""
    laboratory = Laboratory(cases)
    begin = time.perf_counter()
    found = []
    for number, cell in enumerate(cells, 1):
        if cell.key not in store.cells:
            store.add(cell.key, laboratory.run(cell))
            say(
                f"[{number}/{len(cells)}, {time.perf_counter() - begin:.0f} s] "
                f"{cell.key}: {_said(store.cells[cell.key])}"
            )
        found.append(store.cells[cell.key])
    return found


def _said(cell: dict[str, Any]) -> str:
    if cell["part"] == "noise":
        return "diverged" if cell["final"] is None else f"value {cell['final']:.4g}"
    return " ".join("never" if s is None else f"{s:.1f}" for s in cell["speed_ups"])


def _document(
    mode: str, extent: Extent, cases: dict[str, Case], store: Store, cells: list[dict[str, Any]]
) -> str:
    """The JSON file: what was asked, on what, what came out."""
    described = {
        name: {
            "title": case.title, "d": case.problem.d, "problem": repr(case.problem), "optimizer": repr(case.optimizer), "steps": case.steps,
            "prototype (stored, not measured here)": {str(N): list(figures) for N, figures in case.prototype.items()},
        }
        for name, case in cases.items()
        if name in extent.cases
    }  # fmt: skip
    document = {
        "format": "optex_core efficiency", "version": optex_core.__version__, "source": store.source, "mode": mode,
        "shares": SHARES, "factors": FACTORS, "extent": dataclasses.asdict(extent),
        "machine": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__, "cores": os.cpu_count(),
                    "system": platform.platform()},
        "cases": described, "summary": summarize(cells), "cells": cells,
    }  # fmt: skip
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _extent(args: argparse.Namespace, mode: str, cases: dict[str, Case]) -> Extent:
    # In the order of the tables: what is to be judged, then what it is compared with.
    first = (
        "auto",
        "verified",
        "corrected",
        "paper",
        "target",
        "data_parallel",
        "repeat_last",
        "line_search",
    )
    everything = (
        *(s for s in first if s in STRATEGIES),
        *(s for s in STRATEGIES if s not in first),
    )
    extent = Extent(tuple(cases), everything)
    if mode == "quick":
        some = ("quadratic_sgd", "logistic_adam", "network_adam", "rosenbrock_sgd")
        extent = dataclasses.replace(
            extent, cases=some, parallelism=(5,), best=(), levels=(1.0,), seeds=1
        )
    if mode == "full":
        tuned = (PLAIN, "auto", "verified", "corrected", "paper", LBFGSB)
        # N from 10 on is where more points on one path add little: what is tried there is to be
        # seen here.
        extent = dataclasses.replace(
            extent,
            parallelism=(2, 5, 10, 20, 40),
            best=(2, 5, 20),
            noise=(5, 20),
            tuned=tuned,
            seeds=10,
            every=(1, 2, 4, 8),
        )
    given: dict[str, Any] = {}
    if args.cases:
        given["cases"] = _named("case", args.cases, cases)
    if args.strategies:
        given["strategies"] = _named("strategy", args.strategies, STRATEGIES)
    if args.parts:
        given["parts"] = _named("part", args.parts, PARTS)
    if args.parallelism:
        given["parallelism"] = given["best"] = given["noise"] = _integers("-N", args.parallelism, 2)
        given["best"] = given["best"] if extent.best else ()
    if args.every:
        given["every"] = _integers("--every", args.every, 1)
        given["best"] = given.get("best") or extent.best or (5,)
    if args.seeds is not None:
        given["seeds"] = _integers("--seeds", str(args.seeds), 1)[0]
    return dataclasses.replace(extent, **given)


def _named(kind: str, text: str, known: Any) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in known:
            raise ArgumentError(f"unknown {kind} {name!r}{did_you_mean(name, known)}")
    return names


def _integers(option: str, text: str, low: int) -> tuple[int, ...]:
    try:
        numbers = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise ArgumentError(
            f"{option} takes whole numbers with commas between them, got {text!r}"
        ) from error
    if min(numbers) < low:
        raise ArgumentError(f"{option} takes whole numbers from {low} on, got {text!r}")
    return numbers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optex-core bench efficiency",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="few cases, N = 5, one level of noise")
    extent.add_argument(
        "--full",
        action="store_true",
        help="all N to 40, ten seeds, more at their best rate; goes on where it was stopped",
    )
    parser.add_argument("--cases", metavar="NAME,...", help=f"of {', '.join(suite())}")
    parser.add_argument(
        "--strategies", metavar="NAME,...", help="as optex_core.minimize takes them (default: all)"
    )
    parser.add_argument(
        "-N", "--parallelism", metavar="N,...", help="gradients at once, for all parts"
    )
    parser.add_argument(
        "--parts", metavar="PART,...", help=f"of {', '.join(PARTS)}; every needs --every or --full"
    )
    parser.add_argument("--seeds", type=int, metavar="K", help="runs under each noise (default 5)")
    parser.add_argument(
        "--every",
        metavar="K,...",
        help="measure auto with the likelihood searched every K rounds only",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="where to save (default optex-runs/efficiency...)"
    )
    return parser
