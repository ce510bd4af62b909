"""Seconds of the engine's own work per round, by phase, against the time of the bytes that must
move; that of the default method; compilation; memory.

Every cell runs in a process of its own, which also measures the bandwidth of a copy there and then:
*ratio* is the fastest round over the floor (bytes that must move over that bandwidth). On a busy
machine compare *processor* too, the seconds that all threads worked. A floor below a megabyte lies
in the caches: the ratio then says little. The folder of the run holds ``cells.jsonl`` (one line for
each finished cell), ``overhead.json``, ``overhead.txt``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

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
from optex_core.bench.overhead.cell import Cell
from optex_core.bench.overhead.plan import plan, usable_backends
from optex_core.bench.overhead.tables import report
from optex_core.errors import ArgumentError

PARTS = ("rounds", "lookahead", "compile")
EXAMPLES = """  optex-core bench overhead --quick              d = 1e4 and 1e6, a good minute
  optex-core bench overhead                      d = 1e3 to 1e6, six minutes
  optex-core bench overhead --full               d to 1e7, both dtypes, N = 5 and 20: 30 min, 16 GB
  optex-core bench overhead -d 1000000 --parts rounds
  optex-core bench overhead --full -d 1e7 --only 'N=5 paper adam'"""


def main(argv: Sequence[str]) -> int:
    """Run the benchmark with the options `argv`; the exit status."""
    args = _parser().parse_args(argv)
    mode, parts = mode_of(args), choose("part", args.parts, PARTS)
    folder = output_folder("overhead", args)
    sizes = None if args.d is None else numbers("-d", args.d)
    backends = usable_backends()
    words = (args.only or "").split()
    cells = [c for c in plan(mode, sizes, backends) if "rounds" in parts and _has(c, words)]
    if words and not cells:
        raise ArgumentError(f"--only {args.only!r}: no cell has all of these words in its line")
    found: Row = {"rounds": [], "lookahead": [], "compile": []}
    found["rounds"] = measure(cells, Store(folder / "cells.jsonl", resume=args.full))
    if "lookahead" in parts:
        usual = (10_000, 1_000_000) if mode == "quick" else (1_000, 10_000, 100_000, 1_000_000)
        for d in sizes or usual:
            say(f"[lookahead] d = {d:,}")
            found["lookahead"].append({"d": d, **_printed("lookahead", str(d))})
    if "compile" in parts and "numba" in backends:
        say("[compile] the first run and a later one")
        found["compile"] = compilation()
    return finish("overhead", folder, report(found), {"mode": mode, **found})


def measure(cells: Sequence[Cell], store: Store) -> list[Row]:
    """Run the cells that `store` does not hold yet; a line before and after each says how far."""
    begin, found = time.perf_counter(), []
    for number, cell in enumerate(cells, 1):
        key = json.dumps(asdict(cell))
        if key not in store.cells:
            elapsed = time.perf_counter() - begin
            say(f"[{number}/{len(cells)}, {elapsed:.0f} s] {cell.title}: ", end="")
            result = run(cell)
            if "error" in result:  # another run may have more luck
                say(result["error"])
                found.append(result)
                continue
            say(f"{1e3 * result['fastest']:.3g} ms, {result['ratio']:.2f} x the floor")
            store.add(key, result)
        found.append(store.cells[key])
    return found


def _has(cell: Cell, words: Sequence[str]) -> bool:
    return set(words) <= set(cell.title.split())


def run(cell: Cell) -> Row:
    """Measure one cell in a process of its own."""
    found = _printed("cell", json.dumps(asdict(cell)))
    return {"cell": asdict(cell), **found} if "error" in found else found


def _printed(module: str, argument: str) -> Row:
    """What a module of this folder prints in a process of its own; its "error" if it fails."""
    command = [sys.executable, "-m", f"{__name__}.{module}", argument]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        ended = (
            "killed, probably for want of memory"
            if done.returncode == -9
            else f"status {done.returncode}"
        )
        return {"error": (done.stderr.strip().splitlines() or [ended])[-1]}
    found: Row = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def compilation() -> list[Row]:
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
    parser = make_parser(
        "overhead",
        __doc__,
        EXAMPLES,
        parts=PARTS,
        quick="d = 1e4 and 1e6",
        full="all d to 1e7, T0 = 20 and 50, N = 5 and 20, both dtypes",
    )
    parser.add_argument("-d", metavar="D,...", help="parameters")
    parser.add_argument(
        "--only",
        metavar="'WORD ...'",
        help="only cells whose line has all of these words, such as 'numba T0=50 N=5 adam'",
    )
    return parser
