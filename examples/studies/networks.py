"""Two networks on real data with minibatches: a residual network on the digits, and a model of the
characters of Python's own documentation.

Run: python examples/studies/networks.py [--quick|--full]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _comparison import IDEAL, LBFGSB, METHODS, Objective, compare, task
from _network_models import Characters, Digits, Minibatches
from _report import finals_table, rounds_table
from _study import Findings, Study, run_study

import optex_core as ox
from optex_core.bench._result_store import Store

TEXT = """Digits: 1,797 images of 8 x 8 (scikit-learn), a residual network with two blocks, 4,522
parameters, batches of 64. Characters: the next character of `pydoc_data.topics` from the eight
before it, an embedding and a hidden layer, 8,832 parameters, batches of 128. N = 4; momentum 0.9,
Adam and Shampoo, each method at the best of five rates; the value is the loss on all images, or on
2,000 places of the text. With Adam also on real workers, two processes: a gradient takes one to
three milliseconds, as long as a message to a process and back."""
N = 4
#: name -> (optimizer at a rate, given the shapes; grid of rates)
OPTIMIZERS: dict[str, tuple[Callable[[Any, float], Any], tuple[float, ...]]] = {
    "momentum": (lambda _, rate: ox.SGD(rate, momentum=0.9), (0.01, 0.03, 0.1, 0.3, 1.0)),
    "Adam": (lambda _, rate: ox.Adam(rate), (0.001, 0.003, 0.01, 0.03, 0.1)),
    "Shampoo": (
        lambda shapes, rate: ox.Shampoo(rate, shapes=shapes),
        (0.001, 0.003, 0.01, 0.03, 0.1),
    ),
}
#: mode -> (rounds, seeds, data)
EXTENTS = {
    "quick": (8, 1, ("digits",)),
    "default": (60, 5, ("digits", "characters")),
    "full": (200, 10, ("digits", "characters")),
}


#: With Adam, on real workers.
CLOCK = tuple(method for method in METHODS if method not in (IDEAL, LBFGSB))
MODELS = {"digits": Digits(), "characters": Characters()}


def make(name: str, seed: int) -> Objective:
    """The model, from a start of this seed."""
    x0, unflatten = MODELS[name].start(seed)
    fun = Minibatches(MODELS[name], unflatten)
    return Objective(fun, x0, fun.value)


def measure(mode: str, store: Store) -> Findings:
    rounds, seeds, names = EXTENTS[mode]
    tasks = []
    for name in names:
        shapes = MODELS[name].start(0)[1].shapes
        for rule, (at_rate, rates) in OPTIMIZERS.items():
            clock = CLOCK if rule == "Adam" else ()
            clock = clock[:1] if mode == "quick" else clock
            tasks.append(
                task(
                    f"{name} {rule}", f"{name}, {rule}", partial(make, name),
                    partial(at_rate, shapes), rates[1::2] if mode == "quick" else rates, rounds, N,
                    noisy=True, seeds=seeds, clock=clock,
                )
            )  # fmt: skip
    found = compare(tasks, store)
    return Findings([rounds_table(found, clock=True), finals_table(found)], found)


STUDY = Study("networks", "Networks on real data", TEXT, Path(__file__), measure)

if __name__ == "__main__":
    raise SystemExit(run_study(STUDY))
