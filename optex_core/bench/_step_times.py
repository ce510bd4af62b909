"""How long a step of Shampoo takes, and how evenly: against its own matrix products, with roots here and elsewhere, against PyTorch's."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from optex_core.execution.roots import RootPool
from optex_core.optimizers.shampoo import Shampoo

#: One step: from its number to nothing.
Stepping = Callable[[int], None]
RIVAL = "pytorch_optimizer.ScalableShampoo"


def measure(tiles: int, size: int, interval: int, dtype: str, steps: int, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Times of `steps` steps of every way, interleaved, `repeats` times after a warming-up; a dict of JSON numbers, seconds."""
    rng = np.random.default_rng(0)
    d = tiles * size * size
    gradients = [rng.standard_normal(d).astype(dtype) for _ in range(4)]
    settings: dict[str, Any] = {"shapes": [(size, size)] * tiles, "block_size": size, "interval": interval, "start": 1}
    pools = [RootPool(1), RootPool("threads")]
    ways: dict[str, Stepping] = {
        "products alone": _products(gradients, tiles, size),
        "no roots": _ours(gradients, {**settings, "interval": 10**9}),
        "all roots at one step": _ours(gradients, {**settings, "spread": False}),
        "spread": _ours(gradients, settings),
        "one process, delay = interval": _ours(gradients, {**settings, "delay": interval, "roots": pools[0]}),
        "threads, delay = interval": _ours(gradients, {**settings, "delay": interval, "roots": pools[1]}),
    }
    if importlib.util.find_spec("torch") is not None and importlib.util.find_spec("pytorch_optimizer") is not None:
        ways[f"{RIVAL}, one thread"] = _rival(gradients, tiles, size, interval, 1)
        ways[f"{RIVAL}, two threads"] = _rival(gradients, tiles, size, interval, 2)
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
        "tiles": tiles, "size": size, "interval": interval, "dtype": dtype, "steps": steps, "repeats": repeats,
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
    }  # fmt: skip


def _each(found: list[list[float]], statistic: Callable[[Any], Any]) -> np.ndarray:
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


def _ours(gradients: list[np.ndarray], settings: dict[str, Any]) -> Stepping:
    optimizer = Shampoo(1e-3, **settings)
    held: list[Any] = [np.zeros_like(gradients[0])]
    held.append(optimizer.init(held[0]))

    def step(t: int) -> None:
        held[:] = optimizer.step(held[0], gradients[t % len(gradients)], held[1])

    return step


def _rival(gradients: list[np.ndarray], tiles: int, size: int, interval: int, threads: int) -> Stepping:
    """The maintained PyTorch implementation of the same algorithm, its roots every `interval` steps."""
    import torch
    from pytorch_optimizer import ScalableShampoo

    tensors = [torch.nn.Parameter(torch.zeros(size, size, dtype=getattr(torch, str(gradients[0].dtype)))) for _ in range(tiles)]
    optimizer = ScalableShampoo(
        tensors, lr=1e-3, betas=(0.9, 0.99), block_size=size, start_preconditioning_step=1, preconditioning_compute_steps=interval,
        shape_interpretation=False,
    )  # fmt: skip
    parts = [[torch.from_numpy(part) for part in g.reshape(tiles, size, size)] for g in gradients]

    def step(t: int) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        for tensor, part in zip(tensors, parts[t % len(parts)], strict=True):
            tensor.grad = part
        optimizer.step()
        torch.set_num_threads(before)

    return step
