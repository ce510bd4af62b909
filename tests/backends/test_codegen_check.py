"""Rules that are not what their compiled form would be: NumPy takes them, one warning says so, and
nobody gets other numbers.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import optex_core as ox
from optex_core.backends import _codegen_check as _held
from optex_core.backends import _tracing as fusion
from optex_core.backends import get_backend
from optex_core.optimizers.base import ElementwiseOptimizer
from optex_core.strategies.base import FusedRollout

D = 20_000  # more than NumPy takes at once


@pytest.fixture
def numba():
    pytest.importorskip("numba", reason="numba is not installed")
    _held.warn_once.cache_clear()
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

    def step(x, g, rate):
        return (x - rate * g * draw(),)

    return step


def _by_type(_xp):
    def step(x, g, rate):
        return (x - rate * g if isinstance(x, np.ndarray) else x - 2 * rate * g,)

    return step


def _two_names(_xp):
    def step(x, g, rate):
        before, after = g * 1, g * 1
        after = before
        after *= rate
        return (x - before,)

    return step


def _centred(xp):
    """Gradient centralisation (arXiv 2004.01461): no function of one entry, for which it compiles
    to nothing.
    """

    def step(x, g, rate):
        return (x - rate * (g - xp.mean(g)),)

    return step


def _normed(_xp):
    def step(x, g, rate):
        return (x - rate * g / np.linalg.norm(g),)

    return step


IMPURE = {
    "_decaying": _decaying,
    "_dithered": _dithered,
    "_by_type": _by_type,
    "_two_names": _two_names,
}
WHOLE = {"_centred": _centred, "_normed": _normed}


@dataclass(frozen=True)
class Own(ElementwiseOptimizer):
    """Somebody's optimizer with somebody's rule."""

    name: ClassVar[str] = "own"
    learning_rate: float
    kind: str
    slot_names: ClassVar[tuple[str, ...]] = ()

    @property
    def rule(self):
        return (IMPURE | WHOLE)[self.kind]

    def scalars(self, t, rate, numbers):
        return (rate,)


@pytest.mark.parametrize("kind", IMPURE)
def test_lines_of_a_rule_that_is_no_pure_function_are_not_written(kind):
    with pytest.raises(fusion.TracedValuesDiffer, match=f"{kind}.*nothing kept between calls"):
        fusion.trace_rule(IMPURE[kind], 2, 1)


def test_a_counter_in_a_rule_counts_as_in_numpy(numba, monkeypatch):
    # Written down as it was, every step of a run would have the length of the first.
    h, found = np.geomspace(1.0, 0.1, 60), []
    for backend, said in (("numpy", 0), ("numba", 1)):
        from optex_core.backends import numpy_

        numpy_._elementwise.cache_clear()  # a counter of its own for each run
        with (
            pytest.warns(RuntimeWarning, match="_decaying.*as it defines them")
            if said
            else _no_warning()
        ):
            engine = ox.OptEx(
                np.ones(60),
                optimizer=Own(0.5, "_decaying"),
                parallelism=4,
                strategy="paper",
                backend=backend,
                rng=0,
            )
            for _ in range(4):
                for c in engine.ask():
                    engine.tell(c.id, gradient=h * c.x)
            view = engine.machine.surrogate.view()
            assert not isinstance(
                view.rollout(view.posterior(), view.x, view.state, 2), FusedRollout
            )
        found.append(engine.state.x)
    assert np.abs(found[0] - found[1]).max() < 1e-12
    assert np.abs(found[0] - 1.0).max() > 0.5


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_rule_over_all_entries_has_all_of_them(numba, kind, dtype):
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(2, D)).astype(dtype)
    size = np.linalg.norm(g)
    expected = x - 0.5 * (g - g.mean()) if kind == "_centred" else x - 0.5 * g / size
    words = (
        "_centred compiled does something else"
        if kind == "_centred"
        else r"cannot compile the rule .*_normed \(No implementation of function"
    )
    with pytest.warns(RuntimeWarning, match=words) as said:
        steps = [numba.apply(WHOLE[kind], (x, g), (0.5,))[0] for _ in range(3)]
    assert len(said) <= 1
    for found in (*steps, get_backend("numpy").apply(WHOLE[kind], (x, g), (0.5,))[0]):
        np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype == np.float32 else 1e-12)


def test_a_branch_on_entries_compiles(numba):
    def rule(_xp):
        def step(x, g, rate):
            return (x - rate * g if g > 0 else x,)

        return step

    x, g = np.random.default_rng(0).normal(size=(2, 50))
    with _no_warning():
        (found,) = numba.apply(rule, (x, g), (0.5,))
    np.testing.assert_allclose(found, np.where(g > 0, x - 0.5 * g, x))


def _counted(_xp):
    """Domains of its own: a count of steps from 1 on, beside a rate of decay below 1."""

    def step(x, g, rate, t, decay):
        return (x - rate * math.sqrt(t - 1.0) * math.sqrt(1.0 - decay) * g,)

    return step


def _only_counts(_xp):
    def step(x, g, t):
        if t < 1.0:
            raise ValueError("steps are counted from one")
        return (x - g / t,)

    return step


@pytest.mark.parametrize(
    ("rule", "scalars", "length"), [(_counted, (0.5, 5.0, 0.75), 0.5), (_only_counts, (4.0,), 0.25)]
)
def test_scalars_may_have_domains_of_their_own(numba, rule, scalars, length):
    x, g = np.random.default_rng(0).normal(size=(2, D))
    with _no_warning():
        (found,) = numba.apply(rule, (x, g), scalars)
    np.testing.assert_allclose(found, x - length * g, rtol=1e-12, atol=1e-12)
    assert _held.is_elementwise(rule, 2, len(scalars))


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_a_rule_may_hold_a_vector_of_its_own(numba, name):
    rates = np.linspace(0.1, 0.2, D)

    def rule(_xp):
        return lambda x, g, rate: (x - rate * rates * g,)

    x, g = np.random.default_rng(0).normal(size=(2, D))
    with (
        pytest.warns(RuntimeWarning, match="function of each entry alone")
        if name == "numba"
        else _no_warning()
    ):
        (found,) = get_backend(name).apply(rule, (x, g), (0.5,))
    np.testing.assert_allclose(found, x - 0.5 * rates * g, rtol=1e-12, atol=1e-15)


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


def test_predicted_steps_that_do_not_compile_are_taken_one_by_one(numba, monkeypatch):
    from optex_core.backends.numba import fused_steps as _numba_chain

    expected = _run(ox.Adam(0.1), backend="numpy", strategy="paper").x
    monkeypatch.setattr(_numba_chain, "jit", lambda function, identity: _Failing())
    _numba_chain._compile_steps.cache_clear()
    words = (
        r"predicted steps of the rule optex_core.optimizers.adam.* with the kernel "
        r".*complement \(No implementation of cbrt\)"
    )
    with pytest.warns(RuntimeWarning, match=words) as said:
        runs = [_run(ox.Adam(0.1), backend="numba", strategy="paper").x for _ in range(2)]
    _numba_chain._compile_steps.cache_clear()
    assert len(said) == 1
    assert all(np.abs(x - expected).max() < 1e-9 for x in runs)


def test_walks_on_coefficients_that_do_not_compile_are_taken_one_by_one(numba, monkeypatch):
    from optex_core.backends.numba import coefficient_steps as _numba_coefficients
    from optex_core.strategies._subspace import tracker as affine

    monkeypatch.setattr(affine, "SUBSPACE_MIN_SIZE", 1)
    expected = _run(ox.SGD(0.3), backend="numpy").x
    monkeypatch.setattr(_numba_coefficients, "jit", lambda function, identity: _fails)
    _numba_coefficients.compile_rollout.cache_clear()
    with pytest.warns(
        RuntimeWarning,
        match=r"cannot compile the rule optex_core.optimizers.sgd.* \(No implementation of cbrt\)",
    ) as said:
        runs = [_run(ox.SGD(0.3), backend="numba").x for _ in range(2)]
    _numba_coefficients.compile_rollout.cache_clear()
    assert len(said) == 1
    assert all(np.abs(x - expected).max() < 1e-9 for x in runs)


def test_a_loop_that_does_not_compile_is_numpys(numba, monkeypatch):
    from optex_core.backends.numba import elementwise as _elementwise

    monkeypatch.setattr(_elementwise, "jit", lambda function, identity: _fails)
    _elementwise.compile_rule.cache_clear()
    x = np.linspace(-1.0, 1.0, 9)
    with pytest.warns(
        RuntimeWarning,
        match=r"cannot compile the rule .*axpy_rule \(No implementation of cbrt\); NumPy "
        r"takes its steps",
    ) as said:
        found = [numba.axpy(2.0, x, x) for _ in range(2)]
    _elementwise.compile_rule.cache_clear()
    assert len(said) == 1
    assert all(np.array_equal(f, 3.0 * x) for f in found)


class _Failing:
    """A function that has not been compiled yet, and never will be."""

    overloads: ClassVar[dict[str, str]] = {}

    def __call__(self, *arguments):
        _fails()


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
            ox.minimize(lambda x: (h * x @ x / 2, h * x), np.ones(60), optimizer=optimizer, parallelism=3, backend=b, maxiter=5, rng=0).x
            for b in ("numba", "numpy")
        )
        assert np.abs(one - other).max() < 1e-8
    x = np.linspace(-1.0, 1.0, 2_100)
    assert abs(get_backend("numba").dot(x, x) - float(x @ x)) < 1e-9
    (y, z) = get_backend("numba").weighted_sums(None, np.ones((2, 0)), x.reshape(2, -1), np.ones((2, 2)), 1, [x[:1050]], np.ones((2, 1)))
    assert np.allclose(y, 2 * x[:1050] - x[1050:]) and np.array_equal(y, z)
assert [str(w.message).partition(":")[0] for w in said] == ["NUMBA_DISABLE_JIT is set"], said
print(get_backend("auto", np.ones(100_000)).name)
"""


def test_without_its_compiler_numba_is_plain_python_and_auto_is_numpy():
    pytest.importorskip("numba", reason="numba is not installed")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "numpy\n"


def _no_warning():
    from contextlib import nullcontext

    return nullcontext()  # the suite makes errors of warnings
