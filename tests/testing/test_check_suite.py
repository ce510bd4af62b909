"""Check suites: what counts as green, strict expected failures, pytest cases, and examples that a
person can read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fresh_python import python, run_python

import optex_core as ox
from optex_core import testing
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.testing.check_suite import (
    KINDS,
    Check,
    CheckFailed,
    CheckReport,
    CheckSkipped,
    get_suite,
    run_checks,
)


def check(name, body):
    return Check("optimizer", name, "mine", f"{name} holds.", body)


def fails():
    raise CheckFailed("it does not")


def skips():
    raise CheckSkipped("CuPy is not installed")


def test_green_is_what_ran():
    assert run_checks([check("a", lambda: None)]).ok
    assert not run_checks([])
    assert not run_checks([check("a", lambda: None), check("b", fails)])
    skipped = run_checks([check("a", lambda: None), check("b", skips)])
    assert not skipped
    assert (skipped.ran, len(skipped.skipped)) == (1, 1)
    assert "CuPy is not installed" in str(skipped)


def test_any_exception_is_a_failure_with_its_traceback():
    report = run_checks([check("a", lambda: 1 / 0)])
    assert report["a"].message == "ZeroDivisionError: division by zero"
    assert "in run_checks" not in report["a"].message
    assert "1 / 0" in report["a"].traceback


def test_expected_failures_are_strict():
    expected = run_checks([check("a", fails)], {"a": "known: issue 7"})
    assert expected.ok
    assert "known: issue 7" in str(expected)
    unexpected = run_checks([check("a", lambda: None)], {"a": "known: issue 7"})
    assert not unexpected
    assert "take it off the list" in str(unexpected)
    with pytest.raises(ArgumentError, match="'b', which is no check here"):
        run_checks([check("a", fails)], {"b": "x"})
    with pytest.raises(ArgumentTypeError, match="must give a reason"):
        run_checks([check("a", fails)], {"a": ""})


def test_reports_are_lists_by_place_and_name():
    report = run_checks([check("a", lambda: None), check("b", fails)])
    assert [r.name for r in report] == ["a", "b"]
    assert report[0] is report["a"]
    with pytest.raises(ArgumentError, match="no check 'c'"):
        report["c"]
    assert isinstance(report, list)
    assert isinstance(report, CheckReport)


class Forgetful:
    """Counts its steps on itself."""

    def __init__(self):
        self.t = 0

    def init(self, x):
        return None

    def step(self, x, g, state):
        self.t += 1
        return x - 0.1 / self.t * g, None


def test_a_users_optimizer_is_told_what_is_wrong():
    report = testing.check_optimizer(Forgetful)
    assert {"old_states_remain_valid", "runs_share_no_state"} <= {r.name for r in report.failed}
    assert "matches_reference_formula" in report.not_applicable


def test_examples_are_the_smallest_and_readable():
    class Wrong:
        def init(self, x):
            return None

        def step(self, x, g, state):
            return x - 0.1 * g * (1 + (np.abs(g) > 3).any()), None

    def reference(x0, gradients):
        points = [x0]
        for g in gradients:
            points.append(points[-1] - 0.1 * g)
        return points[1:]

    report = testing.check_optimizer(Wrong(), reference=reference)
    message = report["matches_reference_formula"].message
    assert "gradients=array([[" in message
    # One coordinate, and no entry that the failure does not need.
    assert "(7, 0)" in message or "(0, 0)" in message, message


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_subject_is_refused_with_a_sentence(kind):
    with pytest.raises((ArgumentError, ArgumentTypeError), match="takes|has init|unknown"):
        list(testing.checks(kind, [object()]))


def test_names_are_checked():
    with pytest.raises(
        ArgumentError, match="unknown kind of check 'optimiser'; did you mean 'optimizer'"
    ):
        list(testing.checks("optimiser"))
    with pytest.raises(ArgumentError, match="unknown optimizer 'adma'; did you mean 'adam'"):
        testing.check_optimizer("adma")
    with pytest.raises(ArgumentError, match="no optimizer was given"):
        testing.parametrize_with_checks("optimizer", [])
    with pytest.raises(ArgumentError, match="which is no check here"):
        testing.parametrize_with_checks(
            "kernel", ["rbf"], expected_failures={"is_one_at_zeros": "x"}
        )


@pytest.mark.parametrize("kind", KINDS)
def test_every_description_is_a_sentence(kind):
    for name, check in get_suite(kind).definitions.items():
        assert check.description.endswith("."), name
        assert check.when is None or check.why, f"{name} says not why it is left out"


def test_capabilities_decide_what_is_asked():
    names = {c.name for c in testing.checks("optimizer", [ox.AdamW()])}
    assert "decay_shrinks_parameters" in names
    assert "zero_gradient_is_fixed_point" not in names
    assert "affine_steps_are_affine" in {c.name for c in testing.checks("optimizer", ["sgd"])}
    assert "affine_steps_are_affine" not in {c.name for c in testing.checks("optimizer", ["adam"])}


def test_new_entries_of_the_registry_are_checked_without_editing():
    for kind in ("optimizer", "kernel", "strategy", "problem"):
        registry = (
            {"optimizer": ox.optimizers.OPTIMIZERS, "kernel": ox.kernels.KERNELS}.get(kind)
            if hasattr(ox, "optimizers")
            else None
        )
        subjects = {c.subject for c in testing.checks(kind)}
        assert subjects == set(get_suite(kind).registered())
        assert registry is None or subjects == set(registry)


CASES = """
import numpy as np
from optex_core.testing import parametrize_with_checks

class Wrong:
    def init(self, x):
        return None
    def step(self, x, g, state):
        return (x - 0.1 * g).astype(np.float64), state

@parametrize_with_checks("optimizer", [Wrong()], expected_failures={})
def test_strict(check):
    check()

@parametrize_with_checks("optimizer", [Wrong()], expected_failures={
    "step_returns_parameters_and_state": "float64 only", "preserves_dtype": "float64 only",
    "extreme_gradients_stay_finite": "does not fail"})
def test_excused(check):
    check()
"""


def test_pytest_cases_are_named_and_strict(tmp_path: Path):
    (tmp_path / "test_mine.py").write_text(CASES, encoding="utf-8")
    options = ("-q", "-p", "no:cacheprovider", "-o", "addopts=", "-ra")
    done = python("-m", "pytest", *options, "test_mine.py", cwd=tmp_path)
    assert done.returncode == 1
    assert (
        "FAILED test_mine.py::test_strict[Wrong-step_returns_parameters_and_state]" in done.stdout
    )
    assert (
        "XFAIL test_mine.py::test_excused[Wrong-step_returns_parameters_and_state]" in done.stdout
    )
    assert (
        "FAILED test_mine.py::test_excused[Wrong-extreme_gradients_stay_finite]" in done.stdout
    ), done.stdout


def test_a_suite_takes_less_than_ten_seconds():
    # Ten seconds of this machine's time, whatever else runs on it; one kind takes about one.
    import time

    start = time.process_time()
    testing.check_optimizer("rmsprop")
    assert time.process_time() - start < 10


def test_import_of_testing_loads_no_hypothesis():
    run_python(
        "import sys, optex_core.testing as t; dir(t); t.checks; t.check_gradient; "
        "sys.exit('hypothesis' in sys.modules or 'pytest' in sys.modules)"
    )
