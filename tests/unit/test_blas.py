"""The limit of BLAS threads belongs to the process: engines in several threads share it, and it is lifted when the last one leaves."""

from __future__ import annotations

import threading

import pytest

from optex_core import _blas


def threads():
    return {library["num_threads"] for library in _blas._controllers()[0].info()}


def elsewhere(action):
    """Run in a thread that then ends: threadpoolctl lets only one living thread at a time change limits."""
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()


@pytest.fixture
def two_threads():
    shared, _ = _blas._controllers()
    if not shared.lib_controllers:
        pytest.skip("this NumPy has no BLAS with a thread pool per process")
    limits = []
    elsewhere(lambda: limits.append(shared.limit(limits=2)))
    assert threads() == {2}
    yield
    elsewhere(limits[0].restore_original_limits)


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_threads_that_leave_in_any_order_put_back_what_was(two_threads, first_out):
    contexts = [_blas.single_threaded(_blas.THREADED_FROM) for _ in range(2)]
    steps = [[threading.Event() for _ in range(2)] for _ in range(2)]
    done = [[threading.Event() for _ in range(2)] for _ in range(2)]
    seen = []

    def engine(i):
        for step, what in enumerate((contexts[i].__enter__, lambda: contexts[i].__exit__(None, None, None))):
            assert steps[i][step].wait(10)
            what()
            done[i][step].set()
        assert steps[0][1].wait(10)  # both live on, as threads with more rounds to come do
        assert steps[1][1].wait(10)

    running = [threading.Thread(target=engine, args=(i,)) for i in range(2)]
    for thread in running:
        thread.start()
    for i, step in ((0, 0), (1, 0), (first_out, 1), (1 - first_out, 1)):
        steps[i][step].set()
        assert done[i][step].wait(10)
        seen.append(threads())
    for thread in running:
        thread.join()
    assert seen == [{1}, {1}, {1}, {2}]


def test_a_context_within_a_context_and_one_that_raises(two_threads):
    def raises():
        with _blas.single_threaded(_blas.THREADED_FROM):
            with _blas.single_threaded(_blas.THREADED_FROM):
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
    with _blas.single_threaded(_blas.THREADED_FROM - 1):
        assert threads() == {2}
