"""The restricted likelihood: the score against the textbook's, what it finds in samples, and when
it keeps out.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optex_core.backends import get_backend
from optex_core.model import likelihood as tuning
from optex_core.model.estimator import (
    DEFAULT_LENGTH_IN_MEDIANS,
    DEFAULT_NOISE,
    GradientEstimator,
    fit_hyperparameters,
    pair_matrices,
)
from optex_core.model.history import History
from optex_core.model.kernels import KERNELS, get_kernel
from optex_core.model.kriging import KrigingSystem, eigendecompositions
from optex_core.model.likelihood import (
    Hyperparameters,
    amplitude,
    maximize_reml,
    median_distance,
    residual_gram,
    secant_curvature,
)
from optex_core.testing.reference import kriging as reference

NUMPY = get_backend("numpy")


def rows(n, d, seed, dtype=np.float64):
    """Gradients of a smooth function: linear with a twist."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    G = (
        X * np.exp(rng.normal(size=d))
        + 0.3 * np.sin(X @ rng.normal(size=(d, d)))
        + 0.01 * rng.normal(size=(n, d))
    )
    return X.astype(dtype), G.astype(dtype)


def history_of(X, G, **options):
    history = History(max(2, len(X)), X.shape[1], G.dtype, NUMPY, **options)
    for x, g in zip(X, G, strict=True):
        history.append(x, g)
    return history


def fast_score(kernel, X, G, length, noise, curvature, constant):
    """The score of one candidate, up to a constant of n: m log(sum_k r_k / (S_k + rho) / m) + sum_k
    log(S_k + rho).
    """
    history = history_of(X, G)
    values, basis, h0 = eigendecompositions(
        get_kernel(kernel), history.S[: len(X), : len(X)], np.array([length]), constant
    )
    inverse = values[0] + noise / h0[0]
    r = residual_gram(pair_matrices(history), basis, np.array([curvature]), constant)[0, 0]
    return len(r) * np.log(np.sum(r / inverse) / len(r)) + np.log(inverse).sum()


def sample(n, d, factor, noise, seed):
    """Rows of a separable GP along a wandering path, and its length: the columns of G are
    independent samples of kappa plus noise.
    """
    rng = np.random.default_rng(seed)
    X = np.cumsum(rng.normal(size=(n, d)) / np.sqrt(d), axis=0)
    S = ((X[:, None] - X[None]) ** 2).sum(2)
    length = factor * median_distance(S)
    K = get_kernel("matern52").profile(S / length**2)
    return X, np.linalg.cholesky(K + noise * np.eye(n)) @ rng.normal(size=(n, d)), length


# -- the score -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["zero", "constant", "linear"])
@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_the_score_is_the_restricted_likelihood_up_to_a_constant(kernel, prior):
    X, G = rows(6, 3, 0)
    differences = []
    for length in (0.5, 3.0, 100.0):
        for noise in (1e-6, 1e-2, 1.0):
            for curvature in (0.0, 0.7) if prior == "linear" else (0.0,):
                slow = reference.Kriging(kernel, X, G, length, noise, prior, curvature).likelihood()
                differences.append(
                    fast_score(kernel, X, G, length, noise, curvature, prior != "zero") - slow
                )
    # Smallest eigenvalue in units of the largest, 1e-6: relative errors of 1e-15 / 1e-6 in each
    # logarithm's argument, n of them.
    assert np.ptp(differences) < 6 * 1e-8
    # The constant: det(Q'AQ) = det A (1'u) / n.
    assert np.mean(differences) == pytest.approx(0.0 if prior == "zero" else -np.log(6), abs=1e-7)


