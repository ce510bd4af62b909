"""What a test problem is: a function with a gradient, a batched form, a start and, where known, its
minimum.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from optex_core._registry import Registry
from optex_core.errors import ArgumentError, did_you_mean

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
    """

    name: ClassVar[str]
    optimizer: ClassVar[str] = "adam"
    rate: ClassVar[float] = 1e-2

    def __reduce__(self) -> tuple[Any, ...]:
        settings = tuple(getattr(self, f.name) for f in fields(self) if f.init)  # type: ignore[arg-type]
        try:
            hash(settings)
        except TypeError:  # a setting such as an array: rebuilt anew each time
            return type(self), settings
        return _cached_problem, (type(self), settings)

    @property
    @abstractmethod
    def d(self) -> int:
        """The number of parameters."""

    @abstractmethod
    def start(self, rng: int | np.random.Generator = 0) -> np.ndarray:
        """A start, shape (d,), float64: the problem's standard start, or drawn from `rng` where
        there is none.
        """

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
        return None

    @property
    def goal(self) -> float | None:
        """A value at which one would stop, for runs that are to be compared; None where there is no
        natural one.
        """
        return None

    @property
    def minimizer(self) -> np.ndarray | None:
        """A point of least value, shape (d,), None where it is not known."""
        return None

    @property
    def lipschitz(self) -> float | None:
        """A Lipschitz constant of the gradient, None where there is none (globally) or it is not
        known.
        """
        return None


@lru_cache(maxsize=4)
def _cached_problem(kind: type[Problem], settings: tuple[Any, ...]) -> Problem:
    # A worker process gets the problem with every task; kept here, its data are derived once per
    # process (a heat inversion's cost as much as several gradients). Problems are immutable, so
    # sharing one is safe.
    return kind(*settings)


def get_problem(name: str, **settings: Any) -> Problem:
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
