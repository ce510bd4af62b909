"""First-order optimizers: one file each, found by this folder."""

from optex_core.optimizers._bound import Stepper, make_stepper
from optex_core.optimizers.base import OPTIMIZERS, WRAPPERS, ElementwiseOptimizer, Optimizer, State, get_optimizer

__all__ = ["OPTIMIZERS", "WRAPPERS", "ElementwiseOptimizer", "Optimizer", "State", "Stepper", "get_optimizer", "make_stepper"]
