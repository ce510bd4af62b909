"""Wrappers, by hand and switched off, and the one way to call any optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optex_core.backends import get_backend
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.optimizers._on_backend import bind_optimizer
from optex_core.optimizers.adam import Adam, AdamW
from optex_core.optimizers.base import OPTIMIZERS, WRAPPERS
from optex_core.optimizers.schedules import ReduceOnPlateau, Step
from optex_core.optimizers.sgd import SGD
from optex_core.optimizers.wrappers import (
    BestSoFar,
    ClipByNorm,
    ClipByValue,
    Projected,
    WeightDecay,
)


@dataclass(frozen=True)
class HeavyBall:
    """An optimizer as a user would write it: nothing of ours."""

    rate: float = 0.1

    def init(self, x):
        return {"velocity": np.zeros_like(x)}

    def step(self, x, g, state):
        velocity = 0.9 * state["velocity"] + g
        return x - self.rate * velocity, {"velocity": velocity}


#: Settings that switch each wrapper off.
OFF: dict[str, dict[str, Any]] = {
    "best_so_far": {},
    "clip_by_norm": {"max_norm": 1e6},
    "clip_by_value": {"max_value": 1e6},
    "projected": {},
    "weight_decay": {"decay": 0.0},
}
#: And settings that act.
ON: dict[str, dict[str, Any]] = {
    "best_so_far": {},
    "clip_by_norm": {"max_norm": 0.5},
    "clip_by_value": {"max_value": 0.5},
    "projected": {"low": [-0.5, -0.5, 0.0], "high": 0.9},
    "weight_decay": {"decay": Step(0.1, 2)},
}
INNER = [Adam(0.1), SGD(0.1, momentum=0.9), HeavyBall()]

every_wrapper = pytest.mark.parametrize("name", list(WRAPPERS))
every_inner = pytest.mark.parametrize("inner", INNER, ids=["adam", "sgd", "user"])

CURVATURE = np.array([1.0, 3.0, 0.5])
START = np.array([1.0, -2.0, 3.0])


def walked(
    optimizer: Any, steps: int = 12, backend: Any = None, start: np.ndarray = START
) -> tuple[np.ndarray, Any]:
    stepper = bind_optimizer(optimizer, backend)
    x = start.copy()
    state = stepper.init(x)
    for _ in range(steps):
        x, state = stepper.step(
            x, CURVATURE.astype(x.dtype) * x, state, value=float(CURVATURE @ (x * x)) / 2
        )
    return x, state


@every_wrapper
@every_inner
def test_switched_off_it_is_the_optimizer_inside_bit_for_bit(name, inner):
    assert walked(WRAPPERS[name](inner, **OFF[name]))[0].tobytes() == walked(inner)[0].tobytes()


def test_they_run_on_the_backend_given():
    # Numba contracts multiplications and additions: some ulps in 12 steps. One stack, since every
    # operation takes a second to compile.
    wrapper: Any = SGD(0.1, momentum=0.9)
    for name in WRAPPERS:
        wrapper = WRAPPERS[name](wrapper, **ON[name])
    np.testing.assert_allclose(
        walked(wrapper, backend=get_backend("numba"))[0], walked(wrapper)[0], rtol=1e-12, atol=1e-13
    )


@every_wrapper
def test_it_takes_a_name_and_is_no_name_itself(name):
    assert WRAPPERS[name]("adam", **ON[name]).optimizer == Adam()
    assert name not in OPTIMIZERS


@every_wrapper
def test_it_declares_affine_steps(name):
    keeps = name in {"weight_decay", "best_so_far"}
    assert WRAPPERS[name](SGD(0.1), **ON[name]).affine == keeps
    assert not WRAPPERS[name](Adam(0.1), **ON[name]).affine
    assert not WRAPPERS[name](HeavyBall(), **ON[name]).affine


def test_wrappers_wrap_wrappers():
    wrapper = BestSoFar(Projected(ClipByNorm(WeightDecay("adam", 0.1), 1.0), -1.0, 1.0))
    x, state = walked(wrapper)
    assert np.abs(x).max() <= 1.0
    assert wrapper.best(state)[1] < math.inf


# -- each by hand ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 1e-170, 1e170, 1e300])
def test_clip_by_norm_shortens_and_keeps_the_direction(scale):
    x = np.zeros(2)
    new, _ = ClipByNorm(SGD(1.0), scale).step(x, np.array([3.0, -4.0]) * scale, SGD(1.0).init(x))
    # Not exact: norm and factor round once each. At 1e170 the plain squares overflow, at 1e-170
    # they vanish and nothing is clipped.
    expected = np.array([-3.0, 4.0]) * scale * (1.0 if scale < 1e-160 else 0.2)
    np.testing.assert_allclose(new, expected, rtol=1e-14)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=5), st.floats(1e-3, 1e3))
def test_clip_by_norm_never_exceeds_the_norm(g, limit):
    x = np.zeros(len(g))
    new, _ = ClipByNorm(SGD(1.0), limit).step(x, np.array(g), SGD(1.0).init(x))
    # a rounding of the norm, of the factor and of each product
    assert np.linalg.norm(new) <= limit * (1 + 1e-14)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    "make",
    [lambda: ClipByNorm(SGD(1.0), 1.0), lambda: ClipByValue(SGD(1.0), 1.0)],
    ids=["norm", "value"],
)
def test_clipping_does_not_hide_nan(make, bad):
    wrapper, x = make(), np.zeros(2)
    new, _ = wrapper.step(x, np.array([bad, 0.5]), wrapper.init(x))
    assert new[1] == -0.5
    assert not math.isfinite(new[0]) or (isinstance(wrapper, ClipByValue) and new[0] == -1.0)


def test_clip_by_value_limits_each_coordinate():
    x = np.zeros(3)
    new, _ = ClipByValue(SGD(1.0), 2.0).step(x, np.array([3.0, -0.5, -7.0]), SGD(1.0).init(x))
    assert new.tolist() == [-2.0, 0.5, 2.0]


def test_weight_decay_shrinks_before_the_step():
    wrapper = WeightDecay(SGD(0.5), Step(0.25, 1, 0.5))
    x, g = np.array([4.0, -8.0]), np.array([1.0, 0.0])
    x, state = wrapper.step(x, g, wrapper.init(x))
    assert x.tolist() == [2.5, -6.0]
    x, state = wrapper.step(x, g, state)
    assert x.tolist() == [2.5 * 0.875 - 0.5, -5.25]
    assert state.t == 2


def test_weight_decay_around_adam_is_adamw():
    # x - c x and (1 - c) x round differently.
    np.testing.assert_allclose(
        walked(WeightDecay(Adam(0.1), 0.1 * 0.3))[0], walked(AdamW(0.1, decay=0.3))[0], rtol=1e-13
    )


def test_weight_decay_may_follow_a_plateau():
    wrapper = WeightDecay(SGD(0.5), ReduceOnPlateau(0.5, factor=0.5, patience=0))
    x = np.array([16.0])
    state = wrapper.init(x)
    for _ in range(2):
        x, state = wrapper.step(x, np.zeros(1), state, value=1.0)
    assert x.tolist() == [16.0 * 0.5 * 0.75]


def test_projected_clips_after_the_step_and_leaves_the_state():
    wrapper = Projected(SGD(1.0, momentum=0.5), [-1.0, -math.inf], [math.inf, 2.0])
    x = np.zeros(2)
    x, state = wrapper.step(x, np.array([5.0, -5.0]), wrapper.init(x))
    assert x.tolist() == [-1.0, 2.0]
    assert state.slots[0].tolist() == [5.0, -5.0]


def test_projected_keeps_copies_of_its_bounds():
    low = np.array([-1.0, -1.0])
    wrapper = Projected(SGD(1.0), low)
    low[:] = 5.0
    assert wrapper.low.tolist() == [-1.0, -1.0]
    assert wrapper.high == math.inf
    assert not wrapper.low.flags.writeable


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_projected_casts_no_bounds_that_have_the_dtype_of_x(name, monkeypatch):
    backend = get_backend(name)
    seen = []
    clip = type(backend).clip
    monkeypatch.setattr(
        type(backend),
        "clip",
        lambda self, x, low, high: (seen.extend([low, high]), clip(self, x, low, high))[1],
    )
    x = START.astype(np.float32)
    optimizer = Projected(SGD(1.0), low=x - np.float32(0.1), high=x + np.float32(0.1))
    x, _ = optimizer.step(x, x, optimizer.init(x), backend=backend)
    assert [bound.dtype for bound in seen] == [np.float32, np.float32]
    assert x.dtype == np.float32
    assert Projected(SGD(1.0), low=[0, 1]).low.dtype == np.float64


def test_best_so_far_counts_known_values_of_true_gradients():
    wrapper = BestSoFar(SGD(1.0))
    x = np.array([0.0])
    state = wrapper.init(x)
    assert wrapper.best(state) == (x, math.inf)
    for value, trusted in [(3.0, True), (1.0, False), (2.0, True), (math.nan, True), (2.5, True)]:
        x, state = wrapper.step(x, np.array([-1.0]), state, value=value, trusted=trusted)
    point, value = wrapper.best(state)
    assert (point.tolist(), value) == ([2.0], 2.0)
    assert x.tolist() == [5.0]


def test_best_so_far_does_not_alias_the_point():
    wrapper, x = BestSoFar(SGD(1.0)), np.array([1.0])
    _, state = wrapper.step(x, x, wrapper.init(x), value=1.0)
    x[0] = 9.0
    assert wrapper.best(state)[0].tolist() == [1.0]


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: ClipByNorm("adam", 0.0), "max_norm must be a number > 0"),
        (lambda: ClipByNorm(1.0, Adam()), "optimizer must be a name or an object"),  # type: ignore[arg-type]
        (lambda: ClipByNorm(Adam, 1.0), r"got the class Adam; write Adam\("),  # type: ignore[arg-type]
        (lambda: ClipByValue("adam", math.nan), "max_value must be a number > 0"),
        (lambda: WeightDecay("adam", -0.1), "decay must be a number >= 0 and < 1"),
        (lambda: WeightDecay("adam", Step), "decay must be a number or a schedule object"),  # type: ignore[arg-type]
        (lambda: BestSoFar("adm"), "unknown optimizer 'adm'"),
        (lambda: Projected("adam", 1.0, 0.0), "low must not exceed high"),
        (lambda: Projected("adam", [0.0, 2.0], [1.0, 1.0]), "low must not exceed high"),
        (lambda: Projected("adam", math.nan), "low must not exceed high, and neither may be nan"),
        (lambda: Projected("adam", [0.0], [1.0, 1.0]),
         r"must have one shape, got \(1,\) and \(2,\)"),
        (lambda: Projected("adam", "low"),
         "low must be a number or an array of numbers, got 'low'"),
        (lambda: Projected("adam", high=[1.0, 1.0]).init(np.zeros(3)),
         r"high must be .* shape of x, \(3,\), got shape \(2,\)"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_with_a_sentence(build, sentence):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=sentence):
        build()


# -- stepping --------------------------------------------------------------------------------------


class Recorder:
    """Notes what it is told; its signature is set by each test."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def init(self, x):
        return None


