"""Memory of large vectors is used again, by nobody who still sees it, and given back."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

import optex_core as ox
from optex_core.backends._buffer_pool import MIN_BYTES, BufferPool

D = MIN_BYTES // 8


def test_memory_comes_back_with_the_last_view():
    pool = BufferPool()
    x = pool.empty(D, np.float64)
    assert (x.shape, x.dtype, x.flags.writeable, x.flags.c_contiguous, x.flags.aligned) == (
        (D,),
        np.float64,
        True,
        True,
        True,
    )
    address, view = x.ctypes.data, x[1:5]
    del x
    assert pool.free_bytes == 0  # the view still sees it
    view[:] = 7.0
    assert pool.empty(D, np.float64).ctypes.data != address
    gc.collect()
    del view
    assert pool.free_bytes == 2 * MIN_BYTES
    assert address in {
        pool.empty(D, np.float64).ctypes.data,
        pool.empty(2 * D, np.float32).ctypes.data,
    }


def test_small_vectors_are_left_to_the_library():
    pool = BufferPool()
    x = pool.empty(D - 1, np.float64)
    del x
    assert pool.free_bytes == 0


def test_another_size_lets_the_memory_go():
    pool = BufferPool()
    x = pool.empty(D, np.float64)
    del x
    assert pool.free_bytes == MIN_BYTES
    y = pool.empty(D + 1, np.float64)
    assert pool.free_bytes == 0
    del y
    pool.release()
    assert pool.free_bytes == 0


def test_vectors_that_live_at_once_never_share():
    pool, failed = BufferPool(), []

    def work(number: int) -> None:
        for i in range(200):
            held = [pool.empty(D + (number % 2), np.float64) for _ in range(3)]
            for k, x in enumerate(held):
                x[:: D // 8] = 1000 * number + 3 * i + k
            failed.extend(
                (number, i, k)
                for k, x in enumerate(held)
                if not (x[:: D // 8] == 1000 * number + 3 * i + k).all()
            )

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_an_engine_that_is_gone_leaves_nothing_behind():
    pytest.importorskip("numba", reason="numba is not installed")
    from optex_core.backends._buffer_pool import BUFFER_POOL

    engine = ox.OptEx(
        np.ones(D),
        optimizer="adam",
        strategy="paper",
        parallelism=3,
        backend="numba",
        maxiter=4,
        gtol=0.0,
        rng=0,
    )
    while not engine.stop():
        for c in engine.ask():
            engine.tell(c.id, gradient=c.x, value=0.0)
    kept = engine.state.x.copy()
    c = None
    del engine
    gc.collect()
    assert BUFFER_POOL.free_bytes == 0
    assert np.isfinite(kept).all()
