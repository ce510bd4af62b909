"""One cell of `overhead`, measured in a process of its own: the engine's seconds by phase, and the
bytes that must move.

``python -m optex_core.bench.overhead.cell JSON`` prints one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import numpy as np

from optex_core.bench._runner import Row

#: What a round's own work is split into; `intake` is what `tell` does with a gradient: a copy and a
#: look for nan.
PHASES = ("predict", "tune", "intake", "record", "advance")
#: Entries of the arrays that are copied to measure the bandwidth: well beyond any cache.
COPIED = 32_000_000


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured: a run of the engine on a quadratic whose gradients are not timed."""

    backend: str
    d: int  # parameters
    history: int = 50  # T0
    parallelism: int = 5  # N
    dtype: str = "float32"
    optimizer: str = "adam"  # or nesterov, sgd
    strategy: str = "paper"
    window: int | None = None  # of `verified`
    kernel_dims: int | None = None
    seconds: float = 2.0  # about as long is measured, from 6 rounds on

    @property
    def title(self) -> str:
        """All that sets it apart from other cells of its table."""
        strategy = self.strategy + ("" if self.window is None else f" S={self.window}")
        dims = "" if self.kernel_dims is None else f" {self.kernel_dims} dims"
        return (
            f"{self.backend} {self.dtype} d={self.d:.0e} T0={self.history} "
            f"N={self.parallelism} {strategy} {self.optimizer}{dims}"
        ).replace("e+0", "e")


def floor_bytes(
    cell: Cell, predicted: float, replayed: float, slots: int, affine: bool
) -> dict[str, float]:
    """Bytes that must move in one round with a full history, by phase.

    Each predicted step with an elementwise optimizer reads the gradients once, and the parameters
    once for the distances of the new point (not with `kernel_dims`) and once more for the linear
    mean; an affine optimizer takes all its steps on coefficients and reads both histories once to
    make points of them. A step of the rule reads x, g and its slots and writes all but g. New rows
    are held against the parameters for their distances (not with `kernel_dims`), and against the
    gradients too for coefficients; each gradient is copied in.
    """
    d, item = float(cell.d), np.dtype(cell.dtype).itemsize
    rows, rule = cell.history * d * item, (3 + 2 * slots) * d * item
    distances = int(cell.kernel_dims is None)
    if affine:
        predict = 2 * rows + (cell.parallelism - 1) * d * item
        advance = rule if cell.strategy == "paper" else 2 * rows + rule
    else:
        step = rows * (1 + distances + (cell.strategy in ("verified", "auto"))) + rule
        predict, advance = (predicted - 1) * step, rule + (replayed - 1) * step
    return {
        "predict": predict,
        "tune": 0.0,
        "intake": cell.parallelism * 2 * d * item,
        "record": rows * (2 if affine else distances),
        "advance": advance,
    }


def measure(cell: Cell) -> Row:
    """Run the cell: seconds, bytes, and bytes per second."""
    start = time.perf_counter()
    engine, gradient = _engine(cell)
    clock = _Clock(engine)
    clock.round(gradient)
    first = time.perf_counter() - start
    history = engine.machine.surrogate.history
    assert history is not None
    while history.n < cell.history:
        clock.round(gradient)
    clock.round(gradient)  # the first with a full history, unmeasured: page faults
    rows: list[dict[str, float]] = []
    copies = []
    # The bandwidth of these very moments: between two halves of the rounds, and after them. The
    # machine may be busier than when another cell ran.
    for half in (1, 2):
        began = time.perf_counter()
        while len(rows) < 3 * half or (
            time.perf_counter() - began < cell.seconds / 2 and len(rows) < 100 * half
        ):
            clock.round(gradient)
            rows.append(clock.spent)
        copies.append(copy_bandwidth(cell.backend))
    totals = [sum(row.values()) for row in rows]
    window = engine.trace.window[-len(rows) :]
    accepted = engine.trace.accepted[-len(rows) :]
    optimizer = engine.settings.optimizer
    moved = floor_bytes(
        cell,
        float(np.mean(window)),
        1.0 if cell.strategy == "paper" else float(np.mean(accepted)),
        len(getattr(optimizer, "slot_names", ())),
        bool(getattr(optimizer, "affine", False)),
    )
    floor = sum(moved.values()) / max(copies)
    return {
        "cell": asdict(cell),
        "rounds": len(rows),
        "seconds": float(np.median(totals)),
        "fastest": min(totals),
        "processor": min(clock.processor[-len(rows) :]),
        "phases": {phase: float(np.median([row[phase] for row in rows])) for phase in PHASES},
        "moved": moved,
        "window": float(np.mean(window)),
        "copy": max(copies),
        "floor": floor,
        "ratio": min(totals) / floor,
        "first_round": first,
    }


