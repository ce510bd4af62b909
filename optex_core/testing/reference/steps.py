"""Reference implementation of the optimizers: every update rule as its paper prints it, coordinate
by coordinate, in 50 decimal digits.

`optimizer_path(optimizer, x0, gradients)` steps with given gradients. Differences from the papers
are those that each optimizer's docstring lists. A rule is a function
``rule(s, rate, x, g, t, memory) -> x``: `s` has the optimizer's numbers as `Decimal`, `rate` is the
learning rate of step t = 1, 2, ..., `memory` a dict that starts empty, x and g are vectors of
`Decimal`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from types import SimpleNamespace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from optex_core.optimizers.schedules import initial_state, rate_at
from optex_core.testing.reference.digits import exact, in_digits, rounded
from optex_core.types import FirstOrderOptimizer

#: The optimizer's settings; a vector of `Decimal`, shape (d,); what a rule keeps between steps.
Settings: TypeAlias = SimpleNamespace
Vector: TypeAlias = np.ndarray
Memory = dict[str, Vector]


def sgd(s: Settings, rate: Decimal, x: Vector, g: Vector, t: int, memory: Memory) -> Vector:
    """v <- momentum v + g;  x <- x - rate v; Nesterov: x <- x - rate (g + momentum v)."""
    v = memory["v"] = s.momentum * memory.get("v", 0 * g) + g
    return x - rate * (g + s.momentum * v if s.nesterov else v)


def adagrad(s: Settings, rate: Decimal, x: Vector, g: Vector, t: int, memory: Memory) -> Vector:
    """s <- s + g^2;  x <- x - rate g / (sqrt(s) + eps)."""
    total = memory["s"] = memory.get("s", 0 * g + s.initial_accumulator) + g * g
    return x - rate * g / (np.sqrt(total) + s.eps)


def adadelta(s: Settings, rate: Decimal, x: Vector, g: Vector, t: int, memory: Memory) -> Vector:
    """s <- rho s + (1 - rho) g^2;  delta = sqrt(u + eps) / sqrt(s + eps) g;  u <- rho u + (1 - rho)
    delta^2;  x <- x - rate delta.
    """
    squares = memory["s"] = s.rho * memory.get("s", 0 * g) + (1 - s.rho) * g * g
    u = memory.get("u", 0 * g)
    delta = np.sqrt(u + s.eps) / np.sqrt(squares + s.eps) * g
    memory["u"] = s.rho * u + (1 - s.rho) * delta * delta
    return x - rate * delta


def rmsprop(s: Settings, rate: Decimal, x: Vector, g: Vector, t: int, memory: Memory) -> Vector:
    """s <- alpha s + (1 - alpha) g^2;  n = g / (sqrt(s) + eps), centered: s - m^2 in place of s;  v
    <- momentum v + n;  x <- x - rate v.
    """
    squares = memory["s"] = s.alpha * memory.get("s", 0 * g) + (1 - s.alpha) * g * g
    mean = memory["m"] = s.alpha * memory.get("m", 0 * g) + (1 - s.alpha) * g
    variance = squares - mean * mean if s.centered else squares
    v = memory["v"] = s.momentum * memory.get("v", 0 * g) + g / (np.sqrt(variance) + s.eps)
    return x - rate * v


def _moments(s: Settings, g: Vector, memory: Memory) -> tuple[Vector, Vector]:
    """m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2."""
    memory["m"] = s.b1 * memory.get("m", 0 * g) + (1 - s.b1) * g
    memory["v"] = s.b2 * memory.get("v", 0 * g) + (1 - s.b2) * g * g
    return memory["m"], memory["v"]


def adam(s: Settings, rate: Decimal, x: Vector, g: Vector, t: int, memory: Memory) -> Vector:
    """x <- x - rate m^ / (sqrt(v^) + eps), m^ = m / (1 - b1^t), v^ = v / (1 - b2^t)."""
    m, v = _moments(s, g, memory)
    return x - rate * (m / (1 - s.b1**t)) / (np.sqrt(v / (1 - s.b2**t)) + s.eps)


def adamw(s: Settings, rate: Decimal, x: Vector, g: Vector, t: int, memory: Memory) -> Vector:
    """x <- (1 - rate decay) x, then as `adam`."""
    return adam(s, rate, (1 - rate * s.decay) * x, g, t, memory)


def amsgrad(s: Settings, rate: Decimal, x: Vector, g: Vector, t: int, memory: Memory) -> Vector:
    """top <- max(top, v);  x <- x - rate m^ / (sqrt(top / (1 - b2^t)) + eps)."""
    m, v = _moments(s, g, memory)
    top = memory["top"] = np.maximum(memory.get("top", 0 * g), v)
    return x - rate * (m / (1 - s.b1**t)) / (np.sqrt(top / (1 - s.b2**t)) + s.eps)


def nadam(s: Settings, rate: Decimal, x: Vector, g: Vector, t: int, memory: Memory) -> Vector:
    """x <- x - rate ((1 - mu_t) / (1 - p_t) g + mu_{t+1} / (1 - p_{t+1}) m) / (sqrt(v^) + eps).

    mu_t = b1 (1 - 0.96^(t decay) / 2), p_t = mu_1 ... mu_t.
    """
    m, v = _moments(s, g, memory)
    base = Decimal("0.96")
    now, then = (s.b1 * (1 - base ** (k * s.momentum_decay) / 2) for k in (t, t + 1))
    p = memory["p"] = memory.get("p", 1) * now
    ahead = (1 - now) / (1 - p) * g + then / (1 - p * then) * m
    return x - rate * ahead / (np.sqrt(v / (1 - s.b2**t)) + s.eps)


def radam(s: Settings, rate: Decimal, x: Vector, g: Vector, t: int, memory: Memory) -> Vector:
    """While n_t <= 5 x <- x - rate m^, else x <- x - rate m^ r sqrt(1 - b2^t) / (sqrt(v) + eps).

    n_t = n - 2 t b2^t / (1 - b2^t), n = 2 / (1 - b2) - 1, r^2 = (n_t - 4)(n_t - 2) n / ((n - 4)(n -
    2) n_t).
    """
    m, v = _moments(s, g, memory)
    mean, rest = m / (1 - s.b1**t), 1 - s.b2**t
    n = 2 / (1 - s.b2) - 1
    nt = n - 2 * t * s.b2**t / rest
    if nt <= 5:
        return x - rate * mean
    r = ((nt - 4) * (nt - 2) * n / ((n - 4) * (n - 2) * nt)).sqrt()
    return x - rate * mean * r * rest.sqrt() / (np.sqrt(v) + s.eps)


def adabelief(s: Settings, rate: Decimal, x: Vector, g: Vector, t: int, memory: Memory) -> Vector:
    """m as `adam`;  s <- b2 s + (1 - b2) (g - m)^2 + eps;  x <- x - rate m^ / (sqrt(s^) + eps)."""
    m = memory["m"] = s.b1 * memory.get("m", 0 * g) + (1 - s.b1) * g
    belief = memory["s"] = s.b2 * memory.get("s", 0 * g) + (1 - s.b2) * (g - m) ** 2 + s.eps
    return x - rate * (m / (1 - s.b1**t)) / (np.sqrt(belief / (1 - s.b2**t)) + s.eps)


def lion(s: Settings, rate: Decimal, x: Vector, g: Vector, t: int, memory: Memory) -> Vector:
    """x <- (1 - rate decay) x - rate sign(b1 m + (1 - b1) g);  m <- b2 m + (1 - b2) g."""
    m = memory.get("m", 0 * g)
    signs = exact([(v > 0) - (v < 0) for v in s.b1 * m + (1 - s.b1) * g])
    memory["m"] = s.b2 * m + (1 - s.b2) * g
    return (1 - rate * s.decay) * x - rate * signs


_ALL = (sgd, adagrad, adadelta, rmsprop, adam, adamw, amsgrad, nadam, radam, adabelief, lion)
#: Registered name -> rule. An optimizer that is not here is checked by what holds for all of them.
RULES: dict[str, Callable[..., Vector]] = {rule.__name__: rule for rule in _ALL}


@in_digits
def optimizer_path(
    optimizer: FirstOrderOptimizer, x0: ArrayLike, gradients: Iterable[ArrayLike]
) -> np.ndarray:
    """The points after each of the given gradients, float64, shape (steps, d).

    Parameters
    ----------
    optimizer : Optimizer
        One whose name is in `RULES`; its settings are read, its code is not run.
    x0 : array, shape (d,)
    gradients : iterable of arrays, shape (d,)

    Examples
    --------
    >>> from optex_core.optimizers.sgd import SGD
    >>> optimizer_path(SGD(0.25, momentum=0.5), [4.0], [[4.0], [3.0]]).ravel().tolist()
    [3.0, 1.75]
    """
    fields = getattr(optimizer, "__dataclass_fields__", {})
    settings = {name: getattr(optimizer, name) for name in ("name", *fields)}
    numbers = {name: Decimal(v) for name, v in settings.items() if type(v) in (int, float)}
    s, schedule = SimpleNamespace(**{**settings, **numbers}), settings["learning_rate"]
    points, memory, rule = [], Memory(), RULES[settings["name"]]
    x = exact(x0)
    for t, g in enumerate(gradients, start=1):
        rate = Decimal(rate_at(schedule, t - 1, initial_state(schedule))[0])
        x = rule(s, rate, x, exact(g), t, memory)
        points.append(rounded(x))
    return np.array(points)
