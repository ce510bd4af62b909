"""Two hundred right gradients of smooth functions, of all kinds and sizes; and ways to get one
wrong.
"""

from __future__ import annotations

import numpy as np
import scipy.optimize

from optex_core.problems import PROBLEMS, get_problem
from optex_core.testing.sample_objectives import SmoothObjective


def _smooth(rng, i):
    d = int(rng.choice([1, 2, 5, 30, 400]))
    h = 10.0 ** -rng.uniform(0, 6, d)
    mirror = rng.normal(size=d) if i % 2 and d > 1 else None
    fun = SmoothObjective(SmoothObjective.SHAPES[i % 3], h, rng.normal(size=d), mirror)
    return fun, rng.normal(size=d) * 10.0 ** rng.uniform(-2, 2)


def _built_in(rng, i):
    names = [name for name in PROBLEMS if name != "heat_inversion"]
    problem = get_problem(names[i % len(names)])
    x = problem.start(i)
    return problem, x + 0.1 * rng.normal(size=len(x))


def _rosen(rng, i):
    d = int(rng.choice([2, 10, 100]))
    return lambda x: (float(scipy.optimize.rosen(x)), scipy.optimize.rosen_der(x)), rng.normal(
        size=d
    ) * 10.0 ** rng.uniform(-1, 1)


def _least_squares(rng, i):
    m, d = int(rng.integers(2, 60)), int(rng.integers(1, 40))
    A, b = rng.normal(size=(m, d)) * 10.0 ** rng.uniform(-3, 3, d), rng.normal(size=m)
    return lambda x: (float((A @ x - b) @ (A @ x - b)), 2 * A.T @ (A @ x - b)), rng.normal(size=d)


def _log_sum_exp(rng, i):
    A = rng.normal(size=(20, 8)) * rng.uniform(0.1, 10)

    def fun(x):
        z = A @ x
        top = z.max()
        e = np.exp(z - top)
        return float(top + np.log(e.sum())), A.T @ (e / e.sum())

    return fun, rng.normal(size=8)


def _waves(rng, i):
    w, p = rng.uniform(0.1, 20.0, 6), rng.uniform(0, 6, 6)
    return lambda x: (float(np.sin(w * x + p).sum() + 100.0), w * np.cos(w * x + p)), rng.normal(
        size=6
    )


def _barrier(rng, i):
    d = int(rng.integers(1, 20))
    return lambda x: (float(-np.log(x).sum() + x @ x), -1 / x + 2 * x), 10.0 ** rng.uniform(
        -6, 2, d
    )


def _units(rng, i):
    unit = 10.0 ** rng.uniform(-6, 6, 10)
    inner = get_problem("rosenbrock", d=10)

    def fun(y):
        value, gradient = inner(y / unit)
        return value, gradient / unit

    return fun, unit * (inner.start(i) + 0.1 * rng.normal(size=10))


def _deep(rng, i):
    A, B, c = rng.normal(size=(12, 9)) / 3, rng.normal(size=(7, 12)) / 3, rng.normal(size=7)

    def fun(x):
        a = np.tanh(A @ x)
        b = np.tanh(B @ a)
        back = B.T @ ((1 - b * b) * c)
        return float(c @ b), A.T @ ((1 - a * a) * back)

    return fun, rng.normal(size=9)


def _rational(rng, i):
    c = rng.normal(size=5)

    def fun(x):
        q = 1 + x @ x
        return float(c @ x / q), c / q - 2 * (c @ x) / q**2 * x

    return fun, rng.normal(size=5) * 10.0 ** rng.uniform(-3, 3)


FAMILIES = (
    _smooth,
    _built_in,
    _rosen,
    _least_squares,
    _log_sum_exp,
    _waves,
    _barrier,
    _units,
    _deep,
    _rational,
)


def smooth_problem(i):
    """Number i of 200 (and more): a function that returns value and gradient, and a point."""
    return FAMILIES[i % len(FAMILIES)](np.random.default_rng(i), i // len(FAMILIES))
