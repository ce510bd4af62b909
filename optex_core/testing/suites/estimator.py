"""Checks of the gradient estimate against kriging in 50 digits, and its invariances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from optex_core._validation import short_repr
from optex_core.errors import ArgumentTypeError
from optex_core.model.estimator import GradientEstimator
from optex_core.model.kernels.base import KERNELS
from optex_core.model.posterior import Posterior
from optex_core.testing import hypothesis_strategies as st
from optex_core.testing.assertions import assert_same_bits, assert_within
from optex_core.testing.check_suite import CheckSuite, require
from optex_core.testing.properties import for_all
from optex_core.testing.reference import kriging as reference


@dataclass(frozen=True)
class EstimatorSubject:
    """Settings of an estimator, and how they are fitted."""

    settings: GradientEstimator
    fit: Callable[..., Posterior]

    def fitted(
        self, X: np.ndarray, G: np.ndarray, *, scale: np.ndarray | None = None, **more: Any
    ) -> Posterior:
        """The posterior at fixed hyperparameters unless `more` says otherwise."""
        given = {"length_scale": 2.0, "noise": 1e-6, "tune": "fixed", **more}
        return self.fit(replace(self.settings, **given), X, G, scale)


def prepare_estimator(
    settings: GradientEstimator | str | None = None, *, fit: Callable[..., Posterior] | None = None
) -> tuple[str, EstimatorSubject]:
    """Check a gradient estimate.

    Parameters
    ----------
    settings : GradientEstimator, str or None, default None
        What is fitted; a kernel's name stands for the defaults with that kernel.
    fit : callable, optional
        ``fit(settings, X, G, scale) -> posterior`` in place of ``settings.fit``: for another
        implementation of the same estimate.

    Examples
    --------
    >>> from optex_core.testing import check_estimator
    >>> check_estimator("rbf")["interpolates_data"].status
    'passed'
    """
    made = GradientEstimator() if settings is None else settings
    made = GradientEstimator(kernel=made) if isinstance(made, str) else made
    if not isinstance(made, GradientEstimator):
        raise ArgumentTypeError(
            f"check_estimator takes a GradientEstimator or the name of a kernel, got "
            f"{short_repr(settings)}"
        )
    label = "-".join([str(made.kernel), *([made.mean] if made.mean else [])])
    return label, EstimatorSubject(made, fit or GradientEstimator.fit)


def _registered() -> list[GradientEstimator]:
    means: tuple[Literal["zero", "constant", "linear"], ...] = ("zero", "constant", "linear")
    kernels = [GradientEstimator(kernel=name) for name in KERNELS]
    return [*kernels, *(GradientEstimator(mean=mean) for mean in means)]


SUITE = CheckSuite("estimator", prepare_estimator, _registered)
QUERIES = np.random.default_rng(9).normal(size=(3, 3))


def _rows(n: int = 6, d: int = 3, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(seed).normal(size=(n, d))
    return X, (1.0 + np.arange(d)) * X + 0.1 * np.sin(3.0 * X)


def _reference(
    posterior: Posterior, X: np.ndarray, G: np.ndarray, scale: np.ndarray | None = None
) -> reference.Kriging:
    settings, hyper = posterior.settings, posterior.hyper
    prior = settings.mean or "constant"
    return reference.Kriging(
        settings.kernel, X, G, hyper.length, posterior.noise, prior, hyper.curvature, scale
    )


@SUITE.check()
def matches_reference_posterior(s: EstimatorSubject) -> None:
    """Mean, weights and deviation are those of kriging in 50 digits, with units and without."""
    X, G = _rows()
    for scale in (None, np.array([0.5, 1.0, 4.0])):
        posterior = s.fitted(X, G, scale=scale)
        exact = _reference(posterior, X, G, scale)
        for x in QUERIES:
            assert_within(posterior.weights(x), exact.weights(x), 1e-8, "weights")
            assert_within(posterior.mean(x), exact.mean(x), 1e-8, "mean")
            std = exact.std(x)
            assert_within(posterior.std(x), std, 1e-6 * std + 1e-9, "standard deviation")
        amplitude = exact.amplitude()
        assert_within(posterior.amplitude, amplitude, 1e-6 * amplitude, "amplitude")


@SUITE.check()
def likelihood_selects_reference_hyperparameters(s: EstimatorSubject) -> None:
    """Length, noise and curvature are the best of the grid by the restricted likelihood."""
    X, G = _rows(5, 2)
    settings = replace(s.settings, length_scale=3.0, noise=None, tune="likelihood")
    posterior = s.fit(settings, X, G, None)
    score, best = min(reference.candidates(posterior.settings, X, G), key=lambda pair: pair[0])
    found = replace(_reference(posterior, X, G), noise=posterior.hyper.noise)
    gap = found.likelihood() - score
    text = f"noise {found.noise:.3g} scores {gap:.3g} worse than noise {best.noise:.3g}"
    require(gap <= 1e-6 * (1 + abs(score)), text)


@SUITE.check()
def interpolates_data(s: EstimatorSubject) -> None:
    """With hardly any noise the estimate at a row is that row's gradient."""

    def body(seed: int, n: int) -> None:
        X, G = _rows(n, 3, seed)
        posterior = s.fitted(X, G, noise=1e-10)
        bound = 1e-3 * np.abs(G).max()
        for x, g in zip(X, G, strict=True):
            assert_within(posterior.mean(x), g, bound, "the estimate at a row is not its gradient")
            smaller = posterior.std(x) <= posterior.std(x + 10.0) + 1e-6
            require(smaller, "a row is as uncertain as a point far away")

    for_all(body, seed=st.integers(0, 100), n=st.integers(2, 7), examples=25)


