"""The result of an asynchronous run: the same record as of `minimize`, with delays. Loads
scipy.optimize, so it is imported on use only.
"""

from __future__ import annotations

import numpy as np

from optex_core.async_sgd.push_trace import PushTrace
from optex_core.async_sgd.records import LostBurst
from optex_core.engine.result import Result


class AsyncResult(Result):
    """What `async_sgd.minimize` returns; all that `optex_core.Result` has, and what only an
    asynchronous run has.

    ``nit`` counts updates of the master, ``nsteps`` inner steps applied, ``njev`` gradients that
    came back (those of workers that died are unknown). ``history`` has a row for each push:
    ``value`` and ``gradient_norm`` are means over its burst.

    Attributes
    ----------
    ledger : Ledger
        A row for each applied push: ``push_trace.delay``, ``.worker``, ``.eta``, ``.value``, ...
    lost : list of Lost
        Bursts without an accepted push, with reason and traceback.
    stable_step : float
        The largest stable a L at the mean delay, `convergence.stability_cap`.
    step : float
        a L of the run, nan where `smoothness` was not given.
    abandoned : int
        Bursts that ran at the end and were not waited for.
    """

    push_trace: PushTrace
    lost: list[LostBurst]
    stable_step: float
    step: float
    abandoned: int

    @property
    def delays(self) -> np.ndarray:
        """The delay of each applied push, shape (pushes,), int64."""
        return self.push_trace.delay
