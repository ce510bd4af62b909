"""Every kernel of the registry: what makes it a correlation, and its digits against formulas in 50
digits.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import textwrap
from dataclasses import dataclass

import numpy as np
import pytest

import optex_core as ox
from optex_core.backends._tracing import TracingError, trace_expression
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.model.kernels import KERNELS, Kernel, base, get_kernel
from optex_core.model.kernels.base import piecewise, traced_kernel
from optex_core.model.kernels.matern52 import Matern52
from optex_core.model.kernels.rational_quadratic import RationalQuadratic
from optex_core.testing import check_kernel
from optex_core.testing.reference import kriging as reference

EPS = np.finfo(np.float64).eps
ALL = [KERNELS[name]() for name in KERNELS] + [
    RationalQuadratic(alpha=0.3),
    RationalQuadratic(alpha=40.0),
]
#: Squared distances over every magnitude that occurs: two rows one rounding apart at a length of
#: 300 medians, to rows a thousand lengths apart.
S = np.logspace(-30, 3, 331)


@pytest.fixture(params=ALL, ids=repr)
def kernel(request):
    return request.param


def test_splice_computes_only_what_is_needed():
    def refuse(r):
        raise AssertionError("not needed")

    below, above = np.array([0.1, 0.2]), np.array([0.5, 0.7])
    assert np.array_equal(piecewise(below, 0.5, np.negative, refuse), -below)
    assert np.array_equal(piecewise(above, 0.5, refuse, np.negative), -above)
    both = np.concatenate([below, above])
    assert np.array_equal(
        piecewise(both, 0.5, np.negative, np.square), np.concatenate([-below, above**2])
    )
    assert np.isnan(piecewise(np.array([0.1, np.nan]), 0.5, np.negative, np.negative)[1])


# -- the lines that compiled loops are made of -----------------------------------------------------


def as_function(formula):
    source = "\n    ".join(["def written(s):", *formula.lines, f"return {formula.result}"])
    scope = dict(formula.scope)
    exec(source, scope)
    return scope["written"]


def needed_digits(kernel, complement, s):
    """What two ways to write one formula may differ by: exp multiplies the rounding of its
    argument, series and direct form lose a little.
    """
    expected = kernel.complement(s) if complement else kernel.profile(s)
    return expected, np.abs(expected) * (
        3e-14 if complement else (8 + np.sqrt(5 * s) + s) * 2 * EPS
    ) + np.finfo(float).tiny


@pytest.mark.parametrize("complement", [True, False], ids=["complement", "profile"])
@pytest.mark.parametrize("compiler", ["python", "numba"])
def test_its_lines_are_its_methods(kernel, complement, compiler):
    s = np.concatenate(
        [
            [0.0],
            np.logspace(-12, 6, 400),
            0.02**2 / 3 * np.array([0.999, 1.0, 1.001]),
            0.06**2 / 5 * np.array([0.999, 1.0, 1.001]),
        ]
    )
    written = traced_kernel(kernel, complement)
    assert written is not None
    function = as_function(written)
    if compiler == "numba":
        _compiled = pytest.importorskip(
            "optex_core.backends.numba._jit", reason="numba is not installed"
        )
        function = _compiled.jit(function, repr(written))
    with np.errstate(all="ignore"):
        found = np.array([function(one) for one in s])
    expected, tolerance = needed_digits(kernel, complement, s)
    assert np.all(np.abs(found - expected) <= tolerance)
    assert np.isnan(function(np.nan))


@dataclass(frozen=True)
class Own(Kernel):
    """A kernel of a user's, in one of many ways to write ufuncs."""

    name = "own"
    which: str

    def profile(self, s):
        if self.which == "ufuncs":
            near = np.exp(np.negative(np.divide(s, np.float64(2))))
            return np.where(np.less(s, np.float32(1.0)), near, np.power(s, -0.5) * np.exp(-0.5))
        if self.which == "equal":
            return np.where(s == 0.0, 1.0, np.exp(-np.hypot(s, 0.25) + 0.25))
        if self.which == "any":
            return np.exp(-s) if not np.any(s > 3.0) else np.exp(-np.minimum(s, 3.0))
        if self.which == "loop":
            return np.array([np.exp(-one) for one in s.ravel()]).reshape(s.shape)
        if self.which == "branch":
            return np.exp(-s) if s.size else s
        if self.which == "out":
            return np.exp(-s, out=np.empty_like(s))
        return np.exp(-s) + 0.0 * np.add.reduce(s)


