"""Own work of a round, by phase, against the time of the bytes that must move.

Also that of the default method, and the time of compilation. Every cell runs in a process of its
own, which also measures the bandwidth of a copy there and then: *ratio* is the fastest round over
the floor (bytes that must move over that bandwidth). On a busy machine compare *processor* too, the
seconds that all threads worked. A floor below a megabyte lies in the caches: the ratio then says
little. The folder of the run holds ``cells.jsonl`` (one line for each finished cell),
``overhead.json``, ``overhead.txt``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np

from optex_core.backends import BACKEND_NAMES, get_backend
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
from optex_core.bench._tables import columns, short
from optex_core.bench.overhead.cell import PHASES, Cell
from optex_core.bench.overhead.lookahead import PARALLELISM
from optex_core.bench.overhead.lookahead import table as lookahead_table
from optex_core.errors import ArgumentError, BackendError

PARTS = ("rounds", "lookahead", "compile")
#: Parameters.
SIZES = {
    "quick": (10_000, 1_000_000),
    "default": (1_000, 10_000, 100_000, 1_000_000),
    "full": (10**3, 10**4, 10**5, 10**6, 10**7),
}
#: Bytes of both histories beyond which a cell is left out: a machine of 16 GB holds this and what
#: the rest needs.
LARGEST = 6e9
EXAMPLES = """  optex-core bench overhead --quick              d = 1e4 and 1e6, a good minute
  optex-core bench overhead                      d = 1e3 to 1e6, six minutes
  optex-core bench overhead --full               d to 1e7, both dtypes, N = 5 and 20: 30 min, 16 GB
  optex-core bench overhead -d 1000000 --parts rounds
  optex-core bench overhead --full -d 1e7 --only 'N=5 paper adam'"""
LEGEND = """own: ms of our own work in a round (the fastest), usual: the median, processor: ms that
all threads worked in it; floor: bytes that must move (MB) over the bandwidth of a copy (GB/s, same
process); ratio: own / floor; first s: seconds until the end of the first round, without importing
Python and NumPy."""


def main(argv: Sequence[str]) -> int:
    """Run the benchmark with the options `argv`; the exit status."""
    parser = make_parser(
        "overhead",
        __doc__,
        EXAMPLES,
        parts=PARTS,
        quick="d = 1e4 and 1e6",
        full="all d to 1e7, T0 = 20 and 50, N = 5 and 20, both dtypes",
    )
    parser.add_argument("-d", metavar="D,...", help="parameters")
    only = "only cells whose line has all of these words, such as 'numba T0=50 N=5 adam'"
    parser.add_argument("--only", metavar="'WORD ...'", default="", help=only)
    args = parser.parse_args(argv)
    parts, words = choose("part", args.parts, PARTS), set(args.only.split())
    folder = output_folder("overhead", args)
    sizes = None if args.d is None else numbers("-d", args.d)
    backends = usable_backends()
    cells = [c for c in plan(args.mode, sizes, backends) if words <= set(c.title.split())]
    if words and not cells:
        raise ArgumentError(f"--only {args.only!r}: no cell has all of these words in its line")
    store = Store(folder / "cells.jsonl", resume=args.mode == "full")
    found: Row = {"rounds": [], "lookahead": [], "compile": []}
    if "rounds" in parts:
        found["rounds"] = measure(cells, store)
    if "lookahead" in parts:
        for d in sizes or SIZES["default" if args.mode == "full" else args.mode]:
            say(f"[lookahead] d = {d:,}")
            found["lookahead"].append({"d": d, **_printed("lookahead", str(d))})
    if "compile" in parts and "numba" in backends:
        say("[compile] the first run and a later one")
        found["compile"] = compilation()
    return finish("overhead", folder, report(found), {"mode": args.mode, **found})


def usable_backends() -> list[str]:
    """The backends that work here."""
    found = []
    for name in BACKEND_NAMES:
        try:
            get_backend(name)
        except BackendError:
            continue
        found.append(name)
    return found


def plan(mode: str, sizes: Sequence[int] | None, backends: Sequence[str]) -> list[Cell]:
    """The cells of a mode, small problems first."""
    full = mode == "full"
    dtypes = ("float32", "float64") if full else ("float32",)
    cells = []
    for d, backend in product(sizes or SIZES[mode], backends):
        # Plain NumPy at 1e6 says nothing more than at 1e5, and takes its time.
        if backend == "numpy" and d > (10**6 if full else 10**5):
            continue
        small = mode == "quick" and d < 10**6
        histories = (20,) if small else (50,) if mode == "quick" else (20, 50)
        for dtype, history, N in product(dtypes, histories, (5, 20) if full else (5,)):
            if 2 * history * d * np.dtype(dtype).itemsize <= LARGEST:
                base = Cell(backend, d, history, N, dtype, seconds=2.0 if full else 1.0)
                cells += [base] if small else [base, replace(base, optimizer="nesterov")]
                if history == 50 and backend == "numba" and d >= 10**6 and N == 5:
                    cells += _further(base)
    return cells


def _further(base: Cell) -> Iterator[Cell]:
    yield replace(base, kernel_dims=1_000)
    for optimizer in ("adam", "nesterov"):
        yield replace(base, strategy="verified", window=base.parallelism, optimizer=optimizer)


def measure(cells: Sequence[Cell], store: Store) -> list[Row]:
    """Run the cells that `store` does not hold yet; a line before and after each says how far."""
    found = []
    for progress, cell in numbered(cells):
        key = json.dumps(asdict(cell))
        if key not in store.cells:
            say(f"{progress} {cell.title}: ", end="")
            result = run(cell)
            if "error" in result:  # another run may have more luck
                say(result["error"])
                found.append(result)
                continue
            say(f"{1e3 * result['fastest']:.3g} ms, {result['ratio']:.2f} x the floor")
            store.add(key, result)
        found.append(store.cells[key])
    return found


def run(cell: Cell) -> Row:
    """Measure one cell in a process of its own."""
    return {"cell": asdict(cell), **_printed("cell", json.dumps(asdict(cell)))}


def _printed(module: str, argument: str) -> Row:
    """What a module of this folder prints in a process of its own; its "error" if it fails."""
    command = [sys.executable, "-m", f"{__name__}.{module}", argument]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        killed = done.returncode == -9
        ended = "killed, probably for want of memory" if killed else f"status {done.returncode}"
        return {"error": (done.stderr.strip().splitlines() or [ended])[-1]}
    found: Row = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def compilation() -> list[Row]:
    """Seconds until the first round is done: the first run on a machine, a later process, and the
    same without any compiler.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        paths = os.pathsep.join([str(Path.cwd()), *sys.path])
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder, "PYTHONPATH": paths}
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
            command = [sys.executable, "-c", code]
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, env=environment
            )
            wall, cpu = map(float, done.stdout.split())
            found.append({"name": title, "seconds": wall, "cpu": cpu})
    return found


