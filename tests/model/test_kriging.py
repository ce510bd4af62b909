"""The T0 x T0 systems: the contrast form against kriging by elimination in 50 digits, and the
ladder where there is no good system.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optex_core.model.kernels import KERNELS, Kernel, get_kernel
from optex_core.model.kriging import (
    FLOAT64_EPS,
    IllConditioned,
    KrigingSystem,
    eigendecompositions,
    helmert_contrasts,
    mean_off_diagonal,
)
from optex_core.testing.reference.kriging import Kriging, typical_contrast

NAMES = sorted(KERNELS)


def squared(X, Y):
    return ((X[:, None] - Y[None]) ** 2).sum(2)


def both(name, X, length, noise, constant):
    """The fast system and the slow one."""
    slow = Kriging(name, X, np.zeros_like(X), length, noise, "constant" if constant else "zero")
    return KrigingSystem(get_kernel(name), squared(X, X), length, noise, constant), slow


@dataclass(frozen=True)
class Box(Kernel):
    """1 below one length, else 0: no correlation function, since its matrices have negative
    eigenvalues.
    """

    name = "box"

    def profile(self, s):
        return np.where(s <= 1.0, 1.0, 0.0)


#: Neighbours on a line are correlated, others are not: eigenvalues 1 + 2 cos(...) go down to -0.97.
LINE = 0.8 * np.arange(12.0)[:, None]


@pytest.mark.parametrize("n", [2, 3, 4, 9, 40])
def test_contrasts_are_an_orthonormal_basis_of_the_differences(n):
    Q = helmert_contrasts(n)
    assert Q.shape == (n, n - 1)
    assert np.allclose(Q.T @ Q, np.eye(n - 1), rtol=0.0, atol=4 * n * FLOAT64_EPS)
    assert np.abs(Q.sum(0)).max() <= 4 * n * FLOAT64_EPS
    assert not Q.flags.writeable  # it is shared


def test_typical_contrast():
    H = np.array([[0.0, 2.0, 4.0], [2.0, 0.0, 6.0], [4.0, 6.0, 0.0]])
    assert mean_off_diagonal(H) == 4.0
    assert np.array_equal(mean_off_diagonal(np.stack([H, 0.0 * H])), [4.0, 1.0])
    X = np.random.default_rng(0).normal(size=(5, 2))
    h0 = eigendecompositions(
        get_kernel("matern52"), squared(X, X), np.array([0.1, 1.0, 1e3]), constant=True
    )[2]
    assert np.allclose(
        h0,
        [typical_contrast("matern52", X, length) for length in (0.1, 1.0, 1e3)],
        rtol=1e-13,
        atol=0.0,
    )


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "zero"])
@pytest.mark.parametrize("name", NAMES)
@given(
    n=st.integers(1, 8),
    length=st.sampled_from((0.3, 1.0, 10.0, 300.0)),
    rho=st.sampled_from((1e-6, 1e-2, 1.0, 100.0)),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_equals_kriging(name, constant, n, length, rho, seed):
    rng = np.random.default_rng(seed)
    X, x = rng.normal(size=(n, 3)), rng.normal(size=3)
    noise = rho * typical_contrast(name, X, length) if constant and n > 1 else rho
    fast, slow = both(name, X, length, noise, constant)
    s = squared(X, x[None])[:, 0]
    w, right = fast.weights(s), slow.weights(x)
    assert not fast.jittered
    # The system's condition is about n / rho (in contrasts whatever the length), its entries are
    # right to 3e-14; |w| multiplies it.
    tolerance = n * 3e-14 / min(rho, 1.0) * max(1.0, np.abs(right).max())
    assert np.allclose(w, right, rtol=0.0, atol=tolerance)
    if constant:
        assert abs(w.sum() - 1.0) <= 8 * n * FLOAT64_EPS * max(1.0, np.abs(w).sum())
    v = fast.variance(s, w)
    assert v >= 0.0
    # Optimal weights: their error enters the variance once more only; contrasts lose nothing
    # against h0, the zero mean against 1.
    scale = max(noise / rho, slow.variance_factor(x)) if constant else 1.0
    assert v == pytest.approx(slow.variance_factor(x), rel=1e-9, abs=tolerance * scale)


@pytest.mark.parametrize("name", NAMES)
def test_contrasts_keep_digits_at_long_lengths(name):
    # Length 1e6 distances: A is singular to rounding (1 - kappa = 1e-12 and below), its contrasts
    # are not.
    rng = np.random.default_rng(5)
    X, x = rng.normal(size=(7, 2)), rng.normal(size=2)
    noise = 1e-6 * typical_contrast(name, X, 1e6)
    fast, slow = both(name, X, 1e6, noise, True)
    s = squared(X, x[None])[:, 0]
    w = fast.weights(s)
    assert np.allclose(w, slow.weights(x), rtol=0.0, atol=7 * 3e-14 / 1e-6)
    assert fast.variance(s, w) == pytest.approx(slow.variance_factor(x), rel=1e-6)


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "zero"])
@pytest.mark.parametrize("noise", [1e-10, 1e-4])
def test_duplicates_share_their_weight(constant, noise):
    X = np.random.default_rng(2).normal(size=(5, 2))[[0, 1, 1, 2, 3, 3, 3, 4]]
    fast, slow = both("matern52", X, 1.5, noise, constant)
    x = np.array([0.3, -0.2])
    w = fast.weights(squared(X, x[None])[:, 0])
    # The directions between duplicates have the eigenvalue `noise` alone.
    assert np.allclose(w, slow.weights(x), rtol=0.0, atol=1e-14 / noise)
    assert np.allclose([w[1], w[4], w[5]], [w[2], w[5], w[6]], rtol=0.0, atol=1e-14 / noise)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_all_rows_equal(n):
    X = np.ones((n, 3))
    for constant in (True, False):
        fast, slow = both("rbf", X, 2.0, 1e-3, constant)
        x = np.zeros(3)
        w = fast.weights(squared(X, x[None])[:, 0])
        assert np.allclose(w, slow.weights(x), rtol=0.0, atol=1e-12)
        if constant:
            # rounding of Q'h over rho
            assert np.allclose(w, 1.0 / n, rtol=0.0, atol=n * FLOAT64_EPS / 1e-3)


def test_one_row():
    X, x = np.zeros((1, 2)), np.array([[0.6, 0.8]])
    for constant in (True, False):
        fast, slow = both("matern32", X, 0.7, 0.25, constant)
        s = squared(X, x)[:, 0]
        assert np.allclose(fast.weights(s), slow.weights(x[0]), rtol=4 * FLOAT64_EPS, atol=0.0)
        assert fast.variance(s, fast.weights(s)) == pytest.approx(
            slow.variance_factor(x[0]), rel=1e-14
        )


def test_two_rows_by_hand():
    # Ordinary kriging of two rows: w_1 = 1/2 + (h_2 - h_1) / (2 (h_12 + lambda)).
    X, x, noise = np.array([[0.0], [2.0]]), np.array([[0.5]]), 0.1
    fast, _ = both("rbf", X, 1.0, noise, True)
    s = squared(X, x)[:, 0]
    h1, h2, h12 = 1 - np.exp(-0.125), 1 - np.exp(-1.125), 1 - np.exp(-2.0)
    assert fast.weights(s)[0] == pytest.approx(0.5 + (h2 - h1) / (2 * (h12 + noise)), rel=1e-14)


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "zero"])
def test_the_ladder_carries_a_kernel_that_is_not_positive_definite(constant):
    S = squared(LINE, LINE)
    smallest = np.linalg.eigvalsh(Box().profile(S))[0]
    assert smallest < -0.5
    system = KrigingSystem(Box(), S, 1.0, 1e-8, constant)
    assert system.jittered
    assert system.noise > -smallest / 2  # in contrasts, the smallest eigenvalue may lie above
    assert np.isfinite(system.basis).all()
    w = system.weights(S[3])
    assert np.isfinite(w).all()
    if constant:
        assert abs(w.sum() - 1.0) < 1e-12
    assert system.variance(S[3], w) >= 0.0


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "zero"])
def test_the_ladder_ends(constant):
    # Twelve rungs from rounding level reach 0.3, the eigenvalues ask for 0.9.
    with pytest.raises(IllConditioned, match="not positive definite"):
        KrigingSystem(Box(), squared(LINE, LINE), 1.0, 0.0, constant)


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "zero"])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_distances_that_are_not_numbers(constant):
    S = squared(LINE, LINE)
    S[2, 3] = S[3, 2] = np.nan
    with pytest.raises(IllConditioned):
        KrigingSystem(get_kernel("rbf"), S, 1.0, 1e-8, constant)


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "zero"])
def test_no_noise_is_raised_to_rounding(constant):
    X = np.random.default_rng(3).normal(size=(9, 2))
    system = KrigingSystem(get_kernel("rbf"), squared(X, X), 30.0, 0.0, constant)
    assert system.jittered
    assert 0.0 < system.rho < 1e-10
    w = system.weights(squared(X, X[:1])[:, 0])
    assert np.allclose(w @ X, X[0], rtol=0.0, atol=1e-4)  # smooth functions are still interpolated


def test_the_spectrum_serves_several_lengths_at_once():
    X = np.random.default_rng(4).normal(size=(6, 3))
    lengths = np.array([0.5, 2.0, 50.0])
    for constant in (True, False):
        values, basis, h0 = eigendecompositions(
            get_kernel("matern52"), squared(X, X), lengths, constant
        )
        for i, length in enumerate(lengths):
            one = eigendecompositions(
                get_kernel("matern52"), squared(X, X), lengths[i : i + 1], constant
            )
            assert np.allclose(values[i], one[0][0], rtol=0.0, atol=1e-13)
            matrix = get_kernel("matern52").profile(squared(X, X) / length**2) / h0[i]
            rebuilt = (basis[i] * values[i]) @ basis[i].T
            if constant:  # equal on contrasts only
                Q = helmert_contrasts(6)
                matrix, rebuilt = Q.T @ matrix @ Q, Q.T @ rebuilt @ Q
            assert np.allclose(rebuilt, matrix, rtol=0.0, atol=1e-12 if length < 10 else 1e-10)
