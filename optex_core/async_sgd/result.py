"""The result of an asynchronous run: the same record as of `minimize`, with delays. Loads
scipy.optimize, so it is imported on use only.
"""

from __future__ import annotations

import math

import numpy as np

from optex_core.async_sgd.records import BurstStatus, LostBurst, PushTrace
from optex_core.engine.result import RunResult


class AsyncResult(RunResult):
    """Result of `async_sgd.minimize`: the attributes of `optex_core.Result`, and these.

    ``nit`` counts updates, ``nsteps`` steps in the pushes applied, ``njev`` gradients that came
    back. ``history`` has a row for each push, with means over its burst.
    """

    push_trace: PushTrace  # a row for each applied push: .delay, .worker, .eta, .value, ...
    lost: list[LostBurst]  # bursts without an accepted push, with status and traceback
    stable_step: float  # the largest stable a L at the mean delay, `convergence.stability_cap`
    step: float  # the run's a L, `convergence.effective_step`; nan without `smoothness`
    closing: BurstStatus | None  # end of the final evaluation, at `x`; None where it was left out
    abandoned: int  # bursts that ran at the end and were not waited for

    @property
    def delays(self) -> np.ndarray:
        """The delay of each applied push, shape (pushes,), int64."""
        return self.push_trace.delay

    @property
    def stable(self) -> bool | None:
        """True if `step` is at most `stable_step`; None where `smoothness` was not given."""
        return None if math.isnan(self.step) else self.step <= self.stable_step
