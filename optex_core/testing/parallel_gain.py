"""How many iterations parallel gradients would save: a short run of the optimizer alone, and of the
engine to the same value.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from optex_core.engine.optex import OptEx
from optex_core.errors import OptexError
from optex_core.optimizers.adam import Adam
from optex_core.optimizers.base import get_optimizer
from optex_core.testing.function_under_test import FunctionUnderTest
from optex_core.types import FirstOrderOptimizer

#: Steps of the optimizer alone, whose best value is the target of the others.
SEQUENTIAL_STEPS = 20
#: Steps with which each rate is tried, and the rates, in units of the parameters' size.
TRIAL_STEPS, TRIAL_RATES = 5, (0.003, 0.03, 0.3)
#: N.
PARALLELISM = (2, 4, 8)


@dataclass(frozen=True, slots=True)
class ParallelGain:
    """What N gradients at once did in a short run."""

    parallelism: int  # N
    iterations: int  # iterations to the target
    reached: bool  # False where as many iterations as the optimizer alone had did not reach it
    gradients: int  # gradients it took
    sequential_steps: int  # steps of the optimizer alone to the same value
    overhead_seconds: float  # time of an iteration outside the function
    call_seconds: float  # time of one call

    @property
    def fewer(self) -> float:
        """Steps of the optimizer alone over iterations."""
        return self.sequential_steps / self.iterations

    @property
    def faster(self) -> float:
        """The same in seconds with N free workers, overhead included and communication left out;
        less than 1: slower.
        """
        return self.fewer * self.call_seconds / (self.call_seconds + self.overhead_seconds)

    def __str__(self) -> str:
        n = self.parallelism
        if not self.reached:
            return f"N = {n}: no gain in {self.iterations} iterations"
        text = (
            f"N = {n}: {self.iterations} iterations where the optimizer alone needs "
            f"{self.sequential_steps} ({self.fewer:.1f} x fewer), {self.gradients} gradients; "
        )
        if self.faster < 1.05:
            own, call = 1e3 * self.overhead_seconds, 1e3 * self.call_seconds
            return (
                f"{text}not in seconds: a call takes {call:.2g} ms, an iteration's overhead "
                f"{own:.2g} ms"
            )
        return f"{text}about {self.faster:.1f} x in seconds with {n} free workers"


def max_evaluations(optimizer: str | FirstOrderOptimizer | None = None) -> int:
    """How many evaluations the measurement takes at most."""
    trials = 0 if optimizer is not None else TRIAL_STEPS * len(TRIAL_RATES)
    return trials + SEQUENTIAL_STEPS + 1 + sum(n * SEQUENTIAL_STEPS for n in PARALLELISM)


def measure_parallel_gain(
    function: FunctionUnderTest, x0: np.ndarray, optimizer: str | FirstOrderOptimizer | None = None
) -> tuple[str | FirstOrderOptimizer | None, list[ParallelGain]]:
    """The optimizer that was taken, and the gain for each N, from a function with values; by
    default Adam at the best of three rates, each tried for five steps.
    """
    call_seconds = float(np.median(function.seconds))
    if optimizer is None:
        size = float(np.sqrt(np.mean(np.square(x0, dtype=np.float64)))) or 1.0
        rates = [rate * size for rate in TRIAL_RATES]
        best = min((min(_values(function, x0, Adam(r), TRIAL_STEPS)), r) for r in rates)
        optimizer = Adam(best[1])
    optimizer = get_optimizer(optimizer)
    values = _values(function, x0, optimizer, SEQUENTIAL_STEPS)
    target = min(values)
    steps = max(1, values.index(target))
    gains = []
    for n in PARALLELISM:
        engine = OptEx(x0, optimizer=optimizer, parallelism=n, maxiter=steps, target=target, rng=0)
        start, before = time.perf_counter(), len(function.seconds)
        asked = _run(engine, function)
        inside = sum(function.seconds[before:])
        overhead = (time.perf_counter() - start - inside) / max(1, asked)
        result = engine.result()
        # The value at theta_t is known one round after theta_t: nit, and not the asks.
        done, reached = max(1, result.nit), "target" in result.stop
        gains.append(ParallelGain(n, done, reached, result.njev, steps, overhead, call_seconds))
    return optimizer, gains


def _values(
    function: FunctionUnderTest, x0: np.ndarray, optimizer: str | FirstOrderOptimizer, steps: int
) -> list[float]:
    """Values along the path of the optimizer alone, the start first; those that are not finite
    count as infinite.
    """
    values: list[float] = []
    engine = OptEx(
        x0,
        optimizer=optimizer,
        strategy="sequential",
        parallelism=1,
        maxiter=steps,
        gtol=0.0,
        rng=0,
    )
    _run(engine, function, values)
    return values or [math.inf]


def _run(engine: OptEx, function: FunctionUnderTest, values: list[float] | None = None) -> int:
    """Run `engine` to its end, and return how often it asked; a point that cannot be evaluated is
    reported to it, unless the values are wanted.
    """
    asked = 0
    while not engine.stop():
        candidates = engine.ask()
        asked += bool(candidates)
        for c in candidates:
            try:
                value, gradient = function(np.asarray(c.x), c.seed)
            except OptexError:
                raise
            except Exception as error:
                if values is not None:
                    raise
                engine.tell(c.id, error=error)
                continue
            if values is not None:
                values.append(value if math.isfinite(value) else math.inf)
            engine.tell(c.id, gradient=gradient, value=value)
    return asked
