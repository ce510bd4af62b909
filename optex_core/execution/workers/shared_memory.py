"""Large vectors on their way to processes of this machine and back: through memory that both sides
map, not through pickles.

A segment holds one vector. The driver writes x into it, the worker reads x from it, and writes the
gradient over it, which is the array that the driver then gets: one segment per evaluation that is
out or whose gradient is held, used again for the next ones, since fresh memory costs more than the
copy (8 MB: 12 ms the first time, 0.8 ms then).

On Linux a segment is an anonymous file (`os.memfd_create`), opened by workers through
``/proc/<pid>/fd``: it has no name and is gone with the last process that maps it, so nothing can be
left behind, however processes end. Elsewhere it is a file in a folder of the system's temporary
directory, removed when the run ends; a driver that is killed leaves that folder to the next run,
which removes the folders of processes that are no more.
"""

from __future__ import annotations

import contextlib
import itertools
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

from optex_core.execution.workers.malloc_tuning import keep_freed
from optex_core.types import Array

#: Bytes from which a vector travels in a segment. Measured with our own processes on two cores, x
#: in and gradient out, median: 32 kB 0.51 ms by pipe and 0.46 by segment; 80 kB 0.57 and 0.43; 240
#: kB 1.3 and 0.5; 800 kB 5.8 and 0.7. Below, a call fits into any pipe (64 KiB): to send it waits
#: for nobody, not even for a worker that somebody has stopped.
MIN_BYTES = 1 << 15
#: Mappings a worker keeps open; a driver has at most so many segments out as evaluations.
_MAX_MAPPED = 64
#: Begins the names of the folders that hold segments where there are no anonymous files.
PREFIX = "optex-core-segments-"

_numbers = itertools.count()
#: The segments that are out, in the driver, with their pools, by token.
_in_use: dict[int, tuple[SharedMemoryPool, _Segment]] = {}
#: The segments this worker has mapped, by path and inode.
_mapped: dict[tuple[str, int], mmap.mmap] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class SharedArrayHandle:
    """What travels in place of a vector.

    Attributes
    ----------
    path : str
        What the worker opens.
    inode : int
        Names the segment: a path may stand for something else by the time it is opened.
    token : int
        Names the evaluation.
    dtype : str
    d : int
        The vector's.
    """

    path: str
    inode: int
    token: int
    dtype: str
    d: int

    def open(self) -> np.ndarray:
        """The vector in the segment, shape (d,), writable; mapped once per process."""
        key = (self.path, self.inode)
        with _lock:
            memory = _mapped.get(key)
            if memory is None:
                for old in list(_mapped)[: max(0, len(_mapped) + 1 - _MAX_MAPPED)]:
                    del _mapped[old]  # unmapped when the last view of it is gone
                handle = os.open(self.path, os.O_RDWR)
                try:
                    if os.fstat(handle).st_ino != self.inode:
                        raise FileNotFoundError(
                            "the memory of a large vector is gone: its evaluation was given up"
                        )
                    memory = _mapped[key] = mmap.mmap(handle, 0)
                    keep_freed(len(memory))
                finally:
                    os.close(handle)
        return np.frombuffer(memory, self.dtype, self.d)


@dataclass(frozen=True, slots=True)
class SharedResult:
    """A gradient that lies in the segment of its evaluation: unpickled in the driver, it is the
    array there.
    """

    token: int

    def __reduce__(self) -> tuple[Callable[[int], Array], tuple[int]]:
        return _claim_result, (self.token,)


def _claim_result(token: int) -> Array:
    entry = _in_use.pop(token, None)
    # None: its evaluation was given up, nobody waits for it any more
    return None if entry is None else np.asarray(_SegmentOwner(*entry))


class _SegmentOwner:
    """Owns the gradient in a segment; dies with the last view of it, and hands the segment back."""

    __slots__ = ("__array_interface__", "_pool", "_segment")

    def __init__(self, pool: SharedMemoryPool, segment: _Segment) -> None:
        self._pool, self._segment = pool, segment
        self.__array_interface__ = segment.vector.__array_interface__

    def __del__(self) -> None:
        self._pool.release(self._segment)


class _Segment:
    """A piece of shared memory, and the path under which workers find it."""

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
    """The segments of one pool, in the driver.

    Parameters
    ----------
    min_bytes : int, optional
        Bytes from which a vector travels in a segment.
    """

    def __init__(self, min_bytes: int = MIN_BYTES) -> None:
        self._min_bytes = min_bytes
        self._free: list[_Segment] = []
        # what has come back, in whatever thread: see `release`
        self._released: deque[_Segment] = deque()
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._closed = False

    def send(self, submit: Callable[..., Future[Any]], x: Array, *rest: Any) -> Future[Any]:
        """Call ``submit(x, *rest)`` with a large vector `x` replaced by its ticket; the segment
        comes back when the future is done.
        """
        if not isinstance(x, np.ndarray) or x.nbytes < self._min_bytes:
            return submit(x, *rest)
        segment = self._acquire(x.nbytes)
        token = next(_numbers)
        segment.write(x)
        _in_use[token] = self, segment
        try:
            future = submit(
                SharedArrayHandle(segment.path, segment.inode, token, x.dtype.str, len(x)), *rest
            )
        except BaseException:
            self._end_evaluation(token, whole=True)
            raise
        # A worker that was given up may still write: only after a result is the segment surely
        # nobody's.
        future.add_done_callback(
            lambda f: self._end_evaluation(token, whole=not f.cancelled() and f.exception() is None)
        )
        return future

    def release(self, segment: _Segment) -> None:
        """Keep a segment that is nobody's. Called at any moment in any thread, also within another
        of our methods: there is no lock to wait for.
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
            # By number: where all come back between two rounds, as in most runs, each worker is
            # given the segment again that it has mapped.
            self._free = sorted(
                (*self._free, *self._pop_released()), key=lambda segment: segment.number
            )
            for i, segment in enumerate(self._free):
                if segment.size >= size:
                    return self._free.pop(i)
        return _Segment(size, self._get_folder)

    def _pop_released(self) -> Iterator[_Segment]:
        with contextlib.suppress(IndexError):
            while True:
                yield self._released.popleft()

    def _end_evaluation(self, token: int, *, whole: bool) -> None:
        """Take the segment of an evaluation that is over back, unless its gradient lies there."""
        entry = _in_use.pop(token, None)
        if entry is None:
            return
        if whole:
            self.release(entry[1])
        else:
            entry[1].close()

    def _get_folder(self) -> Path:
        if self._folder is None:
            remove_stale()
            self._folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        return self._folder


def remove_stale() -> None:
    """Remove the folders of segments whose process is no more: what a killed driver left where
    segments have names.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's, or a system that does not tell: left alone
        return True
    return True


def has_memfd() -> bool:
    """True where files without a name exist and other processes of this user can open them."""
    return hasattr(os, "memfd_create") and os.access(f"/proc/{os.getpid()}/fd", os.R_OK | os.X_OK)


def open_vector(x: Array | SharedArrayHandle) -> Array:
    """What a worker evaluates: the vector in the segment, read-only, or `x` itself."""
    if not isinstance(x, SharedArrayHandle):
        return x
    vector = x.open()
    vector.flags.writeable = False
    return vector


def store_result(x: Array | SharedArrayHandle, gradient: Array) -> Any:
    """Write `gradient` into the segment of `x` and return what stands for it; `gradient` itself
    where x came without a segment.
    """
    if not isinstance(x, SharedArrayHandle):
        return gradient
    x.open()[:] = gradient
    return SharedResult(x.token)