@pytest.mark.parametrize("scaled", [False, True], ids=["", "x_scale"])
@pytest.mark.parametrize("prior", ["zero", "constant", "linear"])
def test_the_search_finds_the_best_of_the_grid(prior, scaled, monkeypatch):
    # A coarse grid, for the twin's sake.
    monkeypatch.setattr(tuning, "LENGTH_GRID", np.array([0.3, 3.0, 30.0]))
    monkeypatch.setattr(tuning, "NOISE_GRID", np.array([1e-8, 1e-4, 1e-2, 1.0]))
    monkeypatch.setattr(tuning, "CURVATURE_GRID", np.array([0.0, 0.3, 1.0]))
    for seed in range(2):
        X, G = rows(7, 3, seed)
        scale = np.array([1.0, 0.1, 5.0]) if scaled else None
        given = GradientEstimator(mean=prior)
        grid = reference.candidates(given, X, G, scale)
        posterior = given.fit(X, G, scale)
        h = posterior.hyper
        slow = reference.Kriging("matern52", X, G, h.length, h.noise, prior, h.curvature, scale)
        # Equal candidates may be told apart by rounding: the score decides, not the place on the
        # grid.
        assert slow.likelihood() == pytest.approx(min(score for score, _ in grid), abs=1e-6)
        best = min(grid, key=lambda one: one[0])[1]
        assert (h.length, h.noise, h.curvature) == pytest.approx(
            (best.length, best.noise, best.curvature), rel=1e-9
        )


@pytest.mark.parametrize("prior", ["zero", "constant", "linear"])
def test_the_amplitude_is_the_trace(prior):
    X, G = rows(7, 4, 3)
    history, curvature = history_of(X, G), 0.4 if prior == "linear" else 0.0
    system = KrigingSystem(get_kernel("matern52"), history.S, 2.0, 1e-3, prior != "zero")
    fast = amplitude(pair_matrices(history), system.basis, curvature, prior != "zero") / system.h0
    assert fast == pytest.approx(
        reference.Kriging("matern52", X, G, 2.0, 1e-3, prior, curvature).amplitude(), rel=1e-10
    )


def test_contrasts_say_nothing_about_two_rows():
    # n = 2: one contrast, whose amplitude is fitted: the score is the same for every length and
    # noise.
    X, G = rows(2, 5, 4)
    scores = [
        fast_score("matern52", X, G, length, noise, 0.0, True)
        for length in (0.1, 1.0, 30.0)
        for noise in (1e-8, 1e-2, 10.0)
    ]
    assert np.ptp(scores) < 1e-12
    slow = [
        reference.Kriging("matern52", X, G, length, 1e-2).likelihood()
        for length in (0.1, 1.0, 30.0)
    ]
    assert np.ptp(slow) < 1e-12


# -- what it finds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["zero", "constant"])
@pytest.mark.parametrize(("factor", "noise"), [(1.0, 0.3), (3.0, 1e-2), (3.0, 0.3)])
def test_it_recovers_length_and_noise(factor, noise, prior):
    # 200 independent samples of 15 rows, at a length of the grid: the noise comes out within one
    # step of the grid (3). A fitted mean hides long waves, so that now and then a longer length
    # with a larger amplitude, and the same noise, does as well: the median over the seeds.
    lengths = []
    for seed in range(5):
        X, G, length = sample(15, 200, factor, noise, seed)
        posterior = GradientEstimator(mean=prior).fit(X, G)
        lengths.append(posterior.hyper.length / length)
        assert noise / 1.8 < posterior.noise_variance / 200 < 1.8 * noise
    assert np.median(lengths) == pytest.approx(1.0, rel=1e-12)


def test_pure_noise_is_called_noise():
    rng = np.random.default_rng(0)
    X, G = np.zeros((15, 200)), rng.normal(size=(15, 200))
    # in all 200 directions rows are equidistant, and tell signal from noise as little as repeats do
    X[:, :2] = rng.normal(size=(15, 2))
    posterior = GradientEstimator().fit(X, G)
    # Nothing is learned from one row about another: all weights are nearly 1/n, and the noise is
    # the gradients' own variance.
    assert np.abs(posterior.weights(X[0]) - 1 / 15).max() < 0.1
    assert posterior.noise_variance == pytest.approx(200.0, rel=0.1)


