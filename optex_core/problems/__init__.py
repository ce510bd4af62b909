"""Test problems with value, gradient, batched form and known minimum: one file each, found by this
folder.

Every registered problem is an attribute: ``problems.Rosenbrock``. `base` has the recipe for a new
one.
"""

from optex_core._registry import plugin_attributes
from optex_core.problems.base import PROBLEMS, Problem, get_problem

__all__ = ["PROBLEMS", "Problem", "get_problem"]

__getattr__, __dir__ = plugin_attributes(__name__, __all__, PROBLEMS)
