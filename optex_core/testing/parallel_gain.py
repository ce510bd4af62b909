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
SEQUENTIAL_STEPS = 20
#: Steps with which each rate is tried, and the rates, in units of the parameters' size.
RATE_TRIAL_STEPS, TRIAL_RATES = 5, (0.003, 0.03, 0.3)
#: N.
PARALLELISM = (2, 4, 8)


@dataclass(frozen=True, slots=True)
class ParallelGain:
    """What N gradients at once did in the short run.

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
    sequential_steps : int
        Steps of the optimizer alone to the same value.
    overhead_seconds : float
        Our own work a round.
    call_seconds : float
        Time of one call.
    """

    parallelism: int
    rounds: int
    reached: bool
    gradients: int
    sequential_steps: int
    overhead_seconds: float
    call_seconds: float

    @property
    def fewer(self) -> float:
        """Steps of the optimizer alone over rounds."""
        return self.sequential_steps / self.rounds

    @property
    def faster(self) -> float:
        """The same in seconds with N free workers, our own work included and sending left out; less
        than 1: slower.
        """
        return (
            self.sequential_steps
            * self.call_seconds
            / (self.rounds * (self.call_seconds + self.overhead_seconds))
        )

    def __str__(self) -> str:
        if not self.reached:
            return f"N = {self.parallelism}: no gain in {self.rounds} rounds"
        text = (
            f"N = {self.parallelism}: {self.rounds} rounds where the optimizer alone needs "
            f"{self.sequential_steps} ({self.fewer:.1f} x fewer), "
        )
        if self.faster < 1.05:
            own, call = 1e3 * self.overhead_seconds, 1e3 * self.call_seconds
            return (
                f"{text}{self.gradients} gradients; not in seconds: a call takes "
                f"{call:.2g} ms, our own work {own:.2g} a round"
            )
        return (
            f"{text}{self.gradients} gradients; about {self.faster:.1f} x in seconds with "
            f"{self.parallelism} free workers"
        )


def max_evaluations(optimizer: Any = None) -> int:
    """How many evaluations the measurement takes at most."""
    return (
        (0 if optimizer is not None else RATE_TRIAL_STEPS * len(TRIAL_RATES))
        + SEQUENTIAL_STEPS
        + 1
        + sum(n * SEQUENTIAL_STEPS for n in PARALLELISM)
    )


def measure_parallel_gain(
    evaluate: Callable[[Candidate], Evaluation],
    x0: np.ndarray,
    call_seconds: float,
    optimizer: Any = None,
    numbers: Sequence[int] = PARALLELISM,
) -> tuple[Any, list[ParallelGain]]:
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
            (min(_values(evaluate, x0, Adam(rate * size), RATE_TRIAL_STEPS)), rate * size)
            for rate in TRIAL_RATES
        ]
        optimizer = (
            Adam(min((value, rate) for value, rate in tried if not math.isnan(value))[1])
            if tried
            else Adam()
        )
    optimizer = get_optimizer(optimizer)
    values = _values(evaluate, x0, optimizer, SEQUENTIAL_STEPS)
    goal = min(values)
    sequential_steps = max(1, values.index(goal))
    return optimizer, [
        _gain(evaluate, x0, optimizer, n, goal, sequential_steps, call_seconds) for n in numbers
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
            observed = evaluate(c)
            values.append(
                math.inf
                if observed.value is None or not math.isfinite(observed.value)
                else observed.value
            )
            engine.tell(c.id, gradient=observed.gradient, value=observed.value)
    return values or [math.inf]


def _gain(
    evaluate: Callable[[Candidate], Evaluation],
    x0: np.ndarray,
    optimizer: Any,
    n: int,
    goal: float,
    sequential_steps: int,
    call_seconds: float,
) -> ParallelGain:
    engine = OptEx(
        x0, optimizer=optimizer, parallelism=n, rng=0, maxiter=sequential_steps, target=goal
    )
    rounds, inside, start = 0, 0.0, time.perf_counter()
    while not engine.stop():
        candidates = engine.ask()
        rounds += bool(candidates)
        for c in candidates:
            begun = time.perf_counter()
            try:
                observed, error = evaluate(c), None
            except OptexError:
                raise
            except Exception as raised:  # a point that cannot be evaluated is reported as such
                observed, error = None, raised
            inside += time.perf_counter() - begun
            if observed is None:
                engine.tell(c.id, error=error)
            else:
                engine.tell(c.id, gradient=observed.gradient, value=observed.value)
    result = engine.result()
    own = (time.perf_counter() - start - inside) / max(1, rounds)
    reached = "target" in result.stop
    # The value at theta_t is known one round after theta_t: nit, and not the asks.
    return ParallelGain(
        n, max(1, result.nit), reached, result.njev, sequential_steps, own, call_seconds
    )
