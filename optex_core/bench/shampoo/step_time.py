"""How long a step of Shampoo takes, and how evenly: against its own matrix products, with roots
here and elsewhere.

What was tried on eight tiles of 256 x 256 in float64 and did not help: Gram matrices of 32 K to 512
K entries at a time (12.0 to 13.3 ms, 9.7 of them products); new statistics and NumPy's results in
memory that is used again (no page faults, the same times); blocks of 2 K to 512 K entries in
NumPy's elementwise rules; worker processes at ``nice`` 10. What did: tiles that stand one after the
other read and written where they are, roots that take 13.7 ms in place of 18, so that one process
keeps up. What is left in plain NumPy is its elementwise part, 6 to 8 ms against 1.5 to 3 in Numba.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from optex_core.backends import get_backend
from optex_core.bench._runner import Row
from optex_core.execution.workers.root_pool import RootPool
from optex_core.optimizers.adam import Adam
from optex_core.optimizers.shampoo import Shampoo
from optex_core.optimizers.soap import SOAP

#: One step: from its number to nothing.
Stepping = Callable[[int], None]


def measure(
    tiles: int,
    size: int,
    interval: int,
    dtype: str,
    steps: int,
    repeats: int,
    say: Callable[[str], None],
) -> Row:
    """Times of `steps` steps of every way, interleaved, `repeats` times after a warming-up; a dict
    of JSON numbers, seconds.
    """
    rng = np.random.default_rng(0)
    d = tiles * size * size
    gradients = [rng.standard_normal(d).astype(dtype) for _ in range(4)]
    settings: Row = {
        "shapes": [(size, size)] * tiles,
        "block_size": size,
        "interval": interval,
        "start": 1,
    }
    pools = [RootPool(1), RootPool("threads")]
    ways: dict[str, Stepping] = {
        "products alone": _products(gradients, tiles, size),
        "no roots": ours(gradients, {**settings, "interval": 10**9}),
        "no roots, plain NumPy": ours(gradients, {**settings, "interval": 10**9}, "numpy"),
        "all roots at one step": ours(gradients, {**settings, "spread": False}),
        "spread": ours(gradients, settings),
        "one process, delay = interval": ours(
            gradients, {**settings, "delay": interval, "roots": pools[0]}
        ),
        "threads, delay = interval": ours(
            gradients, {**settings, "delay": interval, "roots": pools[1]}
        ),
    }
    times: dict[str, list[list[float]]] = {name: [] for name in ways}
    done = dict.fromkeys(ways, 0)
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            found = []
            for _ in range(3 * interval if repeat == 0 else steps):
                begin = time.perf_counter()
                way(done[name])
                found.append(time.perf_counter() - begin)
                done[name] += 1
            if repeat:
                times[name].append(found)
            say(f"{name}: median {1e3 * np.median(found):.1f} ms")
    for pool in pools:
        pool.close()
    floor = _each(times["products alone"], np.median)
    return {
        "tiles": tiles,
        "size": size,
        "interval": interval,
        "dtype": dtype,
        "steps": steps,
        "repeats": repeats,
        "ways": {
            name: {
                "median": float(np.median(_each(found, np.median))),
                "mean": float(np.median(_each(found, np.mean))),
                "p95_over_median": float(np.median(_each(found, _spread))),
                "best_p95_over_median": float(np.min(_each(found, _spread))),
                "worst": float(np.max(found)),
                "over_products": float(np.median(_each(found, np.median) / floor)),
                "mean_over_products": float(np.median(_each(found, np.mean) / floor)),
            }
            for name, found in times.items()
        },
    }


#: A network 64-64-10: work of a step that is not in its products.
SMALL = {"w0": (64, 64), "b0": (64,), "w1": (64, 10), "b1": (10,)}


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


def _each(
    found: list[list[float]], statistic: Callable[[list[float]], float | np.floating]
) -> np.ndarray:
    """One number for every repeat."""
    return np.array([float(statistic(one)) for one in found])


def _spread(times: list[float]) -> float:
    return float(np.percentile(times, 95) / np.median(times))


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


def ours(gradients: list[np.ndarray], settings: Row, backend: str = "auto") -> Stepping:
    """Steps of `Shampoo`, by default with the backend that the engine would take."""
    optimizer, chosen = Shampoo(1e-3, **settings), get_backend(backend, gradients[0])
    held: list[Any] = [np.zeros_like(gradients[0])]
    held.append(optimizer.init(held[0]))

    def step(t: int) -> None:
        held[:] = optimizer.step(held[0], gradients[t % len(gradients)], held[1], backend=chosen)

    return step