@pytest.mark.parametrize("which", ["ufuncs", "equal"])
def test_lines_of_a_kernel_of_ones_own(which):
    s = np.concatenate([[0.0], np.logspace(-12, 1, 40)])
    for complement in (True, False):
        written = traced_kernel(Own(which), complement)
        assert written is not None
        with np.errstate(all="ignore"):
            expected = Own(which).complement(s) if complement else Own(which).profile(s)
            np.testing.assert_allclose(
                [as_function(written)(one) for one in s], expected, rtol=8 * EPS, atol=2 * EPS
            )


@pytest.mark.parametrize("which", ["any", "loop", "branch", "out", "sum"])
def test_what_looks_at_its_entries_has_no_lines(which):
    assert traced_kernel(Own(which), False) is None


class Plain(Kernel):
    """Settings that may change, as a class without a word about equality has them."""

    name = "plain"

    def __init__(self, share):
        self.share = share

    def profile(self, s):
        return np.exp(-self.share * s)


@dataclass
class Thawed(Kernel):
    name = "thawed"
    share: float = 0.5

    def profile(self, s):
        return np.exp(-self.share * s)


@dataclass(frozen=True)
class Shares(Kernel):
    name = "shares"
    share: np.ndarray

    def profile(self, s):
        return np.exp(-self.share[0] * s)


def test_lines_follow_settings_that_change_and_need_no_hash():
    for kernel in (Plain(0.5), Thawed(0.5), Shares(np.array([0.5]))):
        assert "0.5" in "".join(traced_kernel(kernel, False).lines)
    kernel = Plain(0.5)
    traced_kernel(kernel, False)
    kernel.share = 0.25
    assert "0.25" in "".join(traced_kernel(kernel, False).lines)


def _by_type(s):
    return np.exp(-s) if isinstance(s, np.ndarray) else np.exp(-2.0 * s)


def _two_names(s):
    r = np.sqrt(s)
    same = r
    same *= 2.0
    return np.exp(-r) * same


@pytest.mark.parametrize(
    "function",
    [
        _by_type,
        _two_names,
        lambda s: ((s < 2.0) + (s < 1.0)) * 0.5,
        lambda s: 1.0 * np.exp(s < 1.0),
    ],
)
def test_lines_that_would_have_other_values_are_not_written(function):
    with pytest.raises(TracingError):
        trace_expression(function)


def test_rational_quadratic_approaches_rbf():
    # kappa = exp(-s/2 + s^2 / (8 alpha) ...): the difference is 1 / alpha.
    difference = RationalQuadratic(alpha=1e8).profile(S) - KERNELS["rbf"]().profile(S)
    assert np.abs(difference).max() < 1e-8


def test_the_default_complement_of_a_kernel_of_ones_own():
    @dataclass(frozen=True)
    class Cauchy(Kernel):
        name = "cauchy"

        def profile(self, s):
            return 1.0 / (1.0 + s)

    kernel = get_kernel(Cauchy())
    assert np.allclose(kernel.complement(S), S / (1.0 + S), rtol=0.0, atol=EPS)
    # The twin takes a kernel that it has no formula for at its own word.
    assert np.array_equal(reference.profile(kernel, S), kernel.profile(S))


def test_names_and_objects():
    assert all(KERNELS[name].name == name for name in KERNELS)
    assert isinstance(get_kernel("matern52"), Matern52)
    own = RationalQuadratic(alpha=2.0)
    assert get_kernel(own) is own


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: get_kernel("matern53"), ArgumentError, "did you mean 'matern5?2'"),
        (lambda: get_kernel(None), ArgumentTypeError, "kernel must be a name"),
        (lambda: get_kernel(Matern52), ArgumentTypeError, "kernel must be a name"),
        (lambda: RationalQuadratic(alpha=0.0), ArgumentError, "alpha"),
        (lambda: RationalQuadratic(alpha=float("nan")), ArgumentError, "alpha"),
        (lambda: RationalQuadratic(alpha="1"), ArgumentTypeError, "alpha"),
    ],
)
def test_bad_kernels(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_the_recipe_for_a_kernel_works_as_it_stands(monkeypatch, tmp_path):
    monkeypatch.setattr(KERNELS, "_entries", dict(KERNELS._entries))
    text = inspect.cleandoc(base.__doc__).partition("::\n")[2]
    lines = itertools.takewhile(lambda line: not line or line[0] == " ", text.splitlines())
    (tmp_path / "kernel_of_the_recipe.py").write_text(textwrap.dedent("\n".join(lines)))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("kernel_of_the_recipe")
    assert check_kernel("cauchy")
    x0 = np.array([3.0, -4.0])
    estimator = ox.GradientEstimator(kernel="cauchy")
    options = {"optimizer": ox.SGD(0.1), "estimator": estimator, "rng": 0, "maxiter": 20}
    assert ox.minimize(lambda x: (x @ x, 2.0 * x), x0, parallelism=3, **options).fun < 1.0