def report(found: Row) -> str:
    """All tables."""
    texts = []
    if found["rounds"]:
        texts += [LEGEND, f"Our own work in a round\n\n{rounds_table(found['rounds'])}"]
    if found["lookahead"]:
        title = f"Own work of a round of the default method, N = {PARALLELISM}, Rosenbrock"
        texts.append(f"{title}\n\n{lookahead_table(found['lookahead'])}")
    if found["compile"]:
        rows = [[r["name"], short(r["seconds"]), short(r["cpu"])] for r in found["compile"]]
        title = "From the start of Python to the third round, d = 200,000"
        texts.append(f"{title}\n\n{columns(('', 'seconds', 'of processor'), rows)}")
    return "\n\n\n".join(texts) + "\n"


def rounds_table(results: Sequence[Row]) -> str:
    """One line for each cell."""
    ends = ("floor", "MB", "GB/s", "ratio", "first s")
    head = ("ms", "own", "usual", "processor", *PHASES, *ends)
    rows = []
    for r in results:
        title = Cell(**r["cell"]).title
        if "error" in r:
            rows.append([f"{title}: {r['error']}", *[""] * (len(head) - 1)])
            continue
        seconds = [r[key] for key in ("fastest", "seconds", "processor")]
        seconds += [*(r["phases"][phase] for phase in PHASES), r["floor"]]
        numbers = [
            *(1e3 * s for s in seconds),
            sum(r["moved"].values()) / 1e6,
            r["copy"] / 1e9,
            r["ratio"],
            r["first_round"],
        ]
        rows.append([title, *map(short, numbers)])
    return columns(head, rows)
