"""Asynchronous SGD: throughput and loss against workers and cores, delays, lost writes, and our
bound beside the measured gradient norm.

The folder of the run holds ``async_sgd.json`` (settings and figures), ``async_sgd.txt`` (the
tables) and ``async_sgd.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import optex_core
from optex_core.bench.async_sgd.measurements import (
    Row,
    computing,
    losses,
    lost_updates,
    rates,
    sleeping,
    slopes,
)
from optex_core.bench.async_sgd.plot import draw_async
from optex_core.errors import ArgumentError, MissingExtraError, did_you_mean

PARTS = ("sleeping", "computing", "loss", "lost", "rate")
EXAMPLES = """examples:
  optex-core bench async_sgd                       about a minute and a half on two cores
  optex-core bench async_sgd --quick               a first look, about 20 seconds
  optex-core bench async_sgd --full                to 16 workers, longer runs, more seeds; some four minutes
  optex-core bench async_sgd --parts sleeping,rate"""

#: Mode -> part -> what it is called with.
EXTENTS: dict[str, dict[str, dict[str, Any]]] = {
    "quick": {
        "sleeping": {"numbers": (2, 8), "engines": ("threads",), "pushes": 15},
        "computing": {"rounds": 5},
        "loss": {"numbers": (1, 4), "cores": (1,), "gradients": 100_000},
        "lost": {"sizes": (8, 64, 1024), "rounds": 3},
        "rate": {"lengths": (500, 2000), "settings": ((1, 0), (10, 3)), "seeds": 1},
    },
    "default": {
        "sleeping": {"numbers": (2, 4, 8, 16), "engines": ("threads", "processes")},
        "computing": {},
        "loss": {"numbers": (1, 2, 4, 8, 16), "cores": (1, 2)},
        "lost": {"sizes": (1, 8, 64, 512, 4096)},
        "rate": {
            "lengths": (500, 2000, 8000),
            "settings": ((1, 0), (1, 7), (4, 1), (10, 0), (10, 3), (10, 40)),
        },
    },
    "full": {
        "sleeping": {
            "numbers": (1, 2, 4, 8, 16),
            "engines": ("threads", "processes"),
            "pushes": 60,
        },
        "computing": {"rounds": 100},
        "loss": {"numbers": (1, 2, 4, 8, 16), "cores": (1, 2), "gradients": 1_000_000},
        "lost": {"sizes": (1, 8, 64, 512, 4096, 32768), "rounds": 9},
        "rate": {
            "lengths": (500, 1000, 2000, 4000, 8000, 16000),
            "settings": ((1, 0), (1, 7), (4, 1), (10, 0), (10, 3), (10, 40)),
            "seeds": 4,
        },
    },
}
_CALLS: dict[str, Callable[..., list[Row]]] = {
    "sleeping": sleeping,
    "computing": computing,
    "loss": losses,
    "lost": lost_updates,
    "rate": rates,
}  # fmt: skip
_HEADS = {
    "sleeping": "Gradients that sleep 0.1 s, one to a push: throughput over N times one (reach: "
    "0.95)",
    "computing": "Compiled gradients, two cores against one (reach: 1.7 where the machine gives 2)",
    "loss": "Sparse logistic regression, same number of gradients: loss against serial (reach: "
    "2 % below the cap)",
    "lost": "What two racing cores lose on their shared u, as a share of the burst; the pushed "
    "sums lose nothing",
    "rate": "Non-convex: mean |grad f|^2 at the suggested step, our bound beside it (nan: its "
    "condition exceeds 1)",
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
    "lost": ("d", "dense", "dense, most", "sparse", "sparse, most"),
    "rate": ("B", "D", "T", "condition", "measured", "bound", "measured sqrt(BT)"),
}


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
    args = _parser().parse_args(argv)
    mode = "full" if args.full else "quick" if args.quick else "default"
    parts = _parts(args.parts)
    folder = (
        Path(args.output)
        if args.output
        else Path("optex-runs", "async_sgd" if mode == "default" else f"async_sgd-{mode}")
    )
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, list[Row]] = {}
    for part in parts:
        print(f"{part}: {_HEADS[part]} ...", file=sys.stderr, flush=True)
        figures[part] = _CALLS[part](**EXTENTS[mode][part])
    text = report(figures)
    document = {
        "format": "optex_core async_sgd", "version": optex_core.__version__, "mode": mode, "extent": {part: EXTENTS[mode][part] for part in parts},
        "machine": {"python": platform.python_version(), "numpy": np.__version__, "cores": os.cpu_count(), "system": platform.platform()},
        "figures": figures, "slopes": slopes(figures.get("rate", [])),
    }  # fmt: skip
    (folder / "async_sgd.txt").write_text(text, encoding="utf-8")
    (folder / "async_sgd.json").write_text(
        json.dumps(_finite(document), indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    print(text)
    try:
        draw_async(figures, folder / "async_sgd.png")
    except MissingExtraError as error:
        # the figures are measured and saved: only their picture is missing
        print(f"no picture: {error}", file=sys.stderr)
    print(f"saved in {folder}")
    return 0


def report(figures: dict[str, list[Row]]) -> str:
    """The tables as text."""
    blocks = []
    for part, rows in figures.items():
        lines = [_HEADS[part], ""]
        columns = _COLUMNS[part]
        table = [list(columns), *([_shown(row[name]) for name in columns] for row in rows)]
        widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
        lines += [
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in table
        ]
        if part == "loss":
            lines += [
                "",
                *(
                    f"rate {row['rate']:g}, N = {row['N']}: {row['message']}"
                    for row in rows
                    if "above the largest" in row["message"]
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


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _finite(part: Any) -> Any:
    """JSON has no nan."""
    if isinstance(part, dict):
        return {name: _finite(value) for name, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [_finite(value) for value in part]
    if isinstance(part, (float, np.floating)):
        return float(part) if np.isfinite(part) else None
    return part


def _parts(text: str | None) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(","))) if text else PARTS
    for name in names:
        if name not in PARTS:
            raise ArgumentError(f"unknown part {name!r}{did_you_mean(name, PARTS)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optex-core bench async_sgd",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="a first look")
    extent.add_argument("--full", action="store_true", help="longer runs, more seeds")
    parser.add_argument("--parts", metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--output", metavar="DIR", help="where to save (default optex-runs/async_sgd...)"
    )
    return parser
