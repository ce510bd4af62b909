"""First-order optimizers: one file each, found by this folder."""

from optex_core.optimizers._bound import BoundOptimizer, bind_optimizer
from optex_core.optimizers.base import (
    OPTIMIZERS,
    WRAPPERS,
    ElementwiseOptimizer,
    ElementwiseState,
    Optimizer,
    get_optimizer,
)

__all__ = [
    "OPTIMIZERS",
    "WRAPPERS",
    "BoundOptimizer",
    "ElementwiseOptimizer",
    "ElementwiseState",
    "Optimizer",
    "bind_optimizer",
    "get_optimizer",
]
