"""Rules are checked before they are used: what breaks their contract is refused in one sentence,
and what cannot be compiled is NumPy's, with one warning.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
from fresh_python import run_python

import optex_core as ox
from optex_core.backends import _codegen_check, _tracing, get_backend

D = 20_000  # more than NumPy takes at once


@pytest.fixture
def numba():
    pytest.importorskip("numba", reason="numba is not installed")
    _codegen_check.warn_once.cache_clear()
    return get_backend("numba")


def _decaying(_xp):
    """A step that shortens, by a counter of its own."""
    taken = [0]

    def step(x, g, rate):
        taken[0] += 1
        return (x - rate * g / taken[0],)

    return step


def _dithered(_xp):
    draw = np.random.default_rng(0).uniform
    return lambda x, g, rate: (x - rate * g * draw(),)


def _centred(xp):
    """Gradient centralisation (arXiv 2004.01461): no function of one entry."""
    return lambda x, g, rate: (x - rate * (g - xp.mean(g)),)


def _normed(_xp):
    return lambda x, g, rate: (x - rate * g / np.linalg.norm(g),)


def _accumulated(_xp):
    return lambda x, g, rate: (x - rate * np.cumsum(g),)


def _by_type(_xp):
    def step(x, g, rate):
        return (x - rate * g if isinstance(x, np.ndarray) else x - 2 * rate * g,)

    return step


def _two_names(_xp):
    def step(x, g, rate):
        before, after = g * 1, g * 1
        after = before
        np.multiply(after, rate, out=after)
        return (x - before,)

    return step


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (_decaying, "other results when it is called again"),
        (_dithered, "other results when it is called again"),
        (_centred, "another value where other entries are absent"),
        (_normed, "another value where other entries are absent"),
        (_accumulated, "another value where other entries are absent"),
    ],
)
def test_a_rule_that_is_no_pure_function_of_each_entry_is_refused(numba, name, rule, words):
    x, g = np.random.default_rng(0).normal(size=(2, D))
    with pytest.raises(ox.ArgumentError, match=f"{rule.__name__} gives .*{words}.*no sums over"):
        get_backend(name).apply(rule, (x, g), (0.5,))


@pytest.mark.parametrize("rule", [_by_type, _two_names])
def test_a_rule_whose_trace_has_other_values_is_numpys(numba, rule):
    with pytest.raises(_tracing.TracedValuesDiffer, match=rule.__name__):
        _tracing.trace_rule(rule, 2, 1)
    x, g = np.random.default_rng(0).normal(size=(2, D))
    with pytest.warns(RuntimeWarning, match=f"{rule.__name__} does something else") as said:
        steps = [numba.apply(rule, (x, g), (0.5,))[0] for _ in range(3)]
    assert len(said) == 1
    expected = get_backend("numpy").apply(rule, (x, g), (0.5,))[0]
    assert all(np.array_equal(found, expected) for found in steps)


def _counted(_xp):
    """Domains of its own: a count of steps from 1 on."""

    def step(x, g, t):
        if t < 1:
            raise ValueError("steps are counted from one")
        return (x - g / t,)

    return step


def _root(_xp):
    return lambda x, g, t: (x - math.sqrt(t - 1.0) * g,)


@pytest.mark.parametrize(
    ("rule", "scalars", "length"), [(_counted, (4.0,), 0.25), (_root, (5.0,), 2.0)]
)
@pytest.mark.filterwarnings("ignore:Numba cannot compile")
def test_scalars_may_have_domains_of_their_own(numba, rule, scalars, length):
    x, g = np.random.default_rng(0).normal(size=(2, D))
    (found,) = numba.apply(rule, (x, g), scalars)
    np.testing.assert_allclose(found, x - length * g, rtol=1e-12, atol=1e-12)
    assert _codegen_check.is_elementwise(rule, 2, len(scalars))


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.filterwarnings("ignore:Numba cannot compile", "ignore:the rule")
def test_a_rule_may_hold_a_vector_of_its_own(numba, name):
    rates = np.linspace(0.1, 0.2, D)
    rule = lambda _xp: lambda x, g, rate: (x - rate * rates * g,)  # noqa: E731
    x, g = np.random.default_rng(0).normal(size=(2, D))
    (found,) = get_backend(name).apply(rule, (x, g), (0.5,))
    np.testing.assert_allclose(found, x - 0.5 * rates * g, rtol=1e-12, atol=1e-15)


def test_functions_beyond_the_translated_ones_are_numpys_and_said_once(numba):
    rule = lambda xp: lambda x, g: (xp.logaddexp(x, g),)  # noqa: E731
    x, g = np.random.default_rng(0).normal(size=(2, 50))
    with pytest.warns(RuntimeWarning, match=r"xp\.logaddexp has no translation") as said:
        steps = [numba.apply(rule, (x, g), ())[0] for _ in range(2)]
    assert len(said) == 1
    assert all(np.array_equal(found, np.logaddexp(x, g)) for found in steps)


@pytest.mark.parametrize("name", ["tan", "sinh", "arcsin", "arctan2", "exp2", "log10", "rint"])
def test_functions_of_numpy_are_compiled(numba, name):
    function, two = getattr(np, name), name == "arctan2"
    rule = lambda xp: lambda x, g: (getattr(xp, name)(*((x, g) if two else (x,))),)  # noqa: E731
    x, g = np.random.default_rng(0).uniform(0.1, 0.9, size=(2, 50))
    (found,) = numba.apply(rule, (x, g), ())
    np.testing.assert_allclose(found, function(x, g) if two else function(x), rtol=1e-14)


def _run(optimizer, **options):
    h = np.geomspace(1.0, 0.1, 60)
    return ox.minimize(
        lambda x: (h * x @ x / 2, h * x),
        np.ones(60),
        optimizer=optimizer,
        parallelism=4,
        maxiter=5,
        rng=0,
        **options,
    )


def _fails(*_arguments):
    from numba.core.errors import TypingError

    raise TypingError(
        "Failed in nopython mode pipeline (step: nopython frontend)\n\x1b[1mNo "
        "implementation of cbrt\x1b[0m\n\nDuring: typing"
    )


class _Failing:
    """A function that has not been compiled yet, and never will be."""

    overloads: ClassVar[dict[str, str]] = {}

    def __call__(self, *arguments):
        _fails()


def test_predicted_steps_that_do_not_compile_are_taken_one_by_one(numba, monkeypatch):
    from optex_core.backends.numba import fused_steps

    expected = _run(ox.Adam(0.1), backend="numpy", strategy="paper").x
    monkeypatch.setattr(fused_steps, "jit", lambda function, identity: _Failing())
    fused_steps._compile_step.cache_clear()
    words = (
        r"predicted steps of the rule optex_core.optimizers.adam.* with the kernel "
        r".*complement \(No implementation of cbrt\)"
    )
    with pytest.warns(RuntimeWarning, match=words) as said:
        runs = [_run(ox.Adam(0.1), backend="numba", strategy="paper").x for _ in range(2)]
    fused_steps._compile_step.cache_clear()
    assert len(said) == 1
    assert all(np.abs(x - expected).max() < 1e-9 for x in runs)


def test_rollouts_on_coefficients_that_do_not_compile_are_taken_one_by_one(numba, monkeypatch):
    from optex_core.backends.numba import coefficient_steps
    from optex_core.strategies._subspace import space

    monkeypatch.setattr(space, "SUBSPACE_MIN_SIZE", 1)
    expected = _run(ox.SGD(0.3), backend="numpy").x
    monkeypatch.setattr(coefficient_steps, "jit", lambda function, identity: _fails)
    coefficient_steps.compile_rollout.cache_clear()
    words = r"cannot compile the rule optex_core.optimizers.sgd.* \(No implementation of cbrt\)"
    with pytest.warns(RuntimeWarning, match=words) as said:
        runs = [_run(ox.SGD(0.3), backend="numba").x for _ in range(2)]
    coefficient_steps.compile_rollout.cache_clear()
    assert len(said) == 1
    assert all(np.abs(x - expected).max() < 1e-9 for x in runs)


def test_a_loop_that_does_not_compile_is_numpys(numba, monkeypatch):
    from optex_core.backends.numba import elementwise

    monkeypatch.setattr(elementwise, "jit", lambda function, identity: _fails)
    elementwise.compile_rule.cache_clear()
    x = np.linspace(-1.0, 1.0, 9)
    words = r"cannot compile the rule .*axpy_rule.* \(No implementation of cbrt\); NumPy takes"
    with pytest.warns(RuntimeWarning, match=words) as said:
        found = [numba.axpy(2.0, x, x) for _ in range(2)]
    elementwise.compile_rule.cache_clear()
    assert len(said) == 1
    assert all(np.array_equal(f, 3.0 * x) for f in found)


SCRIPT = """
import sys, warnings
import numpy as np
import optex_core as ox
from optex_core.backends import get_backend
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    h = np.geomspace(1.0, 0.1, 60)
    for optimizer in (ox.Adam(0.1), ox.SGD(0.1, momentum=0.9)):
        one, other = (
            ox.minimize(
                lambda x: (h * x @ x / 2, h * x), np.ones(60), optimizer=optimizer, parallelism=3,
                backend=b, maxiter=5, rng=0,
            ).x
            for b in ("numba", "numpy")
        )
        assert np.abs(one - other).max() < 1e-8
    x = np.linspace(-1.0, 1.0, 2_100)
    assert abs(get_backend("numba").dot(x, x) - float(x @ x)) < 1e-9
    (y, z) = get_backend("numba").weighted_sums(
        None, np.ones((2, 0)), x.reshape(2, -1), np.ones((2, 2)), 1, [x[:1050]], np.ones((2, 1))
    )
    assert np.allclose(y, 2 * x[:1050] - x[1050:]) and np.array_equal(y, z)
assert [str(w.message).partition(":")[0] for w in said] == ["NUMBA_DISABLE_JIT is set"], said
print(get_backend("auto", np.ones(100_000)).name)
"""


def test_without_its_compiler_numba_is_plain_python_and_auto_is_numpy():
    pytest.importorskip("numba", reason="numba is not installed")
    assert run_python(SCRIPT, NUMBA_DISABLE_JIT="1") == "numpy\n"


def _no_warning():
    from contextlib import nullcontext

    return nullcontext()  # the suite makes errors of warnings
