"""What the gradient estimate definitions: it interpolates, it is that of plain kriging in 50 digits,
and units, shifts and orders do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from optex_core._validation import short_repr
from optex_core.errors import ArgumentTypeError
from optex_core.model.estimator import GradientEstimator
from optex_core.model.kernels.base import KERNELS
from optex_core.testing.assertions import assert_same_bits, assert_within
from optex_core.testing.check_suite import CheckReport, CheckSuite, require
from optex_core.testing.float32_bounds import float32_bound
from optex_core.testing.properties import for_all
from optex_core.testing.reference import optex as reference


@dataclass(frozen=True)
class Subject:
    """Settings of an estimator, and how they are fitted."""

    label: str
    settings: GradientEstimator
    fit: Callable[..., Any]

    def fitted(self, X: np.ndarray, G: np.ndarray, *, scale: Any = None, **more: Any) -> Any:
        """The posterior at fixed hyperparameters unless `more` says otherwise."""
        given = {"length_scale": 2.0, "noise": 1e-6, "tune": "fixed", **more}
        return self.fit(replace(self.settings, **given), X, G, scale)


def prepare(settings: Any = None, *, fit: Callable[..., Any] | None = None) -> Subject:
    """Settings, or None for the default ones."""
    settings = GradientEstimator() if settings is None else settings
    if isinstance(settings, str):
        settings = GradientEstimator(kernel=settings)
    if not isinstance(settings, GradientEstimator):
        raise ArgumentTypeError(
            f"check_estimator takes a GradientEstimator or the name of a kernel, got "
            f"{short_repr(settings)}"
        )
    label = "-".join([str(settings.kernel), *([settings.mean] if settings.mean else [])])
    return Subject(label, settings, fit or _fit)


def _fit(settings: GradientEstimator, X: np.ndarray, G: np.ndarray, scale: Any) -> Any:
    return settings.fit(X, G, scale)


def _registered_subjects() -> Iterable[Any]:
    return [
        *(GradientEstimator(kernel=name) for name in KERNELS),
        *(GradientEstimator(mean=mean) for mean in ("zero", "constant", "linear")),
    ]


SUITE = CheckSuite("estimator", prepare, _registered_subjects)


def check_estimator(
    settings: Any = None,
    *,
    fit: Callable[..., Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> CheckReport:
    """Check a gradient estimate.

    Parameters
    ----------
    settings : GradientEstimator, str or None, default None
        What is fitted; a kernel's name stands for the defaults with that kernel.
    fit : callable, optional
        ``fit(settings, X, G, scale) -> posterior`` in place of ``settings.fit``: for another
        implementation of the same estimate.
    expected_failures : mapping of str to str, optional
        Check -> reason. Strict: one that passes is a failure.

    Returns
    -------
    CheckReport
        A list of `CheckResult`, true where all is well.

    Examples
    --------
    >>> from optex_core.testing import check_estimator
    >>> check_estimator("rbf")["interpolates_data"].status
    'passed'
    """
    return SUITE.run(settings, expected_failures, fit=fit)


def _rows(n: int = 6, d: int = 3, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    weights = 1.0 + np.arange(d)
    return X, weights * X + 0.1 * np.sin(3.0 * X)


def _queries(d: int = 3) -> np.ndarray:
    return np.random.default_rng(9).normal(size=(3, d))


@SUITE.check()
def matches_reference_posterior(s: Subject) -> None:
    """Mean, weights and standard deviation are those of A = K + lambda I solved in 50 digits, with
    units and without.
    """
    X, G = _rows()
    for scale in (None, np.array([0.5, 1.0, 4.0])):
        posterior = s.fitted(X, G, scale=scale)
        settings = posterior.settings
        twin = reference.Kriging(
            settings.kernel,
            X,
            G,
            posterior.hyper.length,
            posterior.noise,
            settings.mean,
            posterior.hyper.curvature,
            scale,
        )
        for x in _queries():
            assert_within(posterior.weights(x), twin.weights(x), 1e-8, "weights")
            assert_within(posterior.mean(x), twin.mean(x), 1e-8, "mean")
            assert_within(
                posterior.std(x), twin.std(x), 1e-6 * twin.std(x) + 1e-9, "standard deviation"
            )
        assert_within(posterior.amplitude, twin.amplitude(), 1e-6 * twin.amplitude(), "amplitude")


@SUITE.check()
def likelihood_selects_reference_hyperparameters(s: Subject) -> None:
    """Length, noise and curvature are the best of the grid by the restricted likelihood, computed
    from the rows.
    """
    X, G = _rows(5, 2)
    settings = replace(s.settings, length_scale=3.0, noise=None, tune="likelihood")
    posterior = s.fit(settings, X, G, None)
    score, best = min(reference.candidates(posterior.settings, X, G), key=lambda pair: pair[0])
    found = reference.Kriging(
        posterior.settings.kernel,
        X,
        G,
        posterior.hyper.length,
        posterior.hyper.noise,
        posterior.settings.mean,
        posterior.hyper.curvature,
    )
    gap = found.likelihood() - score
    require(
        gap <= 1e-6 * (1 + abs(score)),
        f"its choice, noise {posterior.hyper.noise:.3g}, scores {gap:.3g} worse than "
        f"noise {best.noise:.3g}",
    )


@SUITE.check()
def interpolates_data(s: Subject) -> None:
    """With hardly any noise the estimate at a row is that row's gradient, and the standard
    deviation is small there.
    """
    from optex_core.testing import hypothesis_strategies as st

    def body(seed: int, n: int) -> None:
        X, G = _rows(n, 3, seed)
        posterior = s.fitted(X, G, noise=1e-10)
        for x, g in zip(X, G, strict=True):
            assert_within(
                posterior.mean(x),
                g,
                1e-3 * np.abs(G).max(),
                "the estimate at a row is not its gradient",
            )
            require(
                posterior.std(x) <= posterior.std(x + 10.0) + 1e-6,
                "a row is as uncertain as a point far away",
            )

    for_all(body, seed=st.st.integers(0, 100), n=st.st.integers(2, 7))


@SUITE.check(when=lambda s: s.settings.mean != "zero", why="a zero mean is not invariant")
def reproduces_constant_gradients(s: Subject) -> None:
    """Fitted means make the weights sum to one: rows of one gradient give that gradient at every
    point.
    """
    X, _ = _rows()
    G = np.tile([1.0, -2.0, 3.0], (len(X), 1))
    posterior = s.fitted(X, G)
    for x in (*_queries(), np.full(3, 1e3)):
        assert_within(posterior.weights(x).sum(), 1.0, 1e-9, "the weights do not sum to one")
        assert_within(posterior.mean(x), G[0], 1e-8, "rows of one gradient give another")


@SUITE.check()
def is_translation_invariant(s: Subject) -> None:
    """Moved points give the same estimate at the moved query, and far from the origin the digits
    stay.
    """
    X, G = _rows()
    expected = [s.fitted(X, G).mean(x) for x in _queries()]
    # of a size that costs three digits of the points, and no more of the estimate
    shift = np.array([1024.0, -512.0, 2048.0])
    moved = s.fitted(X + shift, G)
    for x, right in zip(_queries(), expected, strict=True):
        assert_within(
            moved.mean(x + shift), right, 1e-7, "a shift of all points changes the estimate"
        )


@SUITE.check()
def is_invariant_to_row_order(s: Subject) -> None:
    """At given hyperparameters, permuted rows give the same estimate."""
    X, G = _rows()
    order = np.array([3, 0, 5, 1, 4, 2])
    one = s.fitted(X, G)
    # The curvature of the linear mean is read from consecutive rows: only the others are symmetric.
    if one.hyper.curvature:
        one, other = (s.fitted(*rows, mean="constant") for rows in ((X, G), (X[order], G[order])))
    else:
        other = s.fitted(X[order], G[order])
    for x in _queries():
        assert_within(
            other.mean(x), one.mean(x), 1e-8, "the order of the rows changes the estimate"
        )


@SUITE.check()
def is_invariant_to_units(s: Subject) -> None:
    """Parameters in other units with `x_scale` to match give the same estimate in those units."""
    X, G = _rows()
    unit = np.array([2.0**10, 1.0, 2.0**-6])
    plain, scaled = s.fitted(X, G), s.fitted(X * unit, G / unit, scale=unit)
    for x in _queries():
        assert_within(
            scaled.mean(x * unit) * unit,
            plain.mean(x),
            1e-9,
            "x_scale does not undo a change of units",
        )


@SUITE.check()
def is_rotation_equivariant(s: Subject) -> None:
    """Kernels are isotropic: an orthogonal change of coordinates turns the estimate with it."""
    X, G = _rows()
    Q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    plain, turned = s.fitted(X, G), s.fitted(X @ Q.T, G @ Q.T)
    for x in _queries():
        assert_within(
            turned.mean(Q @ x), Q @ plain.mean(x), 1e-8, "a rotation changes the estimate"
        )


@SUITE.check()
def degenerate_data_give_finite_estimates(s: Subject) -> None:
    """One row, repeated, collinear, close and far rows give finite estimates, no negative variance,
    and say so where they fell back.
    """
    from optex_core.testing import hypothesis_strategies as st

    def body(rows: tuple[np.ndarray, np.ndarray]) -> None:
        X, G = rows
        posterior = s.fit(s.settings, X, G, None)
        for x in (X[0], X[-1] + 0.5, X.mean(0)):
            mean, std = posterior.predict(x)
            require(np.isfinite(mean).all(), f"the estimate is {mean}")
            require(np.isfinite(std) and std >= 0.0, f"the standard deviation is {std}")
        if len(np.unique(X, axis=0)) == 1:
            assert_within(
                posterior.mean(X[0]),
                G.mean(0),
                1e-9 * (1 + np.abs(G).max()),
                "rows at one point: the estimate is not their mean",
            )
            require(posterior.fallback, "rows that all coincide are not mentioned in `fallback`")

    for_all(body, rows=st.histories(), examples=60)


@SUITE.check()
def preserves_dtype(s: Subject) -> None:
    """float32 rows give float32 estimates, close to those of float64; the rows are left alone;
    twice gives the same bits.
    """
    X, G = _rows()
    before = X.copy(), G.copy()
    wide, narrow = (
        s.fitted(X, G, noise=1e-4),
        s.fitted(X.astype(np.float32), G.astype(np.float32), noise=1e-4),
    )
    for x in _queries():
        mean = narrow.mean(x.astype(np.float32))
        require(mean.dtype == np.float32, f"float32 rows gave {mean.dtype}")
        assert_within(
            mean, wide.mean(x), 1e-3 * (1 + np.abs(G).max()), "float32 and float64 estimates"
        )
        assert_same_bits(wide.mean(x), wide.mean(x), "the same query twice")
    assert_same_bits((X, G), before, "the rows were changed")


@SUITE.check()
def float32_matches_float64_to_rounding(s: Subject) -> None:
    """Rows held as float32 give the estimate of the same rows held as float64, but for one rounding
    and the order of sums (`precision.py`).
    """
    from optex_core.testing import hypothesis_strategies as st

    def body(seed: int, n: int, steps: float) -> None:
        rng = np.random.default_rng(seed)
        # A path far from the origin in small steps: its differences are exact, and what is summed
        # in float32 shows in the weights.
        X = (30.0 + np.cumsum(steps * rng.normal(size=(n, 20)), axis=0)).astype(np.float32)
        G = (np.linspace(0.1, 1.0, 20) * (X - np.float32(30.0)) + 0.1 * np.sin(X)).astype(
            np.float32
        )
        x = (X[-1] + steps * rng.normal(size=20)).astype(np.float32)
        XX, GG, xx = (a.astype(np.float64) for a in (X, G, x))
        settings = {"noise": 1e-6, "length_scale": 10.0 * steps}
        narrow, wide = s.fitted(X, G, **settings), s.fitted(XX, GG, **settings)
        bound = float32_bound(wide, XX, GG, xx)
        assert_within(
            narrow.mean(x),
            wide.mean(xx),
            bound.mean,
            "float32 rows give another estimate than the same rows in float64, beyond rounding",
        )

    for_all(
        body,
        seed=st.st.integers(0, 10_000),
        n=st.st.integers(2, 12),
        steps=st.st.sampled_from([1e-3, 1e-1, 1.0]),
        examples=20,
    )
