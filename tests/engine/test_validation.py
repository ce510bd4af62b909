"""What users hand to the engine while a run goes on: values, gradients, steps of their optimizer,
and bounds in single precision.
"""

from __future__ import annotations

import sys
import types
import warnings

import numpy as np
import pytest

import optex_core as ox
from optex_core.engine.validation import as_gradient
from optex_core.errors import ArgumentTypeError, CapabilityError

X0 = np.array([3.0, -4.0])


def fun(x):
    return float(x @ x), 2 * x


def test_a_users_optimizer_that_breaks_its_promise_ends_the_run_with_the_result_so_far():
    # which steps are refused, and how, is in tests/optimizers/test_wrappers.py
    class Odd:
        def init(self, x):
            return None

        def step(self, x, g, state):
            return x - g

    with pytest.raises(TypeError, match=r"step must return \(x, state\), got ndarray") as caught:
        ox.minimize(fun, X0, optimizer=Odd())
    assert caught.value.partial_result.nit == 0


def test_an_optimizer_whose_state_cannot_be_saved_is_named(tmp_path):
    class Stateful:
        def init(self, x):
            return object()

        def step(self, x, g, state):
            return x - 0.1 * g, state

    engine = ox.OptEx(X0, optimizer=Stateful())
    with pytest.raises(ArgumentTypeError, match=r"builtins.object, which cannot be saved"):
        engine.save(tmp_path / "run")


@pytest.mark.parametrize(
    "value",
    [
        "1.0",
        b"1",
        np.array("1.0"),
        1j,
        1 + 0j,
        np.complex64(1),
        np.array(1 + 2j),
        np.array([1j]),
        None,
        [1.0, [2.0]],
        X0,
        object(),
    ],
    ids=lambda v: type(v).__name__,
)
def test_tell_refuses_values_that_are_no_real_numbers(value):
    engine = ox.OptEx(X0, target=0.0)
    (c,) = engine.ask()
    with pytest.raises((ArgumentTypeError, CapabilityError), match="value"):
        engine.tell(c.id, gradient=2 * X0, value=value)
    assert engine.state.njev == 0
    engine.tell(c.id, gradient=2 * X0, value=np.array([25], np.int64))


@pytest.mark.parametrize("warns", ["warn", "raise"])
def test_tell_takes_what_is_beyond_single_precision_as_a_failure_without_a_warning(warns):
    engine = ox.OptEx(X0.astype(np.float32), maxiter=3)
    (c,) = engine.ask()
    with np.errstate(all=warns):
        engine.tell(c.id, gradient=np.array([1e300, 1e-300]), value=1.0)
    assert engine.stop() == {"diverged": True}
    assert "1 entries that are not finite, the first is inf" in engine.failures[0].message


def test_gradients_are_never_moved_between_devices(monkeypatch):
    class Elsewhere(np.ndarray):
        """Stands for cupy.ndarray, so that the check is run without a GPU."""

    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(ndarray=Elsewhere))
    here, there, backend = np.ones(2), np.ones(2).view(Elsewhere), ox.OptEx(X0).backend
    assert as_gradient(here, here, backend).tolist() == [1.0, 1.0]
    with pytest.raises(
        ArgumentTypeError, match="the gradient is on the GPU but x is a NumPy array; .*cupy.asnumpy"
    ):
        as_gradient(there, here, backend)
    with pytest.raises(
        ArgumentTypeError, match="the gradient is a NumPy array but x is on the GPU; .*cupy.asarray"
    ):
        as_gradient(here, there, backend)


SINGLE = np.float32


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0.1, 0.7),
        (0.7, 0.9),
        (-0.9, -0.7),
        (-0.1, 0.3),
        (0.3, 1e300),
        (-1e300, 0.3),
        (-1e300, 1e300),
        (1e-300, 1.0),
        (0.0, 0.0),
        (-np.inf, np.inf),
    ],
    ids=str,
)
def test_bounds_in_single_precision_stay_within_those_given(low, high):
    middle = np.clip(0.0, max(low, -9.0), min(high, 9.0))
    with warnings.catch_warnings():
        # by its own rounding
        warnings.filterwarnings("ignore", "x0 lies outside the bounds", RuntimeWarning)
        engine = ox.OptEx(np.full(3, middle, SINGLE), bounds=[(low, high)] * 3)
    mine, theirs = engine.settings.low, engine.settings.high
    assert mine.dtype == theirs.dtype == SINGLE
    assert (mine.astype(float) >= low).all()
    assert (theirs.astype(float) <= high).all()
    # and by no more than one number of float32
    with np.errstate(over="ignore"):
        assert (np.nextafter(mine, SINGLE(-np.inf)).astype(float) < low).all() or np.isinf(low)
        assert (np.nextafter(theirs, SINGLE(np.inf)).astype(float) > high).all() or np.isinf(high)


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.1), (0.3, 0.3), (0.1, 0.1 + 1e-12)], ids=str)
def test_a_parameter_fixed_between_two_single_numbers_is_fixed_at_the_nearest(low, high):
    engine = ox.OptEx(np.full(2, low, SINGLE), bounds=[(low, high)] * 2)
    assert engine.settings.low.tolist() == engine.settings.high.tolist() == [SINGLE(low)] * 2
    assert engine.state.x.tolist() == [SINGLE(low)] * 2