def test_only_declared_keywords_are_passed():
    class Trusting(Recorder):
        def step(self, x, g, state, *, trusted=True):
            self.told.append({"trusted": trusted})
            return x - g, state

    class Everything(Recorder):
        def step(self, x, g, state, **keywords):
            self.told.append(keywords)
            return x - g, state

    numpy = get_backend("numpy")
    for kind, expected in [
        (Trusting, {"trusted": False}),
        (Everything, {"value": 2.0, "trusted": False, "backend": numpy}),
    ]:
        optimizer = kind()
        stepper = bind_optimizer(optimizer, numpy)
        stepper.step(np.ones(2), np.ones(2), stepper.init(np.ones(2)), value=2.0, trusted=False)
        assert optimizer.told == [expected]


def test_keywords_pass_through_wrappers():
    class Both(Recorder):
        def step(self, x, g, state, value=math.nan, trusted=True):
            self.told.append({"value": value, "trusted": trusted})
            return x - g, state

    optimizer = Both()
    wrapper = ClipByNorm(ClipByValue(WeightDecay(Projected(BestSoFar(optimizer)), 0.1), 1.0), 1.0)
    x = np.ones(2)
    wrapper.step(x, x, wrapper.init(x), value=3.0, trusted=False)
    assert optimizer.told == [{"value": 3.0, "trusted": False}]


