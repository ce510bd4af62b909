"""The test problems: gradients, batches, known minima and bounds, manners, and agreement with the
prototype.
"""

from __future__ import annotations

import inspect
import itertools
import json
import pickle
import textwrap
from pathlib import Path

import numpy as np
import pytest
from fresh_python import run_python

from optex_core.errors import ArgumentError, ArgumentTypeError, EvaluationError
from optex_core.optimizers import OPTIMIZERS
from optex_core.problems import _conduction, base, get_problem
from optex_core.problems._conduction import Conduction
from optex_core.problems.noisy import Noisy

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "prototype_problems.json").read_text(
        encoding="utf-8"
    )
)


@pytest.mark.parametrize("rotated", [False, True])
def test_quadratic_has_the_stated_eigenvalues(rotated: bool) -> None:
    quadratic = get_problem("quadratic", d=6, condition=1e3, rotated=rotated, seed=5)
    hessian = quadratic.batch(np.eye(6))[1]
    assert np.allclose(np.linalg.eigvalsh(hessian), np.logspace(-3, 0, 6), rtol=1e-10)
    assert (np.abs(hessian - np.diag(np.diag(hessian))).max() > 0.01) == rotated


@pytest.mark.parametrize("name", ["rastrigin", "griewank"])
def test_lipschitz_constant_is_attained_at_the_minimum(name: str) -> None:
    # In one dimension the curvature at 0 is the bound itself.
    one = get_problem(name, d=1)
    h = 1e-6
    slope = (one(np.array([h]))[1] - one(np.array([-h]))[1])[0] / (2 * h)
    assert slope == pytest.approx(one.lipschitz, rel=1e-8)


def test_a_worker_derives_the_data_once_and_not_with_every_task() -> None:
    problem = get_problem("heat_inversion", size=8)
    message = pickle.dumps(problem)
    base._cached_problem.cache_clear()
    other = pickle.loads(message)
    assert other == problem
    assert other is not problem
    assert pickle.loads(message) is other


def test_wrong_points_are_refused_with_a_sentence() -> None:
    problem = get_problem("sphere", d=3)
    for wrong, error, message in (
        (np.zeros(4), ArgumentError, r"'sphere' takes an array of shape \(3,\), got \(4,\)"),
        (np.zeros((1, 3)), ArgumentError, "shape"),
        (np.zeros(3, complex), ArgumentTypeError, "real numbers, got dtype complex128"),
    ):
        with pytest.raises(error, match=message):
            problem(wrong)
    with pytest.raises(ArgumentError, match=r"shape \(n, 3\), got \(2, 4\)"):
        problem.batch(np.zeros((2, 4)))


def test_the_recipe_is_a_problem(tmp_path: Path) -> None:
    recipe = textwrap.dedent(inspect.cleandoc(base.__doc__ or "").partition("::\n\n")[2])
    (tmp_path / "zakharov.py").write_text(recipe, encoding="utf-8")
    script = """if True:
        import sys
        import optex_core.problems
        optex_core.problems.__path__.append(sys.argv[1])
        import optex_core as ox
        from optex_core import testing
        assert testing.check_problem("zakharov"), testing.check_problem("zakharov")
        zakharov = ox.problems.Zakharov(d=4)
        assert "d : int, default 10" in zakharov.__doc__
        assert ox.minimize(zakharov, zakharov.start(), optimizer="adam", maxiter=5).nit == 5
    """
    run_python(script, tmp_path)


def test_far_away_there_is_infinity_but_no_warning() -> None:
    value, _ = get_problem("rosenbrock")(np.full(10, 1e200))
    assert value == np.inf


