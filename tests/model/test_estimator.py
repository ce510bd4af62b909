"""The gradient estimate as users call it: against the slow twin, under changes of units and
coordinates, in hard cases, and at the door.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import optex_core as ox
from optex_core.backends import get_backend
from optex_core.model.estimator import GradientEstimator, Posterior, fit_hyperparameters
from optex_core.model.history import History
from optex_core.model.kernels import Kernel, get_kernel
from optex_core.model.likelihood import Hyperparameters
from optex_core.testing.reference import kriging as reference

PRIORS = ("zero", "constant", "linear")
seeds = st.integers(0, 2**32 - 1)


def rows(n, d, seed, noise=0.01):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, X * np.exp(rng.normal(size=d)) + 0.3 * np.sin(
        X @ rng.normal(size=(d, d))
    ) + noise * rng.normal(size=(n, d))


def check_twin(posterior, x, tolerance):
    """Mean, weights, variance, amplitude and deviation, each relative to its size."""
    slow = reference.reference_posterior(posterior)
    order = posterior.history.chronological_order()
    w, right = posterior.weights(x)[order], slow.weights(x)
    assert np.allclose(w, right, rtol=0.0, atol=tolerance * max(1.0, np.abs(right).max()))
    mean, size = slow.mean(x), np.abs(slow.G).max()
    assert np.allclose(
        posterior.mean(x), mean, rtol=0.0, atol=tolerance * size * np.abs(right).sum()
    )
    assert posterior.amplitude == pytest.approx(slow.amplitude(), rel=1e-6)
    estimate, std = posterior.predict(x)
    assert np.array_equal(estimate, posterior.mean(x))
    assert std == posterior.std(x) == pytest.approx(slow.std(x), rel=1e-5)
    assert posterior.noise_variance == pytest.approx(posterior.noise * slow.amplitude(), rel=1e-6)


# -- the slow twin ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", PRIORS)
@given(
    n=st.integers(1, 9),
    d=st.integers(1, 4),
    seed=seeds,
    scaled=st.booleans(),
    noise=st.sampled_from((1e-6, 1e-3, 0.5)),
)
@settings(max_examples=15)
def test_it_is_the_twin(prior, n, d, seed, scaled, noise):
    X, G = rows(n, d, seed)
    scale = np.exp(np.random.default_rng(seed + 1).normal(size=d)) if scaled else None
    posterior = GradientEstimator(mean=prior, noise=noise, length_scale=2.0).fit(X, G, scale)
    # Noise 1e-6 against eigenvalues up to n: relative errors of eps n / 1e-6.
    check_twin(posterior, np.random.default_rng(seed + 2).normal(size=d), 1e-7)


@pytest.mark.parametrize("prior", PRIORS)
def test_kernel_dims(prior):
    X, G = rows(8, 6, 2)
    posterior = GradientEstimator(mean=prior, kernel_dims=2, noise=1e-3, length_scale=1.5).fit(
        X, G, np.array([1, 2, 0.5, 3, 1, 0.1])
    )
    dims = posterior.history.dims
    assert len(dims) == 2
    x = np.random.default_rng(3).normal(size=6)
    check_twin(posterior, x, 1e-9)
    elsewhere = x + 1.0
    elsewhere[dims] = x[dims]
    # the other coordinates are not looked at
    assert np.array_equal(posterior.weights(x), posterior.weights(elsewhere))


def test_kernel_dims_of_all_parameters_is_none():
    X, G = rows(7, 4, 4)
    x = np.ones(4)
    assert np.array_equal(
        GradientEstimator(kernel_dims=4).fit(X, G).mean(x), GradientEstimator().fit(X, G).mean(x)
    )


@pytest.mark.parametrize("prior", PRIORS)
def test_x_scale_is_the_change_of_variables_done_by_hand(prior):
    X, G = rows(9, 4, 5)
    s = np.array([2.0**-20, 8.0, 1.0, 2.0**10])  # powers of two: exact
    x = np.array([0.1, 0.2, -0.3, 0.4])
    scaled = GradientEstimator(mean=prior).fit(X * s, G / s, s)
    plain = GradientEstimator(mean=prior).fit(X, G)
    assert scaled.hyper == plain.hyper
    assert np.array_equal(scaled.weights(x * s), plain.weights(x))
    # gamma / scale^2 (x - ...) is divided twice, and sums in another order: rounding.
    assert np.allclose(scaled.mean(x * s) * s, plain.mean(x), rtol=0.0, atol=1e-12)
    assert scaled.std(x * s) == pytest.approx(plain.std(x), rel=1e-12)
    assert np.array_equal(
        GradientEstimator(mean=prior).fit(X, G, 2.0).mean(x),
        GradientEstimator(mean=prior).fit(X, G, [2.0] * 4).mean(x),
    )


# -- what must not matter --------------------------------------------------------------------------


def fitted(prior, X, G):
    return GradientEstimator(mean=prior, noise=1e-4).fit(X, G)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(("in_x", "in_g"), [(2.0**20, 1.0), (1.0, 2.0**-40), (2.0**-30, 2.0**50)])
def test_units_of_x_and_g(prior, in_x, in_g):
    X, G = rows(9, 3, 6)
    x = np.array([0.1, 0.2, 0.3])
    one, other = (
        GradientEstimator(mean=prior).fit(X * a, G * b) for a, b in ((1.0, 1.0), (in_x, in_g))
    )
    assert np.array_equal(one.weights(x), other.weights(x * in_x))  # powers of two are exact
    assert np.array_equal(one.mean(x) * in_g, other.mean(x * in_x))
    assert other.std(x * in_x) == pytest.approx(one.std(x) * in_g, rel=1e-12)


@given(seed=seeds, c=st.floats(-1e3, 1e3))
@settings(max_examples=15)
def test_a_constant_added_to_all_gradients_is_added_to_the_estimate(seed, c):
    # What the fitted mean is for; the zero mean shrinks it.
    X, G = rows(7, 3, seed)
    x = np.array([0.5, 0.0, -0.5])
    given = GradientEstimator(mean="constant", noise=1e-3, length_scale=2.0)
    assert np.allclose(
        given.fit(X, G + c).mean(x), given.fit(X, G).mean(x) + c, rtol=0.0, atol=1e-9
    )
    far = np.full(3, 1e6)
    shrunk = GradientEstimator(mean="zero", noise=1e-3, length_scale=2.0).fit(X, G + c)
    assert np.allclose(shrunk.mean(far), 0.0, rtol=0.0, atol=1e-12)


# -- interpolation, deviation, hard cases ----------------------------------------------------------


def test_interpolation_far_from_the_origin():
    # Offset 1e3 and steps of 1e-4, where |a|^2 + |b|^2 - 2ab has no digit left.
    rng = np.random.default_rng(8)
    steps = np.cumsum(1e-4 * rng.normal(size=(10, 5)), axis=0)
    near = GradientEstimator().fit(steps, 3.0 * steps)
    far = GradientEstimator().fit(1e3 + steps, 3.0 * steps)
    x = steps[4] + 3e-5
    # positions are rounded to 1e-13, steps are 1e-4
    assert far.hyper.length == pytest.approx(near.hyper.length, rel=1e-8)
    # Kriging itself is 1e-5 of the largest gradient away from the linear function; the offset must
    # not be seen beside it.
    size = np.abs(3.0 * steps).max()
    assert np.allclose(near.mean(x), 3.0 * x, rtol=0.0, atol=2e-5 * size)
    assert np.allclose(far.mean(1e3 + x), near.mean(x), rtol=0.0, atol=1e-8 * size)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_deviation_covers(prior):
    # Samples of the model itself, held-out points: the squared error over std^2 is chi-squared of d
    # / d, with d = 60 within [0.6, 1.5] always.
    ratios = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(16, 2)) * 1.5
        X = np.concatenate([X, np.zeros((16, 58))], axis=1)
        S = ((X[:, None] - X[None]) ** 2).sum(2)
        F = np.linalg.cholesky(
            get_kernel("matern52").profile(S / 4.0) + 1e-12 * np.eye(16)
        ) @ rng.normal(size=(16, 60))
        G = F + 0.05 * rng.normal(size=(16, 60))
        posterior = GradientEstimator(mean=prior, length_scale=2.0, noise=0.05**2).fit(
            X[:12], G[:12]
        )
        for x, truth in zip(X[12:], F[12:], strict=True):
            mean, std = posterior.predict(x)
            ratios.append(float(((mean - truth) ** 2).sum()) / std**2)
    assert 0.85 < np.mean(ratios) < 1.2
    assert np.mean([0.6 < ratio < 1.5 for ratio in ratios]) > 0.85


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_all_rows_equal(prior, n):
    X, G = np.ones((n, 3)), rows(n, 3, 9)[1]
    posterior = GradientEstimator(mean=prior).fit(X, G)
    assert "coincide" in posterior.fallback
    assert np.allclose(posterior.weights(np.zeros(3)), 1.0 / n, rtol=1e-15)
    assert np.allclose(posterior.mean(np.zeros(3)), G.mean(0), rtol=1e-12)
    assert posterior.hyper.curvature == posterior.std(np.zeros(3)) == posterior.amplitude == 0.0


@pytest.mark.parametrize("prior", PRIORS)
def test_rows_repeated_many_times(prior):
    X, G = rows(4, 3, 10)
    again = np.array([0, 1, 1, 1, 2, 3, 3, 3, 3])
    posterior = GradientEstimator(mean=prior).fit(X[again], G[again])
    assert posterior.fallback == ""
    for i in range(4):
        assert np.allclose(posterior.mean(X[i]), G[i], rtol=0.0, atol=0.05 * np.abs(G).max())
    assert math.isfinite(posterior.std(np.zeros(3)))


def test_one_row_is_the_gradient_everywhere():
    x, g = np.array([[1.0, 2.0]]), np.array([[3.0, -4.0]])
    for prior in PRIORS:
        assert np.array_equal(
            GradientEstimator(mean=prior).fit(x, g).mean(np.array([9.0, 9.0])), g[0]
        )
    # With a length the zero mean forgets: kappa / (1 + lambda).
    posterior = GradientEstimator(mean="zero", kernel="rbf", length_scale=1.0, noise=0.25).fit(x, g)
    assert np.allclose(posterior.mean(np.array([1.0, 3.0])), np.exp(-0.5) / 1.25 * g[0], rtol=1e-14)


@pytest.mark.parametrize("prior", PRIORS)
def test_gradients_that_are_all_zero(prior):
    X, _ = rows(6, 3, 11)
    mean, std = GradientEstimator(mean=prior).fit(X, np.zeros((6, 3))).predict(np.zeros(3))
    assert not mean.any()
    assert std == 0.0


@dataclass(frozen=True)
class Box(Kernel):
    """Not positive definite."""

    name = "box"

    def profile(self, s):
        return np.where(s <= 1.0, 1.0, 0.0)


def test_a_system_beyond_repair_repeats_the_newest_gradient_and_says_so():
    X = 0.8 * np.arange(12.0)[:, None]
    G = np.sin(X)
    posterior = GradientEstimator(kernel=Box(), length_scale=1.0, noise=0.0, tune="fixed").fit(X, G)
    assert "not positive definite" in posterior.fallback
    assert "the newest gradient is repeated" in posterior.fallback
    assert np.array_equal(posterior.mean(np.array([2.0])), G[-1])
    assert posterior.std(np.array([2.0])) == posterior.noise_variance == 0.0


def test_float32_rows():
    X, G = (a.astype(np.float32) for a in rows(9, 4, 12))
    for prior in PRIORS:
        posterior = GradientEstimator(mean=prior, noise=1e-4, length_scale=2.0).fit(X, G)
        x = np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32)
        assert posterior.mean(x).dtype == np.float32
        slow = reference.reference_posterior(posterior)
        # All T0 x T0 is float64: only the estimate itself is rounded.
        assert np.allclose(posterior.weights(x), slow.weights(x), rtol=0.0, atol=1e-9)
        assert np.allclose(posterior.mean(x), slow.mean(x), rtol=0.0, atol=4e-7 * np.abs(G).max())


def test_estimates_on_the_numba_backend_are_the_same():
    pytest.importorskip("numba", reason="numba is not installed")
    X, G = rows(8, 5, 13)
    runs = []
    for name in ("numpy", "numba"):
        engine = ox.OptEx(
            X[0], parallelism=2, strategy="verified", backend=get_backend(name), rng=0
        )
        engine.add_observations(X, G)
        runs.append(engine.machine.surrogate.posterior().mean(np.full(5, 0.1)))
    assert np.allclose(runs[0], runs[1], rtol=0.0, atol=1e-9 * np.abs(G).max())


# -- the door --------------------------------------------------------------------------------------


def test_what_is_fitted_is_copied():
    X, G = rows(5, 2, 14)
    posterior = GradientEstimator().fit(X, G)
    before = posterior.mean(np.zeros(2))
    X[:], G[:] = 0.0, 0.0
    assert np.array_equal(posterior.mean(np.zeros(2)), before)


def test_lists_and_integers():
    posterior = GradientEstimator().fit(
        [[0, 0], [1, 0], [0, 1], [1, 1]], [[0, 0], [2, 0], [0, 2], [2, 2]]
    )
    assert np.allclose(posterior.mean(np.array([0.5, 0.5])), [1.0, 1.0], atol=1e-3)


def test_completed_fills_in_what_is_left_open():
    assert GradientEstimator().with_defaults(2, "linear", 9) == GradientEstimator(
        history=20, mean="linear"
    )
    assert GradientEstimator().with_defaults(5, "constant", 9) == GradientEstimator(
        history=30, mean="constant"
    )
    own = GradientEstimator(history=7, mean="zero")
    assert own.with_defaults(5, "linear", 9) is not None
    assert own.with_defaults(5, "linear", 9) == own


@pytest.mark.parametrize("mean", ["zero", "constant", "linear"])
@pytest.mark.parametrize("tune", ["likelihood", "median", "fixed"])
def test_tuning_and_the_fit_read_nothing_of_length_d(tune, mean):
    class Rows:  # in place of the histories: whoever reads them fails
        dtype = np.dtype(np.float32)

    X, G = (a.astype(np.float32) for a in rows(9, 4, 12))
    estimator = GradientEstimator(history=9, mean=mean, tune=tune)
    history = History(9, 4, np.float32, get_backend("numpy"), eager_pairs=True)
    history.extend(list(zip(X, G, strict=True)))
    history.X = history.G = Rows()
    hyper, _ = fit_hyperparameters(estimator, history, Hyperparameters())
    posterior = Posterior(estimator, history, hyper)
    assert posterior.amplitude > 0.0
    assert posterior.noise > 0.0
    with pytest.raises(TypeError):  # a query does read them
        posterior.mean(X[0])
