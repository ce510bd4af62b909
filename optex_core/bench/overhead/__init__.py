"""Seconds of the engine's own work per round, by phase, against the time of the bytes that must
move; the plain step; compilation; memory.

Every cell runs in a process of its own, which also measures the bandwidth of a copy there and then:
*ratio* is the fastest round over the floor (bytes that must move over that bandwidth). On a busy
machine compare *processor* too, the seconds that all threads worked. A floor below a megabyte lies
in the caches: the ratio then says little. The folder of the run holds ``cells.jsonl`` (one line for
each finished cell), ``overhead.json``, ``overhead.txt``, ``overhead.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import optex_core
from optex_core.bench._result_store import Store
from optex_core.bench.overhead import optimizer_step as _plain_step
from optex_core.bench.overhead.cell import Cell
from optex_core.bench.overhead.plan import plan, tunings, usable_backends, windows
from optex_core.bench.overhead.tables import draw, report
from optex_core.errors import ArgumentError, MissingExtraError

#: Parts that are made of cells, and the others.
CELLS = {"rounds": plan, "tuning": tunings, "window": windows}
PARTS = (*CELLS, "step", "compile")
EXAMPLES = """examples:
  optex-core bench overhead --quick              d = 1e4 and 1e6, a good minute
  optex-core bench overhead                      d = 1e3 to 1e6, six minutes
  optex-core bench overhead --full               d = 1e3 to 1e7, both dtypes, N = 5 and 20: half an hour and 16 GB; goes on where it was stopped
  optex-core bench overhead -d 1000000 --parts rounds
  optex-core bench overhead --full -d 1e7 --only 'N=5 paper adam'"""
#: Parameters of the plain step.
STEP_SIZES = (1_000_000, 5_000_000)


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
    parts = PARTS if args.parts is None else tuple(args.parts.split(","))
    for part in parts:
        if part not in PARTS:
            raise ArgumentError(f"unknown part {part!r}; there are {', '.join(PARTS)}")
    folder = (
        Path(args.output)
        if args.output
        else Path("optex-runs", "overhead" if mode == "default" else f"overhead-{mode}")
    )
    sizes = None if args.d is None else [_size(d) for d in args.d.split(",")]
    backends = usable_backends()
    words = (args.only or "").split()
    cells = {
        part: [c for c in made(mode, sizes, backends) if part in parts and _has(c, words)]
        for part, made in CELLS.items()
    }
    if words and not any(cells.values()):
        raise ArgumentError(
            f"--only {args.only!r}: no cell of "
            f"{', '.join(p for p in parts if p in CELLS)} has all of these words in its line"
        )
    found: dict[str, Any] = {part: [] for part in PARTS}
    found |= measure(cells, Store(folder / "cells.jsonl", resume=args.full))
    if "step" in parts:
        _say("[step] Adam alone")
        found["step"] = [
            row
            for d in STEP_SIZES[: 1 if mode == "quick" else None]
            for row in _plain_step.measure(d)
        ]
    if "compile" in parts and "numba" in backends:
        _say("[compile] the first run and a later one")
        found["compile"] = compilation()
    text = report(found)
    document = {
        "format": "optex_core overhead", "version": optex_core.__version__, "mode": mode, **found,
        "machine": {"python": platform.python_version(), "numpy": np.__version__, "cores": os.cpu_count(), "system": platform.platform()},
    }  # fmt: skip
    (folder / "overhead.txt").write_text(text, encoding="utf-8")
    (folder / "overhead.json").write_text(
        json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    print(text)
    try:
        draw(found["rounds"], folder / "overhead.png")
    except MissingExtraError as error:
        # the figures are measured and saved: only their picture is missing
        print(f"no picture: {error}", file=sys.stderr)
    print(f"saved in {folder}")
    return 0


def measure(cells: dict[str, list[Cell]], store: Store) -> dict[str, list[dict[str, Any]]]:
    """Run the cells of each part that `store` does not hold yet; a line before and after each says
    how far it is.
    """
    begin, number, total = time.perf_counter(), 0, sum(map(len, cells.values()))
    found: dict[str, list[dict[str, Any]]] = {part: [] for part in cells}
    for part, wanted in cells.items():
        for cell in wanted:
            number += 1
            key = f"{part} {json.dumps(asdict(cell))}"
            if key not in store.cells:
                _say(
                    f"[{part} {number}/{total}, {time.perf_counter() - begin:.0f} s] "
                    f"{cell.title}: ",
                    end="",
                )
                result = run(cell)
                _say(
                    f"{1e3 * result['fastest']:.3g} ms, {result['ratio']:.2f} x the floor"
                    if "ratio" in result
                    else result["error"]
                )
                if "error" in result:  # another run may have more luck
                    found[part].append(result)
                    continue
                store.add(key, result)
            found[part].append(store.cells[key])
    return found


def _size(text: str) -> int:
    try:
        size = int(float(text))
    except (ValueError, OverflowError) as error:
        raise ArgumentError(
            f"-d takes numbers of parameters such as 1000,1e6, got {text!r}"
        ) from error
    if size < 1:
        raise ArgumentError(f"-d takes numbers of parameters from 1 on, got {text!r}")
    return size


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


def _has(cell: Cell, words: Sequence[str]) -> bool:
    return set(words) <= set(cell.title.split())


def run(cell: Cell) -> dict[str, Any]:
    """Measure one cell in a process of its own."""
    command = [sys.executable, "-m", "optex_core.bench.overhead.cell", json.dumps(asdict(cell))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        ended = (
            "killed, probably for want of memory"
            if done.returncode == -9
            else f"status {done.returncode}"
        )
        return {"cell": asdict(cell), "error": (done.stderr.strip().splitlines() or [ended])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def compilation() -> list[dict[str, Any]]:
    """Seconds until the first round is done: the first run on a machine, a later process, and the
    same without any compiler.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for title, backend in (
            ("numba, the first run", "numba"),
            ("numba, a later process", "numba"),
            ("numpy", "numpy"),
        ):
            code = (
                "import time; begin = time.perf_counter()\n"
                "import numpy as np, optex_core as ox\n"
                f"engine = ox.OptEx(np.ones(200_000, np.float32), strategy='paper', "
                f"parallelism=5, backend={backend!r}, rng=0)\n"
                "for _ in range(3):\n"
                "    for c in engine.ask(): engine.tell(c.id, gradient=c.x)\n"
                "print(time.perf_counter() - begin, time.process_time())\n"
            )
            environment = {
                **os.environ,
                "NUMBA_CACHE_DIR": folder,
                "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path]),
            }
            done = subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            )
            wall, cpu = map(float, done.stdout.split())
            found.append({"name": title, "seconds": wall, "cpu": cpu})
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optex-core bench overhead",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="d = 1e4 and 1e6")
    extent.add_argument(
        "--full",
        action="store_true",
        help="all d to 1e7, T0 = 20 and 50, N = 5 and 20, both dtypes",
    )
    parser.add_argument("-d", metavar="D,...", help="parameters")
    parser.add_argument(
        "--only",
        metavar="'WORD ...'",
        help="only cells whose line has all of these words, such as 'numba T0=50 N=5 adam'",
    )
    parser.add_argument("--parts", metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--output", metavar="DIR", help="where to save (default optex-runs/overhead...)"
    )
    return parser
