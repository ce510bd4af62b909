"""How much would parallel gradients help here? A short run of the optimizer alone, and of the
engine to the same value.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optex_core.engine.optex import OptEx
from optex_core.errors import OptexError
from optex_core.optimizers.adam import Adam
from optex_core.optimizers.base import get_optimizer
from optex_core.types import Candidate, Evaluation

#: Steps of the optimizer alone, whose best value is the goal of the others.
STEPS = 20
#: Steps with which each rate is tried, and the rates, in units of the parameters' size.
TRIED, RATES = 5, (0.003, 0.03, 0.3)
#: N.
PARALLELISM = (2, 4, 8)


@dataclass(frozen=True, slots=True)
class Gain:
    """What N gradients at once did in the probe.

    Attributes
    ----------
    parallelism : int
        N.
    rounds : int
        Rounds to the goal.
    reached : bool
        False where as many rounds as the optimizer alone had did not reach it.
    gradients : int
        Gradients it took.
    alone : int
        Steps of the optimizer alone to the same value.
    own_seconds : float
        Our own work a round.
    call_seconds : float
        Time of one call.
    """

    parallelism: int
    rounds: int
    reached: bool
    gradients: int
    alone: int
    own_seconds: float
    call_seconds: float

    @property
    def fewer(self) -> float:
        """Steps of the optimizer alone over rounds."""
        return self.alone / self.rounds

    @property
    def faster(self) -> float:
        """The same in seconds with N free workers, our own work included and sending left out; less
        than 1: slower.
        """
        return (
            self.alone * self.call_seconds / (self.rounds * (self.call_seconds + self.own_seconds))
        )

    def __str__(self) -> str:
        if not self.reached:
            return f"N = {self.parallelism}: no gain in {self.rounds} rounds"
        text = (
            f"N = {self.parallelism}: {self.rounds} rounds where the optimizer alone needs "
            f"{self.alone} ({self.fewer:.1f} x fewer), "
        )
        if self.faster < 1.05:
            own, call = 1e3 * self.own_seconds, 1e3 * self.call_seconds
            return (
                f"{text}{self.gradients} gradients; not in seconds: a call takes "
                f"{call:.2g} ms, our own work {own:.2g} a round"
            )
        return (
            f"{text}{self.gradients} gradients; about {self.faster:.1f} x in seconds with "
            f"{self.parallelism} free workers"
        )


def most_calls(optimizer: Any = None) -> int:
    """How many evaluations a probe takes at most."""
    return (
        (0 if optimizer is not None else TRIED * len(RATES))
        + STEPS
        + 1
        + sum(n * STEPS for n in PARALLELISM)
    )


def probe(
    evaluate: Callable[[Candidate], Evaluation],
    x0: np.ndarray,
    call_seconds: float,
    optimizer: Any = None,
    numbers: Sequence[int] = PARALLELISM,
) -> tuple[Any, list[Gain]]:
    """The optimizer that was taken, and the gain for each N.

    Parameters
    ----------
    evaluate : callable
        Candidate -> Evaluation with a value.
    x0 : array, shape (d,)
    call_seconds : float
        Time of one call.
    optimizer : str or object, optional
        None: Adam at the best of three rates, each tried for five steps.
    numbers : sequence of int
    """
    if optimizer is None:
        size = float(np.sqrt(np.mean(np.square(x0, dtype=np.float64)))) or 1.0
        tried = [
            (min(_values(evaluate, x0, Adam(rate * size), TRIED)), rate * size) for rate in RATES
        ]
        optimizer = (
            Adam(min((value, rate) for value, rate in tried if not math.isnan(value))[1])
            if tried
            else Adam()
        )
    optimizer = get_optimizer(optimizer)
    values = _values(evaluate, x0, optimizer, STEPS)
    goal = min(values)
    alone = max(1, values.index(goal))
    return optimizer, [
        _gain(evaluate, x0, optimizer, n, goal, alone, call_seconds) for n in numbers
    ]


def _values(
    evaluate: Callable[[Candidate], Evaluation], x0: np.ndarray, optimizer: Any, steps: int
) -> list[float]:
    """Values along the path of the optimizer alone, the start first; those that are not finite
    count as infinite.
    """
    engine = OptEx(
        x0, optimizer=optimizer, strategy="sequential", parallelism=1, rng=0, maxiter=steps
    )
    values = []
    while not engine.stop():
        for c in engine.ask():
            told = evaluate(c)
            values.append(
                math.inf if told.value is None or not math.isfinite(told.value) else told.value
            )
            engine.tell(c.id, gradient=told.gradient, value=told.value)
    return values or [math.inf]


def _gain(
    evaluate: Callable[[Candidate], Evaluation],
    x0: np.ndarray,
    optimizer: Any,
    n: int,
    goal: float,
    alone: int,
    call_seconds: float,
) -> Gain:
    engine = OptEx(x0, optimizer=optimizer, parallelism=n, rng=0, maxiter=alone, target=goal)
    rounds, inside, start = 0, 0.0, time.perf_counter()
    while not engine.stop():
        candidates = engine.ask()
        rounds += bool(candidates)
        for c in candidates:
            begun = time.perf_counter()
            try:
                told, error = evaluate(c), None
            except OptexError:
                raise
            except Exception as raised:  # a point that cannot be evaluated is told as such
                told, error = None, raised
            inside += time.perf_counter() - begun
            if told is None:
                engine.tell(c.id, error=error)
            else:
                engine.tell(c.id, gradient=told.gradient, value=told.value)
    result = engine.result()
    own = (time.perf_counter() - start - inside) / max(1, rounds)
    reached = "target" in result.stop
    # The value at theta_t is known one round after theta_t: nit, and not the asks.
    return Gain(n, max(1, result.nit), reached, result.njev, alone, own, call_seconds)
