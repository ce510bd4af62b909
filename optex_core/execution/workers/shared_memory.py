"""Large vectors on their way to processes of this machine and back: through memory that both sides map, not through pickles.

A slab holds one vector. The driver writes x into it, the worker reads x from it, and writes the gradient over it, which is the array that the driver
then gets: one slab per evaluation that is out or whose gradient is held, used again for the next ones, since fresh memory costs more than the copy
(8 MB: 12 ms the first time, 0.8 ms then).

On Linux a slab is an anonymous file (`os.memfd_create`), opened by workers through ``/proc/<pid>/fd``: it has no name and is gone with the last
process that maps it, so nothing can be left behind, however processes end. Elsewhere it is a file in a folder of the system's temporary directory,
removed when the run ends; a driver that is killed leaves that folder to the next run, which removes the folders of processes that are no more.
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

#: Bytes from which a vector travels in a slab. Measured with our own processes on two cores, x in and gradient out, median: 32 kB 0.51 ms by pipe and
#: 0.46 by slab; 80 kB 0.57 and 0.43; 240 kB 1.3 and 0.5; 800 kB 5.8 and 0.7. Below, a call fits into any pipe (64 KiB): to send it waits for nobody,
#: not even for a worker that somebody has stopped.
LEAST = 1 << 15
#: Mappings a worker keeps open; a driver has at most so many slabs out as evaluations.
_KEPT = 64
#: Begins the names of the folders that hold slabs where there are no anonymous files.
PREFIX = "optex-core-slabs-"

_numbers = itertools.count()
#: The slabs that are out, in the driver, with their pools, by token.
_lent: dict[int, tuple[Slabs, _Slab]] = {}
#: The slabs this worker has mapped, by path and inode.
_mapped: dict[tuple[str, int], mmap.mmap] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Ticket:
    """What travels in place of a vector.

    Attributes
    ----------
    path : str
        What the worker opens.
    inode : int
        Names the slab: a path may stand for something else by the time it is opened.
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
        """The vector in the slab, shape (d,), writable; mapped once per process."""
        key = (self.path, self.inode)
        with _lock:
            memory = _mapped.get(key)
            if memory is None:
                for old in list(_mapped)[: max(0, len(_mapped) + 1 - _KEPT)]:
                    del _mapped[old]  # unmapped when the last view of it is gone
                handle = os.open(self.path, os.O_RDWR)
                try:
                    if os.fstat(handle).st_ino != self.inode:
                        raise FileNotFoundError("the memory of a large vector is gone: its evaluation was given up")
                    memory = _mapped[key] = mmap.mmap(handle, 0)
                    keep_freed(len(memory))
                finally:
                    os.close(handle)
        return np.frombuffer(memory, self.dtype, self.d)


@dataclass(frozen=True, slots=True)
class Returned:
    """A gradient that lies in the slab of its evaluation: unpickled in the driver, it is the array there."""

    token: int

    def __reduce__(self) -> tuple[Callable[[int], Array], tuple[int]]:
        return _claim, (self.token,)


def _claim(token: int) -> Array:
    lent = _lent.pop(token, None)
    return None if lent is None else np.asarray(_Lease(*lent))  # None: its evaluation was given up, nobody waits for it any more


class _Lease:
    """Owns the gradient in a slab; dies with the last view of it, and hands the slab back."""

    __slots__ = ("__array_interface__", "_pool", "_slab")

    def __init__(self, pool: Slabs, slab: _Slab) -> None:
        self._pool, self._slab = pool, slab
        self.__array_interface__ = slab.vector.__array_interface__

    def __del__(self) -> None:
        self._pool.take_back(self._slab)


class _Slab:
    """A piece of shared memory, and the path under which workers find it."""

    def __init__(self, size: int, folder: Callable[[], Path]) -> None:
        self.number, self.size = next(_numbers), size
        self._file: int | None = None
        if anonymous():
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


class Slabs:
    """The slabs of one pool, in the driver.

    Parameters
    ----------
    least : int, optional
        Bytes from which a vector travels in a slab.
    """

    def __init__(self, least: int = LEAST) -> None:
        self._least = least
        self._free: list[_Slab] = []
        self._back: deque[_Slab] = deque()  # what has come back, in whatever thread: see `take_back`
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._closed = False

    def send(self, submit: Callable[..., Future[Any]], x: Array, *rest: Any) -> Future[Any]:
        """Call ``submit(x, *rest)`` with a large vector `x` replaced by its ticket; the slab comes back when the future is done."""
        if not isinstance(x, np.ndarray) or x.nbytes < self._least:
            return submit(x, *rest)
        slab = self._take(x.nbytes)
        token = next(_numbers)
        slab.write(x)
        _lent[token] = self, slab
        try:
            future = submit(Ticket(slab.path, slab.inode, token, x.dtype.str, len(x)), *rest)
        except BaseException:
            self._give_back(token, whole=True)
            raise
        # A worker that was given up may still write: only after a result is the slab surely nobody's.
        future.add_done_callback(lambda f: self._give_back(token, whole=not f.cancelled() and f.exception() is None))
        return future

    def take_back(self, slab: _Slab) -> None:
        """Keep a slab that is nobody's. Called at any moment in any thread, also within another of our methods: there is no lock to wait for."""
        if self._closed:
            slab.close()
        else:
            self._back.append(slab)

    def close(self) -> None:
        """Let go of all slabs, and remove the folder where there is one."""
        with self._lock:
            self._closed = True
            free, self._free = self._free, []
        for slab in (*free, *self._returned()):
            slab.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _take(self, size: int) -> _Slab:
        with self._lock:
            self._closed = False
            # By number: where all come back between two rounds, as in most runs, each worker is given the slab again that it has mapped.
            self._free = sorted((*self._free, *self._returned()), key=lambda slab: slab.number)
            for i, slab in enumerate(self._free):
                if slab.size >= size:
                    return self._free.pop(i)
        return _Slab(size, self._home)

    def _returned(self) -> Iterator[_Slab]:
        with contextlib.suppress(IndexError):
            while True:
                yield self._back.popleft()

    def _give_back(self, token: int, *, whole: bool) -> None:
        """Take the slab of an evaluation that is over back, unless its gradient lies there."""
        lent = _lent.pop(token, None)
        if lent is None:
            return
        if whole:
            self.take_back(lent[1])
        else:
            lent[1].close()

    def _home(self) -> Path:
        if self._folder is None:
            sweep()
            self._folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        return self._folder


def sweep() -> None:
    """Remove the folders of slabs whose process is no more: what a killed driver left where slabs have names."""
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


def anonymous() -> bool:
    """True where files without a name exist and other processes of this user can open them."""
    return hasattr(os, "memfd_create") and os.access(f"/proc/{os.getpid()}/fd", os.R_OK | os.X_OK)


def vector_of(x: Array | Ticket) -> Array:
    """What a worker evaluates: the vector in the slab, read-only, or `x` itself."""
    if not isinstance(x, Ticket):
        return x
    vector = x.open()
    vector.flags.writeable = False
    return vector


def put_back(x: Array | Ticket, gradient: Array) -> Any:
    """Write `gradient` into the slab of `x` and return what stands for it; `gradient` itself where x came without a slab."""
    if not isinstance(x, Ticket):
        return gradient
    x.open()[:] = gradient
    return Returned(x.token)