@pytest.mark.parametrize("prior", ["zero", "constant", "linear"])
def test_exact_gradients_get_hardly_any_noise(prior):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        X = rng.uniform(-1.0, 1.0, size=(20, 2))
        G = X + np.sin(X @ rng.normal(size=(2, 2)))
        posterior = GradientEstimator(mean=prior).fit(X, G)
        # A noise of 1e-3 of the least difference between neighbours would give 1e-6; measured 5e-9
        # and less.
        assert posterior.noise_variance < 1e-7 * np.square(np.diff(G, axis=0)).sum(1).min()


def test_a_quadratic_has_its_curvature():
    # With g = c (x - x*) the linear mean explains everything: gamma = c, whatever the rows.
    X = np.random.default_rng(2).normal(size=(8, 6))
    posterior = GradientEstimator(mean="linear").fit(X, 3.5 * (X - 1.0))
    assert posterior.hyper.curvature == pytest.approx(3.5, rel=1e-12)
    assert np.allclose(posterior.mean(np.full(6, 100.0)), 3.5 * 99.0, rtol=1e-9)


@pytest.mark.parametrize("exponent", [-30, 0, 40])
def test_units_do_not_matter(exponent):
    # Powers of two: every product is exact, so are all comparisons, and the choice is the same bit
    # for bit.
    X, G = rows(9, 4, 5)
    for prior in ("zero", "constant", "linear"):
        one = GradientEstimator(mean=prior).fit(X, G).hyper
        x, g = 2.0**exponent, 2.0 ** (-2 * exponent)
        other = GradientEstimator(mean=prior).fit(x * X, g * G).hyper
        assert (other.length, other.noise, other.curvature) == (
            one.length * x,
            one.noise,
            one.curvature * g / x,
        )


# -- what it keeps ---------------------------------------------------------------------------------


def test_given_values_are_kept():
    X, G = rows(9, 3, 6)
    assert GradientEstimator(length_scale=0.37).fit(X, G).hyper.length == 0.37
    for prior in ("zero", "constant"):
        # through rho and back
        assert GradientEstimator(noise=0.02, mean=prior).fit(X, G).hyper.noise == pytest.approx(
            0.02, rel=1e-14
        )
    both = GradientEstimator(length_scale=0.37, noise=0.02, mean="linear").fit(X, G).hyper
    assert (both.length, both.noise) == (0.37, pytest.approx(0.02, rel=1e-14))
    assert both.curvature > 0.0


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("tune", ["likelihood", "median", "fixed"])
def test_few_rows_take_defaults(n, tune):
    X, G = rows(n, 3, 7)
    given = GradientEstimator(tune=tune, history=5, mean="constant")
    h, note = fit_hyperparameters(given, history_of(X, G), Hyperparameters())
    assert h == Hyperparameters(
        DEFAULT_LENGTH_IN_MEDIANS * median_distance(((X[:, None] - X[None]) ** 2).sum(2)),
        DEFAULT_NOISE,
        0.0,
        0,
    )
    assert note == ""


def test_fixed_keeps_and_median_follows():
    X, G = rows(9, 3, 8)
    before = Hyperparameters(0.5, 0.25, 0.125)
    for tune, length in (
        ("fixed", 0.5),
        ("median", DEFAULT_LENGTH_IN_MEDIANS * reference.median_distance(X)),
    ):
        h, _ = fit_hyperparameters(
            GradientEstimator(tune=tune, history=9, mean="constant"), history_of(X, G), before
        )
        assert h.length == pytest.approx(length, rel=1e-14)


def test_rarer_searches():
    X, G = rows(9, 3, 9)
    given, history = GradientEstimator(every=3, history=9, mean="constant"), history_of(X, G)
    first, _ = fit_hyperparameters(given, history, Hyperparameters())
    assert first.age == 0
    strange = Hyperparameters(123.0, 0.5, 0.0, 0)
    kept = [fit_hyperparameters(given, history, strange)[0]]
    kept.append(fit_hyperparameters(given, history, kept[-1])[0])
    assert [(h.length, h.noise, h.age) for h in kept] == [(123.0, 0.5, 1), (123.0, 0.5, 2)]
    assert fit_hyperparameters(given, history, kept[-1])[0] == first