def test_griewank_gradient_where_a_cosine_is_zero() -> None:
    # d/dx_1 of -cos(x_1) cos(x_2 / sqrt 2) at x_1 = pi / 2 is 1 times the other cosine, not 0 / 0.
    x = np.array([np.pi / 2, 0.4])
    assert get_problem("griewank", d=2)(x)[1][0] == pytest.approx(
        np.pi / 4000 + np.cos(0.4 / np.sqrt(2)), rel=1e-14
    )


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sphere", {"d": 0}, "d must be an integer >= 1, got 0"),
        ("sphere", {"dd": 3}, "problem 'sphere' has no setting 'dd'; did you mean 'd'"),
        ("quadratic", {"d": -1}, "d must be an integer >= 1"),
        ("quadratic", {"condition": 0.5}, "condition must be a number >= 1, got 0.5"),
        ("quadratic", {"condition": np.inf}, "condition must be finite"),
        ("quadratic", {"seed": -1}, "seed must be an integer >= 0"),
        ("quadratic", {"eigenvalues": 1}, "no setting 'eigenvalues'"),
        ("rosenbrock", {"d": 1}, "d must be an integer >= 2"),
        ("powell_singular", {"d": 6}, "d must be a multiple of 4, got 6"),
        ("beale", {"d": 3}, "no setting 'd'; it has none"),
        ("logistic", {"n": 0}, "n must be an integer >= 1"),
        ("network", {"hidden": 0}, "hidden must be an integer >= 1"),
        ("heat_inversion", {"size": 4}, "size must be an integer >= 8"),
        ("heat_inversion", {"noise": -0.1}, "noise must be a number >= 0"),
        ("heat_inversion", {"smoothing": np.nan}, "smoothing must be a number"),
        ("rosenbrok", {}, "unknown problem 'rosenbrok'; did you mean 'rosenbrock'"),
    ],
)
def test_bad_settings_are_refused_with_a_sentence(name: str, settings: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        get_problem(name, **settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("sphere", {"d": 2.5}), ("sphere", {"d": True}), ("quadratic", {"rotated": 1})],
)
def test_settings_of_a_wrong_type_are_refused(name: str, settings: dict) -> None:
    with pytest.raises(ArgumentTypeError, match="must be"):
        get_problem(name, **settings)


def test_importing_the_problems_loads_no_scipy_optimize() -> None:
    run_python(
        "import sys; import optex_core.problems as p; early = 'scipy' in sys.modules; "
        "list(p.PROBLEMS); "
        "sys.exit(early + 2 * ('scipy.optimize' in sys.modules))"
    )


class TestPrototype:
    """The eight cases of the prototype; figures are compared with it, so functions, starts and
    optimizers must be the same.
    """

    @pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda c: c["case"].replace(" ", "_"))
    def test_functions(self, case: dict) -> None:
        problem = get_problem(case["problem"], **case["settings"])
        rng = np.random.default_rng(1)
        for earlier in REFERENCE["cases"]:
            start = get_problem(earlier["problem"], **earlier["settings"]).start(rng)
            if earlier["case"] == case["case"]:
                break
        assert start[:4].tolist() == case["start_head"]
        # The same formula in the same order; the processor's matrix products and functions may
        # differ by some units in the last place.
        assert problem(start)[0] == pytest.approx(case["start_value"], rel=1e-13)
        for point in case["points"]:
            value, gradient = problem(
                start + 0.3 * np.random.default_rng(point["seed"]).standard_normal(problem.d)
            )
            assert value == pytest.approx(point["value"], rel=1e-13)
            assert np.linalg.norm(gradient) == pytest.approx(point["gradient_norm"], rel=1e-13)
            close = {"rtol": 1e-12, "atol": 1e-13 * point["gradient_norm"]}
            np.testing.assert_allclose(gradient[:4], point["gradient_head"], **close)
            np.testing.assert_allclose(
                gradient.sum(),
                point["gradient_sum"],
                rtol=1e-12,
                atol=1e-12 * point["gradient_norm"],
            )

    @pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda c: c["case"].replace(" ", "_"))
    def test_plain_steps(self, case: dict) -> None:
        problem = get_problem(case["problem"], **case["settings"])
        rng = np.random.default_rng(1)
        for earlier in REFERENCE["cases"]:
            x = get_problem(earlier["problem"], **earlier["settings"]).start(rng)
            if earlier["case"] == case["case"]:
                break
        settings = dict(case["optimizer"])
        kind = OPTIMIZERS[settings.pop("kind")]
        optimizer = kind(**settings) if kind.name == "sgd" else kind(settings["learning_rate"])
        state, values = optimizer.init(x), []
        for _ in range(20):
            x, state = optimizer.step(x, problem(x)[1], state)
            values.append(problem(x)[0])
        # Twenty steps multiply rounding differences of 1e-15; the steepest case (Rosenbrock,
        # curvature x rate about 1) by under 1e4.
        assert [values[9], values[19]] == pytest.approx(
            case["values_after_10_and_20_steps"], rel=1e-10
        )


