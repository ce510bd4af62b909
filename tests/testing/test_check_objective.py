"""The checks of objectives find what parallel evaluation stumbles over, and only that."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from fresh_python import run_python

from optex_core.errors import ArgumentError
from optex_core.problems import get_problem
from optex_core.testing import CheckReport, check_objective, check_simulator, run_checks
from optex_core.testing.suites.objective import SUITE, prepare_objective

X0 = np.array([1.0, -2.0, 0.5, 3.0])
#: One worker process in place of two, and no estimate of what parallelism would gain.
QUICK: dict[str, Any] = {"estimate": False, "workers": 1}


def bowl(x: np.ndarray) -> tuple[float, np.ndarray]:
    return float(x @ x), 2 * x


class Writes:
    check = "does_not_modify_argument"

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        out = bowl(x)
        x[0] = 0.0
        return out


class ReturnsAView:
    check = "does_not_retain_argument"

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        return float(x @ x) / 2, x


class KeepsItsArgument:
    check = "does_not_retain_argument"

    def __init__(self) -> None:
        self.last: Any = None

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        self.last = x
        return bowl(x)


class ReusesABuffer:
    check = "returns_fresh_arrays"

    def __init__(self) -> None:
        self.buffer = np.empty(4)

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        np.multiply(x, 2, out=self.buffer)
        return float(x @ x), self.buffer


class IsRandom:
    check = "is_deterministic"

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        value, g = bowl(x)
        return value, g + 1e-3 * np.random.default_rng(time.perf_counter_ns()).normal(size=4)


class CountsItsCalls:
    check = "is_deterministic"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        self.calls += 1
        value, g = bowl(x)
        return value, g * (1 + 0.01 * self.calls)


class SharesScratch:
    check = "threads_give_the_same_answers"

    def __init__(self) -> None:
        self.scratch = np.empty(4)

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        self.scratch[:] = x
        time.sleep(0.01)
        return bowl(self.scratch.copy())


class HoldsALock:
    check = "is_picklable"

    def __init__(self) -> None:
        import threading

        self.lock = threading.Lock()

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        with self.lock:
            return bowl(x)


class KnowsItsProcess:
    check = "processes_give_the_same_answers"

    def __init__(self) -> None:
        import os

        self.home = os.getpid()

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        import os

        return bowl(x if os.getpid() == self.home else 2 * x)


class BreaksNearby:
    check = "is_finite_in_region"

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        value, g = bowl(x)
        return (value, g) if x[0] >= 1.0 else (np.nan, g)


class ReturnsSingle:
    check = "gradient_precision_matches_x"

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        value, g = bowl(x)
        return value, g.astype(np.float32)


class IgnoresItsSeed:
    check = "seed_determines_noise"

    def __call__(self, x: np.ndarray, *, seed: int) -> tuple[float, np.ndarray]:
        return bowl(x)


FAULTY = (
    Writes,
    ReturnsAView,
    KeepsItsArgument,
    ReusesABuffer,
    IsRandom,
    CountsItsCalls,
    SharesScratch,
    HoldsALock,
    KnowsItsProcess,
    BreaksNearby,
    ReturnsSingle,
    IgnoresItsSeed,
)


def checked_here(fun: Any, **options: Any) -> CheckReport:
    """All checks but the one that starts processes, which takes a second."""
    checks = SUITE.checks(*prepare_objective(fun, X0, **options))
    return run_checks(c for c in checks if c.name != "processes_give_the_same_answers")


@pytest.mark.parametrize("kind", FAULTY)
def test_every_fault_is_found_by_its_check(kind: Any) -> None:
    (check,) = [
        check for check in SUITE.checks(*prepare_objective(kind(), X0)) if check.name == kind.check
    ]
    report = run_checks([check])
    assert report.failed, str(report)


def test_every_check_has_a_fault_that_it_finds() -> None:
    # The two others are found below: a batch whose rows mix, and answers that are no numbers.
    assert {kind.check for kind in FAULTY} >= set(SUITE.definitions) - {
        "batch_matches_rows",
        "returns_match_shape_of_x",
    }


def test_a_batch_whose_rows_mix() -> None:
    def mixing(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (X * X).sum(1), 2 * (X - X.mean(0))

    report = check_objective(mixing, X0, vectorized=True, **QUICK)
    assert [r.name for r in report.results.failed][-1] == "batch_matches_rows"
    assert check_objective(
        lambda X: ((X * X).sum(1), 2 * X), X0, vectorized=True, estimate=False
    ).ok


def test_nan_at_the_start() -> None:
    report = check_objective(lambda x: (np.nan, 2 * x), X0, **QUICK)
    assert report.results["returns_match_shape_of_x"].status == "failed"


@pytest.mark.parametrize("name", ["rosen", "seeded", "jac", "gradient only", "differences"])
def test_right_functions_pass(name: str) -> None:
    def seeded(x: np.ndarray, *, seed: int) -> tuple[float, np.ndarray]:
        shift = np.random.default_rng(seed).normal(size=4)
        return bowl(x + shift)

    forms: dict[str, tuple[Any, Any]] = {
        "rosen": (lambda x: (scipy.optimize.rosen(x), scipy.optimize.rosen_der(x)), True),
        "seeded": (seeded, True),
        "jac": (scipy.optimize.rosen, scipy.optimize.rosen_der),
        "gradient only": (None, scipy.optimize.rosen_der),
        "differences": (scipy.optimize.rosen, "2-point"),
    }
    fun, jac = forms[name]
    results = checked_here(fun, jac=jac)
    assert results.ok, str(results)
    assert results.ran >= 9


def test_noise_is_measured_and_may_be_meant() -> None:
    strict = check_objective(IsRandom(), X0, **QUICK)
    assert 1e-5 < strict.noise < 1e-1
    assert [r.name for r in strict.results.failed] == ["is_deterministic"]
    assert checked_here(IsRandom(), noisy=True).ok


def test_said_so() -> None:
    excuse = {"returns_fresh_arrays": "one buffer is reused"}
    report = check_objective(ReusesABuffer(), X0, **QUICK, expected_failures=excuse)
    assert report.results["returns_fresh_arrays"].status == "failed as expected"


def test_the_estimate_says_what_parallelism_gains() -> None:
    def slow(x: np.ndarray) -> tuple[float, np.ndarray]:
        time.sleep(2e-3)
        return get_problem("quadratic", d=20)(x)

    report = check_objective(slow, np.ones(20), max_seconds=600.0)
    assert report.ok, str(report)
    assert [gain.parallelism for gain in report.gains] == [2, 4, 8]
    assert all(gain.call_seconds >= 2e-3 for gain in report.gains)
    best = max(gain.fewer for gain in report.gains if gain.reached)
    assert best > 1.3
    assert f"({best:.1f} x fewer)" in str(report)


def test_what_would_take_too_long_is_not_green() -> None:
    def sleeps(x: np.ndarray) -> tuple[float, np.ndarray]:
        time.sleep(0.05)
        return bowl(x)

    report = check_objective(sleeps, X0, max_seconds=0.3)
    assert not report.ok
    assert not report.results.failed
    assert "max_seconds=0.3" in report.results.skipped[0].message
    assert report.gains == ()


def test_simulator_is_both() -> None:
    report = check_simulator(bowl, X0, **QUICK)
    assert report.ok
    assert report.gradient is not None
    assert "gradient of bowl" in str(report)
    assert "objective bowl" in str(report)
    assert not check_simulator(lambda x: (x @ x, 3 * x), X0, **QUICK).ok
    assert check_simulator(
        lambda X: ((X * X).sum(1), 2 * X), X0, vectorized=True, estimate=False
    ).ok
    assert check_simulator(None, X0, jac=lambda x: 2 * x, **QUICK).gradient is None


def test_at_the_level_of_an_importable_module_it_ends(tmp_path: Path) -> None:
    # Worker processes import the module, and with it comes the check, which would start workers.
    (tmp_path / "checked.py").write_text(
        "import numpy as np\nfrom optex_core.testing import check_objective\n\ndef "
        "fun(x):\n    return x @ x, 2 * x\n\n"
        "report = check_objective(fun, np.ones(3), estimate=False)\nprint(report)\n"
    )
    found = os.pathsep.join([*sys.path, str(tmp_path)])
    said = run_python("import checked; print(checked.report.ok)", PYTHONPATH=found)
    assert said.splitlines()[-1] == "True"
    # of the workers
    assert "put what starts them under `if __name__ == '__main__':`" in said


def test_bad_arguments() -> None:
    with pytest.raises(ArgumentError, match="x0 must have shape"):
        check_objective(bowl, np.ones((2, 2)))
    with pytest.raises(ArgumentError, match="workers must be an integer >= 1, got 0"):
        check_objective(bowl, X0, workers=0)
    with pytest.raises(
        ArgumentError,
        match="which is no check here; did you mean 'returns_fresh_arrays'",
    ):
        check_objective(bowl, X0, expected_failures={"returns_fresh_array": "x"})
