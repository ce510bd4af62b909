"""Paths of Shampoo, SOAP and the optimizers that they become, on one small set of tensors."""

from __future__ import annotations

import inspect

import numpy as np

from optex_core.optimizers._kronecker.matrix_jobs import solve_job

SHAPES = {"w": (6, 4), "b": (4,), "s": (), "v": (4, 5)}
D = 24 + 4 + 1 + 20


def gradient(x, t=0):
    """Of a function that couples all entries, different at every t."""
    rng = np.random.default_rng(1000 + t)
    return np.sin(1.7 * x) + 0.3 * np.roll(x, 1) + 0.1 * rng.standard_normal(len(x))


class InlineService:
    """A service that computes when asked, in this thread."""

    def submit(self, job):
        """Do nothing: `result` computes."""

    def result(self, job):
        return solve_job(job)


def start(d=D, dtype=np.float64):
    return np.random.default_rng(0).standard_normal(d).astype(dtype)


def walked(optimizer, steps=25, x=None, state=None, first=0, backend=None, trusted=lambda t: True):
    x = start() if x is None else x
    keywords = {} if backend is None else {"backend": backend}
    state = optimizer.init(x, **keywords) if state is None else state
    path = []
    for t in range(first, first + steps):
        g = gradient(x, t).astype(x.dtype)
        if "trusted" in inspect.signature(optimizer.step).parameters:
            keywords["trusted"] = trusted(t)
        x, state = optimizer.step(x, g, state, **keywords)
        path.append(x)
    return path, state
