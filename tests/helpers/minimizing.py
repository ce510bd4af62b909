"""A quadratic, `minimize` with few settings, and an objective that counts and fails."""

from __future__ import annotations

import threading

import numpy as np

import optex_core as ox

X0 = np.array([3.0, -4.0, 1.0])
SCALES = np.array([1.0, 2.0, 3.0])


def value(x):
    return float(SCALES @ x**2) if x.dtype.kind == "f" else complex(SCALES @ x**2)


def gradient(x):
    return 2.0 * SCALES * x


def fun(x):
    return value(x), gradient(x)


def minimize(f=fun, x0=X0, **options):
    return ox.minimize(
        f,
        x0,
        **{"optimizer": ox.SGD(0.05), "strategy": "paper", "parallelism": 3, "rng": 0, **options},
    )


class Counting:
    """Counts its calls, from any thread, and fails where it is told to."""

    def __init__(self, f=fun, fails=lambda call, ctx: None):
        self.f, self.fails, self.calls, self.lock = f, fails, 0, threading.Lock()
        self.seen = []

    def __call__(self, x, *, ctx):
        with self.lock:
            self.calls += 1
            call = self.calls - 1
            self.seen.append(ctx)
        error = self.fails(call, ctx)
        if error is not None:
            if isinstance(error, BaseException):
                raise error
            return error
        return self.f(x)


class MeshError(Exception):
    """A user's own."""


def at(iteration, slot, what, attempts=1):
    """Fails at one point, so many times."""
    return lambda call, ctx: (
        what()
        if (ctx.iteration, ctx.slot) == (iteration, slot) and ctx.attempt < attempts
        else None
    )
