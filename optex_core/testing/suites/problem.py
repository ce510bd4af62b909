"""Checks of test problems: gradient, batch, minimum, bounds, purity, starts."""

from __future__ import annotations

import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from optex_core._validation import short_repr
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.optimizers.base import OPTIMIZERS
from optex_core.problems.base import PROBLEMS, Problem, get_problem
from optex_core.testing.assertions import assert_same_bits, assert_within, readonly
from optex_core.testing.check_suite import CheckSuite, require, require_equal, require_raises
from optex_core.testing.gradient_check.check import check_gradient


@dataclass(frozen=True)
class ProblemSubject:
    """A problem, and whether its optimizer and rate are meant for these settings."""

    problem: Any
    own_rate: bool

    def points(self, n: int, seed: int = 0) -> np.ndarray:
        """The start, and points about it at a tenth of its size (at least 0.3)."""
        x = self.problem.start()
        noise = np.random.default_rng(seed).standard_normal((n - 1, self.problem.d))
        return np.array([x, *(x + max(0.3, 0.1 * float(np.abs(x).max())) * noise)])


def prepare_problem(
    problem: Any, *, own_rate: bool = True, **settings: Any
) -> tuple[str, ProblemSubject]:
    """Check a test problem, built in or one's own.

    Parameters
    ----------
    problem : str, tuple or Problem
        A registered name, (name, settings), or an object.
    own_rate : bool, default True
        Whether its optimizer and rate are meant for these settings too, and have to reduce its
        value.
    **settings
        Of the named problem.

    Examples
    --------
    >>> from optex_core.testing import check_problem
    >>> check_problem("rosenbrock", d=4).ok
    True
    """
    if isinstance(problem, tuple):
        return prepare_problem(problem[0], own_rate=own_rate, **problem[1])
    if isinstance(problem, str):
        label = "-".join([problem, *(f"{key}={value}" for key, value in settings.items())])
        return label, ProblemSubject(get_problem(problem, **settings), own_rate)
    if not isinstance(problem, Problem):
        raise ArgumentTypeError(
            f"check_problem takes a problem, its name, or (name, settings), got "
            f"{short_repr(problem)}"
        )
    return repr(problem), ProblemSubject(problem, own_rate)


SUITE = CheckSuite("problem", prepare_problem, lambda: list(PROBLEMS))


@SUITE.check()
def returns_float_and_fresh_gradient(s: ProblemSubject) -> None:
    """problem(x) is a float and a new float64 vector; `value` and `gradient` are its halves."""
    p, x = s.problem, s.problem.start()
    value, gradient = p(x)
    require(type(value) is float, f"the value is {short_repr(value)}, not a float")
    _require_vector(gradient, p.d, "the gradient")
    require(not np.shares_memory(gradient, x), "the gradient shares memory with x")
    require_equal(p.value(x), value, "value(x), the first of problem(x)")
    assert_same_bits(p.gradient(x), gradient, "gradient(x) is not the second of problem(x)")
    before = gradient.copy()
    gradient[:] = np.nan
    assert_same_bits(p(x)[1], before, "the caller's copy of the gradient is the problem's own")


def _require_vector(found: object, d: int, what: str) -> None:
    fits = isinstance(found, np.ndarray) and found.shape == (d,) and found.dtype == np.float64
    require(fits, f"{what} is {short_repr(found)}, not {d} float64")


@SUITE.check()
def gradient_matches_differences(s: ProblemSubject) -> None:
    """`check_gradient` finds nothing at the start and at two points about it."""
    for x in s.points(3):
        report = check_gradient(s.problem, x)
        require(report.ok, str(report))


def _near(x: np.ndarray, relative: float = 1e-12, absolute: float = 1e-13) -> np.ndarray:
    """Some hundred roundings: products of one and of several rows add in different orders."""
    size = np.abs(x)
    bound: np.ndarray = relative * size + absolute * size.max()
    return bound


@SUITE.check()
def batch_matches_rows(s: ProblemSubject) -> None:
    """batch(X) gives the values and gradients of the rows, float64, for no rows too."""
    X, d = s.points(5), s.problem.d
    values, gradients = s.problem.batch(X)
    require_equal((values.shape, gradients.shape), ((5,), (5, d)), "shapes of 5 rows")
    require_equal((values.dtype, gradients.dtype), (np.float64, np.float64), "dtypes of 5 rows")
    for x, value, gradient in zip(X, values, gradients, strict=True):
        one, g = s.problem(x)
        assert_within(value, one, 1e-13 * abs(one), "the value of a row")
        assert_within(gradient, g, _near(g), "the gradient of a row")
    shapes = tuple(one.shape for one in s.problem.batch(X[:0]))
    require_equal(shapes, ((0,), (0, d)), "shapes of no rows")


@SUITE.check(when=lambda s: s.problem.minimizer is not None, why="its minimizer is not known")
def minimum_is_attained(s: ProblemSubject) -> None:
    """The minimizer has the minimum and no gradient, and no point about it lies lower."""
    p, best = s.problem, s.problem.minimizer
    value, gradient = p(best)
    scale = 1 + abs(p(p.start())[0])
    # Where the minimizer is no round number it is known to half a unit in the last place.
    assert_within(value, p.minimum, 1e-14 * scale, "the value at the minimizer")
    assert_within(gradient, np.zeros(p.d), 1e-13 * scale, "the gradient at the minimizer")
    rng = np.random.default_rng(3)
    for size in (1e-3, 0.3, 3.0):
        least = float(p.batch(best + size * rng.standard_normal((200, p.d)))[0].min())
        text = f"a point at distance {size:g} has value {least!r}, below the minimum {value!r}"
        require(least >= value, text)


