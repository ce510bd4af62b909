"""Rounds to the same value against the optimizer alone, over the problem suite.

All strategies, baselines and L-BFGS-B. Four parts: speed-ups at the given rates; each method at its
best rate; final values under gradient noise; and those at a grid of rates (networks on minibatches
of scikit-learn's digits). The folder of the run holds ``cells.jsonl`` (one line for each finished
cell), ``efficiency.json`` (settings, summaries), ``efficiency.txt`` (the tables) and
``efficiency.png``.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optex_core.bench._result_store import Store
from optex_core.bench._runner import (
    Row,
    choose,
    finish,
    make_parser,
    numbered,
    numbers,
    output_folder,
    say,
)
from optex_core.bench.efficiency.cells import (
    ALONE,
    FACTORS,
    LBFGSB,
    PLAIN,
    SHARES,
    Cell,
    Laboratory,
)
from optex_core.bench.efficiency.plot import draw_efficiency
from optex_core.bench.efficiency.rates import STRATEGIES as RIVALS
from optex_core.bench.efficiency.rates import rates_suite
from optex_core.bench.efficiency.suite import Case, suite
from optex_core.bench.efficiency.summary import summarize
from optex_core.bench.efficiency.tables import report, speeds
from optex_core.strategies.base import STRATEGIES

PARTS = ("given", "best", "noise", "rates")
#: In the order of the tables: what is to be judged, then what it is compared with.
FIRST = (
    "auto", "verified", "corrected", "paper", "target", "data_parallel", "repeat_last",
    "line_search",
)  # fmt: skip
EXAMPLES = """  optex-core bench efficiency --quick     a first look, about 20 seconds
  optex-core bench efficiency             the documentation's tables, 15 minutes on two cores
  optex-core bench efficiency --full      everything; stop it and start it again as you like
  optex-core bench efficiency --strategies auto,target -N 10,20,40 --parts given"""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    cases: tuple[str, ...]
    strategies: tuple[str, ...]
    #: N at the given rates; where each is at its best rate; under noise; at a grid of rates.
    parallelism: tuple[int, ...] = (2, 5, 20)
    best: tuple[int, ...] = (5,)
    noise: tuple[int, ...] = (5,)
    rates: tuple[int, ...] = (8,)
    tuned: tuple[str, ...] = (LBFGSB, PLAIN, "auto")  # the strategies that get their best rate
    levels: tuple[float, ...] = (0.1, 1.0, 5.0)  # of the noise
    seeds: int = 5  # runs under noise
    parts: tuple[str, ...] = PARTS  # which of PARTS are measured


def main(argv: Sequence[str]) -> int:
    """Run the benchmark with the options `argv`; the exit status."""
    from threadpoolctl import threadpool_limits

    cases = suite()
    args = _parser().parse_args(argv)
    extent = _extent(args, cases)
    folder = output_folder("efficiency", args)
    store = Store(folder / "cells.jsonl", resume=args.mode == "full")
    # One BLAS thread: the problems' own products then have the same bits everywhere, and shared
    # cores do no harm.
    with threadpool_limits(limits=1, user_api="blas"):
        cells = measure(plan(extent, cases), cases, store)
    measured = {cell["case"] for cell in cells}
    document = {
        "source": store.source,
        "mode": args.mode,
        "shares": SHARES,
        "factors": FACTORS,
        "extent": extent,
        "cases": {name: _described(case) for name, case in cases.items() if name in measured},
        "summary": summarize(cells),
    }
    drawn = [cell for cell in cells if cell["part"] != "rates"]
    return finish(
        "efficiency", folder, report(cells, cases), document,
        (lambda figure: draw_efficiency(drawn, cases, figure)) if drawn else None,
    )  # fmt: skip


def plan(extent: Extent, cases: Mapping[str, Case]) -> list[Cell]:
    """The cells of an extent, in the order of the tables. What has one gradient a round is measured
    once and not for every N.
    """
    alone = (PLAIN,) if PLAIN in extent.strategies else ()
    shown = (LBFGSB, *alone, *(s for s in extent.strategies if s != PLAIN))
    tuned = [s for s in extent.tuned if s == LBFGSB or s in extent.strategies]
    # always with what the others are compared with
    noisy = dict.fromkeys((PLAIN, *extent.strategies))
    names, found = [name for name in extent.cases if name in cases], []
    if "rates" in extent.parts:  # first: that scikit-learn is not installed is told at once
        for name, one in rates_suite().items():
            for seed in range(extent.seeds) if name in extent.cases else ():
                for rate in one.rates:
                    found += _cells("rates", name, RIVALS, extent.rates, rate=rate, seed=seed)
    if "given" in extent.parts:
        for name in names:
            found += _cells("given", name, shown, extent.parallelism)
    if "best" in extent.parts:
        for name in names:
            found += _cells("best", name, tuned, extent.best)
    if "noise" in extent.parts:
        for name in (name for name in names if cases[name].noisy):
            for level in extent.levels:
                for seed in range(extent.seeds):
                    found += _cells("noise", name, noisy, extent.noise, level=level, seed=seed)
    return found


def _cells(
    part: str, case: str, strategies: Iterable[str], parallelism: Sequence[int], **settings: Any
) -> list[Cell]:
    at = {strategy: (1,) if strategy in ALONE else parallelism for strategy in strategies}
    return [Cell(part, case, s, N, **settings) for s in at for N in at[s] if parallelism]


def measure(cells: Sequence[Cell], cases: Mapping[str, Case], store: Store) -> list[Row]:
    """Run the cells that `store` does not hold yet; all of them, in order."""
    laboratory = Laboratory(cases)
    for progress, cell in numbered(cells):
        if cell.key not in store.cells:
            found = store.add(cell.key, laboratory.run(cell))
            said = f"value {found['final']}" if "final" in found else speeds(found)
            say(f"{progress} {cell.key}: {said}")
    return [store.cells[cell.key] for cell in cells]


def _described(case: Case) -> Row:
    return {
        "title": case.title,
        "d": case.problem.d,
        "problem": repr(case.problem),
        "optimizer": repr(case.optimizer),
        "steps": case.steps,
    }


def _extent(args: argparse.Namespace, cases: Mapping[str, Case]) -> Extent:
    others = (s for s in STRATEGIES if s not in FIRST and STRATEGIES[s].any_optimizer)
    known = (*cases, *rates_suite())
    extent = Extent(known, (*FIRST, *others))
    if args.mode == "quick":
        some = ("quadratic_sgd", "logistic_adam", "network_adam", "rosenbrock_sgd", "quadratic_1")
        extent = dataclasses.replace(
            extent, cases=some, parallelism=(5,), best=(), levels=(1.0,), seeds=1
        )
    if args.mode == "full":
        tuned = (LBFGSB, PLAIN, "auto", "verified", "corrected", "paper")
        # N from 10 on is where more points on one path add little: what is tried there is to be
        # seen here.
        extent = dataclasses.replace(
            extent, parallelism=(2, 5, 10, 20, 40), best=(2, 5, 20), noise=(5, 20), tuned=tuned,
            seeds=10,
        )  # fmt: skip
    given: Row = {}
    if args.cases:
        given["cases"] = choose("case", args.cases, known)
    if args.strategies:
        given["strategies"] = choose("strategy", args.strategies, STRATEGIES)
    if args.parts:
        given["parts"] = choose("part", args.parts, PARTS)
    if args.parallelism:
        N = numbers("-N", args.parallelism, low=2)
        given |= {"parallelism": N, "best": N if extent.best else (), "noise": N, "rates": N}
    if args.seeds is not None:
        (given["seeds"],) = numbers("--seeds", str(args.seeds))
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
    add = parser.add_argument
    add("--cases", metavar="NAME,...", help=f"of {', '.join((*suite(), *rates_suite()))}")
    add("--strategies", metavar="NAME,...", help="as `minimize` takes them (default: all)")
    add("-N", "--parallelism", metavar="N,...", help="gradients at once, for all parts")
    add("--seeds", type=int, metavar="K", help="runs under each noise (default 5)")
    return parser
