"""A problem whose gradient is seen through noise: the stochastic oracle of tests and benchmarks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from optex_core._validation import boolean, nonnegative
from optex_core.errors import ArgumentTypeError
from optex_core.problems.base import Problem


@dataclass(frozen=True, slots=True)
class Noisy(Problem):
    """The wrapped problem with Gaussian noise added to the gradient.

    g(x, seed) = grad f(x) + s e / sqrt(d) with e standard normal, drawn from `seed` alone: the same
    seed gives the same noise at every point (common random numbers), on every machine. So the root
    mean square norm of the noise is s. It is not registered, since it has no default problem.

    Parameters
    ----------
    problem : Problem
        What is seen through noise.
    level : float
        s in units of the gradient's norm at ``problem.start(0)``; s itself with relative=False.
        Zero or more.
    relative : bool, default True
        Whether the level is relative to the start.

    Examples
    --------
    >>> from optex_core.problems import get_problem
    >>> noisy = Noisy(get_problem("sphere"), 0.1)
    >>> x = noisy.start()
    >>> one, again, other = (noisy(x, seed=seed)[1] for seed in (3, 3, 4))
    >>> bool((one == again).all()), bool((one == other).any())
    (True, False)
    """

    name = "noisy"
    problem: Problem
    level: float
    relative: bool = True
    spread: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.problem, Problem):
            raise ArgumentTypeError(
                f"problem must be a Problem, got {self.problem!r}; make one with "
                f"optex_core.problems.get_problem(name)"
            )
        norm = nonnegative("level", self.level)
        if boolean("relative", self.relative):
            norm *= float(np.linalg.norm(self.problem.gradient(self.problem.start(0))))
        object.__setattr__(self, "spread", norm / math.sqrt(self.problem.d))

    @property
    def d(self) -> int:
        return self.problem.d

    def start(self, rng: int | np.random.Generator = 0) -> np.ndarray:
        return self.problem.start(rng)

    def __call__(self, x: np.ndarray, *, seed: int = 0) -> tuple[float, np.ndarray]:
        """Value and noisy gradient at x; the noise is that of `seed`."""
        value, gradient = self.problem(x)
        noise = self.spread * np.random.default_rng(seed).standard_normal(self.d)
        return value, gradient + noise
