"""The gradient checker finds wrong gradients, and only those."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.optimize
from fresh_python import run_python
from gradient_faults import FAULTS, LARGE, SMALL, bowl, matrix, squares
from smooth_problems import smooth_problem

from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.problems import get_problem
from optex_core.testing.gradient_check.check import check_gradient
from optex_core.testing.gradient_check.directional import STEPS

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


def test_taylor_rates() -> None:
    right, wrong = (
        check_gradient(rosenbrock, START),
        check_gradient(lambda x: (rosenbrock(x)[0], 1.5 * rosenbrock(x)[1]), START),
    )
    # The median over the decades that rounding leaves; a tenth of a power is what the next order
    # adds at the largest steps.
    assert all(abs(check.rate - 2) < 0.1 for check in right.directions)
    assert all(abs(check.rate - 1) < 0.1 for check in wrong.directions)
    # Linear functions have no remainder to look at.
    assert all(
        np.isnan(check.rate)
        for check in check_gradient(lambda x: (x.sum(), np.ones_like(x)), START).directions
    )


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
    assert check_gradient(
        lambda x, a: a * float(x @ x), START, args=(3.0,), jac=lambda x, a: 2 * a * x
    ).ok
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
    assert str(check_gradient(rosenbrock, START, rng=4)) == str(
        check_gradient(rosenbrock, START, rng=4)
    )


# -- how good it is --------------------------------------------------------------------------------


def test_at_most_one_alarm_on_two_hundred_right_gradients() -> None:
    alarms = [i for i in range(200) if not check_gradient(*smooth_problem(i))]
    assert len(alarms) <= 1, alarms


@pytest.mark.parametrize("name", FAULTS)
def test_every_planted_fault_is_found(name: str) -> None:
    fun, x = FAULTS[name]
    report = check_gradient(fun, x)
    assert not report.ok, str(report)


def test_faults_are_planted_in_right_gradients() -> None:
    for fun, x in ((bowl, LARGE), (squares, SMALL), (matrix, SMALL)):
        assert check_gradient(fun, x).ok, str(check_gradient(fun, x))


@pytest.mark.parametrize("name", [name for name in FAULTS if name.startswith("one entry")])
def test_the_wrong_entry_of_ten_thousand_is_named(name: str) -> None:
    fun, x = FAULTS[name]
    expected = int(np.argmin(np.abs(x - 0.02))) if "nearly nothing" in name else 4321
    assert check_gradient(fun, x).coordinates[0][0] == expected


def test_the_cost_does_not_grow_with_the_parameters() -> None:
    counts = [
        check_gradient(
            get_problem("rosenbrock", d=d), np.random.default_rng(0).normal(size=d)
        ).evaluations
        for d in (10, 100, 10_000)
    ]
    assert max(counts) <= 260, counts
    assert counts[2] <= 1.5 * counts[0], counts


#: Points of symmetry and stationary points: the gradient vanishes there, right or wrong.
STATIONARY = {
    "minimum at 0": (lambda x: (0.5 * float(x @ x), x.copy()), np.zeros(4)),
    "minimum at 1": (lambda x: (0.5 * float((x - 1) @ (x - 1)), x - 1), np.ones(4)),
    "saddle": (lambda x: (float(x[0] * x[1] + x[2] * x[3]), x[[1, 0, 3, 2]]), np.zeros(4)),
    "maximum of cosines": (lambda x: (float(np.cos(x).sum()), -np.sin(x)), np.full(4, 2 * np.pi)),
    "quartic": (lambda x: (float((x**4).sum()), 4 * x**3), np.zeros(4)),
    "minimum of 1000": (lambda x: (1e3 + 0.5 * float(x @ x), x.copy()), np.zeros(4)),
}
WRONG = {
    "seven times": lambda g: 7 * g,
    "another sign": lambda g: -g,
    "nothing": lambda g: 0 * g,
    "cubed": lambda g: g**3,
    "one entry by 1 %": lambda g: g * (1 + 0.01 * (np.arange(4) == 2)),
}


@pytest.mark.parametrize("name", STATIONARY)
def test_wrong_gradients_are_found_at_stationary_points(name: str) -> None:
    fun, x = STATIONARY[name]
    assert check_gradient(fun, x).ok, str(check_gradient(fun, x))
    for what, wrong in WRONG.items():
        report = check_gradient(lambda x, wrong=wrong: (fun(x)[0], wrong(fun(x)[1])), x)
        assert not report.ok, (what, str(report))
        assert any("the gradient is" in one for one in report.problems)
        if what == "one entry by 1 %" and name != "saddle":  # no entry of it is wrong alone
            assert report.coordinates[0][0] == 2


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-100, 1e150, 1e165, 1e300])
@pytest.mark.parametrize("x", [np.zeros(4), np.arange(1.0, 5.0)], ids=["stationary", "elsewhere"])
def test_values_of_any_size(scale: float, x: np.ndarray) -> None:
    def fun(x: np.ndarray, factor: float = 1.0) -> tuple[float, np.ndarray]:
        return scale * 0.5 * float(x @ x), factor * scale * x

    report = check_gradient(fun, x)
    assert report.ok, str(report)
    assert report.value == fun(x)[0]
    assert not check_gradient(lambda x: fun(x, 1.001), x).ok


@pytest.mark.parametrize("unit", [1e-100, 1e-8, 1e8, 1e100])
def test_parameters_of_any_size(unit: float) -> None:
    units = unit * np.array([1.0, 1e3, 1e-3])

    def fun(x: np.ndarray, factor: float = 1.0) -> tuple[float, np.ndarray]:
        u = x / units
        return float(np.cosh(u).sum()), factor * np.sinh(u) / units

    assert check_gradient(fun, units).ok, str(check_gradient(fun, units))
    assert not check_gradient(lambda x: fun(x, 1.001), units).ok


# -- kinks, jumps, noise, precision ----------------------------------------------------------------


def test_a_kink_is_no_wrong_gradient() -> None:
    at_kink = check_gradient(lambda x: (float(np.abs(x).sum()), np.sign(x)), np.zeros(3))
    assert at_kink.ok, str(at_kink)
    assert not at_kink.smooth
    assert "kink" in at_kink.notes[0]
    hinge = check_gradient(
        lambda x: (float(np.maximum(x, 0).sum() + x @ x), (x > 0) + 2 * x),
        np.array([0.0, 0.0, 1.0]),
    )
    assert hinge.ok, str(hinge)
    assert not hinge.smooth
    outside = check_gradient(lambda x: (float(np.abs(x).sum()), np.full_like(x, 3.0)), np.zeros(3))
    assert not outside.ok
    assert "not between" in outside.problems[0]
    # Away from the kinks the same function is smooth.
    assert check_gradient(
        lambda x: (float(np.abs(x).sum()), np.sign(x)), np.array([0.3, -2.0, 1.0])
    ).smooth


def test_a_network_of_kinks_passes_and_its_fault_does_not() -> None:
    rng = np.random.default_rng(3)
    A, b, c = rng.normal(size=(40, 10)), rng.normal(size=40), rng.normal(size=40)

    def network(x: np.ndarray, sign: float = 1.0) -> tuple[float, np.ndarray]:
        z = A @ x + b
        return float(c @ np.maximum(z, 0)), A.T @ (c * (z > 0)) * np.array([sign] + [1.0] * 9)

    for seed in range(10):
        x = np.random.default_rng(seed).normal(size=10)
        assert check_gradient(network, x).ok, str(check_gradient(network, x))
        assert not check_gradient(lambda x: network(x, -1.0), x).ok


def test_a_jump_is_told() -> None:
    report = check_gradient(
        lambda x: (float(x @ x) + 5.0 * (x[0] > 0), 2 * x), np.array([0.0, 1.0])
    )
    assert any("jumps" in problem for problem in report.problems)
    assert not report.smooth


def test_noise_is_taken_into_account_where_it_is_meant() -> None:
    rng = np.random.default_rng(0)

    def noisy(x: np.ndarray, factor: float = 1.0) -> tuple[float, np.ndarray]:
        return float(x @ x + 1e-6 * rng.standard_normal()), factor * 2 * x

    report = check_gradient(noisy, START, noisy=True)
    assert report.ok, str(report)
    assert 1e-7 < report.noise < 1e-5
    assert not check_gradient(lambda x: noisy(x, 1.01), START, noisy=True).ok


def test_gradients_from_differences_are_as_good_as_they_can_be() -> None:
    def value(x: np.ndarray) -> float:
        return float(scipy.optimize.rosen(x))

    for method in ("2-point", "3-point", "cs"):
        if method != "cs":  # SciPy's function takes real numbers
            assert check_gradient(value, START, jac=method).ok, str(
                check_gradient(value, START, jac=method)
            )

    def by_hand(x: np.ndarray) -> tuple[float, np.ndarray]:
        return value(x), scipy.optimize.approx_fprime(x, value)

    assert check_gradient(by_hand, START, accuracy=1e-5).ok
    strict = check_gradient(by_hand, START)
    assert any("pass accuracy=" in problem for problem in strict.problems)


def test_a_picture(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    check_gradient(rosenbrock, START).plot(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 5_000


def test_it_needs_neither_hypothesis_nor_pytest() -> None:
    code = (
        "import sys, numpy as np\n"
        "from optex_core import testing\n"
        "assert testing.check_gradient(lambda x: (x @ x, 2 * x), np.ones(3)).ok\n"
        "sys.exit(sum(name in sys.modules for name in ('hypothesis', 'pytest', "
        "'matplotlib', 'numba')))\n"
    )
    run_python(code)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="fun must be callable"):
        check_gradient(3, [1.0])


@pytest.mark.parametrize("digits", [3, 4, 5, 6, 7, 8, 10, 12])
@pytest.mark.parametrize("x0", [np.ones(5), np.linspace(0.3, 2.0, 5)], ids=["ones", "others"])
def test_a_right_gradient_of_values_with_few_digits_passes(digits, x0):
    def fun(x, factor=2.0):
        return float(f"%.{digits}g" % (x @ x)), factor * x

    report = check_gradient(fun, x0, rng=0)
    assert report, report
    if digits <= 10:
        assert "carries noise" in str(report)
    if digits >= 6:
        assert not check_gradient(fun, x0, args=(2.02,), rng=0)


def test_the_antisymmetric_part_of_a_gradient_is_seen_at_a_stationary_point():
    A = np.random.default_rng(1).standard_normal((5, 5))
    right = check_gradient(lambda x: (0.5 * float(x @ A @ x), 0.5 * (A + A.T) @ x), np.zeros(5))
    assert right, right
    wrong = check_gradient(lambda x: (0.5 * float(x @ A @ x), A @ x), np.zeros(5))
    assert any("lines that begin at x0 or near it" in text for text in wrong.problems)
