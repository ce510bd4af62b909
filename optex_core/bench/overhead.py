"""Seconds of the engine's own work per round, by phase, against the time of the bytes that must move; the plain step; compilation; memory.

Every cell runs in a process of its own, which also measures the bandwidth of a copy there and then: *ratio* is the fastest round over the floor
(bytes that must move, ALGORITHMS 1.4, over that bandwidth). On a busy machine compare *processor* too, the seconds that all threads worked. A floor
below a megabyte lies in the caches: the ratio then says little. The folder of the run holds ``overhead.json``, ``overhead.txt``, ``overhead.png``.
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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import optex_core
from optex_core.bench._overhead_cell import PHASES, Cell, best
from optex_core.bench._report import columns, short
from optex_core.errors import ArgumentError, BackendError, MissingExtraError

PARTS = ("rounds", "window", "step", "compile")
EXAMPLES = """examples:
  optex-core bench overhead --quick              d = 1e4 and 1e6, half a minute
  optex-core bench overhead                      d = 1e3 to 1e6, two minutes
  optex-core bench overhead --full               d = 1e3 to 1e7, both dtypes, N = 5 and 20: half an hour and 16 GB
  optex-core bench overhead -d 1000000 --parts rounds"""
LEGEND = """own: ms of our own work in a round (the fastest), usual: the median, processor: ms that all threads worked in it;
floor: bytes that must move (MB) over the bandwidth of a copy (GB/s, same process); ratio: own / floor;
peak: memory of the run over that of its history, allowed: 2 T0 d + (S + 2N + 8) d numbers over the same;
first s: seconds until the first round was done, without the import of Python and NumPy."""
STEP_D = 5_000_000


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
    folder = Path(args.output) if args.output else Path("optex-runs", "overhead" if mode == "default" else f"overhead-{mode}")
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"rounds": [], "window": [], "step": [], "compile": []}
    sizes = [int(float(d)) for d in args.d.split(",")] if args.d else None
    backends = usable_backends()
    for part, cells in (("rounds", plan(mode, sizes, backends)), ("window", windows(mode, backends))):
        for number, cell in enumerate(cells if part in parts else (), 1):
            result = run(cell)
            found[part].append(result)
            said = f"{1e3 * result['fastest']:.3g} ms, {result['ratio']:.2f} x the floor" if "ratio" in result else result["error"]
            print(f"[{part} {number}/{len(cells)}] {cell.title}: {said}", file=sys.stderr, flush=True)
    if "step" in parts:
        found["step"] = steps(1_000_000 if mode == "quick" else STEP_D)
    if "compile" in parts and "numba" in backends:
        found["compile"] = compilation()
    text = report(found)
    document = {
        "format": "optex_core overhead", "version": optex_core.__version__, "mode": mode, **found,
        "machine": {"python": platform.python_version(), "numpy": np.__version__, "cores": os.cpu_count(), "system": platform.platform()},
    }  # fmt: skip
    (folder / "overhead.txt").write_text(text, encoding="utf-8")
    (folder / "overhead.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(text)
    try:
        draw(found["rounds"], folder / "overhead.png")
    except MissingExtraError as error:  # the figures are measured and saved: only their picture is missing
        print(f"no picture: {error}", file=sys.stderr)
    print(f"saved in {folder}")
    return 0


def usable_backends() -> list[str]:
    """The backends that work here."""
    from optex_core.backends import NAMES, get_backend

    found = []
    for name in NAMES:
        try:
            get_backend(name)
        except BackendError:
            continue
        found.append(name)
    return found


def plan(mode: str, sizes: Sequence[int] | None, backends: Sequence[str]) -> list[Cell]:
    """The cells of a mode, small problems first."""
    default = {"quick": (10_000, 1_000_000), "default": (1_000, 10_000, 100_000, 1_000_000), "full": (10**3, 10**4, 10**5, 10**6, 10**7)}[mode]
    full = mode == "full"
    cells = []
    for d in sizes or default:
        for backend in backends:
            # Plain NumPy at 1e6 says nothing more than at 1e5, and takes its time.
            if backend == "numpy" and d > (10**6 if full else 10**5):
                continue
            for dtype in ("float32", "float64") if full else ("float32",):
                for history in (20,) if mode == "quick" and d < 10**6 else (20, 50) if mode != "quick" else (50,):
                    for N in (5, 20) if full else (5,):
                        if 2 * history * d * np.dtype(dtype).itemsize > 6e9:
                            continue
                        base = Cell(backend, d, history, N, dtype, seconds=1.0 if mode == "quick" else 2.0)
                        cells += [base] if mode == "quick" and d < 10**6 else [base, replace(base, optimizer="nesterov")]
                        if history == 50 and backend == "numba" and d >= 10**6 and N == 5:
                            cells += [replace(base, kernel_dims=1_000), replace(base, strategy="verified", window=N)]
                            cells += [replace(base, strategy="verified", window=N, optimizer="nesterov")]
                        if full and d == 10**4:
                            cells += [replace(base, tune="likelihood")]
    return cells


def windows(mode: str, backends: Sequence[str]) -> list[Cell]:
    """What a window longer than N costs."""
    if "numba" not in backends or mode == "quick":
        return []
    base = Cell("numba", 100_000, strategy="verified")
    return [replace(base, window=S, optimizer=optimizer) for optimizer in ("adam", "nesterov") for S in (5, 10, 20, 40)]


def run(cell: Cell) -> dict[str, Any]:
    """Measure one cell in a process of its own."""
    command = [sys.executable, "-m", "optex_core.bench._overhead_cell", json.dumps(asdict(cell))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {"cell": asdict(cell), "error": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def steps(d: int) -> list[dict[str, Any]]:
    """The plain Adam step, ours and what is installed of others', interleaved, with the time of a copy of as many bytes."""
    from optex_core.backends import get_backend

    found = []
    for dtype in ("float32", "float64"):
        calls: dict[str, Any] = {}
        rng = np.random.default_rng(0)
        x, g = rng.standard_normal(d).astype(dtype), rng.standard_normal(d).astype(dtype)
        optimizer = optex_core.Adam(1e-3)
        for name in ("numba", "numpy"):
            try:
                backend = get_backend(name)
            except BackendError:
                continue
            calls[f"optex_core {name}"] = _stepping(optimizer, x, g, backend)
        calls |= _torch_steps(x, g)
        source, target = np.ones(7 * d // 2, dtype), np.zeros(7 * d // 2, dtype)
        calls["copy of the bytes that must move"] = lambda target=target, source=source: np.copyto(target, source)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(15):
            for name, call in calls.items():
                times[name].append(best(call, 1) if not times[name] else _once(call))
        floor = min(times["copy of the bytes that must move"])
        for name, seen in times.items():
            found.append({"dtype": dtype, "d": d, "name": name, "seconds": min(seen), "usual": float(np.median(seen)), "ratio": min(seen) / floor})
    return found


def _once(call: Any) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _stepping(optimizer: Any, x: np.ndarray, g: np.ndarray, backend: Any) -> Any:
    at = [x.copy(), optimizer.init(x, backend=backend)]

    def step() -> None:
        at[:] = optimizer.step(at[0], g, at[1], backend=backend)

    return step


def _torch_steps(x: np.ndarray, g: np.ndarray) -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    found = {}
    for name in ("fused", "foreach"):
        parameter = torch.nn.Parameter(torch.from_numpy(x.copy()))
        parameter.grad = torch.from_numpy(g.copy())
        found[f"torch.optim.Adam({name}=True), in place"] = torch.optim.Adam(
            [parameter], lr=1e-3, fused=name == "fused", foreach=name == "foreach"
        ).step
    return found


def compilation() -> list[dict[str, Any]]:
    """Seconds until the first round is done: the first run on a machine, a later process, and the same without any compiler."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for title, backend in (("numba, the first run", "numba"), ("numba, a later process", "numba"), ("numpy", "numpy")):
            code = (
                "import time; begin = time.perf_counter()\n"
                "import numpy as np, optex_core as ox\n"
                f"engine = ox.OptEx(np.ones(200_000, np.float32), strategy='paper', parallelism=5, backend={backend!r}, rng=0)\n"
                "for _ in range(3):\n"
                "    for c in engine.ask(): engine.tell(c.id, gradient=c.x)\n"
                "print(time.perf_counter() - begin, time.process_time())\n"
            )
            environment = {**os.environ, "NUMBA_CACHE_DIR": folder, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
            wall, cpu = map(float, done.stdout.split())
            found.append({"name": title, "seconds": wall, "cpu": cpu})
    return found


def report(found: dict[str, Any]) -> str:
    """All tables."""
    texts = [LEGEND]
    for part, title in (("rounds", "Our own work in a round"), ("window", "A window longer than N")):
        if found[part]:
            texts.append(f"{title}\n\n{rounds_table(found[part])}")
    if found["step"]:
        rows = [
            [f"{r['name']}, {r['dtype']}", f"{r['d']:.0e}", *(short(1e3 * r[k]) for k in ("seconds", "usual")), short(r["ratio"])]
            for r in found["step"]
        ]
        texts.append(f"A plain Adam step\n\n{columns(('', 'd', 'ms', 'usual', 'x copy'), rows)}")
    if found["compile"]:
        rows = [[r["name"], short(r["seconds"]), short(r["cpu"])] for r in found["compile"]]
        texts.append(f"From the start of Python to the third round, d = 200,000\n\n{columns(('', 'seconds', 'of processor'), rows)}")
    return "\n\n\n".join(texts) + "\n"


def rounds_table(results: Sequence[dict[str, Any]]) -> str:
    """One line for each cell."""
    head = ("ms", "own", "usual", "processor", *PHASES, "floor", "MB", "GB/s", "ratio", "peak", "allowed", "first s")
    rows = []
    for r in results:
        title = Cell(**r["cell"]).title
        if "error" in r:
            rows.append([f"{title}: {r['error']}", *[""] * (len(head) - 1)])
            continue
        numbers = [1e3 * v for v in (r["fastest"], r["seconds"], r["processor"], *(r["phases"][p] for p in PHASES), r["floor"])]
        numbers += [sum(r["moved"].values()) / 1e6, r["copy"] / 1e9, r["ratio"]]
        memory = [None if r["peak"] is None else r["peak"] / r["history_bytes"], r["allowed_bytes"] / r["history_bytes"]]
        rows.append([title, *map(short, numbers), *map(short, memory), short(r["first_round"])])
    return columns(head, rows)


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Seconds per round against d, with the floor of each as a mark below.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("matplotlib", "cli", "a plot") from error
    lines: dict[str, list[dict[str, Any]]] = {}
    for r in results:
        if "error" not in r:
            lines.setdefault(Cell(**{**r["cell"], "d": 1}).title.replace(" d=1e0", ""), []).append(r)
    figure = Figure(figsize=(11.0, 6.5), layout="constrained")
    axes = figure.add_subplot()
    for name, seen in lines.items():
        seen = sorted(seen, key=lambda r: r["cell"]["d"])
        (line,) = axes.loglog([r["cell"]["d"] for r in seen], [r["fastest"] for r in seen], "o-", label=name)
        axes.loglog([r["cell"]["d"] for r in seen], [r["floor"] for r in seen], "_", color=line.get_color(), markersize=14)
    axes.set_xlabel("parameters d")
    axes.set_ylabel("our own seconds per round (bars: floor)")
    axes.grid(True, which="both", alpha=0.25)
    if lines:
        axes.legend(fontsize="x-small", ncols=2)
    figure.savefig(path, dpi=110)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optex-core bench overhead", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="d = 1e4 and 1e6")
    extent.add_argument("--full", action="store_true", help="all d to 1e7, T0 = 20 and 50, N = 5 and 20, both dtypes")
    parser.add_argument("-d", metavar="D,...", help="parameters")
    parser.add_argument("--parts", metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--output", metavar="DIR", help="where to save (default optex-runs/overhead...)")
    return parser