class _Clock:
    """Rounds of an engine with the seconds of each phase, from wrappers around their calls."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.tuning = self.recording = 0.0
        self.spent: dict[str, float] = {}
        self.processor: list[float] = []
        # Where steps are taken on coefficients, the rows enter history and basis in one.
        surrogate = engine.machine.surrogate
        keeper: Any = surrogate.history if surrogate.tracker is None else surrogate.tracker
        posterior, extend = surrogate.posterior, keeper.extend

        def timed_posterior() -> object:
            begin = time.perf_counter()
            try:
                return posterior()
            finally:
                self.tuning += time.perf_counter() - begin

        def timed_extend(pairs: Sequence[object]) -> None:
            begin = time.perf_counter()
            extend(pairs)
            self.recording += time.perf_counter() - begin

        surrogate.posterior, keeper.extend = timed_posterior, timed_extend

    def round(self, gradient: Callable[[object], object]) -> None:
        engine, now = self.engine, time.perf_counter
        self.tuning = self.recording = 0.0
        worked, begin = time.process_time(), now()
        candidates = engine.ask()
        predict = now() - begin - self.tuning - self.recording
        processor = time.process_time() - worked
        tuned, recorded, intake, last = self.tuning, self.recording, 0.0, 0.0
        for i, c in enumerate(candidates):
            g = gradient(c.x)
            worked, begin = time.process_time(), now()
            engine.tell(c.id, gradient=g)
            last = now() - begin
            processor += time.process_time() - worked
            if i < len(candidates) - 1:
                intake += last
        # The last tell takes in one gradient and closes the round.
        one = intake / (len(candidates) - 1) if len(candidates) > 1 else 0.0
        advance = last - one - (self.recording - recorded) - (self.tuning - tuned)
        self.processor.append(processor)
        self.spent = {
            "predict": predict,
            "tune": self.tuning,
            "intake": intake + one,
            "record": self.recording,
            "advance": max(advance, 0.0),
        }


def _engine(cell: Cell) -> tuple[Any, Callable[[Any], Any]]:
    import optex_core as ox

    xp: ModuleType = importlib.import_module("cupy") if cell.backend == "cupy" else np
    optimizer = {
        "adam": ox.Adam(1e-3),
        "nesterov": ox.SGD(0.02, momentum=0.9, nesterov=True),
        "sgd": ox.SGD(0.02),
    }[cell.optimizer]
    strategy: Any = cell.strategy
    if strategy == "verified":
        strategy = ox.strategies.Verified(window=cell.window)
    estimator = ox.GradientEstimator(
        history=cell.history, tune="fixed", kernel_dims=cell.kernel_dims
    )
    slope = xp.linspace(0.1, 1.0, cell.d, dtype=cell.dtype)
    x0 = xp.cos(xp.arange(cell.d, dtype=cell.dtype))
    engine = ox.OptEx(
        x0, optimizer=optimizer, strategy=strategy, parallelism=cell.parallelism,
        estimator=estimator, backend=cell.backend, maxiter=10**9, rng=0,
    )  # fmt: skip
    return engine, lambda x: slope * x


def copy_bandwidth(backend: str) -> float:
    """Bytes per second of a copy (read and written bytes count), with as many threads as kernels
    use.
    """
    if backend == "cupy":
        import cupy

        source, target = cupy.ones(8 * COPIED, np.float32), cupy.zeros(8 * COPIED, np.float32)

        def device_copy() -> None:
            target[...] = source
            cupy.cuda.Device().synchronize()

        return float(2 * source.nbytes / fastest(device_copy))
    source, target = np.ones(COPIED, np.float32), np.zeros(COPIED, np.float32)
    threads = 1
    if backend == "numba":
        from optex_core.backends.numba.kernel_threads import num_threads

        threads = num_threads()
    pieces = np.array_split(target, threads), np.array_split(source, threads)
    with ThreadPoolExecutor(threads) as pool:

        def copy() -> None:
            list(pool.map(np.copyto, *pieces))

        seconds = min(fastest(copy), fastest(lambda: np.copyto(target, source)))
    return 2 * source.nbytes / seconds


def fastest(function: Callable[[], object], times: int = 5) -> float:
    """Seconds of the fastest of several calls, after one that does not count."""
    function()
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        function()
        found.append(time.perf_counter() - begin)
    return min(found)


if __name__ == "__main__":
    print(json.dumps(measure(Cell(**json.loads(sys.argv[1])))))
