"""Schedule-free Prodigy: against a plain loop of its formulas, and what its estimate promises."""

from __future__ import annotations

import math

import numpy as np
import pytest

import optex_core as ox
from optex_core.backends import get_backend
from optex_core.errors import ArgumentError
from optex_core.testing import check_optimizer


def by_hand(x0, gradients, rate=1.0, b1=0.9, b2=0.999, d=1e-6, eps=1e-30):
    """The docstring's formulas, one after the other."""
    x, path, c = np.array(x0, dtype=float), [], math.sqrt(b2)
    v, before, r, s, total, searching = np.zeros_like(x), None, 0.0, np.zeros_like(x), 0.0, True
    for t, g in enumerate(gradients, start=1):
        if searching and before is not None:
            product = math.sqrt(g @ g) * math.sqrt(before[1] @ before[1])
            cosine = g @ before[1] / product if product else 0.0
            if cosine > 0.5:
                d = 4.0 * d
            else:
                searching, d = False, d / 4.0
                if cosine < 0.0:
                    x, g = before
                z = a = x
        v = b2 * v + (1.0 - b2) * g * g
        length = rate * d / math.sqrt(1.0 + t / 20.0)
        move = length * g / (np.sqrt(v) / math.sqrt(1.0 - b2**t) + eps)
        if searching:
            before, x = (x, g), x - move
        else:
            r = c * r + (1.0 - c) * d * d * (g @ x0 - g @ x)
            s = c * s + (1.0 - c) * d * d * g
            total += d * d
            z = z - move
            a = a + d * d / total * (z - a)
            x, d = z + b1 * (a - z), max(d, r / max(np.abs(s).sum(), 1e-300))
        path.append(x)
    return np.array(path)


def walked(optimizer, gradient, x, steps, **options):
    state, path = optimizer.init(x), []
    for _ in range(steps):
        x, state = optimizer.step(x, gradient(x), state, **options)
        path.append(x)
    return path, state


def test_it_keeps_every_promise_of_an_optimizer():
    assert check_optimizer(ox.Prodigy).ok
    assert check_optimizer(ox.Prodigy, reference=by_hand).ok


@pytest.mark.parametrize("first_step", [1e-6, 0.1])
def test_a_descent_follows_the_formulas(first_step):
    # Gradients of a descent agree for a while: both phases are long.
    h, x0 = np.array([0.5, 1.0, 3.0]), np.array([2.0, -1.0, 0.5])
    seen = []

    def gradient(x):
        seen.append(h * x)
        return seen[-1]

    path, state = walked(ox.Prodigy(first_step=first_step), gradient, x0, 40)
    assert not state.searching
    np.testing.assert_allclose(path, by_hand(x0, seen, d=first_step), rtol=1e-10)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_units_of_x_and_of_the_gradient_need_no_tuning(scale):
    # The same problem in other units: some more or fewer steps of the first phase, the same end.
    h = np.array([1.0, 2.0, 5.0])
    path, _ = walked(
        ox.Prodigy(), lambda x: 7.0 * h * x / scale, scale * np.array([3.0, -2.0, 1.0]), 100
    )
    assert np.abs(path[-1]).max() < 0.05 * 3.0 * scale


def test_predicted_gradients_leave_the_estimate_as_it_is():
    optimizer, h = ox.Prodigy(), np.array([1.0, 4.0])
    for steps in (3, 30):  # within the first phase, and after it
        path, state = walked(optimizer, lambda x: h * x, np.array([1.0, 2.0]), steps)
        x, after = path[-1], state
        for _ in range(5):
            x, after = optimizer.step(x, h * x, after, trusted=False)
        assert (after.distance, after.numerator, after.searching) == (
            state.distance, state.numerator, state.searching,
        )  # fmt: skip
        assert np.array_equal(after.s, state.s)
        assert not np.array_equal(x, path[-1])


def test_an_opposed_gradient_takes_the_last_step_back():
    # first_step is far beyond the minimum of |x|: the second gradient opposes the first.
    optimizer, x0 = ox.Prodigy(first_step=100.0), np.array([1.0, -1.0])
    path, state = walked(optimizer, np.sign, x0, 2)
    assert not state.searching
    assert np.abs(path[0]).max() > 90.0
    assert np.abs(path[1] - x0).max() < 100.0 / 4.0 + 1e-12


def test_it_needs_no_rate_under_noise():
    rng, h = np.random.default_rng(0), np.linspace(0.5, 5.0, 20)
    x0 = 10.0 * np.ones(20)

    def gradient(x):
        return h * x + rng.standard_normal(20)

    path, _ = walked(ox.Prodigy(), gradient, x0, 200)
    assert h @ path[-1] ** 2 < 1e-2 * (h @ x0**2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_steps_are_those_of_numpy(dtype):
    numba, optimizer, h = get_backend("numba"), ox.Prodigy(), np.linspace(1, 3, 50).astype(dtype)
    x = y = np.ones(50, dtype)
    state, other = optimizer.init(x), optimizer.init(x, backend=numba)
    for _ in range(15):
        x, state = optimizer.step(x, h * x, state)
        y, other = optimizer.step(y, h * y, other, backend=numba)
    assert state.searching == other.searching
    assert x.dtype == y.dtype == dtype
    np.testing.assert_allclose(y, x, rtol=1e3 * np.finfo(dtype).eps)


def test_a_run_in_the_engine_needs_no_rate():
    def quadratic(x):
        return float(x @ x), 2.0 * x

    res = ox.minimize(quadratic, [30.0, -4.0], optimizer="prodigy", parallelism=4, maxiter=60)
    assert res.fun < 1e-2 * 916.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first_step": 0.0}, "first_step must be a number > 0"),
        ({"b1": 1.0}, "b1 must be a number >= 0 and < 1"),
        ({"eps": -1.0}, "eps must be a number > 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ArgumentError, match=message):
        ox.Prodigy(**settings)
