"""Objectives with known answers, and the same ones gone wrong: what check suites and strategies
evaluate.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from optex_core.types import Array

#: What `FaultyObjective` can do.
FAULTS = ("nan", "inf", "exception", "delay", "mutation", "stale")


@dataclass(frozen=True, slots=True)
class SmoothObjective:
    """A smooth convex function of u = Q (x - c) with known gradient, minimum and Lipschitz
    constant; ``fun(x)`` returns (value, gradient).

    "quadratic": sum h u^2 / 2; "logcosh": sum h log cosh u; "huber": sum h (sqrt(1 + u^2) - 1). The
    minimum is 0 at c, the gradient max(h)-Lipschitz.
    """

    SHAPES: ClassVar[tuple[str, ...]] = ("quadratic", "logcosh", "huber")
    shape: str  # one of `SHAPES`
    weights: np.ndarray  # shape (d,): h, positive
    centre: np.ndarray  # shape (d,): c
    mirror: np.ndarray | None = None  # shape (d,): m, not zero, of Q = I - 2 m m' / m'm; None: I

    def __call__(self, x: Array) -> tuple[float, np.ndarray]:
        """Value and gradient."""
        u, h = self._turned(x - self.centre), self.weights
        if self.shape == "quadratic":
            values, slopes = u * u / 2, u
        elif self.shape == "logcosh":
            a = np.abs(u)
            values, slopes = a + np.log1p(np.exp(-2 * a)) - np.log(2.0), np.tanh(u)
        else:
            root = np.sqrt(1 + u * u)
            values, slopes = u * u / (1 + root), u / root  # sqrt(1 + u^2) - 1 without cancellation
        return float(h @ values), self._turned(h * slopes)

    def _turned(self, u: np.ndarray) -> np.ndarray:
        m = self.mirror
        return u if m is None else u - 2 * m * (m @ u) / (m @ m)

    @property
    def d(self) -> int:
        """The number of parameters."""
        return len(self.weights)

    @property
    def minimum(self) -> float:
        """The least value."""
        return 0.0

    @property
    def minimizer(self) -> np.ndarray:
        """Where it is taken."""
        return self.centre.copy()

    @property
    def lipschitz(self) -> float:
        """Of the gradient."""
        return float(self.weights.max())


@dataclass(frozen=True, slots=True)
class NoisyObjective:
    """`inner` with Gaussian noise of standard deviation `level` on every entry of the gradient,
    drawn from the keyword ``seed`` alone.
    """

    inner: SmoothObjective
    level: float

    def __call__(self, x: Array, *, seed: int) -> tuple[float, np.ndarray]:
        """Value and noisy gradient."""
        value, gradient = self.inner(x)
        noise = np.random.default_rng(seed).standard_normal(len(gradient))
        return value, gradient + self.level * noise


@dataclass(slots=True)
class FaultyObjective:
    """`inner`, gone wrong at the calls numbered in `calls` (from 0): how it goes wrong is `kind`,
    one of `FAULTS`.
    """

    inner: SmoothObjective
    kind: str
    calls: tuple[int, ...]
    done: int = field(default=0, repr=False)
    _last: tuple[float, np.ndarray] | None = field(default=None, repr=False)

    def __call__(self, x: Array) -> tuple[float, np.ndarray]:
        """Value and gradient, or what stands in their place."""
        now, self.done = self.done, self.done + 1
        value, gradient = self.inner(x)
        before, self._last = self._last, (value, gradient)
        if now not in self.calls:
            return value, gradient
        if self.kind == "exception":
            raise RuntimeError(f"planted fault at call {now}")
        if self.kind == "delay":
            time.sleep(0.01)
        elif self.kind == "mutation":
            x[:] = 0.0
        elif self.kind == "stale":
            return before or (value, gradient)
        elif self.kind in ("nan", "inf"):
            return float(self.kind), np.full_like(gradient, float(self.kind))
        return value, gradient
