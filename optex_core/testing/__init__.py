"""For testers of gradients, simulators and optimizers: checks that are usable with or without pytest. No module outside imports it."""

from optex_core.testing.gradient import GradientReport, check_gradient

__all__ = ["GradientReport", "check_gradient"]
