"""Shared memory for large vectors to processes of this machine and back.

A segment holds one vector. The driver writes x into it, the worker reads x and writes the gradient
over it, and that is the array the driver gets. Segments are reused when nobody holds their array.

On Linux a segment is an anonymous file (`os.memfd_create`), which workers open through
``/proc/<pid>/fd``: it is gone with the last process that maps it, however processes end. Elsewhere
it is a file in a temporary folder, removed when the run ends, or by the next run after a kill
(`multiprocessing.shared_memory` cannot be dropped while arrays look into it).

x in and gradient out, by pipe and by segment: 32 kB 0.51 and 0.46 ms, 240 kB 1.3 and 0.5, 800 kB
5.8 and 0.7. A fresh segment of 8 MB costs 12 ms, a reused one 0.8.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import mmap
import os
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optex_core.execution.workers import process_cleanup
from optex_core.types import Array

logger = logging.getLogger("optex_core")

#: Bytes from which a vector travels in a segment. Below, a call fits into any pipe (64 KiB): to
#: send it waits for nobody, not even for a worker that somebody has stopped.
MIN_BYTES = 1 << 15
#: Mappings a worker keeps open; a driver has at most so many segments out as evaluations.
_MAX_MAPPED = 64
#: Ends the names of the folders that hold segments where there are no anonymous files.
SUFFIX = "-segments"

_numbers = itertools.count()
#: The segments that are out, in the driver, with their pools, by token.
_in_use: dict[int, tuple[SharedMemoryPool, _Segment]] = {}
#: The segments this worker has mapped, by path and inode.
_mapped: dict[tuple[str, int], mmap.mmap] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class SharedArrayHandle:
    """Stands for a vector of length `d` in shared memory."""

    path: str  # what the worker opens
    inode: int  # the path may stand for something else by the time it is opened
    token: int  # of the evaluation
    dtype: str
    d: int

    def open(self) -> np.ndarray:
        """Return the vector, shape (d,), writable; it is mapped once per process."""
        key = (self.path, self.inode)
        with _lock:
            memory = _mapped.get(key)
            if memory is None:
                for old in list(_mapped)[: max(0, len(_mapped) + 1 - _MAX_MAPPED)]:
                    del _mapped[old]  # unmapped when the last view of it is gone
                handle = os.open(self.path, os.O_RDWR)
                try:
                    if os.fstat(handle).st_ino != self.inode:
                        raise FileNotFoundError("the evaluation of a large vector was abandoned")
                    memory = _mapped[key] = mmap.mmap(handle, 0)
                finally:
                    os.close(handle)
        return np.frombuffer(memory, self.dtype, self.d)


@dataclass(frozen=True, slots=True)
class SharedResult:
    """Gradient in the segment of its evaluation: unpickled in the driver, it is that array."""

    token: int

    def __reduce__(self) -> tuple[Callable[[int], np.ndarray | None], tuple[int]]:
        return _claim_result, (self.token,)


def _claim_result(token: int) -> np.ndarray | None:
    entry = _in_use.pop(token, None)
    # None: its evaluation was abandoned, nobody waits for it any more.
    return None if entry is None else np.asarray(_SegmentOwner(*entry))


class _SegmentOwner:
    """Owner of the gradient in a segment; dies with its last view, and releases the segment."""

    __slots__ = ("__array_interface__", "_pool", "_segment")

    def __init__(self, pool: SharedMemoryPool, segment: _Segment) -> None:
        self._pool, self._segment = pool, segment
        self.__array_interface__ = segment.vector.__array_interface__

    def __del__(self) -> None:
        self._pool.release(self._segment)


class _Segment:
    """Piece of shared memory, and the path under which workers find it."""

    def __init__(self, size: int, folder: Callable[[], Path]) -> None:
        self.number, self.size = next(_numbers), size
        self._file: int | None = None
        if has_memfd():
            self._file = handle = os.memfd_create("optex-core", os.MFD_CLOEXEC)
            self.path = f"/proc/{os.getpid()}/fd/{handle}"
        else:
            self.path = str(folder() / str(self.number))
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.truncate(handle, size)
            self.inode = os.fstat(handle).st_ino
            self._memory = mmap.mmap(handle, size)
        finally:
            if self._file is None:
                os.close(handle)
        self.vector = np.frombuffer(self._memory, np.uint8, 0)

    def write(self, x: np.ndarray) -> None:
        """Put a vector in."""
        self.vector = np.frombuffer(self._memory, x.dtype, len(x))
        self.vector[:] = x

    def close(self) -> None:
        """Let go of it; the memory goes with its last view."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        else:
            Path(self.path).unlink(missing_ok=True)


