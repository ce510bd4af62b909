"""Test problems with value, gradient, batched form and known minimum: one file each, found by this
folder.
"""

from optex_core.problems.base import PROBLEMS, Problem, get_problem

__all__ = ["PROBLEMS", "Problem", "get_problem"]
