"""Steps that may overwrite what they were given: the same bits in the same memory, and new arrays
wherever that memory is somebody else's too.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed")

from optex_core.backends import get_backend
from optex_core.backends.numba import nontemporal as _streaming
from optex_core.optimizers.adam import Adam  # noqa: E402
from optex_core.optimizers.base import Optimizer  # noqa: E402
from optex_core.optimizers.sgd import SGD  # noqa: E402
from optex_core.optimizers.wrappers import (
    BestSoFar,
    ClipByNorm,
    ClipByValue,
    Projected,
    WeightDecay,
)  # noqa: E402

D = 40_000


def start(dtype="float64", d=D):
    rng = np.random.default_rng(5)
    return rng.normal(size=d).astype(dtype), rng.normal(size=d).astype(dtype)


def walked(backend, x, g, donate, steps=4):
    optimizer = Adam(0.1)
    state = optimizer.init(x, backend=backend)
    for _ in range(steps):
        x, state = optimizer.step(x, g, state, donate=donate, backend=backend)
    return x, *state.slots


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_the_same_bits_in_the_same_memory(name, dtype, monkeypatch):
    monkeypatch.setattr(_streaming, "FROM", 1 << 20)
    b = get_backend(name)
    # the last is shared between threads, and its new results are streamed
    for d in (1, 17, D, 300_003):
        x, g = start(dtype, d)
        own = x.copy()
        found = walked(b, own, g, donate=True)
        for one, other in zip(found, walked(b, x, g, donate=False), strict=True):
            assert one.tobytes() == other.tobytes()
        assert np.shares_memory(found[0], own) == (d >= D or name == "numba")
        np.testing.assert_array_equal(x, start(dtype, d)[0])
        np.testing.assert_array_equal(g, start(dtype, d)[1])


def read_only(x):
    x.flags.writeable = False
    return x


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda x, g: (read_only(x), g), id="read-only"),
        pytest.param(lambda x, g: (np.repeat(x, 2)[::2], g), id="strided"),
        pytest.param(lambda x, g: (x, x), id="the gradient is x"),
        pytest.param(lambda x, g: (x[1:], x[:-1]), id="the gradient overlaps x"),
    ],
)
def test_memory_that_is_not_free_is_left_alone(name, made):
    b, optimizer = get_backend(name), Adam(0.1)
    x, g = made(*start())
    before, gradient = x.copy(), g.copy()
    expected, _ = optimizer.step(before, gradient, optimizer.init(before, backend=b), backend=b)
    found, state = optimizer.step(x, g, optimizer.init(x, backend=b), donate=True, backend=b)
    assert found.tobytes() == expected.tobytes()
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(g, gradient)
    # What came out is nobody else's: the next step overwrites it.
    again, _ = optimizer.step(found, start(d=len(x))[1], state, donate=True, backend=b)
    assert np.shares_memory(again, found)


def test_a_state_that_is_one_array_twice():
    optimizer, (x, g) = Adam(0.1), start()
    state = optimizer.init(x)
    twice = type(state)(state.t, (state.slots[0], state.slots[0]))
    found, after = optimizer.step(x.copy(), g, twice, donate=True)
    expected, other = optimizer.step(x, g, state)
    assert found.tobytes() == expected.tobytes()
    assert [a.tobytes() for a in after.slots] == [a.tobytes() for a in other.slots]


def test_wrappers_hand_it_on_and_keep_what_they_remember():
    x, g = start()
    optimizer = BestSoFar(Projected(WeightDecay(ClipByNorm(Adam(0.1), 1.0), 0.01), -1.0, 1.0))
    a, b = (x, optimizer.init(x)), (x.copy(), optimizer.init(x))
    for value in (3.0, 1.0, 2.0, 0.5):
        slot = b[1].inner.inner.slots[0]
        a = optimizer.step(a[0], g, a[1], value=value)
        b = optimizer.step(b[0], g, b[1], value=value, donate=True)
        assert b[1].inner.inner.slots[0] is slot
        assert a[0].tobytes() == b[0].tobytes()
        assert a[1].x.tobytes() == b[1].x.tobytes()


@pytest.mark.parametrize("kind", [ClipByNorm, ClipByValue])
def test_a_gradient_that_is_x_stays_where_a_wrapper_hands_on_another(kind):
    x, _ = start()
    kept, optimizer = x.copy(), kind(Adam(0.1), 0.5)
    found, _ = optimizer.step(x, x, optimizer.init(x), donate=True)
    np.testing.assert_array_equal(x, kept)
    assert found.tobytes() == optimizer.step(x, x, optimizer.init(x))[0].tobytes()


def test_an_optimizer_of_somebodys_own_need_not_know_it():
    class Plain(Optimizer):
        name = "plain"

        def init(self, x, *, backend=None):
            return None

        def step(self, x, g, state, *, value=math.nan, trusted=True, backend=None):
            return x - g, state

    x, g = start()
    found, _ = WeightDecay(Plain(), 0.0).step(x, g, WeightDecay(Plain(), 0.0).init(x), donate=True)
    np.testing.assert_array_equal(found, start()[0] - g)
    np.testing.assert_array_equal(x, start()[0])


def test_as_many_arrays_as_results():
    x, g = start()
    for into in ((0, 1), (0, 0)):
        with pytest.raises(ValueError, match="1 results"):
            get_backend("numba").apply(SGD(0.1).rule, (x, g), (0.1,), into=into)
    np.testing.assert_array_equal(x, start()[0])


def test_a_machine_without_more_threads_is_no_fault_of_the_rule_and_nobody_writes_on(monkeypatch):
    """Half of a step was done over what was given away; done again from there, in NumPy, it was
    another step.
    """
    from concurrent.futures import ThreadPoolExecutor

    from optex_core.backends.numba import kernel_threads as _team

    class Reluctant(ThreadPoolExecutor):
        def submit(self, work):
            begun.append(work)
            if len(begun) == 2:
                raise RuntimeError("can't start new thread")
            return super().submit(work)

    b, (x, g) = get_backend("numba"), start(d=600_000)
    begun, state = [], Adam(0.1).init(x, backend=b)
    expected = Adam(0.1).step(x, g, state, backend=b)[0]
    with monkeypatch.context() as m, Reluctant(2) as pool:
        m.setattr(_team, "num_threads", lambda: 3)
        m.setattr(_team.KERNEL_THREADS, "_helpers", lambda number: pool)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            Adam(0.1).step(x.copy(), g, state, donate=True, backend=b)
        left = [a.copy() for a in state.slots]
        for work in begun:  # an executor keeps what it could not start a thread for
            work()
    assert all(np.array_equal(a, one) for a, one in zip(state.slots, left, strict=True))
    again = Adam(0.1).step(x, g, Adam(0.1).init(x, backend=b), donate=True, backend=b)[0]
    assert again.tobytes() == expected.tobytes()
