"""Shampoo's step against that of a maintained PyTorch implementation, on the same tiles, in pairs."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from optex_core.bench.efficiency.tables import columns, short
from optex_core.bench.shampoo.step_time import Stepping, ours
from optex_core.errors import MissingExtraError
from optex_core.execution.workers.root_pool import RootPool

#: The implementation, of the library pytorch_optimizer (4.1.0 when this was written).
RIVAL = "pytorch_optimizer.ScalableShampoo"


def missing() -> str | None:
    """What would have to be installed, as one sentence; None if nothing."""
    found = [
        name for name in ("torch", "pytorch_optimizer") if importlib.util.find_spec(name) is None
    ]
    return (
        f"{RIVAL} needs {' and '.join(found)}; run: python -m pip install torch pytorch_optimizer"
        if found
        else None
    )


def against(
    tiles: int, size: int, interval: int, dtype: str, pairs: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Mean seconds of a step over whole intervals, so that each holds the roots of all tiles once:
    ours and the rival's in turn, `pairs` times.

    The same tiles, gradients, dtype, interval and decay; each grafted on its own library's cheapest
    rule of the same kind (RMSprop), with momentum. The rival takes Nesterov's step out of the box,
    which costs it one pass; that is left off.
    """
    if sentence := missing():
        raise MissingExtraError(sentence)
    rng = np.random.default_rng(0)
    gradients = [rng.standard_normal(tiles * size * size).astype(dtype) for _ in range(4)]
    settings: dict[str, Any] = {
        "shapes": [(size, size)] * tiles, "block_size": size, "interval": interval, "start": 1, "graft": "rmsprop", "placement": "after"
    }  # fmt: skip
    with RootPool(1) as pool:
        ways: dict[str, Stepping] = {
            "ours, roots in the step": ours(gradients, settings),
            "ours, roots in one process": ours(
                gradients, {**settings, "delay": interval, "roots": pool}
            ),
            f"{RIVAL}, one thread": _theirs(gradients, tiles, size, interval, 1),
            f"{RIVAL}, two threads": _theirs(gradients, tiles, size, interval, 2),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        done = 0
        for pair in range(pairs + 2):  # the first two warm up
            for name, step in ways.items():
                begin = time.perf_counter()
                for t in range(done, done + interval):
                    step(t)
                if pair > 1:
                    found[name].append((time.perf_counter() - begin) / interval)
            done += interval
    for name, times in found.items():
        say(f"{name}: {1e3 * np.median(times):.1f} ms")
    best = np.min([times for name, times in found.items() if name.startswith(RIVAL)], axis=0)
    return {
        "rival": RIVAL, "tiles": tiles, "size": size, "interval": interval, "dtype": dtype, "pairs": pairs,
        "ways": {
            name: {
                "mean": float(np.median(times)),
                # In every pair against the better of the rival's two.
                "over_rival": [float(np.quantile(np.array(times) / best, q)) for q in (0.0, 0.5, 1.0)],
            }
            for name, times in found.items()
        },
    }  # fmt: skip


def rival_table(found: dict[str, Any]) -> str:
    """One line for each way."""
    rows = [
        [name, short(1e3 * one["mean"]), " ".join(f"{x:.2f}" for x in one["over_rival"])]
        for name, one in found["ways"].items()
    ]
    return columns(
        ("", "ms a step", "over the rival's better: least, median, most of the pairs"), rows
    )


def _theirs(
    gradients: list[np.ndarray], tiles: int, size: int, interval: int, threads: int
) -> Stepping:
    import torch
    from pytorch_optimizer import ScalableShampoo
    from pytorch_optimizer.optimizer.utils.graft import LayerWiseGrafting

    tensors = [
        torch.nn.Parameter(torch.zeros(size, size, dtype=getattr(torch, str(gradients[0].dtype))))
        for _ in range(tiles)
    ]
    optimizer = ScalableShampoo(
        tensors, lr=1e-3, betas=(0.9, 0.99), block_size=size, start_preconditioning_step=1, preconditioning_compute_steps=interval,
        shape_interpretation=False, graft_type=LayerWiseGrafting.RMSPROP, nesterov=False,
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
