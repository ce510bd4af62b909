"""Test problems: a function with a gradient, a batched form, a start and, where known, its minimum.

Adding a problem is one new file in this folder. It is then reachable by name and as
``optex_core.problems.Zakharov``, listed by the command line, and checked by
``optex_core.testing.check_problem``::

    \"\"\"Zakharov's function.\"\"\"

    from dataclasses import dataclass

    import numpy as np

    from optex_core.problems.base import PROBLEMS, ClosedForm


    @PROBLEMS.register
    @dataclass(frozen=True, slots=True)
    class Zakharov(ClosedForm):
        \"\"\"A bowl with one steep direction: f(x) = |x|^2 + s^2 + s^4, s = sum_i i x_i / 2.\"\"\"

        name = "zakharov"
        rate = 0.05
        start_range = (-5.0, 10.0)

        def rows(self, X):
            weights = 0.5 * np.arange(1, self.d + 1)
            s = X @ weights
            slopes = np.outer(2 * s + 4 * s**3, weights)
            return (X**2).sum(1) + s**2 + s**4, 2 * X + slopes
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from optex_core._registry import Registry
from optex_core._validation import integer
from optex_core.errors import ArgumentError, ArgumentTypeError, did_you_mean

PROBLEMS: Registry[type[Problem]] = Registry("problem", "optex_core.problems")


class Problem(ABC):
    """A function f: R^d -> R with its gradient; frozen settings, picklable, pure, usable as ``fun``
    of `minimize`.

    A subclass is a frozen dataclass (arrays derived in ``__post_init__`` are fields with
    ``init=False, repr=False, compare=False``), registered with ``@PROBLEMS.register``.
    ``problem(x)`` returns (value, gradient); ``problem.batch(X)`` takes (n, d) and returns (n,),
    (n, d). Points of any real dtype are taken; the arithmetic and the answers are float64. Pickled
    are the settings alone.

    Attributes
    ----------
    name : str
        The registered name.
    rate : float
        A good learning rate for `optimizer`, so that the command line needs none.
    optimizer : str
        The optimizer the command line takes by default.
    start_range : (float, float) or None
        The start is uniform on this cube; None: normal.
    start_scale : float
        Standard deviation of a normal start; 0: the start is 0.
    minimizer_entry : float or None
        Every entry of the minimizer, where the minimum is 0 and they are alike.
    """

    name: ClassVar[str]
    optimizer: ClassVar[str] = "adam"
    rate: ClassVar[float] = 1e-2
    start_range: ClassVar[tuple[float, float] | None] = None
    start_scale: ClassVar[float] = 1.0
    minimizer_entry: ClassVar[float | None] = None

    def __reduce__(self) -> tuple[Callable[..., Problem], tuple[object, ...]]:
        settings = tuple(getattr(self, f.name) for f in fields(self) if f.init)  # type: ignore[arg-type]
        try:
            hash(settings)
        except TypeError:  # a setting such as an array: made anew each time
            return type(self), settings
        return _cached_problem, (type(self), settings)

    @property
    @abstractmethod
    def d(self) -> int:
        """The number of parameters."""

    def start(self, rng: int | np.random.Generator = 0) -> np.ndarray:
        """A start, shape (d,), float64: the problem's standard start, or drawn from `rng` where
        there is none.
        """
        generator = np.random.default_rng(rng)
        if self.start_range is not None:
            return generator.uniform(*self.start_range, self.d)
        if self.start_scale == 0.0:
            return np.zeros(self.d)
        return generator.standard_normal(self.d) * self.start_scale

    @abstractmethod
    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient at x, shape (d,)."""

    def batch(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values (n,) and gradients (n, d) at the rows of X; problems that gain from it evaluate
        all rows at once.
        """
        values, gradients = np.empty(len(X)), np.empty((len(X), self.d))
        for i, x in enumerate(X):
            values[i], gradients[i] = self(x)
        return values, gradients

    def value(self, x: np.ndarray) -> float:
        """The value alone."""
        return self(x)[0]

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """The gradient alone, shape (d,)."""
        return self(x)[1]

    @property
    def minimum(self) -> float | None:
        """The least value, None where it is not known."""
        return None if self.minimizer_entry is None else 0.0

    @property
    def goal(self) -> float | None:
        """A value at which one would stop, for runs that are to be compared; None where there is no
        natural one.
        """
        return None

    @property
    def minimizer(self) -> np.ndarray | None:
        """A point of least value, shape (d,), None where it is not known."""
        return None if self.minimizer_entry is None else np.full(self.d, self.minimizer_entry)

    @property
    def lipschitz(self) -> float | None:
        """A Lipschitz constant of the gradient, None where there is none (globally) or it is not
        known.
        """
        return None


class RowsProblem(Problem):
    """A problem given by one formula over rows; a single point is a matrix of one row.

    Overflow far from the minimum is no warning: a diverging run is recognised by its infinite
    value.
    """

    @abstractmethod
    def rows(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values (n,) and gradients (n, d), float64, at the rows of X, (n, d), float64; X is not
        changed and not kept.
        """

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        X = as_points(self.name, x, (self.d,))[None]
        with np.errstate(over="ignore", invalid="ignore"):
            values, gradients = self.rows(X)
        return float(values[0]), gradients[0]

    def batch(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        X = as_points(self.name, X, (-1, self.d))
        with np.errstate(over="ignore", invalid="ignore"):
            return self.rows(X)


@dataclass(frozen=True, slots=True)
class ClosedForm(RowsProblem):
    """A formula for any number of parameters; its minimum is 0 at 0 unless it says otherwise.

    Parameters
    ----------
    d : int, default 10
        Number of parameters.
    """

    min_d: ClassVar[int] = 1
    minimizer_entry: ClassVar[float | None] = 0.0
    d: int = 10

    def __post_init__(self) -> None:
        integer("d", self.d, low=self.min_d)


def as_points(name: str, X: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """Return `X` as float64 of the given shape (-1: any length), or raise with a sentence; `X`
    itself where it is float64 already.
    """
    array = np.asarray(X)
    if array.dtype.kind not in "fiu":
        raise ArgumentTypeError(f"problem {name!r} takes real numbers, got dtype {array.dtype}")
    pairs = zip(shape, array.shape, strict=False)
    if len(shape) != array.ndim or any(want not in (-1, n) for want, n in pairs):
        wanted = str(shape).replace("-1", "n")
        raise ArgumentError(f"problem {name!r} takes an array of shape {wanted}, got {array.shape}")
    return array.astype(np.float64, copy=False)


def set_derived(problem: Problem, **arrays: np.ndarray | None) -> None:
    """Set derived arrays of a frozen problem, read-only: threads share them and users see them."""
    for name, array in arrays.items():
        if array is not None:
            array.flags.writeable = False
        object.__setattr__(problem, name, array)


@lru_cache(maxsize=4)
def _cached_problem(kind: type[Problem], settings: tuple[object, ...]) -> Problem:
    # A worker process gets the problem with every task; kept here, its data are derived once per
    # process (a heat inversion's cost as much as several gradients). Problems are immutable, so
    # sharing one is safe.
    return kind(*settings)


def get_problem(name: str, **settings: object) -> Problem:
    """The problem called `name` with the given settings (see its class for them).

    Raises
    ------
    ArgumentError
        The name or a setting is not known, or a setting has a value that cannot work.
    """
    kind = PROBLEMS[name]
    known = [f.name for f in fields(kind) if f.init]  # type: ignore[arg-type]
    for key in settings:
        if key not in known:
            hint = did_you_mean(key, known) if known else "; it has none"
            raise ArgumentError(f"problem {name!r} has no setting {key!r}{hint}")
    return kind(**settings)
