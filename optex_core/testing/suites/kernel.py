"""What every kernel definitions: a correlation of one squared distance, positive definite, with its
digits between close points.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optex_core._validation import short_repr
from optex_core.errors import ArgumentTypeError
from optex_core.model.estimator import GradientEstimator
from optex_core.model.kernels.base import KERNELS, Kernel, get_kernel
from optex_core.model.kriging import helmert_contrasts
from optex_core.testing.assertions import EPS, assert_same_bits, assert_within, readonly
from optex_core.testing.check_suite import CheckReport, CheckSuite, require
from optex_core.testing.properties import for_all
from optex_core.testing.reference import optex as reference

#: Squared distances over every magnitude that occurs: two rows one rounding apart at a length of
#: 300 medians, to rows a thousand lengths apart.
S = readonly(np.concatenate([[0.0], np.logspace(-30, 3, 331)]))
#: Relative error of 1 - kappa that leaves the estimator its long lengths; the spliced kernels lose
#: most at their border, measured 2.2e-14.
DIGITS = 3e-14


@dataclass(frozen=True)
class Subject:
    """A kernel, and whether it has a `complement` of its own and a twin."""

    label: str
    kernel: Kernel

    @property
    def keeps_digits(self) -> bool:
        return type(self.kernel).complement is not Kernel.complement

    @property
    def known(self) -> bool:
        return self.kernel.name in reference.PROFILES


def prepare(kernel: Any) -> Subject:
    """A registered name, a class that needs no settings, or an object."""
    made = kernel() if isinstance(kernel, type) and issubclass(kernel, Kernel) else kernel
    if not isinstance(made, (str, Kernel)):
        raise ArgumentTypeError(
            f"check_kernel takes a kernel, its class or its name, got {short_repr(kernel)}"
        )
    made = get_kernel(made)
    return Subject(kernel if isinstance(kernel, str) else repr(made), made)


def _registered_subjects() -> Iterable[str]:
    return list(KERNELS)


SUITE = CheckSuite("kernel", prepare, _registered_subjects)


def check_kernel(kernel: Any, *, expected_failures: Mapping[str, str] | None = None) -> CheckReport:
    """Check a kernel, built in or one's own.

    Parameters
    ----------
    kernel : str, class or Kernel
    expected_failures : mapping of str to str, optional
        Check -> reason. Strict: one that passes is a failure.

    Returns
    -------
    CheckReport
        A list of `CheckResult`, true where all is well.

    Examples
    --------
    >>> from optex_core.testing import check_kernel
    >>> check_kernel("matern32").ok
    True
    """
    return SUITE.run(kernel, expected_failures)


@SUITE.check()
def is_one_at_zero(s: Subject) -> None:
    """kappa(0) = 1 and 1 - kappa(0) = 0, exactly, in any shape."""
    zero = np.zeros((2, 2))
    assert_same_bits(np.asarray(s.kernel.profile(zero)), np.ones((2, 2)), "kappa(0) is not 1")
    assert_within(s.kernel.complement(zero), zero, 0.0, "1 - kappa(0) is not 0")


@SUITE.check()
def decreases_from_one_to_zero(s: Subject) -> None:
    """kappa falls from 1, stays in [0, 1], and is below 1/2 a thousand lengths away."""
    kappa, h = s.kernel.profile(S), s.kernel.complement(S)
    require(
        np.all((kappa >= 0.0) & (kappa <= 1.0 + 2 * EPS)),
        f"kappa leaves [0, 1]: {kappa.min():.3g} to {kappa.max():.3g}",
    )
    fine = S > 1e-10  # below, kappa is 1 to rounding
    rises = np.diff(kappa)[fine[1:]] > 0.0
    require(not rises.any(), f"kappa rises at s = {S[1:][fine[1:]][rises][:1]}")
    require(kappa[-1] < 0.5, f"kappa is still {kappa[-1]:.3g} at s = {S[-1]:.3g}")
    middle = (S > 1e-10) & (S < 1.0)
    require(np.all(np.diff(h[middle]) > 0.0), "1 - kappa does not rise with the distance")


@SUITE.check()
def profile_and_complement_sum_to_one(s: Subject) -> None:
    """profile(s) + complement(s) = 1 to rounding, at every distance."""
    assert_within(
        s.kernel.profile(S) + s.kernel.complement(S),
        np.ones_like(S),
        3e-14,
        "profile + complement is not 1",
    )


@SUITE.check(when=lambda s: s.keeps_digits, why="it takes the default complement, which cancels")
def complement_is_accurate_near_zero(s: Subject) -> None:
    """1 - kappa at tiny s keeps its relative digits: it scales as a power of s without noise, and
    without a jump where two forms meet.
    """
    s_small = np.logspace(-28, -14, 57)
    h = s.kernel.complement(s_small)
    require(
        np.all(h > 0.0),
        f"1 - kappa is {h.min():.3g} at s = {s_small[h.argmin()]:.3g}: its digits have cancelled",
    )
    # On a logarithmic grid of a power law the ratio of neighbours is constant.
    ratios = h[1:] / h[:-1]
    assert_within(
        ratios,
        np.full_like(ratios, np.median(ratios)),
        1e-6 * np.median(ratios),
        "1 - kappa is noisy near zero",
    )
    # Forms meet somewhere between 1e-8 and 10; on steps of 0.1 % a jump of more than that shows as
    # a descent.
    dense = np.logspace(-8, 1, 20_001)
    falls = np.diff(s.kernel.complement(dense)) <= 0.0
    require(
        not falls.any(), f"1 - kappa falls at s = {dense[1:][falls][:1]}: two forms do not meet"
    )


@SUITE.check(when=lambda s: s.known, why="the slow twin has no formula for it")
def matches_reference_digits(s: Subject) -> None:
    """kappa and 1 - kappa agree with the textbook formula in 50 digits, relative to their own size."""
    near = S[S < 500.0]
    expected = reference.profile(s.kernel, near)
    # exp multiplies the rounding of its argument, which is at most max(s, 5 s) here.
    assert_within(
        s.kernel.profile(near),
        expected,
        (8 + np.sqrt(5 * near) + near) * 2 * EPS * expected,
        "kappa",
    )
    if s.keeps_digits:
        expected = reference.complement(s.kernel, S)
        assert_within(s.kernel.complement(S), expected, DIGITS * expected, "1 - kappa")


@SUITE.check()
def gram_matrices_are_positive_semidefinite(s: Subject) -> None:
    """For any points in any dimension, at any length: no eigenvalue below the rounding of the
    entries.
    """
    from optex_core.testing import hypothesis_strategies as st

    def body(n: int, d: int, size: float, seed: int) -> None:
        X = size * np.random.default_rng(seed).normal(size=(n, d))
        squared = ((X[:, None] - X[None]) ** 2).sum(2)
        K = s.kernel.profile(squared)
        assert_same_bits(K, np.ascontiguousarray(K.T), "the Gram matrix is not symmetric")
        least = float(np.linalg.eigvalsh(K)[0])
        require(least >= -8 * n * EPS, f"the Gram matrix has an eigenvalue of {least:.3g}")
        H, Q = s.kernel.complement(squared), helmert_contrasts(n)
        rounding = 200 * n * EPS * float(H.max()) if s.keeps_digits else 8 * n * EPS
        least = float(np.linalg.eigvalsh(-Q.T @ H @ Q)[0])
        require(
            least >= -rounding, f"1 - kappa is not conditionally negative definite: {least:.3g}"
        )

    # A lattice shows a negative spectrum that a few random points do not.
    axes = np.arange(7.0)
    for spacing in (0.2, 0.35, 0.5, 0.7, 1.0):
        grid = spacing * np.stack(np.meshgrid(axes, axes), axis=-1).reshape(-1, 2)
        least = float(
            np.linalg.eigvalsh(s.kernel.profile(((grid[:, None] - grid[None]) ** 2).sum(2)))[0]
        )
        require(
            least >= -8 * len(grid) * EPS,
            f"on a lattice of spacing {spacing} the Gram matrix has an eigenvalue of {least:.3g}",
        )
    for_all(
        body, n=st.st.integers(2, 12), d=st.st.integers(1, 5), size=st.st.sampled_from((1.0, 1e-3, 0.1, 10.0, 1e3)),
        seed=st.st.integers(0, 1000), examples=60,
    )  # fmt: skip


@SUITE.check()
def preserves_shapes_and_inputs(s: Subject) -> None:
    """Any shape, also empty, gives the same shape; the distances are not written into; one entry at
    a time gives the same as all at once.
    """
    given = readonly(np.array([0.0, 1e-9, 1e-3, 1.0, 50.0]))
    for function in (s.kernel.profile, s.kernel.complement):
        whole = function(given)
        require(
            whole.shape == given.shape and whole.dtype == np.float64,
            f"{function.__name__} gave {short_repr(whole)}",
        )
        require(not np.shares_memory(whole, given), f"{function.__name__} returns its argument")
        require(
            function(np.zeros(0)).shape == (0,),
            f"{function.__name__} of nothing is {short_repr(function(np.zeros(0)))}",
        )
        require(
            function(given.reshape(5, 1, 1)).shape == (5, 1, 1),
            f"{function.__name__} flattens its argument",
        )
        alone = np.array([function(given[i : i + 1])[0] for i in range(5)])
        assert_within(
            alone,
            whole,
            8 * EPS * np.abs(whole),
            f"{function.__name__} of one entry differs from the same entry in a row",
        )


@SUITE.check()
def is_immutable_and_picklable(s: Subject) -> None:
    """Equal settings make equal kernels, and a kernel travels through pickle: checkpoints and
    workers compare them.
    """
    again = (
        pickle.loads(pickle.dumps(s.kernel))
        if "<locals>" not in type(s.kernel).__qualname__
        else s.kernel
    )
    require(again == s.kernel, "a kernel and its pickled copy differ; make it a frozen dataclass")
    require(
        isinstance(s.kernel.name, str) and s.kernel.name, "a kernel needs a class attribute `name`"
    )


@SUITE.check()
def estimator_matches_reference(s: Subject) -> None:
    """The gradient estimate with this kernel goes through its rows, and is that of plain kriging
    formulas in 50 digits elsewhere.
    """
    rng = np.random.default_rng(4)
    X, G = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))
    settings = GradientEstimator(kernel=s.kernel, mean="constant", length_scale=1.5, noise=1e-6)
    posterior = settings.fit(X, G)
    for x, g in zip(X, G, strict=True):
        # a noise of 1e-6 and eigenvalues from 0.01 on
        assert_within(posterior.mean(x), g, 2e-4, "the estimate at a row is not its gradient")
    twin = reference.Kriging(s.kernel, X, G, 1.5, posterior.noise, "constant")
    for x in rng.normal(size=(3, 3)):
        assert_within(posterior.mean(x), twin.mean(x), 1e-8, "the estimate between rows")
