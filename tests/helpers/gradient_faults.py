"""Wrong gradients of a right function: name -> (function, point), each with one fault that people
make.
"""

from __future__ import annotations

import numpy as np

D = 10_000
H = np.random.default_rng(5).uniform(0.1, 1.0, D)
LARGE = np.random.default_rng(6).normal(size=D)
A = np.random.default_rng(7).normal(size=(15, 12))
B = np.random.default_rng(8).normal(size=15)
SMALL = np.random.default_rng(9).normal(size=12)
M = SMALL.reshape(3, 4)
TARGET = np.random.default_rng(10).normal(size=(3, 4))
LEFT = np.random.default_rng(11).normal(size=(3, 3))


def bowl(x):
    """sum h (sqrt(1 + x^2) - 1) over 10^4 coordinates."""
    root = np.sqrt(1 + x * x)
    return float(H @ (x * x / (1 + root))), H * x / root


def squares(x):
    """|A x - b|^2 / 2 + 0.005 |x|^2 + sum cos x."""
    r = A @ x - B
    return float(r @ r) / 2 + 0.005 * float(x @ x) + float(
        np.cos(x).sum()
    ), A.T @ r + 0.01 * x - np.sin(x)


def matrix(x):
    """|L X - T|^2 / 2 of a matrix X, flattened."""
    R = LEFT @ x.reshape(3, 4) - TARGET
    return float((R * R).sum()) / 2, (LEFT.T @ R).ravel()


def one_entry(factor, k=4321):
    def fun(x):
        value, g = bowl(x)
        g[k] *= factor
        return value, g

    return fun


def changed(change, fun=squares):
    return lambda x: (fun(x)[0], change(fun(x)[1], x))


class StaleGradient:
    """The gradient of the point before, kept where the value is computed."""

    def __init__(self, fun=squares):
        self.fun, self.kept = fun, None

    def __call__(self, x):
        value, g = self.fun(x)
        kept, self.kept = self.kept, g
        return value, g if kept is None else kept


class CachedByCoarseKey:
    """A cache whose key is x rounded to three digits."""

    def __init__(self, fun=squares):
        self.fun, self.known = fun, {}

    def __call__(self, x):
        return self.fun(x)[0], self.known.setdefault(np.round(x, 3).tobytes(), self.fun(x)[1])


class NeverRefreshed:
    """The gradient of the first point, for ever."""

    def __init__(self, fun=squares):
        self.fun, self.kept = fun, None

    def __call__(self, x):
        value, g = self.fun(x)
        self.kept = g if self.kept is None else self.kept
        return value, self.kept.copy()


class CachedByFirstEntry:
    """A cache that compares the first entry of x alone."""

    def __init__(self, fun=squares):
        self.fun, self.key, self.kept = fun, None, None

    def __call__(self, x):
        value, g = self.fun(x)
        if self.key != x[0]:
            self.key, self.kept = float(x[0]), g
        return value, self.kept.copy()


def single_inside(x):
    """The matrix product in float32, the rest in float64."""
    r = (A.astype(np.float32) @ x.astype(np.float32)).astype(np.float64) - B
    return squares(x)[0], A.T @ r + 0.01 * x - np.sin(x)


def single_matrix(x):
    """A matrix kept in float32 for the gradient alone."""
    r = A @ x - B
    return squares(x)[0], A.astype(np.float32).T.astype(np.float64) @ r + 0.01 * x - np.sin(x)


def single_gradient(x):
    return squares(x)[0], squares(x)[1].astype(np.float32).astype(np.float64)


def single_value(x):
    value, g = squares(x)
    return float(np.float32(value)), g


def single_point(x):
    return squares(x.astype(np.float32).astype(np.float64))


FAULTS = {
    "one entry of 10^4 has the wrong sign": (one_entry(-1.0), LARGE),
    "one entry of 10^4 is zero": (one_entry(0.0), LARGE),
    "one entry of 10^4 is doubled": (one_entry(2.0), LARGE),
    "one entry of 10^4 is off by 1 %": (one_entry(1.01), LARGE),
    "one entry of 10^4 is nearly nothing, and wrong": (
        one_entry(-1.0, int(np.argmin(np.abs(LARGE)))),
        LARGE + 0.02,
    ),
    "two entries of 10^4 are exchanged": (
        changed(lambda g, x: np.concatenate([g[:77], g[78:79], g[77:78], g[79:]]), bowl),
        LARGE,
    ),
    "the sign": (changed(lambda g, x: -g), SMALL),
    "a factor 2": (changed(lambda g, x: 2 * g), SMALL),
    "a factor 1 + 1e-4": (changed(lambda g, x: (1 + 1e-4) * g), SMALL),
    "a missing term of 0.01 x": (changed(lambda g, x: g - 0.01 * x), SMALL),
    "a missing term sin x": (changed(lambda g, x: g + np.sin(x)), SMALL),
    "a constant added": (changed(lambda g, x: g + 1e-3), SMALL),
    "transposed indices": (changed(lambda g, x: g.reshape(3, 4).T.ravel(), matrix), SMALL),
    "a transposed matrix": (
        changed(lambda g, x: (LEFT @ (LEFT @ x.reshape(3, 4) - TARGET)).ravel(), matrix),
        SMALL,
    ),
    "reversed": (changed(lambda g, x: g[::-1].copy()), SMALL),
    "shifted by one": (changed(lambda g, x: np.roll(g, 1)), SMALL),
    "all zero": (changed(lambda g, x: 0 * g), SMALL),
    "nan turned into zero": (changed(lambda g, x: np.where(x > 0.5, 0.0, g)), SMALL),
    "float32: the gradient": (single_gradient, SMALL),
    "float32: the value": (single_value, SMALL),
    "float32: the point": (single_point, SMALL),
    "float32: a product inside": (single_inside, SMALL),
    "float32: a matrix inside": (single_matrix, SMALL),
    "stale: the gradient of the call before": (StaleGradient(), SMALL),
    "stale: never refreshed": (NeverRefreshed(), SMALL),
    "stale: cached by a coarse key": (CachedByCoarseKey(), SMALL),
    "stale: cached by the first entry": (CachedByFirstEntry(), SMALL),
    "the gradient of a point beside": (changed(lambda g, x: squares(x + 1e-3)[1]), SMALL),
    "the gradient of a clipped point": (changed(lambda g, x: squares(np.clip(x, -1, 1))[1]), SMALL),
}
