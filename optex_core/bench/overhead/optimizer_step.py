"""The plain Adam step, ours and what is installed of others', beside a copy of as many bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from optex_core.backends import get_backend
from optex_core.bench.efficiency.tables import columns, short
from optex_core.errors import BackendError
from optex_core.optimizers.adam import Adam

#: Bytes that are read between the steps: three times a last cache of 32 MB.
BETWEEN = 96_000_000
#: Steps of a burst, after one that does not count.
BURST = 5
LEGEND = f"""at once: one step right after the other, so that a part of what was written may still be in the last cache; between: with other
work between them, as where a gradient is computed (a sum over {BETWEEN / 1e6:.0f} MB); ms: the fastest, usual: the median; x copy: fastest over
fastest copy; x fused: the median of the time over that of PyTorch's fused step moments before or after."""
COPY = "copy of the bytes that must move"
FUSED = "torch.optim.Adam(fused=True), in place"
MODES = ("at once", "between")


def measure(d: int, bursts: int = 15) -> list[dict[str, Any]]:
    """For every dtype and way to step a dict of JSON numbers: for each mode seconds (best, median)
    and what they are over others'.
    """
    found = []
    other = np.ones(BETWEEN // 4, np.float32)
    for dtype in ("float32", "float64"):
        calls = _ways(d, dtype)
        times: dict[str, dict[str, list[float]]] = {
            name: {mode: [] for mode in MODES} for name in calls
        }
        for call in calls.values():
            call()
        for _ in range(bursts):
            for name, call in calls.items():
                # OpenMP's threads wait for more in a loop, for some milliseconds: whoever comes
                # next would pay for it
                other.sum()
                call()
                times[name]["at once"].append(float(np.median([_once(call) for _ in range(BURST)])))
            for name, call in calls.items():
                other.sum()
                times[name]["between"].append(_once(call))
        for name, seen in times.items():
            row: dict[str, Any] = {"dtype": dtype, "d": d, "name": name}
            for mode, ours in seen.items():
                rival = times.get(FUSED, {}).get(mode)
                row[mode] = {
                    "seconds": min(ours), "usual": float(np.median(ours)), "ratio": min(ours) / min(times[COPY][mode]),
                    "over_fused": None if rival is None else float(np.median(np.array(ours) / np.array(rival))),
                }  # fmt: skip
            found.append(row)
    return found


def table(found: list[dict[str, Any]]) -> str:
    """What the columns mean, and one line for each way."""
    head = [
        "",
        "d",
        *(title for mode in MODES for title in (f"{mode}: ms", "usual", "x copy", "x fused")),
    ]
    rows = []
    for r in found:
        numbers = [
            v
            for mode in MODES
            for v in (
                1e3 * r[mode]["seconds"],
                1e3 * r[mode]["usual"],
                r[mode]["ratio"],
                r[mode]["over_fused"],
            )
        ]
        rows.append([f"{r['name']}, {r['dtype']}", f"{r['d']:.0e}", *map(short, numbers)])
    return f"{LEGEND}\n\n{columns(head, rows)}"


def _ways(d: int, dtype: str) -> dict[str, Callable[[], Any]]:
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal(d).astype(dtype), rng.standard_normal(d).astype(dtype)
    calls: dict[str, Callable[[], Any]] = {}
    for name in ("numba", "numpy"):
        try:
            backend = get_backend(name)
        except BackendError:
            continue
        calls[f"optex_core {name}"] = _ours(x, g, backend, donate=False)
        calls[f"optex_core {name}, donate=True"] = _ours(x, g, backend, donate=True)
    calls |= _torch(x, g)
    source, target = np.ones(7 * d // 2, dtype), np.zeros(7 * d // 2, dtype)
    calls[COPY] = lambda: np.copyto(target, source)
    return calls


def _ours(x: np.ndarray, g: np.ndarray, backend: Any, donate: bool) -> Callable[[], None]:
    optimizer = Adam(1e-3)
    at: list[Any] = [x.copy(), optimizer.init(x, backend=backend)]

    def step() -> None:
        at[:] = optimizer.step(at[0], g, at[1], donate=donate, backend=backend)

    return step


def _torch(x: np.ndarray, g: np.ndarray) -> dict[str, Callable[[], Any]]:
    try:
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    found: dict[str, Callable[[], Any]] = {}
    for title, fused in ((FUSED, True), ("torch.optim.Adam(foreach=True), in place", False)):
        parameter = torch.nn.Parameter(torch.from_numpy(x.copy()))
        parameter.grad = torch.from_numpy(g.copy())
        found[title] = torch.optim.Adam([parameter], lr=1e-3, fused=fused, foreach=not fused).step
    return found


def _once(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
