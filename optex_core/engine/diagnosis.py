"""Diagnosis of the learning rate of a finished run, from its values and windows.

Notes
-----
On 30 smooth problems, at 0.01 to 100 times a rate that suits, too high is said of 5 at 3 times it
and of half at 30 times, of one at most up to it; too low (N = 4) of 22 at 0.01 times it, of none
from 0.3 times on. With noisy values and a rate so low that nothing moves, too high is said by
chance on 8 % of runs of 20 iterations.
"""

from __future__ import annotations

import numpy as np

from optex_core.engine.settings import Settings
from optex_core.engine.state import EngineState
from optex_core.engine.stopping import Status, status_of
from optex_core.engine.trace import Trace
from optex_core.optimizers.base import Optimizer
from optex_core.strategies.trust_window import MAX_WINDOW_PER_SLOT

#: Iterations from which on something is said.
MIN_ITERATIONS = 10
#: Rounds of the last three quarters whose windows were accepted at their cap, and the share of the
#: drop in the last half: at good rates at most 0.01 beside windows that long.
AT_CAP, STILL_FALLING = 0.95, 0.05

_LIMITS = (Status.MAXITER, Status.MAX_EVALS, Status.MAX_TIME)


def diagnose(settings: Settings, state: EngineState, trace: Trace) -> str:
    """What is to be said of a run's learning rate; "" while the run goes on, where evaluations
    failed, and where the optimizer has none.
    """
    if not state.finished or not _has_learning_rate(settings.optimizer):
        return ""
    status = status_of(state.reasons)
    if status is Status.DIVERGED:
        return describe_divergence(trace.value)
    if status in (Status.FAILED, Status.TOO_MANY_FAILURES):
        return ""
    return describe_learning_rate(trace, settings.parallelism, at_limit=status in _LIMITS)


def _has_learning_rate(optimizer: object) -> bool:
    inner = getattr(optimizer, "optimizer", None)
    if inner is not None:
        return _has_learning_rate(inner)
    return hasattr(optimizer, "learning_rate") or not isinstance(optimizer, Optimizer)


def describe_divergence(values: np.ndarray) -> str:
    """One sentence where values had risen above their start before they left the numbers."""
    finite = values[np.isfinite(values)]
    if len(finite) < 2 or not finite[-1] > finite[0]:
        return ""
    return (
        f"The value had risen to {finite[-1]:.6g} from {finite[0]:.6g}: the learning rate looks "
        "too high; try a tenth of it."
    )


def describe_learning_rate(trace: Trace, parallelism: int, *, at_limit: bool) -> str:
    """One sentence where the learning rate looks too high or too low, else "", from the trace of a
    finished run; `at_limit`: a limit ended it, before it converged.
    """
    values = trace.value
    if len(values) <= MIN_ITERATIONS or not np.isfinite(values[0]):
        return ""
    values = np.where(np.isfinite(values), values, np.inf)
    half = len(values) // 2
    first, last, end = values[0], values[half:], values[-1]
    if last.min() > first:
        return (
            f"The value ended above its start ({end:.6g} from {first:.6g}): the learning rate "
            "looks too high; try a tenth of it."
        )
    lowest = int(values.argmin())
    if last.min() > np.median(values[:half]):
        return (
            f"The lowest value ({values[lowest]:.6g}) is {len(values) - 1 - lowest} iterations "
            f"old, and the value ended at {end:.6g}: the learning rate looks too high; try a tenth "
            "of it."
        )
    cap, accepted = MAX_WINDOW_PER_SLOT * parallelism, trace.accepted[:-1]
    at_cap = np.mean(accepted[len(accepted) // 4 :] >= cap)
    share = (values[half] - end) / (first - end) if end < first else 0.0
    if at_limit and parallelism > 1 and at_cap >= AT_CAP and share >= STILL_FALLING:
        return (
            f"The windows were accepted at their cap of {cap} steps, and {share:.0%} of the drop "
            "fell to the last half of the iterations: the learning rate looks too low; try 3 to 10 "
            "times as much."
        )
    return ""
