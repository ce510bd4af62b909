"""Checks of kernels: correlation functions, positive definite, accurate between close points."""

from __future__ import annotations

import pickle

import numpy as np

from optex_core._validation import short_repr
from optex_core.model.estimator import GradientEstimator
from optex_core.model.kernels.base import KERNELS, Kernel, get_kernel
from optex_core.model.kriging import helmert_contrasts
from optex_core.testing import hypothesis_strategies as st
from optex_core.testing.assertions import EPS, assert_same_bits, assert_within, readonly
from optex_core.testing.check_suite import CheckSuite, require
from optex_core.testing.properties import for_all
from optex_core.testing.reference import kriging as reference
from optex_core.testing.suites import estimator
from optex_core.testing.suites._shared import labelled

#: Squared distances over every magnitude that occurs: two rows one rounding apart at a length of
#: 300 medians, to rows a thousand lengths apart.
S = readonly(np.concatenate([[0.0], np.logspace(-30, 3, 331)]))
#: Relative error of 1 - kappa that leaves the estimator its long lengths; the piecewise kernels
#: lose most at their border, measured 2.2e-14.
DIGITS = 3e-14


def prepare_kernel(kernel: str | type | Kernel) -> tuple[str, Kernel]:
    """Check a kernel, built in or one's own.

    Parameters
    ----------
    kernel : str, class or Kernel

    Examples
    --------
    >>> from optex_core.testing import check_kernel
    >>> check_kernel("matern32").ok
    True
    """
    return labelled("kernel", kernel, Kernel, get_kernel)


def has_own_complement(kernel: Kernel) -> bool:
    """Whether 1 - kappa is computed without cancellation."""
    return type(kernel).complement is not Kernel.complement


SUITE = CheckSuite("kernel", prepare_kernel, lambda: list(KERNELS))


@SUITE.check()
def is_one_at_zero(kernel: Kernel) -> None:
    """kappa(0) = 1 and 1 - kappa(0) = 0, exactly, in any shape."""
    zero = np.zeros((2, 2))
    assert_same_bits(np.asarray(kernel.profile(zero)), np.ones((2, 2)), "kappa(0) is not 1")
    assert_within(kernel.complement(zero), zero, 0.0, "1 - kappa(0) is not 0")


@SUITE.check()
def decreases_from_one_to_zero(kernel: Kernel) -> None:
    """kappa falls from 1, stays in [0, 1], and is below 1/2 a thousand lengths away."""
    kappa, h = kernel.profile(S), kernel.complement(S)
    inside = np.all((kappa >= 0.0) & (kappa <= 1.0 + 2 * EPS))
    require(inside, f"kappa leaves [0, 1]: {kappa.min():.3g} to {kappa.max():.3g}")
    fine = S[1:] > 1e-10  # below, kappa is 1 to rounding
    rises = np.diff(kappa)[fine] > 0.0
    require(not rises.any(), f"kappa rises at s = {S[1:][fine][rises][:1]}")
    require(kappa[-1] < 0.5, f"kappa is still {kappa[-1]:.3g} at s = {S[-1]:.3g}")
    middle = (S > 1e-10) & (S < 1.0)
    require(np.all(np.diff(h[middle]) > 0.0), "1 - kappa does not rise with the distance")


@SUITE.check()
def profile_and_complement_sum_to_one(kernel: Kernel) -> None:
    """profile(s) + complement(s) = 1 to rounding, at every distance."""
    total = kernel.profile(S) + kernel.complement(S)
    assert_within(total, np.ones_like(S), 3e-14, "profile + complement is not 1")


@SUITE.check(when=has_own_complement, why="it takes the default complement, which cancels")
def complement_is_accurate_near_zero(kernel: Kernel) -> None:
    """1 - kappa keeps its digits at tiny s, without noise and without a jump."""
    near = np.logspace(-28, -14, 57)
    h = kernel.complement(near)
    least = f"1 - kappa is {h.min():.3g} at s = {near[h.argmin()]:.3g}: its digits have cancelled"
    require(np.all(h > 0.0), least)
    # On a logarithmic grid of a power law the ratio of neighbours is constant.
    ratios = h[1:] / h[:-1]
    typical = np.full_like(ratios, np.median(ratios))
    assert_within(ratios, typical, 1e-6 * typical, "1 - kappa is noisy near zero")
    # Forms meet somewhere between 1e-8 and 10; on steps of 0.1 % a jump of more than that shows as
    # a descent.
    dense = np.logspace(-8, 1, 20_001)
    falls = np.diff(kernel.complement(dense)) <= 0.0
    where = f"1 - kappa falls at s = {dense[1:][falls][:1]}: two forms do not meet"
    require(not falls.any(), where)