class TestNoisy:
    def test_same_seed_same_noise_everywhere(self) -> None:
        inner = get_problem("rosenbrock")
        noisy = Noisy(inner, 0.3)
        x, y = inner.start(), np.full(10, 0.5)
        shift = noisy(x, seed=5)[1] - inner(x)[1]
        # digits lost by the differences
        np.testing.assert_allclose(noisy(y, seed=5)[1] - inner(y)[1], shift, rtol=1e-9)
        assert np.array_equal(noisy(x, seed=5)[1], noisy(x, seed=5)[1])
        assert not np.array_equal(noisy(x, seed=5)[1], noisy(x, seed=6)[1])
        assert noisy(x, seed=5)[0] == inner(x)[0]

    @pytest.mark.parametrize("relative", [True, False])
    def test_total_norm_is_the_level(self, relative: bool) -> None:
        inner = get_problem("quadratic", d=50)
        x = inner.start()
        gradient = inner.gradient(x)
        noisy = Noisy(inner, 0.2, relative)
        noise = np.array([noisy(x, seed=seed)[1] - gradient for seed in range(400)])
        unit = np.linalg.norm(gradient) if relative else 1.0
        # The mean of 400 x 50 squares has a relative deviation of 1 %: five of them.
        assert (noise**2).sum(1).mean() == pytest.approx((0.2 * unit) ** 2, rel=0.05)

    def test_zero_level_is_the_problem_itself(self) -> None:
        inner = get_problem("logistic", d=5, n=9)
        noisy = Noisy(inner, 0.0)
        x = np.linspace(-1, 1, 5)
        assert noisy(x, seed=3)[0] == inner(x)[0]
        assert np.array_equal(noisy(x, seed=3)[1], inner(x)[1])
        assert noisy.d == 5
        assert np.array_equal(noisy.start(), inner.start())

    def test_pickling_and_refusals(self) -> None:
        noisy = Noisy(get_problem("heat_inversion", size=8), 0.1)
        message = pickle.dumps(noisy)
        assert len(message) < 2000
        base._cached_problem.cache_clear()
        other = pickle.loads(message)
        x = noisy.start()
        assert other == noisy
        assert np.array_equal(other(x, seed=8)[1], noisy(x, seed=8)[1])
        with pytest.raises(ArgumentTypeError, match="problem must be a Problem"):
            Noisy("sphere", 0.1)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="level must be a number >= 0"):
            Noisy(noisy.problem, -1)
        with pytest.raises(ArgumentTypeError, match="relative must be True or False"):
            Noisy(noisy.problem, 0.1, relative=2)  # type: ignore[arg-type]


