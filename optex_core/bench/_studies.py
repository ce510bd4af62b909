"""What the two studies of asynchronous SGD share: settings of their methods, figures with errors,
tables, files.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy

import optex_core
from optex_core._validation import integer
from optex_core.bench._result_store import Store
from optex_core.engine.plots import new_figure
from optex_core.errors import ArgumentError, MissingExtraError, did_you_mean


@dataclass(frozen=True, slots=True)
class Method:
    """One row of a study.

    Attributes
    ----------
    name : str
    parallelism, cores, inner_steps : int
        N workers, each a process of its own where N > 1 (unless `options` say otherwise); p threads
        in each; B steps between a pull and a push.
    options : dict
        More for the function that runs it.
    bounded : bool
        No push is later than 2 N updates: the others wait.
    """

    name: str
    parallelism: int = 1
    cores: int = 1
    inner_steps: int = 1
    options: tuple[tuple[str, Any], ...] = ()
    bounded: bool = True

    @property
    def arguments(self) -> dict[str, Any]:
        """For `find_topics` or `train_policy`."""
        # Without a bound, processes that start late on few cores push what they began a hundred
        # updates ago (124 was seen with 8 on 2 cores).
        bound = (
            {"max_delay": 2 * self.parallelism, "on_late": "wait"}
            if self.parallelism > 1 and self.bounded
            else {}
        )
        own = {
            **bound,
            "parallelism": self.parallelism,
            "cores": self.cores,
            "inner_steps": self.inner_steps,
            **dict(self.options),
        }
        return {"workers": self.parallelism if self.parallelism > 1 else None, **own}


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, nan for a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(
        values
    ) > 1 else math.nan


def with_error(values: Sequence[float], digits: int = 1) -> str:
    """``12.3 +- 0.4``."""
    mean, error = mean_and_error(values)
    return f"{mean:.{digits}f}" + ("" if math.isnan(error) else f" +- {error:.{digits}f}")


def parser(name: str, text: str | None, examples: str, seeds: str) -> argparse.ArgumentParser:
    """The options that both have."""
    found = argparse.ArgumentParser(
        prog=f"optex-core bench {name}",
        description=text,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument(
        "--full", action="store_true", help="all seeds; goes on where it was stopped"
    )
    found.add_argument(
        "--seeds", type=int, metavar="K", help=f"runs of each method (default {seeds})"
    )
    found.add_argument("--methods", metavar="NAME,...", help="rows of the table (default all)")
    found.add_argument(
        "--workers",
        type=int,
        default=8,
        metavar="N",
        help="processes of the asynchronous runs (default 8)",
    )
    found.add_argument(
        "--output", metavar="DIR", help=f"where to save (default optex-runs/{name}...)"
    )
    return found


def chosen_rows(asked: str | None, known: Sequence[str]) -> list[str]:
    """The rows of the table that were asked for, in its order; the first, which others are compared
    with, is always there.
    """
    if asked is None:
        return list(known)
    names = [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in known:
            raise ArgumentError(f"unknown method {name!r}{did_you_mean(name, known)}")
    return [name for i, name in enumerate(known) if i == 0 or name in names]


def opened(name: str, args: argparse.Namespace) -> tuple[Path, Store]:
    """The folder of a run, and its finished cells."""
    integer("--workers", args.workers, low=2)
    if args.seeds is not None:
        integer("--seeds", args.seeds, low=1)
    folder = (
        Path(args.output)
        if args.output
        else Path("optex-runs", f"{name}-full" if args.full else name)
    )
    return folder, Store(folder / "cells.jsonl", resume=args.full)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "cores": os.cpu_count(),
        "system": platform.platform(),
    }


def save(
    folder: Path, name: str, text: str, document: dict[str, Any], draw: Callable[[Any], None]
) -> str:
    """Write the table, the JSON file and the picture; returns a line that says where, and what is
    missing.
    """
    (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    whole = {
        "format": f"optex_core {name}",
        "version": optex_core.__version__,
        "machine": machine(),
        **document,
    }
    (folder / f"{name}.json").write_text(
        json.dumps(whole, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    try:
        figure = new_figure(11, 4.5)
    except MissingExtraError as error:
        return f"saved in {folder}; no picture: {error}"
    draw(figure)
    figure.savefig(folder / f"{name}.png", dpi=110)
    return f"saved in {folder}"
