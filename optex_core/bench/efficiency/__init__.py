"""Rounds to the same value against the optimizer alone: all strategies, baselines and L-BFGS-B over
the problem suite.

Three parts: speed-ups at the given rates; each method at its best rate; and final values under
gradient noise. A fourth, with ``--every``, shows what rarer searches of the likelihood cost. The
folder of the run holds ``cells.jsonl`` (one line for each finished cell), ``efficiency.json``
(settings, summaries), ``efficiency.txt`` (the tables) and ``efficiency.png``.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from optex_core.bench._result_store import Store
from optex_core.bench._runner import (
    Row,
    choose,
    finish,
    make_parser,
    mode_of,
    numbers,
    output_folder,
    say,
)
from optex_core.bench.efficiency.cells import ALONE, FACTORS, LBFGSB, PLAIN, Cell, Laboratory
from optex_core.bench.efficiency.curves import SHARES
from optex_core.bench.efficiency.plot import draw_efficiency
from optex_core.bench.efficiency.suite import Case, suite
from optex_core.bench.efficiency.summary import summarize
from optex_core.bench.efficiency.tables import report
from optex_core.strategies.base import STRATEGIES

PARTS = ("given", "best", "noise", "every")
EXAMPLES = """  optex-core bench efficiency --quick     a first look, about 20 seconds
  optex-core bench efficiency             the documentation's tables, ten minutes on two cores
  optex-core bench efficiency --full      everything; stop it and start it again as you like
  optex-core bench efficiency --strategies auto,target -N 10,20,40 --parts given
  optex-core bench efficiency --every 1,2,4,8 --parts every"""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    cases: tuple[str, ...]
    strategies: tuple[str, ...]
    #: N at the given rates; where each is at its best rate; under noise.
    parallelism: tuple[int, ...] = (2, 5, 20)
    best: tuple[int, ...] = (5,)
    noise: tuple[int, ...] = (5,)
    tuned: tuple[str, ...] = (LBFGSB, PLAIN, "auto")  # the strategies that get their best rate
    levels: tuple[float, ...] = (0.1, 1.0, 5.0)  # of the noise
    seeds: int = 5  # runs under noise
    every: tuple[int, ...] = ()  # rounds between searches, for `auto`; empty: not measured
    parts: tuple[str, ...] = PARTS  # which of PARTS are measured


def main(argv: Sequence[str]) -> int:
    """Run the benchmark with the options `argv`; the exit status."""
    from threadpoolctl import threadpool_limits

    cases = suite()
    args = _parser().parse_args(argv)
    mode = mode_of(args)
    extent = _extent(args, mode, cases)
    folder = output_folder("efficiency", args)
    store = Store(folder / "cells.jsonl", resume=args.full)
    # One BLAS thread: the problems' own products then have the same bits everywhere, and shared
    # cores do no harm.
    with threadpool_limits(limits=1, user_api="blas"):
        cells = measure(plan(extent, cases), cases, store)
    return finish(
        "efficiency",
        folder,
        report(cells, cases),
        _document(mode, extent, cases, store, cells),
        lambda path: draw_efficiency(cells, cases, path),
    )


def plan(extent: Extent, cases: dict[str, Case]) -> list[Cell]:
    """The cells of an extent, in the order of the tables. What has one gradient a round is measured
    once and not for every N.
    """
    alone = (PLAIN,) if PLAIN in extent.strategies else ()
    shown = (LBFGSB, *alone, *(s for s in extent.strategies if s != PLAIN))
    found = []
    for name in extent.cases:
        if "given" in extent.parts:
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
    part: str, case: str, strategies: Iterable[str], parallelism: Sequence[int], **settings: Any
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


def measure(cells: Sequence[Cell], cases: dict[str, Case], store: Store) -> list[Row]:
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


def _said(cell: Row) -> str:
    if cell["part"] == "noise":
        return "diverged" if cell["final"] is None else f"value {cell['final']:.4g}"
    return " ".join("never" if s is None else f"{s:.1f}" for s in cell["speed_ups"])


def _document(
    mode: str, extent: Extent, cases: dict[str, Case], store: Store, cells: list[Row]
) -> Row:
    """The JSON file: what was asked, on what, what came out of all cases together."""
    described = {
        name: {
            "title": case.title,
            "d": case.problem.d,
            "problem": repr(case.problem),
            "optimizer": repr(case.optimizer),
            "steps": case.steps,
        }
        for name, case in cases.items()
        if name in extent.cases
    }
    return {
        "source": store.source,
        "mode": mode,
        "shares": SHARES,
        "factors": FACTORS,
        "extent": dataclasses.asdict(extent),
        "cases": described,
        "summary": summarize(cells),
    }


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
        *(s for s in STRATEGIES if s not in first and STRATEGIES[s].any_optimizer),
    )
    extent = Extent(tuple(cases), everything)
    if mode == "quick":
        some = ("quadratic_sgd", "logistic_adam", "network_adam", "rosenbrock_sgd")
        extent = dataclasses.replace(
            extent, cases=some, parallelism=(5,), best=(), levels=(1.0,), seeds=1
        )
    if mode == "full":
        tuned = (LBFGSB, PLAIN, "auto", "verified", "corrected", "paper")
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
    given: Row = {}
    if args.cases:
        given["cases"] = choose("case", args.cases, cases)
    if args.strategies:
        given["strategies"] = choose("strategy", args.strategies, STRATEGIES)
    if args.parts:
        given["parts"] = choose("part", args.parts, PARTS)
    if args.parallelism:
        N = numbers("-N", args.parallelism, low=2)
        given |= {"parallelism": N, "best": N if extent.best else (), "noise": N}
    if args.every:
        given["every"] = numbers("--every", args.every)
        given["best"] = given.get("best") or extent.best or (5,)
    if args.seeds is not None:
        given["seeds"] = numbers("--seeds", str(args.seeds))[0]
    return dataclasses.replace(extent, **given)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "efficiency",
        __doc__,
        EXAMPLES,
        parts=PARTS,
        quick="few cases, N = 5, one level of noise",
        full="all N to 40, ten seeds, more at their best rate; goes on where it was stopped",
    )
    parser.add_argument("--cases", metavar="NAME,...", help=f"of {', '.join(suite())}")
    parser.add_argument(
        "--strategies", metavar="NAME,...", help="as optex_core.minimize takes them (default: all)"
    )
    parser.add_argument(
        "-N", "--parallelism", metavar="N,...", help="gradients at once, for all parts"
    )
    parser.add_argument("--seeds", type=int, metavar="K", help="runs under each noise (default 5)")
    parser.add_argument(
        "--every",
        metavar="K,...",
        help="measure auto with the likelihood searched every K rounds only",
    )
    return parser
