"""Large vectors whose memory is used again once nobody holds them.

A fresh array of megabytes costs a page fault for every page that is written first: an Adam step at
d = 5e6 in float32 took 19 ms with new results and 10 ms with memory that had been written before
(two cores). Every operation returns new arrays, so the memory has to come back by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from optex_core.types import Array

#: Bytes from which on memory is kept: below it the C library does so itself.
MIN_BYTES = 1 << 20
#: Bytes of a cache line. The C library begins large blocks 16 bytes after one, where no vector
#: store is aligned.
LINE = 64


class _PooledArray:
    """Owns the memory of one array; dies with the last view of it, and hands the memory back."""

    __slots__ = ("__array_interface__", "_block", "_pool")

    def __init__(
        self, pool: BufferPool, block: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self._pool, self._block = pool, block
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": dtype.str,
            "data": (block.ctypes.data, False),
        }

    def __del__(self) -> None:
        self._pool.give_back(self._block)


class BufferPool:
    """Hands out uninitialised vectors. Free memory is kept in one size only, and never more than
    was in use at once.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []
        self._size = 0

    def empty(self, d: int, dtype: Any) -> Array:
        """An uninitialised array of shape (d,); large ones begin with a cache line."""
        dtype = np.dtype(dtype)
        size = d * dtype.itemsize
        if size < MIN_BYTES:
            return np.empty(d, dtype)
        if size != self._size:
            # Another problem: what fits the last one is of no use.
            self._size, self._free = size, []
        try:
            block = self._free.pop()
        except IndexError:
            block = _block(size)
        if block.size != size:  # two problems of different sizes in two threads
            block = _block(size)
        return np.asarray(_PooledArray(self, block, (d,), dtype))

    def give_back(self, block: np.ndarray) -> None:
        """Keep the memory of a vector that is gone. Called at any moment in any thread, so there is
        no lock to wait for.
        """
        if block.size == self._size:
            self._free.append(block)

    def release(self) -> None:
        """Give the free memory back to the system, and what comes back before the next vector is
        asked for, as from an engine that is going.
        """
        self._size, self._free = 0, []

    @property
    def free_bytes(self) -> int:
        """Memory kept and not in use."""
        return sum(block.size for block in list(self._free))


def _block(size: int) -> np.ndarray:
    """Memory of `size` bytes that begins with a cache line."""
    memory = np.empty(size + LINE, np.uint8)
    begin = -memory.ctypes.data % LINE
    return memory[begin : begin + size]


BUFFER_POOL = BufferPool()
