"""Training loss of a small network after 100 steps, roots and bases every 10: Adam, Shampoo and
SOAP at their best of one grid, and SOAP of pytorch_optimizer.

Every row has the same trials: nine rates from 0.01 to 1, times a momentum of 0.8 and 0.9. The best
setting is that of the least geometric mean over the seeds.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from optex_core.bench._result_store import Store
from optex_core.bench._runner import Row, say
from optex_core.bench._tables import columns, short
from optex_core.bench.shampoo.tasks import Task, network
from optex_core.errors import MissingExtraError
from optex_core.optimizers.adam import Adam
from optex_core.optimizers.parameter_blocks import blocks_from_shapes
from optex_core.optimizers.shampoo import Shampoo
from optex_core.optimizers.soap import SOAP
from optex_core.types import FirstOrderOptimizer

STEPS, INTERVAL, MOMENTA = 100, 10, (0.8, 0.9)
#: Samples of a batch; None: all data.
BATCHES: dict[str, int | None] = {"batches of 256": 256, "all data": None}
#: Decays of the second moment and of the statistics that each is tried with; each a row.
DECAYS = {"Adam": (0.9, 0.95, 0.999), "Shampoo": (0.9, 0.95), "SOAP": (0.9, 0.95)}
ROWS = tuple((kind, b2) for kind, decays in DECAYS.items() for b2 in decays)
PEER = "pytorch_optimizer.SOAP"
PEER_ROWS = tuple((PEER, b2) for b2 in DECAYS["SOAP"])


class PeerSOAP:
    """`pytorch_optimizer.SOAP` in float64 as an optimizer of ours, with matrices for vectors, as
    ours has them, and without weight decay; everything else is its default.

    Without matrices for vectors its losses in batches of 256 are twice to three times as large.
    MissingExtraError without PyTorch or pytorch_optimizer.
    """

    def __init__(
        self, learning_rate: float, shapes: object, *, b1: float, b2: float, interval: int
    ) -> None:
        try:
            self._torch: Any = importlib.import_module("torch")
            self._soap: Any = importlib.import_module("pytorch_optimizer").SOAP
        except ImportError as error:
            raise MissingExtraError(
                "the part peer needs PyTorch and pytorch_optimizer; run: python -m pip install "
                "torch pytorch_optimizer"
            ) from error
        self._blocks = blocks_from_shapes(shapes)
        self._settings = {
            "lr": learning_rate, "betas": (b1, b2), "precondition_frequency": interval,
            "precondition_1d": True, "weight_decay": 0.0,
        }  # fmt: skip

    def init(self, x: np.ndarray) -> tuple[list[Any], Any]:
        """Parameters as tensors, and the peer's optimizer that holds them."""
        parts = [x[block.slice].reshape(block.shape) for block in self._blocks]
        tensors = [self._torch.tensor(part, requires_grad=True) for part in parts]
        return tensors, self._soap(tensors, **self._settings)

    def step(self, x: np.ndarray, g: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        """The parameters after one step; the peer's own state changes in place."""
        tensors, optimizer = state
        for block, tensor in zip(self._blocks, tensors, strict=True):
            tensor.grad = self._torch.tensor(g[block.slice].reshape(block.shape))
        optimizer.step()
        return np.concatenate([t.detach().numpy().ravel() for t in tensors]), state


def optimizer_of_row(
    row: tuple[str, float], rate: float, momentum: float, shapes: object
) -> FirstOrderOptimizer | PeerSOAP:
    """What a trial runs; everything else is the default."""
    kind, b2 = row
    if kind == "Adam":
        return Adam(rate, b1=momentum, b2=b2)
    if kind == PEER:
        return PeerSOAP(rate, shapes, b1=momentum, b2=b2, interval=INTERVAL)
    if kind == "Shampoo":
        return Shampoo(rate, shapes, momentum=momentum, b2=b2, graft_b2=b2, interval=INTERVAL)
    return SOAP(rate, shapes, b1=momentum, b2=b2, interval=INTERVAL)


def least_losses(
    seeds: int, rates: Sequence[float], store: Store, rows: Sequence[tuple[str, float]] = ROWS
) -> Row:
    """For each row and batch the best setting and the losses of its seeds, JSON; trials that the
    store does not hold yet are run.
    """
    found: Row = {}
    for batch, row in product(BATCHES, rows):
        name = f"{row[0]}, b2 {row[1]:g}"
        tried = {}
        for rate, momentum in product(rates, MOMENTA):
            ends = []
            for seed in range(seeds):
                key = f"losses/{batch}/{name}/{rate:.6g}/{momentum:g}/{seed}"
                if key not in store.cells:
                    task = network(seed, BATCHES[batch], (64,))
                    optimizer = optimizer_of_row(row, rate, momentum, task.shapes)
                    store.add(key, {"loss": loss_after(task, optimizer, STEPS)})
                loss = store.cells[key]["loss"]
                ends.append(math.inf if loss is None else loss)
            tried[rate, momentum] = ends
        (rate, momentum), ends = min(tried.items(), key=lambda pair: float(np.log(pair[1]).mean()))
        mean = float(np.exp(np.log(ends).mean()))
        found[f"{name}, {batch}"] = {
            "row": name,
            "batch": batch,
            "rate": rate,
            "momentum": momentum,
            "edge": rate in (rates[0], rates[-1]),
            "losses": ends,
            "mean": mean,
        }
        say(f"{name}, {batch}: {mean:.2e}")
    return found


def loss_after(task: Task, optimizer: FirstOrderOptimizer | PeerSOAP, steps: int) -> float:
    """The value on all data after so many steps; infinite where it is not a number."""
    x: Any = task.start
    state = optimizer.init(x)
    with np.errstate(all="ignore"):  # rates that are too high
        for t in range(steps):
            g = task.gradient(x, t)[1]
            if not np.isfinite(g).all():
                return math.inf
            x, state = optimizer.step(x, g, state)
        return task.value(x)


def losses_table(found: Row) -> str:
    """One line for each row: geometric mean and range of the seeds, and the setting ("!" at an end
    of the grid).
    """
    head = ["", *(f"{b}: {what}" for b in BATCHES for what in ("loss", "range", "rate, momentum"))]
    rows = []
    for name in dict.fromkeys(one["row"] for one in found.values()):
        cells = [name]
        for batch in BATCHES:
            one = found[f"{name}, {batch}"]
            cells += [
                f"{one['mean']:.2e}",
                f"{min(one['losses']):.1e} to {max(one['losses']):.1e}",
                f"{short(one['rate'])} {one['momentum']:g}" + (" !" if one["edge"] else ""),
            ]
        rows.append(cells)
    return columns(head, rows)