@SUITE.check(when=lambda s: s.problem.minimizer is None, why="its minimizer is known")
def no_minimum_without_a_minimizer(s: ProblemSubject) -> None:
    """A problem that does not know where its minimum is does not state its value."""
    require_equal(s.problem.minimum, None, "the minimum without a minimizer")


@SUITE.check(when=lambda s: s.problem.lipschitz is not None, why="no Lipschitz constant is stated")
def lipschitz_constant_bounds_gradient(s: ProblemSubject) -> None:
    """|g(x) - g(y)| <= L |x - y| for near and far points at every scale."""
    rng, p = np.random.default_rng(4), s.problem
    for far, near in itertools.product((0.1, 3.0, 100.0), (1e-3, 1.0, 30.0)):
        X = far * rng.standard_normal((50, p.d))
        Y = X + near * rng.standard_normal(X.shape)
        change = np.linalg.norm(p.batch(X)[1] - p.batch(Y)[1], axis=1)
        steepest = float((change / np.linalg.norm(X - Y, axis=1)).max())
        text = f"gradients differ by {steepest:.6g} times the distance, L = {p.lipschitz:.6g}"
        # Rounding of gradients of size 100 L over distances of 1e-3.
        require(steepest <= p.lipschitz * (1 + 1e-9) + 1e-9, text)


@SUITE.check()
def pickling_is_bitwise_identical(s: ProblemSubject) -> None:
    """Pickled are the settings alone, in less than 2 kB, and the copy has the same bits."""
    x, message = s.points(2)[1], pickle.dumps(s.problem)
    require(len(message) < 2000, f"pickled it takes {len(message)} bytes: settings would do")
    other = pickle.loads(message)
    require(other == s.problem, "the pickled copy is not equal")
    assert_same_bits(other(x), s.problem(x), "the pickled copy gives other bits")


@SUITE.check()
def does_not_modify_points(s: ProblemSubject) -> None:
    """Points are not changed and need not be contiguous; threads get the same bits."""
    X, mine = readonly(s.points(3)), s.points(3)
    expected = s.problem(X[1])
    s.problem(mine[1])
    s.problem.batch(mine)
    assert_same_bits(mine, np.array(X), "points that can be written are written")
    s.problem.batch(X)
    assert_same_bits(s.problem(X[1]), expected, "the second call at a point gives other bits")
    strided = s.problem(np.repeat(X[1], 2)[::2])[1]
    assert_within(strided, expected[1], _near(expected[1]), "a strided point")
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(s.problem, [X[1]] * 6):
            assert_same_bits(found, expected, "threads get other bits")


@SUITE.check()
def computes_in_float64(s: ProblemSubject) -> None:
    """float32 and integer points, and lists, give the float64 answer at the same numbers."""
    x, ones = s.points(2)[1].astype(np.float32), np.ones(s.problem.d)
    wide = s.problem(x.astype(np.float64))
    assert_same_bits(s.problem(x), wide, "a float32 point is not computed in float64")
    for form in (ones.astype(np.int64), ones.tolist()):
        found, what = s.problem(form)[0], f"value of a {type(form).__name__} of ones"
        require_equal(found, s.problem(ones)[0], what)


@SUITE.check()
def rejects_invalid_points(s: ProblemSubject) -> None:
    """A point of another length, a matrix and complex numbers raise an error of this package."""
    d = s.problem.d
    for wrong in (np.zeros(d + 1), np.zeros((1, d)), np.zeros(d, complex)):
        kind = ArgumentTypeError if wrong.dtype == complex else ArgumentError
        with require_raises(kind, f"it takes {short_repr(wrong)}"):
            s.problem(wrong)


@SUITE.check()
def starts_are_reproducible_and_fresh(s: ProblemSubject) -> None:
    """start(seed) is a new float64 vector, the same for the same seed or generator."""
    p, x = s.problem, s.problem.start()
    _require_vector(x, p.d, "the start")
    assert_same_bits(x, p.start(0), "start() is not start(0)")
    drawn = p.start(np.random.default_rng(7))
    assert_same_bits(p.start(7), drawn, "a seed and its generator give two starts")
    x[:] = np.nan
    require(np.isfinite(p.start()).all(), "the caller's copy of the start is the problem's own")


@SUITE.check()
def equal_settings_are_bitwise_identical(s: ProblemSubject) -> None:
    """Built again from its settings it is equal, hashes alike and is bitwise identical."""
    settings = {f.name: getattr(s.problem, f.name) for f in fields(s.problem) if f.init}
    again, x = type(s.problem)(**settings), s.points(2)[1]
    assert_same_bits(again(x), s.problem(x), "the same settings give other bits")
    require_equal(again, s.problem, "a problem of the same settings")
    require_equal(hash(again), hash(s.problem), "hash of a problem of the same settings")


@SUITE.check(when=lambda s: s.own_rate, why="its rate is meant for other settings")
def default_optimizer_reduces_value(s: ProblemSubject) -> None:
    """A hundred steps at its own rate take off at least 45 % of the value, from three starts."""
    p = s.problem
    kind: Any = OPTIMIZERS[p.optimizer]
    for seed in range(3):
        optimizer, x = kind(p.rate), p.start(seed)
        state, first = optimizer.init(x), p(x)[0]
        for _ in range(100):
            x, state = optimizer.step(x, p(x)[1], state)
        least, last = p.minimum or 0.0, p(x)[0]  # where it is not known the value is positive
        # A descent into the local minimum at hand leaves half of Rastrigin's value.
        text = f"from start {seed} the value went from {first:.6g} to {last:.6g}"
        require(last - least < 0.55 * (first - least), text)
