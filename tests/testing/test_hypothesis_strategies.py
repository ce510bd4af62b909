"""The objectives that Hypothesis draws for tests are right, or wrong, where they say so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from optex_core.model.kernels.base import KERNELS
from optex_core.optimizers.base import OPTIMIZERS
from optex_core.optimizers.schedules import SCHEDULES
from optex_core.testing import strategies as st
from optex_core.testing.check_suite import CheckFailed
from optex_core.testing.properties import for_all
from optex_core.testing.sample_objectives import FAULTS


@given(fun=st.smooth_objectives())
def test_smooth_objectives_know_gradient_minimum_and_lipschitz_constant(fun):
    value, gradient = fun(fun.minimizer)
    assert value == fun.minimum == 0.0
    assert not gradient.any()
    rng = np.random.default_rng(0)
    x, y = fun.centre + rng.normal(size=(2, fun.d))
    v, h = x - y, 1e-6
    slope = (fun(x + h * v)[0] - fun(x - h * v)[0]) / (2 * h)
    size = np.abs(v) @ np.abs(fun(x)[1]) + fun.lipschitz * (v @ v)
    # truncation h^2, rounding eps |f| / h
    assert slope == pytest.approx(fun(x)[1] @ v, abs=1e-8 * size + 1e-9)
    change = np.linalg.norm(fun(x)[1] - fun(y)[1])
    assert change <= fun.lipschitz * np.linalg.norm(v) * (1 + 1e-12)


@given(fun=st.noisy_objectives(d=3), seed=st.integers(0, 9))
def test_noise_comes_from_the_seed_alone_and_spares_the_value(fun, seed):
    x = np.ones(3)
    value, gradient = fun(x, seed=seed)
    assert np.array_equal(fun(x, seed=seed)[1], gradient)
    assert value == fun.inner(x)[0]
    same = np.array_equal(gradient, fun.inner(x)[1])
    assert same if fun.level == 0.0 else not same or fun.level < 1e-12


@given(fun=st.faulty_objectives(d=2))
def test_faulty_objectives_misbehave_at_their_calls_and_nowhere_else(fun):
    assert fun.kind in FAULTS
    for call in range(14):
        x = np.array([1.0, 2.0 + call])
        value, gradient = fun.inner(x)
        wrong = call in fun.calls
        if wrong and fun.kind == "exception":
            with pytest.raises(RuntimeError, match=f"planted fault at call {call}"):
                fun(x)
            continue
        found, g = fun(x)
        assert (not x.any()) == (wrong and fun.kind == "mutation")
        right = found == value and np.array_equal(g, gradient)
        if wrong and fun.kind in ("nan", "inf"):
            assert not np.isfinite(found)
            assert not np.isfinite(g).any()
        elif wrong and fun.kind == "stale" and call:
            before = fun.inner(np.array([1.0, 1.0 + call]))
            assert found == before[0]
            assert np.array_equal(g, before[1])
        else:
            assert right


@given(kernel=st.kernels(), schedule=st.schedules(), optimizer=st.optimizers())
def test_registered_parts_are_drawn_with_settings_that_they_take(kernel, schedule, optimizer):
    assert type(kernel) in KERNELS.values()
    assert type(schedule) in SCHEDULES.values()
    assert type(optimizer) in OPTIMIZERS.values()


def test_a_failing_property_is_shown_with_its_smallest_objective():
    def never_stale(fun):
        assert fun.kind != "stale"

    with pytest.raises(CheckFailed, match=r"run\(\n +fun=FaultyObjective\("):
        for_all(never_stale, fun=st.faulty_objectives())
