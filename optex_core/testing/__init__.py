"""For testers of gradients, simulators, optimizers and everything else that definitions something:
checks that are usable with or without pytest.

Names are loaded on first use: Hypothesis only by `strategies`, `state_machines` and the check suites, pytest
only by `parametrize_with_checks`. No module of the package outside this folder and the command line
imports it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optex_core.testing import hypothesis_strategies as strategies
    from optex_core.testing import reference, state_machines
    from optex_core.testing.check_suite import (
        Check,
        CheckFailed,
        CheckReport,
        CheckResult,
        checks,
        parametrize_with_checks,
        run_checks,
    )
    from optex_core.testing.gradient_check.check import GradientReport, check_gradient
    from optex_core.testing.objective_check import (
        ObjectiveReport,
        SimulatorReport,
        check_objective,
        check_simulator,
    )
    from optex_core.testing.properties import for_all
    from optex_core.testing.suites.backend import check_backend
    from optex_core.testing.suites.estimator import check_estimator
    from optex_core.testing.suites.evaluator import check_evaluator
    from optex_core.testing.suites.history import check_history
    from optex_core.testing.suites.kernel import check_kernel
    from optex_core.testing.suites.optimizer import check_optimizer
    from optex_core.testing.suites.problem import check_problem
    from optex_core.testing.suites.strategy import check_strategy

#: Public name -> module of this folder that defines it.
_EXPORTS = {
    **dict.fromkeys(
        (
            "CheckReport",
            "Check",
            "CheckFailed",
            "CheckResult",
            "checks",
            "parametrize_with_checks",
            "run_checks",
        ),
        "check_suite",
    ),
    **{
        f"check_{kind}": f"suites.{kind}"
        for kind in (
            "backend",
            "estimator",
            "evaluator",
            "history",
            "kernel",
            "optimizer",
            "problem",
            "strategy",
        )
    },
    **dict.fromkeys(("GradientReport", "check_gradient"), "gradient_check.check"),
    **dict.fromkeys(
        ("ObjectiveReport", "SimulatorReport", "check_objective", "check_simulator"),
        "objective_check",
    ),
    "for_all": "properties",
}
_MODULES = {
    "reference": "reference",
    "state_machines": "state_machines",
    "strategies": "hypothesis_strategies",
}

__all__ = [
    "Check", "CheckFailed", "CheckReport", "CheckResult", "GradientReport", "ObjectiveReport", "SimulatorReport", "check_backend",
    "check_estimator", "check_evaluator", "check_gradient", "check_history", "check_kernel", "check_objective", "check_optimizer", "check_problem",
    "check_simulator", "check_strategy", "checks", "for_all", "parametrize_with_checks", "reference", "run_checks", "state_machines", "strategies",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
