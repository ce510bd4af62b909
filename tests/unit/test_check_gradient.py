"""The gradient checker finds wrong gradients, and only those."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optex_core.errors import ArgumentError
from optex_core.problems import get_problem
from optex_core.testing.gradient import STEPS, check_gradient

SMOOTH = ["sphere", "rosenbrock", "logistic", "network", "styblinski_tang", "griewank", "levy"]
START = np.random.default_rng(0).standard_normal(10)


def rosenbrock(x: np.ndarray) -> tuple[float, np.ndarray]:
    return get_problem("rosenbrock", d=len(x))(x)


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("at", ["start", "near the start", "minimizer"])
def test_right_gradients_pass(name: str, at: str) -> None:
    problem = get_problem(name)
    x = problem.start(0)
    if at == "near the start":
        x = x + 0.1 * np.random.default_rng(1).standard_normal(len(x))
    elif at == "minimizer":
        x = x if problem.minimizer is None else problem.minimizer
    report = check_gradient(problem, x)
    assert report.ok, str(report)
    assert bool(report)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("factor", lambda g: 2 * g),
        ("sign", lambda g: -g),
        ("shift", lambda g: g + 1e-2),
        ("transposed", lambda g: g[::-1].copy()),
        ("zero", lambda g: 0 * g),
        ("one entry by 0.1 %", lambda g: g * (1 + 1e-3 * (np.arange(len(g)) == 3))),
    ],
)
def test_wrong_gradients_are_found(name: str, wrong: Any) -> None:
    report = check_gradient(lambda x: (rosenbrock(x)[0], wrong(rosenbrock(x)[1])), START)
    assert not report.ok
    if name == "one entry by 0.1 %":
        assert report.coordinates[0][0] == 3


def test_taylor_rates() -> None:
    right, wrong = check_gradient(rosenbrock, START), check_gradient(lambda x: (rosenbrock(x)[0], 1.5 * rosenbrock(x)[1]), START)
    # The median over the decades that rounding leaves; a tenth of a power is what the next order adds at the largest steps.
    assert all(abs(check.rate - 2) < 0.1 for check in right.directions)
    assert all(abs(check.rate - 1) < 0.1 for check in wrong.directions)
    # Linear functions have no remainder to look at.
    assert all(np.isnan(check.rate) for check in check_gradient(lambda x: (x.sum(), np.ones_like(x)), START).directions)


def test_precision_sets_the_tolerance() -> None:
    def single(x: np.ndarray) -> tuple[Any, np.ndarray]:
        x = x.astype(np.float32)
        return np.float32(x @ x), 2 * x

    # float32 inside a float64 interface: judged by what came back.
    report = check_gradient(single, START)
    assert report.ok, str(report)
    assert report.tolerance == pytest.approx(5 * np.finfo(np.float32).eps ** (1 / 3))
    assert check_gradient(lambda x: (x @ x, 2 * x), START.astype(np.float32)).ok
    assert not check_gradient(lambda x: (single(x)[0], 1.5 * single(x)[1]), START).ok


def test_steep_functions_do_not_excuse() -> None:
    # At 0 the quartic's differences dwarf the missing slope at every large step.
    assert not check_gradient(lambda x: (1e8 * (x**4).sum() + x.sum(), 4e8 * x**3), np.zeros(4)).ok
    # Steps out of the domain are left out.
    with np.errstate(invalid="ignore", divide="ignore"):
        report = check_gradient(lambda x: (np.log(x).sum(), 1 / x), np.full(3, 1e-3))
    assert report.ok, str(report)


def test_noise_and_writing_are_told() -> None:
    rng = np.random.default_rng(0)
    noisy = check_gradient(lambda x: (x @ x + 1e-3 * rng.standard_normal(), 2 * x), START)
    assert not noisy.deterministic
    assert any("keyword-only argument `seed`" in problem for problem in noisy.problems)

    def writing(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = float(x @ x), 2 * x
        x[0] = 0.0
        return value, gradient

    report = check_gradient(writing, START)
    assert not report.pure
    assert report.problems == ("the function changes its argument x: work on a copy",)


def test_seeded_oracles_are_deterministic() -> None:
    def oracle(x: np.ndarray, *, seed: int) -> tuple[float, np.ndarray]:
        shift = np.random.default_rng(seed).standard_normal(len(x))
        return float((x + shift) @ (x + shift)), 2 * (x + shift)

    report = check_gradient(oracle, START)
    assert report.ok, str(report)


def test_forms_of_functions() -> None:
    assert check_gradient(lambda x, a: a * float(x @ x), START, args=(3.0,), jac=lambda x, a: 2 * a * x).ok
    assert check_gradient(lambda x: float(np.cos(x).sum()), START, jac="3-point").ok
    with pytest.raises(ArgumentError, match="value to compare"):
        check_gradient(None, START, jac=lambda x: 2 * x)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="must be finite"):
        check_gradient(lambda x: (np.nan, x), START)


def test_report_reads_well() -> None:
    text = str(check_gradient(rosenbrock, START))
    assert text.startswith("gradient of rosenbrock, d = 10: ok")
    assert all(f"{step:.0e}" in text for step in STEPS)
    assert max(map(len, text.splitlines())) < 120
    assert "NOT OK" in str(check_gradient(lambda x: (rosenbrock(x)[0], 0 * x), START))


def test_same_seed_same_report() -> None:
    assert str(check_gradient(rosenbrock, START, rng=4)) == str(check_gradient(rosenbrock, START, rng=4))
