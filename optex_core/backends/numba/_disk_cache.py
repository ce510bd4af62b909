"""Compiled code on disk, once for all processes.

Numba's ``cache=True`` keeps one index per function, written without a lock: processes that compile
for different dtypes at once give one number to two files (numba/core/caching.py, 0.68). Here an
entry is one file, named after all that its content depends on, checked by a digest and renamed into
place when complete. Generated functions, which have no file of their own, are kept too.

Reading an entry executes it. Entries are therefore read only from folders and files that this user
owns and nobody else may write. Only folders that carry `MARK` are ever cleaned up, and of them only
the files that this module has made.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np

from optex_core.backends.numba import _internals

logger = logging.getLogger("optex_core")

#: Folders of other versions that are kept beside the one in use.
MAX_CACHE_VERSIONS = 8
#: Name and content of the file by which the library knows its own folders.
MARK, _MARK_TEXT = (
    ".optex_core_compiled",
    b"Compiled code of optex_core; may be removed at any time.\n",
)
_ENTRY, _VERSION = re.compile(r"[0-9a-f]{32}(\.part.*)?"), re.compile(r"[0-9a-f]{16}")
_OPEN_FLAGS = sum(
    getattr(os, name, 0) for name in ("O_RDONLY", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY")
)
_DIGEST_SIZE = hashlib.sha256().digest_size


@cache
def cache_folder() -> str | None:
    """The folder of this version: in NUMBA_CACHE_DIR, else in the user's cache folder. None, logged
    once, where it cannot be written or is not private.

    Its name holds a digest of the source, the versions and the processor: machines of a cluster may
    share a home.
    """
    import llvmlite.binding as llvm

    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    versions = (numba.__version__, np.__version__, llvm.llvm_version_info, sys.version)
    digest.update(repr((*versions, llvm.get_host_cpu_name())).encode())
    digest.update(llvm.get_host_cpu_features().flatten().encode())
    place = (
        _internals.cache_directory()
        or os.environ.get("XDG_CACHE_HOME")
        or os.environ.get("LOCALAPPDATA")
        or os.path.expanduser("~/.cache")
    )
    folder = Path(place, "optex_core", digest.hexdigest()[:16])
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            (folder / MARK).touch(mode=0o600)
            (folder / MARK).write_bytes(_MARK_TEXT)
            _remove_old_versions(folder)
        if not _is_private(folder.lstat(), stat.S_IFDIR):
            logger.warning(
                "compiled code in %s is not used: that folder is not yours alone; code is compiled "
                "anew in every process. Set NUMBA_CACHE_DIR to a folder that only you can write",
                folder,
            )
            return None
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        logger.info(
            "compiled code is not kept for later processes, as %s cannot be written (%s); "
            "NUMBA_CACHE_DIR names another folder",
            folder,
            error,
        )
        return None
    return str(folder)


def _is_private(status: os.stat_result, kind: int) -> bool:
    """True for a file or folder (`kind`; never a link) of this user that nobody else may write."""
    if stat.S_IFMT(status.st_mode) != kind:
        return False
    if not hasattr(os, "geteuid"):  # Windows: the profile's folder is private
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _remove_old_versions(current: Path) -> None:
    """Remove the oldest folders of other versions; a process that uses one compiles again."""
    ages = []
    for folder in current.parent.iterdir():
        with suppress(OSError):  # another process was quicker
            status = folder.lstat()
            if (
                folder != current
                and _VERSION.fullmatch(folder.name)
                and _is_private(status, stat.S_IFDIR)
                and _read_private(folder / MARK) == _MARK_TEXT
            ):
                ages.append((status.st_mtime, folder))
    for _, folder in sorted(ages)[: -MAX_CACHE_VERSIONS or None]:
        with suppress(OSError):  # the folder stays if it holds anything else
            for path in folder.iterdir():
                if _ENTRY.fullmatch(path.name):
                    path.unlink()
            if os.listdir(folder) == [MARK]:
                (folder / MARK).unlink()
                folder.rmdir()


def _read_private(path: Path) -> bytes | None:
    """The content of a file that only this user can have written; None for any other."""
    try:
        handle = os.open(path, _OPEN_FLAGS)
    except OSError:
        return None
    with open(handle, "rb") as file:
        return file.read() if _is_private(os.fstat(handle), stat.S_IFREG) else None


class DiskCache:
    """The compiled forms of one function on disk; `name` is all that they are made from."""

    def __init__(self, folder: str, name: str) -> None:
        self._folder, self._name = Path(folder), name

    def _path(self, signature: object, target_context: object) -> Path:
        key = _internals.entry_key(self._name, signature, target_context)
        return self._folder / hashlib.sha256(key.encode()).hexdigest()[:32]

    def load_overload(self, sig: object, target_context: Any) -> Any:
        """The compiled form for a signature; None where there is none, or none that is whole."""
        target_context.refresh()
        content = _read_private(self._path(sig, target_context))
        if content is None:
            return None
        digest, body = content[:_DIGEST_SIZE], content[_DIGEST_SIZE:]
        if hashlib.sha256(body).digest() != digest:
            return None
        try:
            return _internals.deserialize(body, target_context)
        except Exception as error:
            logger.info(
                "compiled code of %s could not be read (%s): it is compiled again",
                self._name.partition("\n")[0],
                error,
            )
            return None

    def save_overload(self, sig: object, data: Any) -> None:
        """Keep a compiled form; what cannot be kept is compiled in every process."""
        body = _internals.serialize(data)
        if body is None:
            return
        path = self._path(sig, data.target_context)
        try:
            with tempfile.NamedTemporaryFile(
                dir=self._folder, prefix=f"{path.name}.part", delete=False
            ) as file:
                file.write(hashlib.sha256(body).digest() + body)
            os.replace(file.name, path)
        except OSError as error:
            logger.info("compiled code could not be kept in %s (%s)", self._folder, error)