class TestHeatInversion:
    def test_conduction_against_the_exact_solution(self) -> None:
        # q = 1, kappa = 1, held left and right: u = s (1 - s) / 2. The scheme's error falls with
        # the square of the cell's side.
        errors = []
        for size in (8, 16, 32):
            plate = Conduction(size)
            u = plate.solve(np.zeros(size**2), np.full(size**2, 1 / size**2)).u.reshape(size, size)
            s = (np.arange(size) + 0.5) / size
            errors.append(np.abs(u - s * (1 - s) / 2).max())
        rates = [np.log2(a / b) for a, b in itertools.pairwise(errors)]
        assert min(rates) == pytest.approx(2, abs=0.01)

    def test_layers_in_series_conduct_by_their_harmonic_mean(self) -> None:
        # Columns of different conductivity, heat entering the first: it divides as the resistances
        # of the two ways out.
        size = 10
        m = np.tile(np.random.default_rng(0).standard_normal(size), (size, 1))
        plate = Conduction(size)
        heat = np.zeros((size, size))
        heat[:, 0] = 1.0
        u = plate.solve(m.ravel(), heat.ravel()).u
        resistance = np.exp(-m[0])
        left, right = resistance[0] / 2, resistance.sum() - resistance[0] / 2
        np.testing.assert_allclose(
            u.reshape(size, size)[:, 0], left * right / (left + right), rtol=1e-12
        )

    def test_heat_that_goes_in_comes_out(self) -> None:
        problem = get_problem("heat_inversion", size=20)
        x = np.random.default_rng(0).standard_normal(problem.d)
        plate = problem.conduction
        edges = 2 * np.exp(x[plate.held])
        u = problem.temperatures(x).reshape(problem.experiments, -1)
        np.testing.assert_allclose((u[:, plate.held] * edges).sum(1), 1.0, rtol=1e-11)
        assert (u > 0).all()

    def test_one_factor_on_all_conductivities_divides_the_temperatures(self) -> None:
        problem = get_problem("heat_inversion", size=12)
        x = np.random.default_rng(1).standard_normal(problem.d)
        np.testing.assert_allclose(
            problem.temperatures(x + 1.0) * np.e, problem.temperatures(x), rtol=1e-11
        )

    def test_truth_explains_the_readings_up_to_the_noise(self) -> None:
        noisy = get_problem("heat_inversion", size=24, smoothing=0.0, damping=0.0)
        # 486 readings: the sum of their squares has a relative deviation of 6 %; four of them.
        assert 2 * noisy(noisy.truth)[0] / noisy.d == pytest.approx(noisy.noise**2, rel=0.25)
        exact = get_problem("heat_inversion", size=24, noise=0.0, smoothing=0.0, damping=0.0)
        value, gradient = exact(exact.truth)
        assert value == 0.0
        assert not gradient.any()
        assert exact.field(exact.truth).shape == (24, 24)
        assert 0.9 < exact.truth.max() < 1.1
        assert -1.1 < exact.truth.min() < -0.9
        assert not np.array_equal(exact.truth, get_problem("heat_inversion", size=24, seed=1).truth)

    @pytest.mark.parametrize(
        ("kind", "settings"), [("adam", {"learning_rate": 0.05}), ("sgd", {"learning_rate": 1.0})]
    )
    def test_first_order_steps_recover_the_field_at_every_size(
        self, kind: str, settings: dict
    ) -> None:
        ends = []
        for size in (16, 32):
            problem = get_problem("heat_inversion", size=size)
            optimizer, x = OPTIMIZERS[kind](**settings), problem.start()
            state, values = optimizer.init(x), [problem(x)[0]]
            for _ in range(60):
                x, state = optimizer.step(x, problem(x)[1], state)
                values.append(problem(x)[0])
            assert values[60] < 0.5 * values[20] < 0.1 * values[0]
            assert np.linalg.norm(x - problem.truth) < 0.5 * np.linalg.norm(problem.truth)
            ends.append(values[60] / problem.d)
        assert ends[0] == pytest.approx(ends[1], rel=0.5)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, 21.0, -1e300])
    def test_unusable_conductivities_are_an_evaluation_error(self, bad: float) -> None:
        problem = get_problem("heat_inversion", size=8)
        x = problem.start()
        x[5] = bad
        with pytest.raises(EvaluationError, match="must be finite and at most 20"):
            problem(x)

    @pytest.mark.parametrize("island", [slice(4, 8), slice(5, 7), slice(2, 10)])
    def test_contrasts_beyond_float64_are_an_evaluation_error(self, island: slice) -> None:
        # An island of good conductors in very bad ones: its losses are rounded away against what
        # flows inside.
        plate = Conduction(12)
        m = np.full((12, 12), -1.0)
        m[island, island] = 1.0
        heat = np.zeros((12, 12))
        heat[6, 6] = 1.0
        plate.solve(10 * m.ravel(), heat.ravel())
        with pytest.raises(
            EvaluationError, match="the heat that leaves the plate is not the heat put in"
        ):
            plate.solve(18 * m.ravel(), heat.ravel())

    def test_a_singular_matrix_is_an_evaluation_error(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*args: object, **settings: object) -> None:
            raise RuntimeError("Factor is exactly singular")

        monkeypatch.setattr(_conduction, "splu", refuse)
        with pytest.raises(EvaluationError, match="matrix is singular"):
            Conduction(8).solve(np.zeros(64), np.ones(64))
