"""Proof of the check suites: faults of one line in our own code, each found by the check that is
named beside it.

For every fault the named check first passes on the original, applied in the same way without the
change, and then fails on the faulty copy. Copies are modules of their own, or subclasses; the
package is left as it is.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optex_core._registry import Registry
from optex_core.execution.factory import make_evaluator
from optex_core.testing import checks
from optex_core.testing.check_suite import CheckFailed, get_suite, run_checks
from optex_core.testing.suites import evaluator as evaluators

FAULTS: list[dict[str, str]] = tomllib.loads(
    (Path(__file__).parent / "faults.toml").read_text(encoding="utf-8")
)["fault"]
#: Where mypy and people look for them.
NAMES = [f"{fault['kind']}: {fault['what']}" for fault in FAULTS]


def registries() -> list[Registry[Any]]:
    """Every registry of the package, filled."""
    found = []
    rooms = (
        "optimizers.base:OPTIMIZERS",
        "optimizers.base:WRAPPERS",
        "model.kernels.base:KERNELS",
        "problems.base:PROBLEMS",
        "strategies.base:STRATEGIES",
    )
    for name in rooms:
        module, _, attribute = name.partition(":")
        found.append(getattr(importlib.import_module(f"optex_core.{module}"), attribute))
        list(found[-1])
    return found


def copied(module: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of a copy of `module` with one line changed, without what it registers."""
    source = inspect.getsource(importlib.import_module(module))
    assert source.count(old) == 1, (
        f"{old!r} occurs {source.count(old)} times in {module}: adapt tests/testing/faults.toml"
    )
    copy = types.ModuleType(f"faulty_{module.rpartition('.')[2]}")
    monkeypatch.setitem(sys.modules, copy.__name__, copy)  # dataclasses and pickle look it up
    for registry in registries():
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    exec(compile(source.replace(old, new), f"<{copy.__name__}>", "exec"), copy.__dict__)
    return copy.__dict__


def derived(base: str, method: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A subclass `Faulty` of `base` with one method, beside what the module of `base` knows."""
    module, _, name = base.partition(":")
    home = importlib.import_module(module)
    copy = types.ModuleType(f"faulty_{name}")
    monkeypatch.setitem(sys.modules, copy.__name__, copy)
    copy.__dict__.update(
        {
            **vars(home),
            "__name__": copy.__name__,
            "Base": getattr(home, name),
            "np": np,
            "replace": dataclasses.replace,
            "SEEN": [],
        }
    )
    header = (
        "@dataclasses.dataclass(frozen=True, slots=True)\n"
        if name in ("Paper", "Corrected", "Verified", "Sequential", "DataParallel")
        else ""
    )
    exec(f"import dataclasses\n{header}class Faulty(Base):\n    {method}\n", copy.__dict__)
    return copy.__dict__


def subject(fault: dict[str, str], scope: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What is checked, and with which options."""
    if fault["kind"] == "estimator":
        kind = scope["Faulty"]

        def fit(settings, X, G, scale):
            posterior = settings.fit(X, G, scale)
            posterior.__class__ = kind
            return posterior

        return None, {"fit": fit}
    if fault["kind"] == "evaluator":
        workers = "threads" if fault["subject"] == "Threaded" else None
        return (
            lambda objective: scope["Faulty"](make_evaluator(objective, workers, parallelism=2))
        ), {}
    return eval(fault["subject"], scope), {}


def applied(
    fault: dict[str, str], monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> tuple[Any, dict[str, Any]]:
    if "module" in fault:
        return subject(
            fault,
            copied(
                fault["module"], fault["old"], fault["new"] if broken else fault["old"], monkeypatch
            ),
        )
    return subject(
        fault, derived(fault["base"], fault["method"] if broken else "pass", monkeypatch)
    )


def named_check(fault: dict[str, str], given: Any, options: dict[str, Any]) -> Any:
    (check,) = [c for c in checks(fault["kind"], [given], **options) if c.name == fault["check"]]
    return check


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # what is broken may overflow
@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
def test_the_fault_is_found(fault: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = {registry.kind: dict(registry._entries) for registry in registries()}
    with monkeypatch.context() as patch:
        given, options = applied(fault, patch, broken=False)
        right = run_checks([named_check(fault, given, options)])
        assert right.ok, f"the original does not pass: {right}"
    with monkeypatch.context() as patch:
        patch.setattr(evaluators, "PATIENCE", 1.5)  # what is lost never comes
        given, options = applied(fault, patch, broken=True)
        wrong = run_checks([named_check(fault, given, options)])
    assert wrong.failed, f"not found by {fault['check']}"
    assert isinstance(wrong[0].message, str)
    assert before == {registry.kind: dict(registry._entries) for registry in registries()}


def test_there_are_enough_of_them_everywhere() -> None:
    assert len(FAULTS) >= 40
    assert len(set(NAMES)) == len(FAULTS)
    counts = {
        kind: sum(f["kind"] == kind for f in FAULTS)
        for kind in (
            "optimizer",
            "kernel",
            "history",
            "estimator",
            "backend",
            "evaluator",
            "problem",
        )
    }
    assert min(counts.values()) >= 5, counts


def test_every_fault_is_one_line_and_names_a_check() -> None:
    for fault in FAULTS:
        assert fault["check"] in get_suite(fault["kind"]).definitions, fault
        changed = fault.get("method") or re.sub(r"^\n|\n$", "", fault["new"])
        assert len(changed.strip().splitlines()) <= 2, fault
    assert issubclass(CheckFailed, AssertionError)
