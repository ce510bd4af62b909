"""The slow twin of the optimizers: every update rule as its paper prints it, coordinate by
coordinate, in 50 decimal digits.

`path(optimizer, x0, gradients)` walks with given gradients. Differences from the papers are those
that each optimizer's docstring lists. A rule is a function ``rule(settings, rates)`` that returns
``step(x, g, t, memory) -> x``, with t = 1, 2, ..., `memory` a dict that starts empty, `settings`
the optimizer's numbers as `Decimal`, and x, g vectors of `Decimal`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext
from types import SimpleNamespace
from typing import Any

import numpy as np

from optex_core.optimizers.schedules import initial_state, rate_at
from optex_core.testing.reference.optex import DIGITS, exact, rounded

Step = Callable[[Any, Any, int, dict[str, Any]], Any]


def sgd(s: Any, rate: Any) -> Step:
    """v <- momentum v + g;  x <- x - rate v; Nesterov: x <- x - rate (g + momentum v)."""

    def step(x: Any, g: Any, t: int, memory: dict[str, Any]) -> Any:
        v = memory["v"] = s.momentum * memory.get("v", 0 * g) + g
        return x - rate(t) * (g + s.momentum * v if s.nesterov else v)

    return step


def adagrad(s: Any, rate: Any) -> Step:
    """s <- s + g^2;  x <- x - rate g / (sqrt(s) + eps)."""

    def step(x: Any, g: Any, t: int, memory: dict[str, Any]) -> Any:
        total = memory["s"] = memory.get("s", 0 * g + s.initial_accumulator) + g * g
        return x - rate(t) * g / (np.sqrt(total) + s.eps)

    return step


def adadelta(s: Any, rate: Any) -> Step:
    """s <- rho s + (1 - rho) g^2;  delta = sqrt(u + eps) / sqrt(s + eps) g;  u <- rho u + (1 - rho)
    delta^2;  x <- x - rate delta.
    """

    def step(x: Any, g: Any, t: int, memory: dict[str, Any]) -> Any:
        squares = memory["s"] = s.rho * memory.get("s", 0 * g) + (1 - s.rho) * g * g
        u = memory.get("u", 0 * g)
        delta = np.sqrt(u + s.eps) / np.sqrt(squares + s.eps) * g
        memory["u"] = s.rho * u + (1 - s.rho) * delta * delta
        return x - rate(t) * delta

    return step


def rmsprop(s: Any, rate: Any) -> Step:
    """s <- alpha s + (1 - alpha) g^2;  n = g / (sqrt(s) + eps), centered: s - m^2 in place of s;  v
    <- momentum v + n;  x <- x - rate v.
    """

    def step(x: Any, g: Any, t: int, memory: dict[str, Any]) -> Any:
        squares = memory["s"] = s.alpha * memory.get("s", 0 * g) + (1 - s.alpha) * g * g
        mean = memory["m"] = s.alpha * memory.get("m", 0 * g) + (1 - s.alpha) * g
        spread = squares - mean * mean if s.centered else squares
        v = memory["v"] = s.momentum * memory.get("v", 0 * g) + g / (np.sqrt(spread) + s.eps)
        return x - rate(t) * v

    return step


def _moments(s: Any, g: Any, memory: dict[str, Any]) -> tuple[Any, Any]:
    """m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2."""
    memory["m"] = s.b1 * memory.get("m", 0 * g) + (1 - s.b1) * g
    memory["v"] = s.b2 * memory.get("v", 0 * g) + (1 - s.b2) * g * g
    return memory["m"], memory["v"]


def adam(s: Any, rate: Any) -> Step:
    """x <- x - rate m^ / (sqrt(v^) + eps), m^ = m / (1 - b1^t), v^ = v / (1 - b2^t)."""

    def step(x: Any, g: Any, t: int, memory: dict[str, Any]) -> Any:
        m, v = _moments(s, g, memory)
        return x - rate(t) * (m / (1 - s.b1**t)) / (np.sqrt(v / (1 - s.b2**t)) + s.eps)

    return step


def adamw(s: Any, rate: Any) -> Step:
    """x <- (1 - rate decay) x, then as `adam`."""
    plain = adam(s, rate)

    def step(x: Any, g: Any, t: int, memory: dict[str, Any]) -> Any:
        return plain((1 - rate(t) * s.decay) * x, g, t, memory)

    return step


def amsgrad(s: Any, rate: Any) -> Step:
    """top <- max(top, v);  x <- x - rate m^ / (sqrt(top / (1 - b2^t)) + eps)."""

    def step(x: Any, g: Any, t: int, memory: dict[str, Any]) -> Any:
        m, v = _moments(s, g, memory)
        top = memory["top"] = np.maximum(memory.get("top", 0 * g), v)
        return x - rate(t) * (m / (1 - s.b1**t)) / (np.sqrt(top / (1 - s.b2**t)) + s.eps)

    return step


def nadam(s: Any, rate: Any) -> Step:
    """x <- x - rate ((1 - mu_t) / (1 - p_t) g + mu_{t+1} / (1 - p_{t+1}) m) / (sqrt(v^) + eps).

    mu_t = b1 (1 - 0.96^(t decay) / 2), p_t = mu_1 ... mu_t.
    """

    def mu(t: int) -> Any:
        return s.b1 * (1 - Decimal("0.96") ** (t * s.momentum_decay) / 2)

    def step(x: Any, g: Any, t: int, memory: dict[str, Any]) -> Any:
        m, v = _moments(s, g, memory)
        p = memory["p"] = memory.get("p", 1) * mu(t)
        ahead = (1 - mu(t)) / (1 - p) * g + mu(t + 1) / (1 - p * mu(t + 1)) * m
        return x - rate(t) * ahead / (np.sqrt(v / (1 - s.b2**t)) + s.eps)

    return step


def radam(s: Any, rate: Any) -> Step:
    """While n_t <= 5 x <- x - rate m^, else x <- x - rate m^ r sqrt(1 - b2^t) / (sqrt(v) + eps).

    n_t = n - 2 t b2^t / (1 - b2^t), n = 2 / (1 - b2) - 1, r^2 = (n_t - 4)(n_t - 2) n / ((n - 4)(n -
    2) n_t).
    """

    def step(x: Any, g: Any, t: int, memory: dict[str, Any]) -> Any:
        m, v = _moments(s, g, memory)
        mean, left = m / (1 - s.b1**t), 1 - s.b2**t
        n = 2 / (1 - s.b2) - 1
        nt = n - 2 * t * s.b2**t / left
        if nt <= 5:
            return x - rate(t) * mean
        r = ((nt - 4) * (nt - 2) * n / ((n - 4) * (n - 2) * nt)).sqrt()
        return x - rate(t) * mean * r * left.sqrt() / (np.sqrt(v) + s.eps)

    return step


def adabelief(s: Any, rate: Any) -> Step:
    """m as `adam`;  s <- b2 s + (1 - b2) (g - m)^2 + eps;  x <- x - rate m^ / (sqrt(s^) + eps)."""

    def step(x: Any, g: Any, t: int, memory: dict[str, Any]) -> Any:
        m = memory["m"] = s.b1 * memory.get("m", 0 * g) + (1 - s.b1) * g
        belief = memory["s"] = s.b2 * memory.get("s", 0 * g) + (1 - s.b2) * (g - m) ** 2 + s.eps
        return x - rate(t) * (m / (1 - s.b1**t)) / (np.sqrt(belief / (1 - s.b2**t)) + s.eps)

    return step


def lion(s: Any, rate: Any) -> Step:
    """x <- (1 - rate decay) x - rate sign(b1 m + (1 - b1) g);  m <- b2 m + (1 - b2) g."""

    def step(x: Any, g: Any, t: int, memory: dict[str, Any]) -> Any:
        m = memory.get("m", 0 * g)
        ahead = s.b1 * m + (1 - s.b1) * g
        signs = exact([(v > 0) - (v < 0) for v in ahead])
        memory["m"] = s.b2 * m + (1 - s.b2) * g
        return (1 - rate(t) * s.decay) * x - rate(t) * signs

    return step


#: Registered name -> rule. An optimizer that is not here is checked by what holds for all of them.
RULES: dict[str, Callable[[Any, Any], Step]] = {
    rule.__name__: rule
    for rule in (
        sgd,
        adagrad,
        adadelta,
        rmsprop,
        adam,
        adamw,
        amsgrad,
        nadam,
        radam,
        adabelief,
        lion,
    )
}


def path(optimizer: Any, x0: Any, gradients: Sequence[Any]) -> np.ndarray:
    """The points after each of the given gradients, float64, shape (steps, d).

    Parameters
    ----------
    optimizer : Optimizer
        One whose name is in `RULES`; its settings are read, its code is not run.
    x0 : array, shape (d,)
    gradients : sequence of arrays, shape (d,)

    Examples
    --------
    >>> from optex_core.optimizers.sgd import SGD
    >>> path(SGD(0.25, momentum=0.5), [4.0], [[4.0], [3.0]]).ravel().tolist()
    [3.0, 1.75]
    """
    given = {f.name: getattr(optimizer, f.name) for f in dataclasses.fields(optimizer)}
    numbers = {
        name: Decimal(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        else value
        for name, value in given.items()
    }
    schedule = given["learning_rate"]

    def rate(t: int) -> Decimal:
        return Decimal(rate_at(schedule, t - 1, initial_state(schedule))[0])

    points, memory = [], {}  # type: ignore[var-annotated]
    with localcontext(prec=DIGITS):
        step = RULES[optimizer.name](SimpleNamespace(**numbers), rate)
        x = exact(x0)
        for t, g in enumerate(gradients, start=1):
            x = step(x, exact(g), t, memory)
            points.append(rounded(x))
    return np.array(points)
