"""Strategies: which points a round evaluates and where it ends. One file each, found by this
folder.
"""

from optex_core.strategies.auto import Auto
from optex_core.strategies.base import (
    STRATEGIES,
    EngineView,
    Observation,
    Proposal,
    Strategy,
    Update,
    get_strategy,
)
from optex_core.strategies.corrected import Corrected
from optex_core.strategies.data_parallel import DataParallel
from optex_core.strategies.line_search import LineSearch
from optex_core.strategies.paper import Paper
from optex_core.strategies.repeat_last import RepeatLast
from optex_core.strategies.sequential import Sequential
from optex_core.strategies.target import Target
from optex_core.strategies.verified import Verified

__all__ = [
    "STRATEGIES",
    "Update",
    "Auto",
    "Corrected",
    "DataParallel",
    "LineSearch",
    "Paper",
    "Proposal",
    "RepeatLast",
    "Sequential",
    "Strategy",
    "Target",
    "Observation",
    "Verified",
    "EngineView",
    "get_strategy",
]
