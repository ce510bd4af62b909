"""The runner of all benchmark cases: options, progress, folder, tables, JSON and figure."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import optex_core
from optex_core.engine.plots import new_figure
from optex_core.errors import ArgumentError, MissingExtraError, did_you_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
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

    `quick` and `full` are help texts; ``args.mode`` is one of these words or "default". `prog` is
    the command where it is not that of `optex-core bench`.
    """
    parser = argparse.ArgumentParser(
        prog=prog or f"optex-core bench {case}",
        description=doc,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    extent = parser.add_mutually_exclusive_group()
    for mode, text in (("quick", quick), ("full", full)):
        if text:
            extent.add_argument(
                f"--{mode}", dest="mode", action="store_const", const=mode, help=text
            )
    parser.set_defaults(mode="default")
    if parts:
        parser.add_argument("--parts", metavar="PART,...", help=f"of {', '.join(parts)}")
    parser.add_argument(
        "--output", metavar="DIR", help=f"where to save (default optex-runs/{case})"
    )
    return parser


def output_folder(case: str, args: argparse.Namespace) -> Path:
    """The folder of a run, made when the first file is saved."""
    name = case if args.mode == "default" else f"{case}-{args.mode}"
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


def numbered(items: Sequence[T]) -> Iterator[tuple[str, T]]:
    """Each item with how far the benchmark is: "[3/40, 12 s]"."""
    begin = time.perf_counter()
    for number, item in enumerate(items, 1):
        yield f"[{number}/{len(items)}, {time.perf_counter() - begin:.0f} s]", item


def as_json(value: object) -> Any:
    """`value` as JSON: records as dicts, arrays as lists, null for numbers that are not finite."""
    if dataclasses.is_dataclass(value):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): as_json(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(one) for one in value]
    if hasattr(value, "tolist"):
        return as_json(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def machine() -> dict[str, object]:
    """What the figures were measured on; the load is the system's mean of the last 15 minutes."""
    load = getattr(os, "getloadavg", None)  # Windows has none
    return {
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "scipy": version("scipy"),
        "cores": os.cpu_count(),
        "load": None if load is None else round(load()[2], 1),
        "system": platform.platform(),
    }


def finish(
    case: str,
    folder: Path,
    text: str,
    document: Mapping[str, object],
    draw: Callable[[Figure], None] | None = None,
) -> int:
    """Save the tables `text`, the JSON file `document` and the figure that `draw` fills; print the
    tables; the exit status 0.
    """
    header = {
        "format": f"optex_core {case}", "version": optex_core.__version__, "machine": machine(),
    }  # fmt: skip
    whole = json.dumps(as_json({**header, **document}), indent=1, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{case}.txt").write_text(text, encoding="utf-8")
    (folder / f"{case}.json").write_text(whole + "\n", encoding="utf-8")
    print(text)
    if draw is not None:
        try:
            figure = new_figure(11.0, 5.0)
            draw(figure)
            figure.savefig(folder / f"{case}.png", dpi=100)
        except MissingExtraError as error:
            # The figures are measured and saved: only their picture is missing.
            print(f"no picture: {error}", file=sys.stderr)
    print(f"saved in {folder}")
    return 0