def test_gradients_that_are_all_equal_say_nothing():
    X, _ = rows(6, 3, 10)
    before = Hyperparameters(0.5, 0.25, 0.0)
    h, note = fit_hyperparameters(
        GradientEstimator(history=6, mean="constant"), history_of(X, np.ones_like(X)), before
    )
    assert (h.length, h.noise) == (0.5, 0.25)
    assert "no usable likelihood" in note


def test_rows_that_coincide_have_no_length():
    X = np.ones((6, 3))
    h, note = fit_hyperparameters(
        GradientEstimator(history=6, mean="constant"),
        history_of(X, rows(6, 3, 11)[1]),
        Hyperparameters(),
    )
    assert h.length == 0.0
    assert "no usable likelihood" in note
    kernel = get_kernel("rbf")
    assert (
        maximize_reml(
            kernel,
            pair_matrices(history_of(X, X)),
            constant=True,
            linear=False,
            length=None,
            noise=None,
        )
        is None
    )


def test_noise_below_the_rounding_of_the_gradients_is_not_believed():
    # float32 gradients around 1e3: rounding 6e-5, differences of 1e-3. Smooth to the eye of the
    # likelihood in float64, but not believed so.
    rng = np.random.default_rng(12)
    X = np.cumsum(rng.normal(size=(10, 20)), axis=0)
    G = 1e3 + 1e-3 * X
    single = GradientEstimator().fit(X.astype(np.float32), G.astype(np.float32))
    double = GradientEstimator().fit(X, G)
    floor = (tuning.GRADIENT_ROUNDING * np.finfo(np.float32).eps) ** 2 * (G**2).sum(1).max()
    assert single.noise_variance >= floor
    assert double.noise_variance < 1e-3 * floor


# -- secants and medians ---------------------------------------------------------------------------


@given(n=st.integers(2, 8), d=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_secant_curvature(n, d, seed):
    rng = np.random.default_rng(seed)
    X, G = rng.normal(size=(2, n, d))
    # Gradients that turn away are as frequent as others: many secants do not count. M cancels:
    # relative error eps |dg||dx| / M.
    assert secant_curvature(pair_matrices(history_of(X, G))) == pytest.approx(
        reference.secant_curvature(X, G), rel=1e-8
    )


def test_secants_follow_the_order_of_arrival():
    # A full ring: the newest row lies beside the oldest, which is no secant.
    X = np.array([[0.0], [1.0], [2.0], [3.0]])
    G = np.array([[0.0], [1.0], [2.0], [103.0]])
    history = History(3, 1, np.float64, NUMPY)
    for x, g in zip(X, G, strict=True):
        history.append(x, g)
    assert secant_curvature(pair_matrices(history)) == pytest.approx(101.0, rel=1e-15)
    assert reference.secant_curvature(X[1:], G[1:]) == pytest.approx(101.0, rel=1e-15)
    history.append(np.array([4.0]), np.array([104.0]))
    history.append(np.array([5.0]), np.array([105.0]))
    assert secant_curvature(pair_matrices(history)) == pytest.approx(1.0, rel=1e-15)


def test_a_secant_that_does_not_curve_upwards_does_not_count():
    X = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    # backwards, then a right angle to within rounding
    G = np.array([[0.0, 0.0], [-1.0, 0.0], [-1.0 + 1e-13, 1.0]])
    assert (
        secant_curvature(pair_matrices(history_of(X, G))) == reference.secant_curvature(X, G) == 0.0
    )


def test_median_of_the_positive_distances():
    X = np.array([[0.0], [0.0], [1.0], [3.0]])
    S = ((X - X.T) ** 2).astype(float)
    assert median_distance(S) == reference.median_distance(X) == 2.0  # of 1, 1, 2, 3, 3
    assert median_distance(np.zeros((4, 4))) == median_distance(np.zeros((1, 1))) == 0.0
