"""For testers of gradients, simulators, optimizers and everything else that has properties to keep:
checks that are usable with or without pytest.

``check_<kind>`` is made of the check suite of that kind: ``check_optimizer``, ``check_kernel``,
``check_backend``, ``check_strategy``, ``check_problem``, ``check_history``, ``check_estimator`` and
``check_evaluator``.

All but the check suites' frame is loaded on first use: Hypothesis only by `strategies`,
`state_machines` and the check suites. No module of the package outside this folder and the command
line imports it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from optex_core.testing.check_suite import (
    KINDS,
    Check,
    CheckFailed,
    CheckReport,
    CheckResult,
    checks,
    get_suite,
    parametrize_with_checks,
    run_checks,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from optex_core.testing import hypothesis_strategies as strategies
    from optex_core.testing import reference, state_machines
    from optex_core.testing.gradient_check.check import check_gradient
    from optex_core.testing.gradient_check.report import GradientReport
    from optex_core.testing.objective_check import (
        ObjectiveReport,
        SimulatorReport,
        check_objective,
        check_simulator,
    )
    from optex_core.testing.properties import for_all

    check_backend: Callable[..., CheckReport]
    check_estimator: Callable[..., CheckReport]
    check_evaluator: Callable[..., CheckReport]
    check_history: Callable[..., CheckReport]
    check_kernel: Callable[..., CheckReport]
    check_optimizer: Callable[..., CheckReport]
    check_problem: Callable[..., CheckReport]
    check_strategy: Callable[..., CheckReport]

__all__ = [
    "Check",
    "CheckFailed",
    "CheckReport",
    "CheckResult",
    "GradientReport",
    "ObjectiveReport",
    "SimulatorReport",
    "check_backend",
    "check_estimator",
    "check_evaluator",
    "check_gradient",
    "check_history",
    "check_kernel",
    "check_objective",
    "check_optimizer",
    "check_problem",
    "check_simulator",
    "check_strategy",
    "checks",
    "for_all",
    "parametrize_with_checks",
    "reference",
    "run_checks",
    "state_machines",
    "strategies",
]

#: Public name -> module of this folder that has it, or is it.
_HOMES = {
    "GradientReport": "gradient_check.report",
    "ObjectiveReport": "objective_check",
    "SimulatorReport": "objective_check",
    "check_gradient": "gradient_check.check",
    "check_objective": "objective_check",
    "check_simulator": "objective_check",
    "for_all": "properties",
    "reference": "reference",
    "state_machines": "state_machines",
    "strategies": "hypothesis_strategies",
}


def __getattr__(name: str) -> Any:
    value: Any
    if name in _HOMES:
        home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
        value = getattr(home, name, home)
    elif name.startswith("check_") and name.removeprefix("check_") in KINDS:
        value = get_suite(name.removeprefix("check_")).function()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
