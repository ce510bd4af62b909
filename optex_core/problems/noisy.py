"""A problem whose gradient is seen through noise: the stochastic oracle of the tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from optex_core._validation import nonnegative
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.problems.base import Problem


@dataclass(frozen=True, slots=True)
class Noisy(Problem):
    """The wrapped problem with Gaussian noise added to the gradient and, on wish, to the value.

    g(x, seed) = grad f(x) + s e / sqrt(d) with e standard normal, drawn from `seed` alone: the same
    seed gives the same noise at every point (common random numbers), on every machine. So the root
    mean square norm of the noise is s.

    Parameters
    ----------
    problem : Problem
        What is seen through noise.
    level : float
        s in units of the gradient's norm at ``problem.start(0)``; s itself with relative=False.
        Zero or more.
    relative : bool, default True
        Whether the levels are relative to the start.
    value_level : float, default 0
        Standard deviation of the noise of the value, in units of |f| at the start, or absolute with
        relative=False.

    Notes
    -----
    `minimum`, `minimizer` and `lipschitz` are those of the wrapped problem. It is not registered,
    since it has no default problem.

    Examples
    --------
    >>> from optex_core.problems import get_problem
    >>> noisy = Noisy(get_problem("sphere"), 0.1)
    >>> x = noisy.start()
    >>> one, again, other = (noisy(x, seed=seed)[1] for seed in (3, 3, 4))
    >>> bool((one == again).all()), bool((one == other).any())
    (True, False)
    """

    name: ClassVar[str] = "noisy"
    problem: Problem
    level: float
    relative: bool = True
    value_level: float = 0.0
    spread: float = field(init=False, repr=False, compare=False)
    value_spread: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.problem, Problem):
            raise ArgumentTypeError(
                f"problem must be a Problem, got {self.problem!r}; make one with "
                f"optex_core.problems.get_problem(name)"
            )
        if not isinstance(self.relative, bool):
            raise ArgumentTypeError(f"relative must be True or False, got {self.relative!r}")
        level = nonnegative("level", self.level)
        value_level = nonnegative("value_level", self.value_level)
        value, norm = 1.0, 1.0
        if self.relative:
            value, gradient = self.problem(self.problem.start(0))
            norm = float(np.linalg.norm(gradient))
        object.__setattr__(self, "spread", level * norm / math.sqrt(self.problem.d))
        object.__setattr__(self, "value_spread", value_level * abs(value))

    @property
    def d(self) -> int:
        return self.problem.d

    def start(self, rng: int | np.random.Generator = 0) -> np.ndarray:
        return self.problem.start(rng)

    def __call__(self, x: np.ndarray, *, seed: int = 0) -> tuple[float, np.ndarray]:
        """Value and noisy gradient at x; the noise is that of `seed`."""
        value, gradient = self.problem(x)
        shift, noise = self._noise(seed)
        return value + shift, gradient + noise

    def batch(
        self, X: np.ndarray, *, seed: int | Sequence[int] = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """As the rows one by one; `seed` is one for all rows or a sequence of one a row."""
        values, gradients = self.problem.batch(X)
        seeds: Any = [seed] * len(values) if np.ndim(seed) == 0 else seed
        if len(seeds) != len(values):
            raise ArgumentError(
                f"seed must be one integer or one a row, got {len(seeds)} seeds for "
                f"{len(values)} rows"
            )
        for i, one in enumerate(seeds):
            shift, noise = self._noise(one)
            values[i] += shift
            gradients[i] += noise
        return values, gradients

    def _noise(self, seed: int) -> tuple[float, np.ndarray]:
        rng = np.random.default_rng(seed)
        noise = self.spread * rng.standard_normal(self.d)
        return self.value_spread * float(rng.standard_normal()), noise

    @property
    def minimum(self) -> float | None:
        return self.problem.minimum

    @property
    def minimizer(self) -> np.ndarray | None:
        return self.problem.minimizer

    @property
    def lipschitz(self) -> float | None:
        return self.problem.lipschitz
