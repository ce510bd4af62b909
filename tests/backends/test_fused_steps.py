"""Predicted steps in one compiled call each: the steps taken one by one in NumPy, to rounding, and
the same bits for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import optex_core as ox
from optex_core.backends import get_backend
from optex_core.model.estimator import GradientEstimator, Posterior
from optex_core.model.history import History
from optex_core.model.kernels import KERNELS, Kernel
from optex_core.model.likelihood import Hyperparameters
from optex_core.optimizers._on_backend import bind_optimizer
from optex_core.optimizers.base import OPTIMIZERS, ElementwiseOptimizer
from optex_core.strategies.rollout import ArraySpace, FusedRollout, PlainRollout

STEPS = 5


@pytest.fixture
def numba():
    pytest.importorskip("numba", reason="numba is not installed")
    return get_backend("numba")


def rows(n, d, dtype, seed=5):
    rng = np.random.default_rng(seed)
    X = np.cumsum(rng.normal(size=(n, d)) * 0.1, axis=0) + 1.0
    return X.astype(dtype), (np.geomspace(1.0, 0.05, d) * X + 0.1 * np.sin(3 * X)).astype(dtype)


def rollout(
    backend,
    optimizer,
    d=40,
    dtype=np.float64,
    n=12,
    steps=STEPS,
    *,
    scale=None,
    dims=None,
    curvature=0.3,
    noise=1e-3,
    **settings,
):
    """Steps from the newest row, after one with its gradient."""
    X, G = rows(n + 1, d, dtype)
    estimator = GradientEstimator(
        kernel_dims=None if dims is None else len(dims), **settings
    ).with_defaults(4, "constant", d)
    scale = None if scale is None else backend.copy_in(scale, dtype)
    history = History(n, d, dtype, backend, scale=scale, dims=dims)
    history.extend(list(zip(X[:n], G[:n], strict=True)))
    hyper = Hyperparameters(
        length=2.0 * np.sqrt(d),
        noise=noise,
        curvature=curvature if estimator.mean == "linear" else 0.0,
        age=0,
    )
    posterior, stepper = Posterior(estimator, history, hyper), bind_optimizer(optimizer, backend)
    x, state = stepper.step(X[n], G[n], stepper.init(X[n]))
    space = ArraySpace(stepper, backend, history, scale)
    return space.rollout(posterior, x, state, steps, ())


def taken(rollout, steps=STEPS, means=True):
    """All that steps say, as arrays; shorter where one could not be taken."""
    seen = []
    for _ in range(steps):
        mean = rollout.estimate() if means else rollout.x[:0]
        if not rollout.step():
            break
        s = rollout.state
        seen += [
            np.array(mean),
            np.array(rollout.x),
            *map(np.array, s.slots),
            np.array([s.t, *s.host_scalars, *s.schedule]),
        ]
    return seen


def same(numba, optimizer, dtype=np.float64, **settings):
    """Both paths, and their difference against rounding: sums over rows with weights whose sizes
    sum to 3 or so, then a rule of ten operations.
    """
    chained, single = (
        rollout(numba, optimizer, dtype=dtype, **settings),
        rollout(get_backend("numpy"), optimizer, dtype=dtype, **settings),
    )
    assert isinstance(chained, FusedRollout)
    assert isinstance(single, PlainRollout)
    pairs = list(zip(taken(chained), taken(single), strict=True))
    assert len(pairs) >= 3 * STEPS
    eps = np.finfo(dtype).eps
    for found, expected in pairs:
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        # float64: the system's condition of 1e5 multiplies the rounding of distances; below that,
        # steps and sums round once each.
        tolerance = 1e-10 if dtype == np.float64 else 64 * eps
        assert np.abs(found - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


def elementwise():
    found = []
    for name in OPTIMIZERS:
        if issubclass(OPTIMIZERS[name], ElementwiseOptimizer):
            try:
                found.append(OPTIMIZERS[name]())
            except TypeError:
                found.append(OPTIMIZERS[name](1e-2))
    return [
        *found,
        ox.SGD(0.05, momentum=0.9),
        ox.SGD(0.05, momentum=0.9, nesterov=True),
        ox.RMSprop(1e-2, momentum=0.9, centered=True),
    ]


@pytest.mark.parametrize(
    ("mean", "dtype"),
    [
        ("constant", np.float64),
        ("linear", np.float32),
        *(
            pytest.param(m, t, marks=pytest.mark.slow)
            for m, t in (
                ("constant", np.float32),
                ("linear", np.float64),
                ("zero", np.float64),
                ("zero", np.float32),
            )
        ),
    ],
)
def test_adam_is_adam_step_by_step(numba, mean, dtype):
    same(numba, ox.Adam(0.05), dtype, mean=mean)


def test_one_row_and_a_schedule(numba):
    same(numba, ox.Adam(0.05), n=1)
    same(numba, ox.Adam(lambda t: 0.05 * 0.9**t))


@pytest.mark.slow
@pytest.mark.parametrize("dims", [None, np.array([3, 7, 8, 30])], ids=["all", "some"])
@pytest.mark.parametrize("mean", ["constant", "linear"])
def test_units_and_coordinates_of_the_kernel(numba, dims, mean):
    same(numba, ox.Adam(0.05), dims=dims, mean=mean)
    same(numba, ox.Adam(0.05), dims=dims, mean=mean, scale=np.geomspace(0.5, 2.0, 40))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("optimizer", elementwise(), ids=repr)
def test_every_rule_is_its_steps_one_by_one(numba, optimizer, dtype):
    same(numba, optimizer, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("mean", ["constant", "zero"])
@pytest.mark.parametrize("kernel", list(KERNELS))
def test_every_kernel_is_its_steps_one_by_one(numba, kernel, mean):
    same(numba, ox.SGD(0.05), kernel=kernel, mean=mean)


def test_bits_depend_neither_on_threads_nor_on_the_number_of_steps(numba, monkeypatch):
    from optex_core.backends.numba import kernel_threads

    def bits(means=True, **settings):
        return [
            a.tobytes()
            for a in taken(
                rollout(numba, ox.Adam(0.05), 30_000, np.float32, 5, mean="linear", **settings),
                means=means,
            )
        ]

    seen = bits()
    assert len(seen) == 5 * STEPS
    # else these arrays would be worth one thread only
    monkeypatch.setattr(kernel_threads, "ENTRIES_PER_THREAD", 1)
    for threads in (1, 2, 3):
        monkeypatch.setattr(kernel_threads, "num_threads", lambda threads=threads: threads)
        assert bits() == seen
    # A mean that nobody asks for changes nothing, nor do fewer steps.
    assert [b for i, b in enumerate(bits(means=False)) if i % 5] == [
        b for i, b in enumerate(seen) if i % 5
    ]
    few = rollout(numba, ox.Adam(0.05), 30_000, np.float32, 5, 2, mean="linear")
    assert [a.tobytes() for a in taken(few, 2)] == seen[:10]


def test_it_ends_where_numbers_end(numba):
    growing = ox.Adam(lambda t: 0.1 if t < 3 else 1e300)
    got, expected = (
        taken(rollout(backend, growing, dtype=np.float32, mean="linear"))
        for backend in (numba, get_backend("numpy"))
    )
    assert 0 < len(got) == len(expected) < 5 * STEPS
    assert all(np.isfinite(a).all() for a in got if a.size > 1)


@dataclass(frozen=True)
class Table(Kernel):
    """A kernel that looks at its numbers."""

    name = "table"

    def profile(self, s):
        return np.interp(s, np.linspace(0.0, 50.0, 2001), np.exp(-np.linspace(0.0, 50.0, 2001)))


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [(ox.Adam(0.05), {"kernel": Table()}), (ox.ClipByNorm(ox.Adam(0.05), 1.0), {})],
)
def test_what_cannot_be_one_call_is_taken_step_by_step(numba, optimizer, settings):
    assert isinstance(rollout(numba, optimizer, **settings), PlainRollout)


def test_a_state_made_again_has_its_bits(numba):
    # Of the states between the first and the last none is kept: where the end of the chain is lost,
    # the one before is made once more.
    h = np.geomspace(1.0, 0.1, 50)
    engine = ox.OptEx(
        np.ones(50),
        optimizer=ox.Adam(0.05),
        parallelism=4,
        strategy="paper",
        backend="numba",
        rng=0,
    )
    for _ in range(3):
        for c in engine.ask():
            engine.tell(c.id, gradient=h * c.x)
    points, view = engine.ask(), engine.machine.surrogate.view()
    again = view.rollout(3)
    assert isinstance(again, FusedRollout)
    assert [again.step(), again.step()] == [True, True]
    path = engine.machine.round.proposal.path
    assert 2 not in path.states
    path.retain_state(2)
    assert points[2].x.tobytes() == again.x.tobytes()
    state = path.states[2]
    assert [a.tobytes() for a in state.slots] == [a.tobytes() for a in again.state.slots]
    assert state.t == again.state.t


def test_no_step_begins_where_numbers_have_ended(numba):
    X, G = rows(6, 10, np.float64)
    history = History(6, 10, np.float64, numba)
    history.extend(list(zip(X, G, strict=True)))
    posterior = Posterior(
        GradientEstimator().with_defaults(4, "constant", 10),
        history,
        Hyperparameters(2.0, 1e-3, 0.0, 0),
    )
    stepper, x = bind_optimizer(ox.SGD(0.1), numba), np.full(10, np.inf)
    chain, _ = stepper.fused_steps(posterior, x, stepper.init(x), 3)
    assert chain(True) is None
