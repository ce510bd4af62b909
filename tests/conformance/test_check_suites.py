"""Everything that is registered passes the checks of its kind; a new file in a folder is checked
without editing anything here.
"""

from __future__ import annotations

import sys
from typing import Any

from problem_variants import CHEAP, VARIANTS

import optex_core as ox
from optex_core.backends.base import Backend
from optex_core.backends.numpy_ import NumpyBackend
from optex_core.model.kernels.rational_quadratic import RationalQuadratic
from optex_core.problems import PROBLEMS
from optex_core.testing import parametrize_with_checks
from optex_core.testing.suites import backend as backend_suite
from optex_core.testing.suites._backend_data import prepare_backend

#: Settings beyond the defaults that take another path through the formulas.
OPTIMIZERS = [
    ox.SGD(0.1, momentum=0.9),
    ox.SGD(0.1, momentum=0.9, nesterov=True),
    ox.RMSprop(momentum=0.5),
    ox.RMSprop(centered=True),
    ox.RMSprop(centered=True, momentum=0.5),
    ox.Lion(0.05, decay=0.2),
    ox.ClipByNorm("adam", 1.0),
    ox.ClipByValue("lion", 1.0),
    ox.WeightDecay(ox.SGD(0.1, momentum=0.9), 0.01),
    ox.BestSoFar("adam"),
    ox.Projected(ox.SGD(0.1), -50.0, 50.0),
]
KERNELS = [RationalQuadratic(alpha=0.3), RationalQuadratic(alpha=40.0)]


@parametrize_with_checks("optimizer")
def test_optimizer(check):
    check()


@parametrize_with_checks("optimizer", OPTIMIZERS)
def test_optimizer_with_other_settings(check):
    check()


@parametrize_with_checks("kernel")
def test_kernel(check):
    check()


@parametrize_with_checks("kernel", KERNELS)
def test_kernel_with_other_settings(check):
    check()


@parametrize_with_checks("backend")
def test_backend(check):
    check()


#: Whatever a backend can be asked for, but for compiled rollouts, which tests/backends hold to the
#: steps one by one: abstract operations, and those that have an answer in terms of others.
OPERATIONS = {
    name for name, value in vars(Backend).items() if callable(value) and not name.startswith("_")
} - {"fused_steps", "subspace_rollout"}


def recording(seen: dict[str, set[str]]) -> Backend:
    """A backend that notes which check asks for which operation; what the library asks for in
    between is not noted.
    """

    def noted(name: str) -> Any:
        def operation(self: Any, *args: Any, **keywords: Any) -> Any:
            caller = sys._getframe(1)
            if caller.f_globals["__name__"] in {
                part.__name__ for part in (backend_suite, *backend_suite.PARTS)
            }:
                seen[name].add(caller.f_code.co_qualname.partition(".")[0])
            return getattr(super(kind, self), name)(*args, **keywords)

        return operation

    kind: Any = type("Recording", (NumpyBackend,), {name: noted(name) for name in OPERATIONS})
    return kind()


def unchecked(backend: Backend, seen: dict[str, set[str]]) -> set[str]:
    """Operations that no named check asks for."""
    for check in backend_suite.SUITE.checks(*prepare_backend(backend)):
        check()
    return {name for name in OPERATIONS if not seen[name] & backend_suite.SUITE.definitions.keys()}


def test_every_operation_of_a_backend_has_a_check():
    # Those that only `every_operation` calls do not count: it compares layouts and aliases, and no
    # answer with a formula.
    seen: dict[str, set[str]] = {name: set() for name in OPERATIONS}
    assert {"difference_products", "weighted_sums"} < OPERATIONS > Backend.__abstractmethods__
    assert not unchecked(recording(seen), seen)


def test_an_operation_without_a_check_is_seen(monkeypatch):
    definitions = backend_suite.SUITE.definitions
    monkeypatch.setattr(
        backend_suite.SUITE,
        "definitions",
        {"inputs_unchanged_outputs_unaliased": definitions["inputs_unchanged_outputs_unaliased"]},
    )
    seen: dict[str, set[str]] = {name: set() for name in OPERATIONS}
    assert {"weighted_sums", "difference_products"} <= unchecked(recording(seen), seen)


@parametrize_with_checks("history")
def test_history(check):
    check()


@parametrize_with_checks("estimator")
def test_estimator(check):
    check()


@parametrize_with_checks("strategy")
def test_strategy(check):
    check()


@parametrize_with_checks("evaluator")
def test_evaluator(check):
    check()


@parametrize_with_checks("evaluator", [None], vectorized=True)
def test_vectorized_evaluator(check):
    check()


@parametrize_with_checks("problem", [(name, CHEAP.get(name, {})) for name in PROBLEMS])
def test_problem(check):
    check()


@parametrize_with_checks("problem", VARIANTS, own_rate=False)
def test_problem_with_other_settings(check):
    check()
