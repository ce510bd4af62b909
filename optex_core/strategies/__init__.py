"""Strategies: which points a round evaluates and where it ends. One file each, found by this
folder.

Every registered strategy is an attribute: ``strategies.Paper``. `base` has the recipe for a new
one.
"""

from typing import TYPE_CHECKING

from optex_core._registry import plugin_attributes
from optex_core.strategies.base import (
    STRATEGIES,
    Observation,
    Proposal,
    Strategy,
    Update,
    get_strategy,
)
from optex_core.strategies.rollout import EngineView

if TYPE_CHECKING:
    from optex_core.strategies.auto import Auto as Auto
    from optex_core.strategies.corrected import Corrected as Corrected
    from optex_core.strategies.data_parallel import DataParallel as DataParallel
    from optex_core.strategies.line_search import LineSearch as LineSearch
    from optex_core.strategies.lookahead import Lookahead as Lookahead
    from optex_core.strategies.paper import Paper as Paper
    from optex_core.strategies.repeat_last import RepeatLast as RepeatLast
    from optex_core.strategies.sequential import Sequential as Sequential
    from optex_core.strategies.target import Target as Target
    from optex_core.strategies.verified import Verified as Verified

__all__ = [
    "STRATEGIES",
    "EngineView",
    "Observation",
    "Proposal",
    "Strategy",
    "Update",
    "get_strategy",
]

__getattr__, __dir__ = plugin_attributes(__name__, __all__, STRATEGIES)
