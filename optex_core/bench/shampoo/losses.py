"""Training loss of a small network after 100 steps, roots and bases every 10: Adam, Shampoo and
SOAP at their best of one grid.

Every row has the same trials: nine rates from 0.01 to 1, times a momentum of 0.8 and 0.9. The best
setting is that of the least geometric mean over the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np

from optex_core.bench._result_store import Store
from optex_core.bench._runner import Row
from optex_core.bench._tables import columns, short
from optex_core.bench.shampoo.peer import PeerSOAP
from optex_core.bench.shampoo.tasks import Task, network
from optex_core.optimizers.adam import Adam
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
    seeds: int,
    rates: Sequence[float],
    store: Store,
    say: Callable[[str], None],
    rows: Sequence[tuple[str, float]] = ROWS,
) -> Row:
    """Run the trials that `store` does not hold yet; for each row and batch the best setting and
    the losses of its seeds, JSON.
    """
    found: Row = {}
    for batch, row in product(BATCHES, rows):
        name = _name(row)
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


def _name(row: tuple[str, float]) -> str:
    return f"{row[0]}, b2 {row[1]:g}"


def loss_after(task: Task, optimizer: FirstOrderOptimizer | PeerSOAP, steps: int) -> float | None:
    """The value on all data after so many steps; None where it is not a number."""
    x: Any = task.start
    state = optimizer.init(x)
    with np.errstate(all="ignore"):  # rates that are too high
        for t in range(steps):
            g = task.gradient(x, t)[1]
            if not np.isfinite(g).all():
                return None
            x, state = optimizer.step(x, g, state)
        value = task.value(x)
    return float(value) if math.isfinite(value) else None


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