@SUITE.check(
    when=lambda kernel: kernel.name in reference.PROFILES,
    why="the reference implementation has no formula for it",
)
def matches_reference_digits(kernel: Kernel) -> None:
    """kappa and 1 - kappa agree with the textbook formula in 50 digits, relative to their size."""
    near = S[S < 500.0]
    expected = reference.profile(kernel, near)
    # exp multiplies the rounding of its argument, which is at most max(s, 5 s) here.
    roundings = (8 + np.sqrt(5 * near) + near) * 2
    assert_within(kernel.profile(near), expected, roundings * EPS * expected, "kappa")
    if has_own_complement(kernel):
        expected = reference.complement(kernel, S)
        assert_within(kernel.complement(S), expected, DIGITS * expected, "1 - kappa")


@SUITE.check()
def gram_matrices_are_positive_semidefinite(kernel: Kernel) -> None:
    """No Gram matrix of any points has an eigenvalue below the rounding of its entries."""

    def squares(X: np.ndarray) -> np.ndarray:
        found: np.ndarray = ((X[:, None] - X[None]) ** 2).sum(2)
        return found

    def least(matrix: np.ndarray) -> float:
        return float(np.linalg.eigvalsh(matrix)[0])

    def body(n: int, d: int, size: float, seed: int) -> None:
        squared = squares(size * np.random.default_rng(seed).normal(size=(n, d)))
        K = kernel.profile(squared)
        assert_same_bits(K, np.ascontiguousarray(K.T), "the Gram matrix is not symmetric")
        require(least(K) >= -8 * n * EPS, f"a Gram matrix has the eigenvalue {least(K):.3g}")
        H, Q = kernel.complement(squared), helmert_contrasts(n)
        rounding = 200 * float(H.max()) if has_own_complement(kernel) else 8
        low = least(-Q.T @ H @ Q)
        text = f"1 - kappa is not conditionally negative definite: {low:.3g}"
        require(low >= -rounding * n * EPS, text)

    # A lattice shows a negative spectrum that a few random points do not.
    axes = np.arange(7.0)
    lattice = np.stack(np.meshgrid(axes, axes), axis=-1).reshape(-1, 2)
    for spacing in (0.2, 0.35, 0.5, 0.7, 1.0):
        low = least(kernel.profile(squares(spacing * lattice)))
        text = f"on a lattice of spacing {spacing} the Gram matrix has an eigenvalue of {low:.3g}"
        require(low >= -8 * len(lattice) * EPS, text)
    for_all(
        body,
        n=st.integers(2, 12),
        d=st.integers(1, 5),
        size=st.sampled_from((1.0, 1e-3, 0.1, 10.0, 1e3)),
        seed=st.integers(0, 1000),
        examples=60,
    )


@SUITE.check()
def preserves_shapes_and_inputs(kernel: Kernel) -> None:
    """Any shape gives the same shape; entries do not depend on others; nothing is written."""
    given = readonly(np.array([0.0, 1e-9, 1e-3, 1.0, 50.0]))
    for function in (kernel.profile, kernel.complement):
        name, whole = function.__name__, function(given)
        fits = whole.shape == given.shape and whole.dtype == np.float64
        require(fits, f"{name} gave {short_repr(whole)}")
        require(not np.shares_memory(whole, given), f"{name} returns its argument")
        empty = function(np.zeros(0))
        require(empty.shape == (0,), f"{name} of nothing is {short_repr(empty)}")
        deep = function(given.reshape(5, 1, 1))
        require(deep.shape == (5, 1, 1), f"{name} flattens its argument")
        alone = np.array([function(given[i : i + 1])[0] for i in range(5)])
        assert_within(alone, whole, 8 * EPS * np.abs(whole), f"{name} of one entry at a time")


@SUITE.check()
def is_immutable_and_picklable(kernel: Kernel) -> None:
    """Equal settings make equal kernels, and a kernel can be pickled."""
    local = "<locals>" in type(kernel).__qualname__
    again = kernel if local else pickle.loads(pickle.dumps(kernel))
    require(again == kernel, "a kernel and its pickled copy differ; make it a frozen dataclass")
    named = isinstance(kernel.name, str) and kernel.name
    require(named, "a kernel needs a class attribute `name`")


@SUITE.check()
def estimator_matches_reference(kernel: Kernel) -> None:
    """The estimate with this kernel interpolates, and matches kriging in 50 digits."""
    _, subject = estimator.prepare_estimator(GradientEstimator(kernel=kernel))
    estimator.interpolates_data(subject)
    estimator.matches_reference_posterior(subject)