class SharedMemoryPool:
    """Segments of one worker pool, in the driver, for vectors of `min_bytes` and more."""

    def __init__(self, min_bytes: int = MIN_BYTES) -> None:
        self._min_bytes = min_bytes
        self._free: list[_Segment] = []
        self._released: deque[_Segment] = deque()  # by any thread: see `release`
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._closed = self._warned = False

    def send(self, submit: Callable[..., Future[Any]], x: object, *rest: object) -> Future[Any]:
        """``submit(x, *rest)`` with a large `x` in a segment, which comes back with the result."""
        if not isinstance(x, np.ndarray) or x.nbytes < self._min_bytes:
            return submit(x, *rest)
        try:
            segment = self._acquire(x.nbytes)
        except OSError as error:  # no memory, no handles, no temporary folder
            if not self._warned:
                logger.warning("no shared memory (%s): large vectors travel by pipe", error)
            self._warned = True
            return submit(x, *rest)
        token = next(_numbers)
        segment.write(x)
        _in_use[token] = self, segment
        handle = SharedArrayHandle(segment.path, segment.inode, token, x.dtype.str, len(x))
        try:
            future = submit(handle, *rest)
        except BaseException:
            self._end_evaluation(token, True)
            raise
        # A terminated worker may still write: only after a result is it surely nobody's.
        future.add_done_callback(
            lambda f: self._end_evaluation(token, not f.cancelled() and f.exception() is None)
        )
        return future

    def release(self, segment: _Segment) -> None:
        """Keep a segment that is nobody's. Called at any moment in any thread, also within another
        method: it must not wait for a lock.
        """
        if self._closed:
            segment.close()
        else:
            self._released.append(segment)

    def close(self) -> None:
        """Let go of all segments, and remove the folder where there is one."""
        with self._lock:
            self._closed = True
            free, self._free = self._free, []
        for segment in (*free, *self._pop_released()):
            segment.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _acquire(self, size: int) -> _Segment:
        with self._lock:
            self._closed = False
            # By number: where all come back between two rounds each worker gets the segment again
            # that it has mapped.
            self._free = sorted((*self._free, *self._pop_released()), key=lambda s: s.number)
            for i, segment in enumerate(self._free):
                if segment.size >= size:
                    return self._free.pop(i)
        return _Segment(size, self._get_folder)

    def _pop_released(self) -> Iterator[_Segment]:
        with contextlib.suppress(IndexError):
            while True:
                yield self._released.popleft()

    def _end_evaluation(self, token: int, reusable: bool) -> None:
        """Take the segment of an evaluation back, unless its gradient lies there."""
        entry = _in_use.pop(token, None)
        if entry is not None:
            (self.release if reusable else _Segment.close)(entry[1])

    def _get_folder(self) -> Path:
        if self._folder is None:
            process_cleanup.remove_stale(tempfile.gettempdir(), SUFFIX)
            self._folder = Path(tempfile.mkdtemp(SUFFIX, process_cleanup.temp_prefix()))
        return self._folder


def has_memfd() -> bool:
    """True where files without a name exist and other processes of this user can open them."""
    return hasattr(os, "memfd_create") and os.access(f"/proc/{os.getpid()}/fd", os.R_OK | os.X_OK)


def open_vector(x: Array | SharedArrayHandle) -> Array:
    """In a worker: the vector in the segment, read-only, or `x` itself."""
    if not isinstance(x, SharedArrayHandle):
        return x
    vector = x.open()
    vector.flags.writeable = False
    return vector


def store_result(x: Array | SharedArrayHandle, gradient: Array) -> Any:
    """In a worker: write `gradient` over x, if x came in a segment; return what stands for it."""
    if not isinstance(x, SharedArrayHandle):
        return gradient
    x.open()[:] = gradient
    return SharedResult(x.token)
