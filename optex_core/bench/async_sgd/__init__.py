"""Asynchronous SGD: throughput and loss against workers and cores, delays, and our
bound beside the measured gradient norm.

The folder of the run holds ``async_sgd.json`` (settings and figures) and ``async_sgd.txt`` (the
tables); the study ``dpsgd`` draws them.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Sequence

from optex_core.bench._runner import choose, finish, make_parser, mode_of, output_folder, say
from optex_core.bench._tables import columns
from optex_core.bench.async_sgd.measurements import (
    Row,
    computing,
    losses,
    rates,
    sleeping,
    slopes,
)
from optex_core.bench.async_sgd.peer import against_scikit_learn

PARTS = ("sleeping", "computing", "loss", "rate", "peer")
EXAMPLES = """  optex-core bench async_sgd             about two minutes on two cores
  optex-core bench async_sgd --quick     a first look, about 20 seconds
  optex-core bench async_sgd --full      to 16 workers, longer runs, more seeds; some four minutes
  optex-core bench async_sgd --parts sleeping,rate"""

#: Mode -> part -> what it is called with.
EXTENTS: dict[str, dict[str, Row]] = {
    "quick": {
        "sleeping": {"numbers": (2, 8), "engines": ("threads",), "pushes": 15},
        "computing": {"rounds": 5},
        "loss": {"numbers": (1, 4), "cores": (1,), "gradients": 100_000},
        "rate": {"lengths": (500, 2000), "settings": ((1, 0), (10, 3)), "seeds": 1},
        "peer": {"steps": (1.0, 2.0), "seeds": (1,), "n": 20_000},
    },
    "default": {
        "sleeping": {"numbers": (2, 4, 8, 16), "engines": ("threads", "processes")},
        "computing": {},
        "loss": {"numbers": (1, 2, 4, 8, 16), "cores": (1, 2)},
        "rate": {
            "lengths": (500, 2000, 8000),
            "settings": ((1, 0), (1, 7), (4, 1), (10, 0), (10, 3), (10, 40)),
        },
        "peer": {},
    },
    "full": {
        "sleeping": {
            "numbers": (1, 2, 4, 8, 16),
            "engines": ("threads", "processes"),
            "pushes": 60,
        },
        "computing": {"rounds": 100},
        "loss": {"numbers": (1, 2, 4, 8, 16), "cores": (1, 2), "gradients": 1_000_000},
        "rate": {
            "lengths": (500, 1000, 2000, 4000, 8000, 16000),
            "settings": ((1, 0), (1, 7), (4, 1), (10, 0), (10, 3), (10, 40)),
            "seeds": 4,
        },
        "peer": {"repeats": 10},
    },
}
_CALLS: dict[str, Callable[..., list[Row]]] = {
    "sleeping": sleeping,
    "computing": computing,
    "loss": losses,
    "rate": rates,
    "peer": against_scikit_learn,
}  # fmt: skip
_HEADS = {
    "sleeping": "Gradients that sleep 0.1 s, one to a push: throughput over N times one (reach: "
    "0.95)",
    "computing": "Compiled gradients, two cores against one (reach: 1.7 where the machine gives 2)",
    "loss": "Sparse logistic regression, same number of gradients: loss against serial (reach: "
    "2 % below the cap)",
    "rate": "Non-convex: mean |grad f|^2 at the suggested step, our bound beside it (nan: its "
    "condition exceeds 1)",
    "peer": "Sparse logistic regression, 1e5 rows of 40 entries, d = 2e4, six epochs: training "
    "loss, and scikit-learn's seconds over the method's",
}
_COLUMNS = {
    "sleeping": ("engine", "N", "efficiency", "mean delay", "max delay"),
    "computing": ("what", "speed-up", "median", "machine", "machine, median", "by CPU seconds"),
    "loss": (
        "N",
        "cores",
        "order",
        "rate",
        "loss",
        "against serial",
        "mean delay",
        "max delay",
        "a L",
        "cap",
        "gradients/s",
    ),
    "peer": ("method", "step", "loss", "spread", "seconds", "shortest", "CPU seconds"),
    "rate": ("B", "D", "T", "condition", "measured", "bound", "measured sqrt(BT)"),
}


def main(argv: Sequence[str]) -> int:
    """Run the benchmark with the options `argv`; the exit status."""
    args = _parser().parse_args(argv)
    mode, parts = mode_of(args), choose("part", args.parts, PARTS)
    if args.parts is None and importlib.util.find_spec("sklearn") is None:
        say("peer is left out: scikit-learn is not installed")
        parts = tuple(part for part in parts if part != "peer")
    folder = output_folder("async_sgd", args)
    figures: dict[str, list[Row]] = {}
    for part in parts:
        say(f"{part}: {_HEADS[part]} ...")
        figures[part] = _CALLS[part](**EXTENTS[mode][part])
    document = {
        "mode": mode,
        "extent": {part: EXTENTS[mode][part] for part in parts},
        "figures": figures,
        "slopes": slopes(figures.get("rate", [])),
    }
    return finish("async_sgd", folder, report(figures), document)


def report(figures: dict[str, list[Row]]) -> str:
    """The tables as text."""
    blocks = []
    for part, rows in figures.items():
        lines = [_HEADS[part], ""]
        names = _COLUMNS[part]
        lines.append(columns(names, [[_shown(row[name]) for name in names] for row in rows]))
        if part == "loss":
            lines += [
                "",
                *(
                    f"rate {row['rate']:g}, N = {row['N']}: {row['message']}"
                    for row in rows
                    if not row["stable"]
                ),
            ]
        if part == "rate":
            lines += [
                "",
                *(f"exponent of T at {name}: {slope:.3f}" for name, slope in slopes(rows).items()),
            ]
        if part == "sleeping":
            lines += [
                "",
                *(
                    f"delays, {r['engine']}, N = {r['N']}: {_histogram(r['histogram'])}"
                    for r in rows
                    if r["N"] == max(x["N"] for x in rows)
                ),
            ]
        blocks.append("\n".join(lines))
    return "\n\n\n".join(blocks) + "\n"


def _histogram(counts: Sequence[int]) -> str:
    return " ".join(f"{delay}:{count}" for delay, count in enumerate(counts) if count)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parser() -> argparse.ArgumentParser:
    return make_parser(
        "async_sgd",
        __doc__,
        EXAMPLES,
        parts=PARTS,
        quick="a first look",
        full="longer runs, more seeds",
    )
