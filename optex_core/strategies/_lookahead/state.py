"""State of the strategy `lookahead` between rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from optex_core.strategies._lookahead.rows import Rows
from optex_core.strategies._lookahead.wolfe_search import WolfeSearch
from optex_core.strategies._noise import UNKNOWN


@dataclass(frozen=True, slots=True)
class LookaheadState:
    """What is known between rounds: arrays and numbers.

    Attributes
    ----------
    rows : Rows
        The newest evaluations, the lowest point last.
    value, start : float
        Values there and at x0.
    max_step : float
        Longest first step.
    unsuccessful : int
        Rounds in a row without a lower value.
    windows : int array
        Steps of each path; 0 stands for N.
    records : float array
        Recent share of the best decrease, for each proposer.
    radius : float
        Trust region of the multisecant model.
    search : WolfeSearch
        For N = 1.
    noise_status : int
        UNKNOWN, EXACT (a repeated evaluation was the same) or NOISY (it was not).
    averaging : bool
        The noise decides: gradients are averaged, `rule_state` is that of the rule.
    scales : int array, shape (2,)
        Choice of length scale of the last "kriging" and "potential" model; -1: choose from all.
    """

    rows: Rows
    rule_state: object
    value: float = math.nan
    start: float = math.nan
    max_step: float = 1.0
    unsuccessful: int = 0
    windows: np.ndarray = field(default_factory=lambda: np.zeros(2, dtype=np.int64))
    records: np.ndarray = field(default_factory=lambda: np.ones(3))
    radius: float = 0.0
    search: WolfeSearch = field(default_factory=WolfeSearch)
    noise_status: int = UNKNOWN
    averaging: bool = False
    # Leaves of saved files keep their places: a new one comes last.
    scales: np.ndarray = field(default_factory=lambda: np.full(2, -1))
