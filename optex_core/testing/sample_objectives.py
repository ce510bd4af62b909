"""Objectives with known answers, and the same ones gone wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from optex_core.types import Array, Context

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
    """`inner` with noise of deviation `level` on every gradient entry, drawn from ``seed``."""

    inner: SmoothObjective
    level: float

    def __call__(self, x: Array, *, seed: int) -> tuple[float, np.ndarray]:
        """Value and noisy gradient."""
        value, gradient = self.inner(x)
        noise = np.random.default_rng(seed).standard_normal(len(gradient))
        return value, gradient + self.level * noise


@dataclass(slots=True)
class FaultyObjective:
    """`inner`, gone wrong at the calls numbered in `calls` from 0, in the way of `kind`."""

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


# -- of evaluators; worker processes import this module alone --------------------------------------


def echo_context(
    x: np.ndarray, *, seed: int, ctx: Context | Sequence[Context]
) -> tuple[float, np.ndarray]:
    """A function that returns what it was given: x[0] says what happens (-1: raise, > 0: sleep),
    the gradient holds seed, id, attempt and deadline.
    """
    action = float(x[0])
    if action == -1.0:
        raise ValueError(f"no mesh at {float(x[1])}")
    if action > 0.0:
        time.sleep(action)
    c = ctx[0] if isinstance(ctx, Sequence) else ctx
    value = float(x[1]) ** 2
    x[:] = 0.0  # user code gets a copy that it may write into
    return value, expected_answer(c.id, seed, c.attempt, c.deadline)


def expected_answer(number: int, seed: int, attempt: int, deadline: float | None) -> np.ndarray:
    """The gradient that `echo_context` returns."""
    return np.array([seed, number, attempt, -1.0 if deadline is None else deadline], float)


def echo_context_rows(
    X: np.ndarray, *, seed: Sequence[int], ctx: Sequence[Context]
) -> tuple[np.ndarray, np.ndarray]:
    """The same for a vectorized objective: one failing row fails its batch."""
    pairs = [echo_context(x, seed=one, ctx=c) for x, one, c in zip(X, seed, ctx, strict=True)]
    return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])


def echo_after(
    x: np.ndarray, mark: str, seconds: float, *, seed: int, ctx: Context
) -> tuple[float, np.ndarray]:
    """`echo_context` as soon as there is a file `mark`, or after so many seconds."""
    end = time.monotonic() + seconds
    while not os.path.exists(mark) and time.monotonic() < end:
        time.sleep(0.002)
    return echo_context(x, seed=seed, ctx=ctx)


def die_once(x: np.ndarray, folder: str) -> tuple[float, np.ndarray]:
    """Kills its process the first time that it is asked at this point."""
    mark = Path(folder) / f"{float(x[1])}"
    if x[0] == 1.0 and not mark.exists():
        mark.write_text("", encoding="utf-8")
        os.kill(os.getpid(), 9)
    return float(x[1]) ** 2, x.copy()


def no_pair(x: np.ndarray) -> float:
    """A value without a gradient."""
    return float(x[0])


def short_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
    """A gradient of another length."""
    return 1.0, x[:2]
