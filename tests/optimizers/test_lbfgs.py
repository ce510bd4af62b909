"""LBFGS against the two-loop recursion of Nocedal, and the rules for its pairs and lengths."""

import numpy as np
import pytest

import optex_core as ox
from optex_core.optimizers.lbfgs import CURVED

H = np.geomspace(1.0, 30.0, 6)
START = np.linspace(-2.0, 3.0, 6)


def gradient(x):
    """Of h'x^2/2 + sum(cos x), whose Hessian h - cos x changes with x and is never negative."""
    return H * x - np.sin(x)


def two_loops(g, pairs):
    """H g by algorithm 7.4 of Nocedal, Wright, Numerical Optimization, 2006."""
    q, used = g.copy(), []
    for s, y in reversed(pairs):
        a = (s @ q) / (s @ y)
        q -= a * y
        used.append(a)
    if pairs:
        s, y = pairs[-1]
        q *= (s @ y) / (y @ y)
    for (s, y), a in zip(pairs, reversed(used), strict=True):
        q += s * (a - (y @ q) / (s @ y))
    return q


def reference(steps, memory, first_step):
    """The points after each step."""
    x, pairs, last, length, path = START, [], None, 0.0, []
    for _ in range(steps):
        g = gradient(x)
        if last is not None:
            s, y = x - last[0], g - last[1]
            if s @ y > CURVED * np.linalg.norm(s) * np.linalg.norm(y):
                pairs = [*pairs, (s, y)][-memory:]
        direction = two_loops(g, pairs)
        cap = 3.0 * length if length else first_step
        direction *= min(1.0, cap / np.linalg.norm(direction))
        last, length = (x, g), np.linalg.norm(direction)
        x = x - direction
        path.append(x)
    return path


@pytest.mark.parametrize(("memory", "first_step"), [(20, None), (3, 0.1), (1, 2.0)])
def test_steps_are_those_of_the_two_loop_recursion(memory, first_step):
    optimizer = ox.LBFGS(memory, first_step)
    x, state = START, optimizer.init(START)
    for expected in reference(9, memory, first_step or 1.0):
        x, state = optimizer.step(x, gradient(x), state)
        np.testing.assert_allclose(x, expected, rtol=1e-7, atol=1e-9)
    assert len(state.S) == len(state.Y) == min(memory, 8)


def test_a_pair_without_positive_curvature_is_left_out():
    optimizer, x = ox.LBFGS(), np.array([1.0, -1.0])
    moved, state = optimizer.step(x, 0.1 * x, optimizer.init(x))
    _, state = optimizer.step(moved, 0.2 * x, state)  # the gradient grew along the descent
    assert state.S is None
    assert np.array_equal(state.x, moved)


def test_pairs_whose_squares_underflow_are_left_out():
    # Beside a minimum at 0, where s'y = 5e-324 and y'y = 0.
    optimizer, x, g = ox.LBFGS(), np.array([0.0, 4e-162]), np.array([0.0, 1.4e-162])
    _, state = optimizer.step(x, g, optimizer.init(x))
    x, state = optimizer.step(0.0 * x, 0.0 * g, state)
    assert state.S is None
    assert np.array_equal(x, [0.0, 0.0])


def test_no_step_is_longer_than_three_times_the_last_one():
    optimizer, x = ox.LBFGS(first_step=0.5), np.array([3.0, 4.0])
    moved, state = optimizer.step(x, x, optimizer.init(x))
    assert np.linalg.norm(moved - x) == pytest.approx(0.5) == state.length
    again, state = optimizer.step(moved, x * 0.9, state)
    assert np.linalg.norm(again - moved) == pytest.approx(1.5) == state.length


def test_the_dtype_is_that_of_x():
    optimizer, x = ox.LBFGS(), START.astype(np.float32)
    state = optimizer.init(x)
    for _ in range(4):
        x, state = optimizer.step(x, gradient(x.astype(float)), state)
    assert {x.dtype, state.S.dtype, state.Y.dtype} == {np.dtype(np.float32)}


@pytest.mark.parametrize("settings", [{"memory": 0}, {"first_step": 0.0}])
def test_settings_out_of_range(settings):
    with pytest.raises(ox.ArgumentError, match=next(iter(settings))):
        ox.LBFGS(**settings)
