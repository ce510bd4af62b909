"""Objectives, and what is compared, of the tests of saved runs."""

from __future__ import annotations

import collections

import numpy as np

X0 = np.array([-1.2, 1.0, 0.7, 2.0])


def chained(x, *, seed=0):
    a, b = 1.0 - x[:-1], x[1:] - x[:-1] ** 2
    gradient = np.zeros_like(x)
    gradient[:-1] = -2.0 * a - 40.0 * x[:-1] * b
    gradient[1:] += 20.0 * b
    return float(a @ a + 10.0 * b @ b), gradient


def noisy(x, *, seed):
    value, gradient = chained(x)
    return value, gradient + 0.5 * np.random.default_rng(seed).standard_normal(len(x))


def exact(x):
    return chained(x)


class Counted:
    """Counts the evaluations of every point."""

    def __init__(self):
        self.seen = collections.Counter()

    def __call__(self, x, *, ctx):
        self.seen[ctx.id] += 1
        return exact(x)


def assert_same_path(one, two, *, history=True, best=True):
    """Of two results: what the gradients decide, whatever was retried or measured by a clock;
    `best` where all that was asked was told.
    """
    names = ("x", "jac", "fun", *(("best_x", "best_fun") if best else ()))
    for name in names:  # nan is where no value was told
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    assert (one.nit, one.nsteps, one.stop) == (two.nit, two.nsteps, two.stop)
    mine, theirs = one.history.to_arrays(), two.history.to_arrays()
    for name in set(mine) - {"seconds", "overhead", "slowest"} if history else ():
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)


def assert_same(one, two):
    assert_same_path(one, two)
    for name in ("nfev", "njev", "seed", "status", "deterministic", "message"):
        assert getattr(one, name) == getattr(two, name), name
    assert [(f.id, f.message, f.traceback) for f in one.failures] == [
        (f.id, f.message, f.traceback) for f in two.failures
    ]
