"""What happened, as records: the engine fills one per round and per failure, traces and progress
lines read them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from optex_core.types import Array


@dataclass(frozen=True, slots=True)
class FailedEvaluation:
    """One evaluation that gave no usable gradient.

    Attributes
    ----------
    id, iteration, slot, seed, attempt : int
        Which evaluation it was; `attempt` counts from 0.
    x : array, shape (d,)
        Where.
    message : str
        One sentence.
    error : BaseException or None
        The exception, None if the numbers were not finite.
    traceback : str
        The traceback as text, "" if there was none.
    value : float
        The value there, where it is known although the gradient failed; else nan.
    """

    id: int
    iteration: int
    slot: int
    seed: int
    x: Array
    message: str
    error: BaseException | None = None
    traceback: str = ""
    attempt: int = 0
    value: float = math.nan


@dataclass(slots=True)
class IterationRecord:
    """The report of one iteration, a row of the trace; nan where a number does not exist."""

    iteration: int  # 0, 1, ...
    #: At theta_t: the value, and max |g| (under bounds: of the projected gradient).
    value: float = math.nan
    gradient_norm: float = math.nan
    evaluations: int = 0  # gradients told in this round
    accepted: int = 0  # optimizer steps taken from theta_t to theta_{t+1}
    window: int = 0  # optimizer steps predicted
    #: Mean of |mu(z_j) - g_j| / |g_j| over the predicted points, mu from before g_j was known.
    prediction_error: float = math.nan
    #: The estimator's settings in this round: length in units of x / x_scale, noise / amplitude,
    #: gamma.
    length_scale: float = math.nan
    noise: float = math.nan
    curvature: float = math.nan
    step_norm: float = math.nan  # |theta_{t+1} - theta_t|, in units of x / x_scale
    slowest: float = math.nan  # seconds of the slowest gradient
    seconds: float = math.nan  # wall clock of the round, where the driver has one
    overhead: float = math.nan  # seconds of our own work, where the driver has a clock
    note: str = ""  # what is out of the ordinary: a fallback, a shortened window
