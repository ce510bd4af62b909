"""Time of a step of Shampoo and its spread, against its own matrix products, with roots here and
elsewhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from optex_core.backends import get_backend
from optex_core.bench._runner import Row, say
from optex_core.bench._tables import columns, short
from optex_core.execution.workers.root_pool import RootPool
from optex_core.optimizers.adam import Adam
from optex_core.optimizers.shampoo import Shampoo
from optex_core.optimizers.soap import SOAP

#: One step: from its number to nothing.
Stepping = Callable[[int], None]
#: A network 64-64-10: work of a step that is not in its products.
SMALL = {"w0": (64, 64), "b0": (64,), "w1": (64, 10), "b1": (10,)}


def measure(tiles: int, size: int, interval: int, dtype: str, steps: int, repeats: int) -> Row:
    """Times of `steps` steps of every way, interleaved, `repeats` times after a warming-up; a dict
    of JSON numbers, seconds.
    """
    rng = np.random.default_rng(0)
    d = tiles * size * size
    gradients = [rng.standard_normal(d).astype(dtype) for _ in range(4)]

    def ours(backend: str = "auto", **settings: Any) -> Stepping:
        """Steps of `Shampoo`, by default with the backend that the engine would take."""
        given: Row = {"block_size": size, "interval": interval, "start": 1, **settings}
        optimizer = Shampoo(1e-3, [(size, size)] * tiles, **given)
        chosen, x = get_backend(backend, gradients[0]), np.zeros_like(gradients[0])
        held: list[Any] = [x, optimizer.init(x)]

        def step(t: int) -> None:
            held[:] = optimizer.step(held[0], gradients[t % 4], held[1], backend=chosen)

        return step

    with RootPool(1) as process, RootPool("threads") as threads:
        ways = {
            "products alone": _products(gradients, tiles, size),
            "no roots": ours(interval=10**9),
            "no roots, plain NumPy": ours("numpy", interval=10**9),
            "all roots at one step": ours(spread=False),
            "spread": ours(),
            "one process, delay = interval": ours(delay=interval, roots=process),
            "threads, delay = interval": ours(delay=interval, roots=threads),
        }
        times: dict[str, list[list[float]]] = {name: [] for name in ways}
        done = dict.fromkeys(ways, 0)
        for repeat in range(repeats + 1):
            for name, way in ways.items():
                found = []
                for _ in range(steps if repeat else 3 * interval):
                    begin = time.perf_counter()
                    way(done[name])
                    found.append(time.perf_counter() - begin)
                    done[name] += 1
                if repeat:
                    times[name].append(found)
                say(f"{name}: median {1e3 * np.median(found):.1f} ms")
    floor = np.median(times["products alone"], axis=1)
    return {
        "tiles": tiles,
        "size": size,
        "interval": interval,
        "dtype": dtype,
        "steps": steps,
        "repeats": repeats,
        "ways": {name: _statistics(np.array(found), floor) for name, found in times.items()},
    }


def _statistics(found: np.ndarray, floor: np.ndarray) -> Row:
    """Of times, (repeats, steps); but for the worst and the best, the median of the repeats."""
    median, mean = np.median(found, axis=1), found.mean(axis=1)
    spread = np.percentile(found, 95, axis=1) / median
    return {
        "median": float(np.median(median)),
        "mean": float(np.median(mean)),
        "p95_over_median": float(np.median(spread)),
        "best_p95_over_median": float(spread.min()),
        "worst": float(found.max()),
        "over_products": float(np.median(median / floor)),
        "mean_over_products": float(np.median(mean / floor)),
    }


def times_table(ways: Row) -> str:
    """One line for each way to take a step."""
    ratios = {
        "median / products": "over_products",
        "mean / products": "mean_over_products",
        "p95 / median": "p95_over_median",
        "best of repeats": "best_p95_over_median",
    }
    rows = [
        [
            name,
            *(short(1e3 * one[key]) for key in ("median", "mean")),
            *(f"{one[key]:.2f}" for key in ratios.values()),
            short(1e3 * one["worst"]),
        ]
        for name, one in ways.items()
    ]
    return columns(("", "median ms", "mean ms", *ratios, "worst ms"), rows)


def measure_small(turns: int) -> dict[str, float]:
    """Processor seconds, which other programs hardly touch, of a step on the tensors of SMALL
    without roots or bases, interleaved with Adam's: the median of `turns` turns of 100 steps.
    """
    d = sum(math.prod(shape) for shape in SMALL.values())
    g = np.random.default_rng(0).standard_normal(d)
    rules: Row = {
        "Adam": Adam(1e-3),
        "Shampoo, no roots": Shampoo(1e-3, SMALL, interval=10**9),
        "SOAP, no bases": SOAP(1e-3, SMALL, interval=10**9),
    }
    held: Row = {name: (np.zeros(d), rule.init(np.zeros(d))) for name, rule in rules.items()}
    times: dict[str, list[float]] = {name: [] for name in rules}
    for turn in range(turns + 1):  # the first compiles
        for name, rule in rules.items():
            x, state = held[name]
            begin = time.process_time()
            for _ in range(100):
                x, state = rule.step(x, g, state)
            if turn:
                times[name].append((time.process_time() - begin) / 100)
            held[name] = x, state
    return {name: float(np.median(found)) for name, found in times.items()}


def _products(gradients: list[np.ndarray], tiles: int, size: int) -> Stepping:
    """The four products of a step, on one BLAS thread, as the optimizer holds it."""
    G = [g.reshape(tiles, size, size) for g in gradients]
    left, right = G[0] @ G[0].mT, G[0].mT @ G[0]

    def step(t: int) -> None:
        with threadpool_limits(limits=1, user_api="blas"):
            tile = G[t % len(G)]
            np.matmul(tile, tile.mT)
            np.matmul(tile.mT, tile)
            left @ tile @ right

    return step
