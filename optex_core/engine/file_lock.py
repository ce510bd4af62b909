"""Exclusive lock of one driver on the files of a run, held from before they are read to the end.

The lock is a file of its own, ``<path>.lock``: the files of the run are replaced while it goes on,
and a lock on one that is replaced would be free for a moment. Readers take no lock: saves are
renamed whole, and a log that is being written has whole frames up to its end.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import weakref
from pathlib import Path

from optex_core.errors import CheckpointError

logger = logging.getLogger("optex_core")

#: How a file system says that it has no locks.
_UNSUPPORTED_ERRNOS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


class FileLock:
    """Lock the run at `path`; a second lock on it is refused, in this process or another.

    The system lets go of it when the process ends, however that happens; a forked child does not
    inherit it. `use` says in the message what the file is.
    """

    def __init__(self, path: str | os.PathLike[str], use: str = "checkpoint") -> None:
        self.path = Path(f"{os.fspath(path)}.lock")
        self._file: int | None = None
        while self._file is None:
            try:
                file = os.open(
                    self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666
                )
            except OSError as error:
                raise CheckpointError(
                    f"cannot save to {os.fspath(path)}: {self.path} cannot be made"
                    f" ({error.strerror or error})"
                ) from error
            if not _lock(file, self.path):
                os.close(file)
                raise CheckpointError(
                    f"another process is running with this {use}: it holds {self.path}; wait for"
                    " it, or use another file"
                )
            if _is_at(file, self.path):
                self._file = file
            else:  # its holder removed it between our two calls
                os.close(file)
        if not _held and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_forget_in_child)
        _held.add(self)

    def release(self) -> None:
        """Remove the lock file and let go."""
        file, self._file = self._file, None
        if file is not None:
            # While it is locked: who has opened it meanwhile sees that it is gone, and opens anew.
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            os.close(file)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


#: Locks of this process.
_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _forget_in_child() -> None:
    """Close the locks in a forked child: a worker that outlives its driver must not hold them."""
    for lock in list(_held):
        file, lock._file = lock._file, None
        if file is not None:
            os.close(file)


def _is_at(file: int, path: Path) -> bool:
    """True if the open `file` is what `path` names."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(file: int, path: Path) -> bool:
    """Lock an open file; False if another one holds it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _UNSUPPORTED_ERRNOS:
            return False
        logger.warning(
            "%s cannot be locked (%s): nothing keeps a second driver from these files",
            path, error.strerror,
        )  # fmt: skip
    return True
