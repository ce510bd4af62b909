"""The result of a run: SciPy's OptimizeResult with typed attributes. Loads scipy.optimize, so it is
imported on use only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize

from optex_core.engine.diagnosis import diagnose
from optex_core.engine.round_machine import RoundMachine
from optex_core.engine.settings import Settings
from optex_core.engine.state import EngineState, FailedEvaluation
from optex_core.engine.stopping import Status
from optex_core.engine.trace import Trace
from optex_core.engine.validation import squares_overflow
from optex_core.types import Array


class RunResult(optimize.OptimizeResult):
    """Fields that the results of `minimize` and of `async_sgd.minimize` share; see `Result`."""

    x: Array
    fun: float
    jac: Array
    nit: int
    nfev: int
    njev: int
    success: bool
    status: Status
    message: str
    best_x: Array
    best_fun: float
    nsteps: int
    seed: int
    deterministic: bool
    stop: dict[str, float]
    history: Trace
    failures: list[FailedEvaluation]

    def __repr__(self) -> str:
        # SciPy's table cannot show an empty dict, which `stop` is while a run goes on:
        # ``callback=print`` ended it with a ValueError.
        filled = optimize.OptimizeResult(
            {
                name: "{}" if isinstance(part, dict) and not part else part
                for name, part in self.items()
            }
        )
        return repr(filled)


class Result(RunResult):
    """What `minimize` returns and `OptEx.result` gives at any moment.

    Attributes
    ----------
    x : array, shape (d,), dtype of x0
        The last iterate. At the end of a run with `auto`, N > 1 and values that repeat: the best
        evaluated point, unless gtol was reached.
    fun, jac : float and array, shape (d,), dtype of x0
        The value and the gradient at `x`; nan where they are not known.
    nit : int
        Iterations: how often theta advanced.
    nfev, njev : int
        Calls that computed a value, and gradients, failed and repeated ones included.
    success : bool
        True if gtol, ftol, xtol or target was reached.
    status : Status
        An integer with a name; see `optex_core.Status`.
    message : str
        One sentence, and a second where the learning rate looks too high or too low.
    best_x, best_fun : array, shape (d,), and float
        The best point evaluated; `x` and nan where no values were told.
    nsteps : int
        Optimizer steps taken: what schedules count.
    seed : int
        The run's seed: ``rng=seed`` repeats the run.
    deterministic : bool
        False if a clock influenced the run (quorum, timeout, max_time, max_overhead).
    stop : dict
        The settings that ended the run, with their values.
    history : Trace
        Arrays per iteration; ``history.plot()``.
    failures : list of FailedEvaluation
    """


def make_result(machine: RoundMachine) -> Result:
    """The result of a run as it stands; arrays are copies."""
    s, settings, copy_in = machine.state, machine.settings, machine.backend.copy_in
    dtype, status = s.x.dtype, machine.status
    x, value, gradient = s.x, s.value, s.gradient
    if s.best_x is not None and _returns_best(settings, s):
        x, value, gradient = s.best_x, s.best_value, s.best_gradient
    if gradient is None:
        gradient = machine.backend.zeros(len(s.x), dtype) + math.nan
    return Result(
        x=copy_in(x, dtype),
        fun=float(value),
        jac=copy_in(gradient, dtype),
        nit=s.nit,
        nfev=s.nfev,
        njev=s.njev,
        success=status.success,
        status=status,
        message=_message(machine, status),
        best_x=copy_in(s.x if s.best_x is None else s.best_x, dtype),
        best_fun=float(s.best_value) if math.isfinite(s.best_value) else math.nan,
        nsteps=s.nsteps,
        seed=settings.seed,
        deterministic=s.deterministic,
        stop=dict(s.reasons) if s.finished else {},
        history=machine.trace.snapshot(),
        failures=list(machine.failures),
    )


def _returns_best(settings: Settings, state: EngineState) -> bool:
    """True for a finished run whose best point is lower than its last, where gtol did not fire."""
    s = state
    if not s.finished or s.best_gradient is None or "gtol" in s.reasons:
        return False
    return not s.value <= s.best_value and settings.strategy.returns_best(s.strategy_state)


def _message(machine: RoundMachine, status: Status) -> str:
    state, failures, backend = machine.state, machine.failures, machine.backend
    advice = diagnose(machine.settings, state, machine.trace)
    if status in (Status.DIVERGED, Status.FAILED):
        last = failure_at_iterate(state, failures)
        if last is not None:
            where = f"Iteration {last.iteration}: {last.message} at {_point(last.x)}."
            return f"{status.message} {where} {advice}".rstrip()
        return (
            f"{status.message} The step of iteration {state.nit} left the finite numbers; "
            "try a smaller learning rate."
        )
    if status is Status.TOO_MANY_FAILURES:
        return f"{status.message} {state.failures} failed, the last with: {failures[-1].message}."
    if state.gradient is not None and squares_overflow(state.gradient, backend):
        largest = backend.max_abs(state.gradient)
        return (
            f"{status.message} The gradient is so large (largest entry {largest:.3g}) that its "
            f"squares overflow {state.x.dtype}, where optimizers that divide by them stand still; "
            "divide the function by a constant."
        )
    return f"{status.message} {advice}".rstrip()


def failure_at_iterate(
    state: EngineState, failures: Sequence[FailedEvaluation]
) -> FailedEvaluation | None:
    """The last failure at theta_t itself: others of the round may have failed after it."""
    here = (state.nit, state.first_slot)
    return next((f for f in reversed(failures) if (f.iteration, f.slot) == here), None)


def _point(x: Array) -> str:
    with np.printoptions(precision=4, threshold=6, edgeitems=3, linewidth=1000):
        return f"x = {x}"