def test_positional_only_names_and_plain_functions():
    stepper = bind_optimizer(
        SimpleNamespace(
            init=lambda x: 0, step=lambda x, g, state, trusted=None, /: (x - g, trusted)
        )
    )
    assert stepper.step_keywords == frozenset()
    assert stepper.step(np.ones(1), np.ones(1), 0)[1] is None


def test_a_step_without_a_signature_gets_three_arguments():
    class Opaque:
        __signature__ = "none"

        def __call__(self, x, g, state):
            return x - g, state

    assert bind_optimizer(SimpleNamespace(init=lambda x: 0, step=Opaque())).step(
        np.ones(1), np.ones(1), 0
    )[0].tolist() == [0.0]


def test_a_users_object_cannot_write_what_it_is_given():
    def step(x, g, state):
        x -= g
        return x, state

    stepper = bind_optimizer(SimpleNamespace(init=lambda x: 0, step=step))
    with pytest.raises(ValueError, match="read-only"):
        stepper.step(np.ones(2), np.ones(2), 0)


def test_init_gets_a_read_only_view_and_the_backend_where_it_is_declared():
    told = []

    def init(x, backend=None):
        told.append(backend)
        assert not x.flags.writeable
        return 0

    numpy = get_backend("numpy")
    assert (
        bind_optimizer(SimpleNamespace(init=init, step=HeavyBall().step), numpy).init(np.ones(2))
        == 0
    )
    assert told == [numpy]


