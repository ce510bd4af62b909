"""The runner of all benchmark cases: options, folder, table, JSON and figure."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import scipy

import optex_core
from optex_core.errors import ArgumentError, MissingExtraError, did_you_mean

#: What a case writes as JSON: one measurement, or a table of them.
Row: TypeAlias = dict[str, Any]


def make_parser(
    case: str,
    doc: str | None,
    examples: str,
    *,
    parts: Iterable[str] = (),
    quick: str | None = None,
    full: str | None = None,
    prog: str | None = None,
) -> argparse.ArgumentParser:
    """A parser with the options that cases share, described by `doc` and the `examples` below them.

    Without `parts`, `quick` and `full`, which are help texts, there are no such options; `prog` is
    the command where it is not that of `optex-core bench`.
    """
    parser = argparse.ArgumentParser(
        prog=prog or f"optex-core bench {case}",
        description=doc,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    extent = parser.add_mutually_exclusive_group()
    if quick:
        extent.add_argument("--quick", action="store_true", help=quick)
    if full:
        extent.add_argument("--full", action="store_true", help=full)
    if parts:
        parser.add_argument("--parts", metavar="PART,...", help=f"of {', '.join(parts)}")
    parser.add_argument(
        "--output", metavar="DIR", help=f"where to save (default optex-runs/{case}...)"
    )
    return parser


def mode_of(args: argparse.Namespace) -> str:
    """ "quick", "full" or "default"."""
    modes = [name for name in ("quick", "full") if getattr(args, name, False)]
    return modes[0] if modes else "default"


def output_folder(case: str, args: argparse.Namespace) -> Path:
    """The folder of a run, made when the first file is saved."""
    mode = mode_of(args)
    name = case if mode == "default" else f"{case}-{mode}"
    return Path(args.output) if args.output else Path("optex-runs", name)


def choose(kind: str, text: str | None, known: Iterable[str]) -> tuple[str, ...]:
    """Names with commas between them, each of `known`, or ArgumentError; all of them for None."""
    known = tuple(known)
    if text is None:
        return known
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in known:
            raise ArgumentError(f"unknown {kind} {name!r}{did_you_mean(name, known)}")
    return names


def numbers(
    option: str, text: str, kind: type = int, low: float = 1, *, above: bool = False
) -> tuple[Any, ...]:
    """Numbers with commas between them, or ArgumentError; whole ones may be written 1e6. None is
    below `low`, nor at it with `above`.
    """
    what = "whole numbers" if kind is int else "numbers"
    try:
        found = tuple(dict.fromkeys(kind(float(part)) for part in text.split(",")))
    except (ValueError, OverflowError) as error:
        raise ArgumentError(
            f"{option} takes {what} with commas between them, got {text!r}"
        ) from error
    if min(found) < low or (above and min(found) == low):
        bound = f"above {low:g}" if above else f"from {low:g} on"
        raise ArgumentError(f"{option} takes {what} {bound}, got {text!r}")
    return found


def say(text: str, end: str = "\n") -> None:
    """Tell how far a benchmark is, beside its results."""
    print(text, end=end, file=sys.stderr, flush=True)


def machine() -> dict[str, object]:
    """What the figures were measured on; the load is the system's mean of the last 15 minutes."""
    load = getattr(os, "getloadavg", None)  # Windows has none
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "cores": os.cpu_count(),
        "load": None if load is None else round(load()[2], 1),
        "system": platform.platform(),
    }


def finish(
    case: str,
    folder: Path,
    text: str,
    document: Mapping[str, object],
    draw: Callable[[Path], None] | None = None,
) -> int:
    """Save the tables `text`, the JSON file `document`, whose numbers that are not finite become
    null, and the figure of ``draw(path)``; print the tables; the exit status 0.
    """
    header = {
        "format": f"optex_core {case}",
        "version": optex_core.__version__,
        "machine": machine(),
    }
    whole = json.dumps(_finite({**header, **document}), indent=1, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{case}.txt").write_text(text, encoding="utf-8")
    (folder / f"{case}.json").write_text(whole + "\n", encoding="utf-8")
    print(text)
    if draw is not None:
        try:
            draw(folder / f"{case}.png")
        except MissingExtraError as error:
            # The figures are measured and saved: only their picture is missing.
            print(f"no picture: {error}", file=sys.stderr)
    print(f"saved in {folder}")
    return 0


def _finite(part: object) -> object:
    """`part` as JSON, which has no nan."""
    if isinstance(part, Mapping):
        return {str(name): _finite(value) for name, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [_finite(value) for value in part]
    if isinstance(part, (float, np.floating)):
        return float(part) if np.isfinite(part) else None
    if isinstance(part, np.integer):
        return int(part)
    return part
