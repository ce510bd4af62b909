"""An engine that runs on a function, and what a strategy is given."""

from __future__ import annotations

import numpy as np

import optex_core as ox
from optex_core.backends import get_backend
from optex_core.optimizers._on_backend import bind_optimizer
from optex_core.problems.quadratic import Quadratic
from optex_core.problems.rosenbrock import Rosenbrock
from optex_core.strategies import EngineView, Observation
from optex_core.strategies.rollout import ArraySpace

QUADRATIC = Quadratic(d=4, condition=20.0, rotated=True)
ROSENBROCK = Rosenbrock(d=2)


class Driver:
    """An engine with a deterministic function; `lose(iteration, slot)`: that evaluation fails."""

    def __init__(self, problem, x0, *, lose=lambda iteration, slot: False, **options):
        self.engine = ox.OptEx(x0, rng=0, maxiter=10_000, **options)
        self.problem, self.lose = problem, lose
        self.path, self.asked = [np.array(self.engine.state.x)], []

    def round(self):
        candidates = self.engine.ask()
        self.asked.append([np.array(c.x) for c in candidates])
        # In reverse: the order of arrival must not matter. Slot 0 stays, or nothing is left of the
        # round.
        for c in reversed(candidates):
            if self.lose(c.iteration, c.slot):
                self.engine.tell(c.id, error=RuntimeError("lost"))
            else:
                value, gradient = self.problem(c.x)
                self.engine.tell(c.id, gradient=gradient, value=value)
        self.path.append(np.array(self.engine.state.x))

    def run(self, rounds):
        for _ in range(rounds):
            self.round()
        return self.path


def plain(problem, x0, optimizer, steps):
    """The optimizer alone."""
    x, path = np.array(x0), [np.array(x0)]
    state = optimizer.init(x)
    for _ in range(steps):
        x, state = optimizer.step(x, problem(x)[1], state)
        path.append(x)
    return path


def told(*sizes):
    return [
        None if size is None else Observation(np.array([float(size), 0.0]), float(size) ** 2)
        for size in sizes
    ]


def view_of(x=(0.0, 0.0), parallelism=4, optimizer=None):
    space = ArraySpace(bind_optimizer(optimizer or ox.SGD(0.1)), get_backend("numpy"))
    return EngineView(parallelism, np.array(x, dtype=float), None, lambda: None, space, lambda x: x)