@SUITE.check(when=lambda s: s.settings.mean != "zero", why="a zero mean is not invariant")
def reproduces_constant_gradients(s: EstimatorSubject) -> None:
    """With fitted means, rows of one gradient give that gradient at every point."""
    X, _ = _rows()
    G = np.tile([1.0, -2.0, 3.0], (len(X), 1))
    posterior = s.fitted(X, G)
    for x in (*QUERIES, np.full(3, 1e3)):
        assert_within(posterior.weights(x).sum(), 1.0, 1e-9, "the weights do not sum to one")
        assert_within(posterior.mean(x), G[0], 1e-8, "rows of one gradient give another")


@SUITE.check()
def is_translation_invariant(s: EstimatorSubject) -> None:
    """Shifted points give the same estimate at the shifted query, far from the origin too."""
    X, G = _rows()
    # of a size that costs three digits of the points, and no more of the estimate
    shift = np.array([1024.0, -512.0, 2048.0])
    plain, shifted = s.fitted(X, G), s.fitted(X + shift, G)
    for x in QUERIES:
        assert_within(shifted.mean(x + shift), plain.mean(x), 1e-7, "a shift changes the estimate")


@SUITE.check()
def is_invariant_to_row_order(s: EstimatorSubject) -> None:
    """At given hyperparameters, permuted rows give the same estimate."""
    X, G = _rows()
    order = np.array([3, 0, 5, 1, 4, 2])
    # The curvature of the linear mean is read from consecutive rows: only the others are symmetric.
    mean = "constant" if s.fitted(X, G).hyper.curvature else s.settings.mean
    one, other = (s.fitted(*rows, mean=mean) for rows in ((X, G), (X[order], G[order])))
    for x in QUERIES:
        assert_within(other.mean(x), one.mean(x), 1e-8, "the order of rows changes the estimate")


@SUITE.check()
def is_invariant_to_units(s: EstimatorSubject) -> None:
    """Parameters in other units with `x_scale` to match give the same estimate in those units."""
    X, G = _rows()
    unit = np.array([2.0**10, 1.0, 2.0**-6])
    plain, scaled = s.fitted(X, G), s.fitted(X * unit, G / unit, scale=unit)
    for x in QUERIES:
        assert_within(scaled.mean(x * unit) * unit, plain.mean(x), 1e-9, "x_scale and units")


@SUITE.check()
def is_rotation_equivariant(s: EstimatorSubject) -> None:
    """Kernels are isotropic: an orthogonal change of coordinates rotates the estimate with it."""
    X, G = _rows()
    Q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    plain, rotated = s.fitted(X, G), s.fitted(X @ Q.T, G @ Q.T)
    for x in QUERIES:
        turned = Q @ plain.mean(x)
        assert_within(rotated.mean(Q @ x), turned, 1e-8, "a rotation changes the estimate")


@SUITE.check()
def degenerate_data_give_finite_estimates(s: EstimatorSubject) -> None:
    """Repeated, collinear, close and far rows give finite estimates or a named fallback."""

    def body(rows: tuple[np.ndarray, np.ndarray]) -> None:
        X, G = rows
        posterior = s.fit(s.settings, X, G, None)
        for x in (X[0], X[-1] + 0.5, X.mean(0)):
            mean, std = posterior.predict(x)
            require(np.isfinite(mean).all(), f"the estimate is {mean}")
            require(np.isfinite(std) and std >= 0.0, f"the standard deviation is {std}")
        if len(np.unique(X, axis=0)) == 1:
            text, bound = "rows at one point: not their mean", 1e-9 * (1 + np.abs(G).max())
            assert_within(posterior.mean(X[0]), G.mean(0), bound, text)
            require(posterior.fallback, "rows that all coincide are not mentioned in `fallback`")

    for_all(body, rows=st.histories(), examples=60)


@SUITE.check()
def preserves_dtype(s: EstimatorSubject) -> None:
    """float32 rows give float32 estimates; rows are not changed, queries repeat."""
    X, G = _rows()
    before = X.copy(), G.copy()
    wide = s.fitted(X, G, noise=1e-4)
    narrow = s.fitted(X.astype(np.float32), G.astype(np.float32), noise=1e-4)
    bound = 1e-3 * (1 + np.abs(G).max())
    for x in QUERIES:
        mean = narrow.mean(x.astype(np.float32))
        require(mean.dtype == np.float32, f"float32 rows gave {mean.dtype}")
        assert_within(mean, wide.mean(x), bound, "float32 and float64 estimates")
        assert_same_bits(wide.mean(x), wide.mean(x), "the same query twice")
    assert_same_bits((X, G), before, "the rows were changed")
