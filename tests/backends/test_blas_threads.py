"""The limit of BLAS threads belongs to the process: engines in several threads share it, and it is
lifted when the last one leaves.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import optex_core as ox
from optex_core.backends import blas_threads
from optex_core.problems.quadratic import Quadratic


def threads():
    return {library["num_threads"] for library in blas_threads._controllers()[0].info()}


def elsewhere(action):
    """Run in a thread that then ends: threadpoolctl lets only one living thread at a time change
    limits.
    """
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()


@pytest.fixture
def two_threads():
    shared, _ = blas_threads._controllers()
    if not shared.lib_controllers:
        pytest.skip("this NumPy has no BLAS with a thread pool per process")
    limits = []
    elsewhere(lambda: limits.append(shared.limit(limits=2)))
    assert threads() == {2}
    yield
    elsewhere(limits[0].restore_original_limits)


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_threads_that_leave_in_any_order_put_back_what_was(two_threads, first_out):
    contexts = [blas_threads.blas_single_threaded(blas_threads.MIN_THREADED_SIZE) for _ in range(2)]
    steps = [[threading.Event() for _ in range(2)] for _ in range(2)]
    done = [[threading.Event() for _ in range(2)] for _ in range(2)]
    seen = []

    def engine(i):
        for step, what in enumerate(
            (contexts[i].__enter__, lambda: contexts[i].__exit__(None, None, None))
        ):
            assert steps[i][step].wait(60)
            what()
            done[i][step].set()
        assert steps[0][1].wait(60)  # both live on, as threads with more rounds to come do
        assert steps[1][1].wait(60)

    running = [threading.Thread(target=engine, args=(i,)) for i in range(2)]
    for thread in running:
        thread.start()
    for i, step in ((0, 0), (1, 0), (first_out, 1), (1 - first_out, 1)):
        steps[i][step].set()
        assert done[i][step].wait(60)
        seen.append(threads())
    for thread in running:
        thread.join()
    assert seen == [{1}, {1}, {1}, {2}]


def test_a_context_within_a_context_and_one_that_raises(two_threads):
    def raises():
        with blas_threads.blas_single_threaded(blas_threads.MIN_THREADED_SIZE):
            with blas_threads.blas_single_threaded(blas_threads.MIN_THREADED_SIZE):
                pass
            inside.append(threads())
            raise KeyError("mine")

    def nests():
        with pytest.raises(KeyError, match="mine"):
            raises()
        inside.append("raised")

    inside = []
    elsewhere(nests)
    assert inside == [{1}, "raised"]
    assert threads() == {2}


def test_the_smallest_histories_touch_nothing(two_threads):
    with blas_threads.blas_single_threaded(blas_threads.MIN_THREADED_SIZE - 1):
        assert threads() == {2}


@pytest.mark.parametrize("optimizer", [ox.Adam(0.05), ox.SGD(0.5)], ids=["arrays", "sums"])
def test_no_bit_depends_on_the_threads(two_threads, optimizer):
    """Our own products are too small for a second thread, or BLAS is held at one."""

    def points(limit):
        problem, found = Quadratic(9_000, condition=100.0), []
        with threadpool_limits(limit, user_api="blas"):
            engine = ox.OptEx(
                problem.start(0),
                optimizer=optimizer,
                parallelism=8,
                rng=0,
                maxiter=8,
                backend="numpy",
            )
            while not engine.stop():
                for c in engine.ask():
                    found.append(c.x)
                    engine.tell(c.id, gradient=c.x * np.geomspace(1.0, 0.01, 9_000), value=0.0)
        return found

    one, two = points(1), points(2)
    assert len(one) > 48  # the history is full
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_nor_with_few_parameters_and_many_rows(two_threads):
    """The matrices between rows are large enough for a second thread then, whatever the vectors
    are.
    """

    def end(limit):
        with threadpool_limits(limit, user_api="blas"):
            estimator = ox.GradientEstimator(history=100)
            engine = ox.OptEx(
                np.linspace(-1.0, 2.0, 7),
                optimizer=ox.Adam(0.02),
                strategy="paper",  # every round evaluates all points: the history fills
                estimator=estimator,
                rng=0,
                maxiter=32,
                gtol=0.0,
                backend="numpy",
            )
            while not engine.stop():
                for c in engine.ask():
                    engine.tell(
                        c.id,
                        gradient=c.x * np.linspace(0.05, 1.0, 7) + 0.01 * np.sin(20.0 * c.x),
                        value=0.0,
                    )
        assert engine.machine.surrogate.history.n == 100
        return engine.result().x

    assert np.array_equal(end(1), end(2))
