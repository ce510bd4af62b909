"""SciPy's L-BFGS-B as a baseline: its evaluations one after the other, as rows of a trace."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from optex_core.engine.trace import IterationRecord, Trace
from optex_core.errors import EvaluationError

NAME = "L-BFGS-B"


class _BudgetSpent(Exception):
    """Ends a run at its budget, which SciPy's `maxfun` checks only between line searches."""


def run_lbfgsb(
    fun: Callable[[np.ndarray], tuple[float, np.ndarray]],
    x0: np.ndarray,
    *,
    bounds: object = None,
    target: float = -math.inf,
    max_evals: int = 10**6,
    max_time: float = math.inf,
) -> tuple[Trace, str]:
    """Run ``scipy.optimize.minimize(method="L-BFGS-B")`` on ``fun(x) -> (value, gradient)``.

    It ends at the first value that is not above `target`, after `max_evals` evaluations beside the
    first, which no method can save, or after `max_time` seconds. Row k of the trace is evaluation
    k, row 0 that of x0: its value stands on k gradients before it, as the iterate after k rounds
    does. The second result is "target", "budget", "failed" or "converged".
    """
    from scipy import optimize

    trace, begin = Trace(), time.perf_counter()

    def evaluate(x: np.ndarray) -> tuple[float, np.ndarray]:
        if len(trace) > max_evals or time.perf_counter() - begin >= max_time:
            raise _BudgetSpent
        start = time.perf_counter()
        value, gradient = fun(x)
        seconds = time.perf_counter() - start
        row = IterationRecord(len(trace), float(value), float(np.abs(gradient).max()), 1, 1, 1)
        row.slowest = row.seconds = seconds
        row.overhead = 0.0
        trace.append(row)
        if value <= target:
            raise _BudgetSpent
        return float(value), np.asarray(gradient, dtype=np.float64)

    never = {"maxfun": 10**9, "maxiter": 10**9, "ftol": 0.0, "gtol": 0.0}
    try:
        optimize.minimize(evaluate, x0, jac=True, bounds=bounds, method=NAME, options=never)
    except _BudgetSpent:
        return trace, "target" if trace.value[-1] <= target else "budget"
    except EvaluationError:
        return trace, "failed"  # a simulator refuses points far outside its range
    return trace, "converged"
