"""Large vectors use memory again, and only memory that nobody holds."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest

from optex_core.backends import get_backend
from optex_core.backends._memory import MIN_BYTES, BufferPool

D = MIN_BYTES // 4


def address(a):
    return a.__array_interface__["data"][0]


def test_memory_comes_back_with_the_last_view():
    pool = BufferPool()
    a = pool.empty(D, np.float32)
    assert (a.shape, a.dtype, a.flags.writeable) == ((D,), np.float32, True)
    where, view = address(a), a[5:7]
    del a
    assert address(pool.empty(D, np.float32)) != where
    del view
    assert address(pool.empty(D, "float32")) == where


def test_memory_of_another_size_goes():
    pool = BufferPool()
    del_me = [pool.empty(D, np.float32) for _ in range(3)]
    del_me.clear()
    assert len(pool._free) == 3
    assert pool.empty(2 * D, np.float32).nbytes == 8 * D
    assert pool.empty(2 * D, np.float32).shape == (2 * D,)
    assert [block.size for block in pool._free] == [8 * D]


def test_small_vectors_are_the_c_librarys():
    pool = BufferPool()
    for _ in range(3):
        pool.empty(D - 1, np.float32)
    assert pool._free == []


def test_no_two_arrays_share_memory_whatever_threads_do():
    pool, shared = BufferPool(), []

    def work(mark):
        for _ in range(100):
            a = pool.empty(D, np.float32)
            a[:8] = mark
            shared.append(bool((a[:8] == mark).all()))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(shared) == 400
    assert all(shared)


def test_each_backend_has_memory_of_its_own_which_goes_with_it():
    pytest.importorskip("numba", reason="numba is not installed")
    backend = get_backend("numba")
    assert backend.pool is not get_backend("numba").pool
    pool = weakref.ref(backend.pool)
    vector = backend.axpy(1.0, np.ones(D), np.ones(D))
    del backend
    assert pool() is not None  # the vector gives its memory back to it
    del vector
    assert pool() is None