def test_a_users_object_may_reuse_its_buffer_and_return_another_dtype():
    buffer = np.zeros(2)

    def step(x, g, state):
        np.subtract(x, g, out=buffer)
        return buffer, state

    stepper = bind_optimizer(SimpleNamespace(init=lambda x: 0, step=step))
    first, _ = stepper.step(np.ones(2, np.float32), np.zeros(2, np.float32), 0)
    stepper.step(np.zeros(2, np.float32), np.ones(2, np.float32), 0)
    assert first.tolist() == [1.0, 1.0]
    assert first.dtype == np.float32


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (np.zeros(2), r"SimpleNamespace.step must return \(x, state\), got ndarray"),
        ((np.zeros(2), 0, 0), r"must return \(x, state\), got tuple"),
        ((np.zeros(3), 0), r"parameters of shape \(2,\), got shape \(3,\)"),
        (([0.0, 0.0], 0), r"parameters of shape \(2,\), got list"),
        ((None, 0), r"parameters of shape \(2,\), got NoneType"),
    ],
)
def test_a_wrong_result_is_refused_with_a_sentence(result, sentence):
    stepper = bind_optimizer(SimpleNamespace(init=lambda x: 0, step=lambda x, g, state: result))
    with pytest.raises(ArgumentTypeError, match=sentence):
        stepper.step(np.zeros(2), np.zeros(2), 0)


def test_the_state_of_a_users_object_is_handed_through():
    state = object()
    stepper = bind_optimizer(SimpleNamespace(init=lambda x: state, step=lambda x, g, s: (x - g, s)))
    assert stepper.init(np.zeros(2)) is state
    assert stepper.step(np.zeros(2), np.zeros(2), state)[1] is state
    assert not stepper.affine
    assert bind_optimizer(SGD(0.1)).affine
