"""First-order optimizers: one file each, found by this folder."""

from optex_core.optimizers.base import OPTIMIZERS, WRAPPERS, ElementwiseOptimizer, Optimizer, State, get_optimizer
from optex_core.optimizers.stepping import Stepper, make_stepper

__all__ = ["OPTIMIZERS", "WRAPPERS", "ElementwiseOptimizer", "Optimizer", "State", "Stepper", "get_optimizer", "make_stepper"]
