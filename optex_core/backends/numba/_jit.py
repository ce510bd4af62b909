"""Compile a function once per machine: Numba's compiler with a cache on disk that processes
starting at once cannot spoil.

Numba's own `cache=True` keeps one index for each function, read and written without a lock: two
processes that compile for different dtypes give the same number to two files, and after an update a
reader can meet the new index and an old file (numba/core/caching.py, 0.68). Here an entry is one
file, named after all that its content depends on, checked by a digest, and renamed into place when
complete: nothing is ever rewritten with different content, and whoever comes second finds a whole
file or none. It also keeps functions without a file of their own, which Numba refuses: the
generated loops of elementwise rules.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import carray, types
from numba.core import config
from numba.extending import intrinsic

logger = logging.getLogger("optex_core")

__all__ = [
    "OPTIONS",
    "cache_folder",
    "carray",
    "jit",
    "JIT_DISABLED",
    "address_to_pointer",
    "readonly_view",
]

#: With plain fastmath=True the compiler removes tests for nan; this subset keeps them. Divisions by
#: zero give inf, as in NumPy. No `parallel`: the blocks are shared out by team.py, which compiles
#: three times faster (0.3 s in place of 1.0 for one reduction) and minds neither forks nor threads.
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "fastmath": {"reassoc", "contract", "arcp", "nsz", "afn"},
    "error_model": "numpy",
}

#: NUMBA_DISABLE_JIT is set: kernels run as plain Python, for a debugger or a count of lines. It is
#: read when Numba is loaded.
JIT_DISABLED = bool(config.DISABLE_JIT)  # type: ignore[attr-defined]
#: Folders of other versions that are kept beside the one in use.
MAX_CACHE_VERSIONS = 8
_DIGEST = hashlib.sha256().digest_size


def jit(
    function: Callable[..., Any], identity: str | None = None, *, jit_internal: bool = False
) -> Any:
    """The compiled `function`, a fresh compilation for each combination of argument types unless
    the disk has it.

    Parameters
    ----------
    function : callable
        Of this package's source, or generated.
    identity : str, optional
        What a generated function is made from, where `function` has no source in the package; the
        empty string: not kept on disk.
    inner : bool
        Only called by compiled code: the door for Python is left out, and the time to compile it.
    """
    if JIT_DISABLED:
        return function if jit_internal else _without_fp_warnings(function)
    options = {**OPTIONS, "no_cpython_wrapper": jit_internal, "no_cfunc_wrapper": True}
    dispatcher = numba.njit(**options)(function)
    folder = cache_folder() if identity != "" else None
    if folder is not None:
        name = f"{function.__module__}.{function.__qualname__}" if identity is None else identity
        dispatcher._cache = _DiskCache(Path(folder), name)  # where `cache=True` puts Numba's own
    return dispatcher


def _without_fp_warnings(function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel in plain Python: NumPy's numbers warn of what compiled ones do in silence."""

    @wraps(function)
    def ignore_fp_warnings(*arguments: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*arguments)

    return ignore_fp_warnings


#: NumPy's flags C_CONTIGUOUS and ALIGNED, and these with WRITEABLE.
_READONLY_FLAGS, _FLAGS = 0x101, 0x501


def readonly_view(a: np.ndarray) -> np.ndarray:
    """A contiguous read-only view (a copy if need be): writable and read-only arrays are two types
    to Numba, each compiled on its own.
    """
    bits = a.flags.num & _FLAGS
    if bits == _READONLY_FLAGS:
        return a
    view = a.view() if bits & _READONLY_FLAGS == _READONLY_FLAGS else np.array(a, order="C")
    view.setflags(write=False)
    return view


def jit_internal(function: Callable[..., Any]) -> Any:
    """`jit` for what only compiled code calls."""
    return jit(function, jit_internal=True)


def _as_pointer(_context: Any, _address: Any) -> Any:
    """An integer as a pointer."""

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), code


def _plain_pointer(address: int) -> Any:
    return ctypes.c_void_p(int(address))


#: In compiled code, ``carray(address_to_pointer(address), shape, dtype)`` is the memory at an
#: address: vectors that lie apart are one argument that way.
address_to_pointer: Any = _plain_pointer if JIT_DISABLED else intrinsic(_as_pointer)


@cache
def cache_folder() -> str | None:
    """Where compiled code is kept: NUMBA_CACHE_DIR, else the user's cache folder; None, said once
    in the log, where neither can be written.

    The name holds a digest of the source, the versions and the processor, since machines of a
    cluster may share a home.
    """
    import llvmlite.binding as llvm

    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    digest.update(
        repr(
            (
                numba.__version__,
                np.__version__,
                llvm.llvm_version_info,
                sys.version,
                llvm.get_host_cpu_name(),
            )
        ).encode()
    )
    digest.update(llvm.get_host_cpu_features().flatten().encode())
    given = config.CACHE_DIR  # type: ignore[attr-defined]
    place = (
        given
        or os.environ.get("XDG_CACHE_HOME")
        or os.environ.get("LOCALAPPDATA")
        or os.path.expanduser("~/.cache")
    )
    folder = Path(place, "optex_core", digest.hexdigest()[:16])
    try:
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        logger.info(
            "compiled code is not kept for later processes, as %s cannot be written "
            "(%s); NUMBA_CACHE_DIR names another folder",
            folder,
            error,
        )
        return None
    if new:
        others = [other for other in folder.parent.iterdir() if other != folder and other.is_dir()]
        for old in sorted(others, key=_age)[: -MAX_CACHE_VERSIONS or None]:
            shutil.rmtree(old, ignore_errors=True)  # a process that still uses it compiles again
    return str(folder)


def _age(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # another process was quicker
        return 0.0


class _DiskCache:
    """The compiled forms of one function on disk, with the methods that Numba's dispatcher asks of
    a cache.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name

    def _path(self, signature: Any, codegen: Any) -> Path:
        key = repr((self._name, signature, codegen.magic_tuple()))
        return self._folder / hashlib.sha256(key.encode()).hexdigest()[:32]

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled form for a signature, None where there is none, or none that is whole."""
        from numba.core.compiler import CompileResult

        target_context.refresh()
        try:
            content = self._path(sig, target_context.codegen()).read_bytes()
        except OSError:
            return None
        digest, body = content[:_DIGEST], content[_DIGEST:]
        if hashlib.sha256(body).digest() != digest:
            return None
        try:
            return CompileResult._rebuild(target_context, *pickle.loads(body))
        except Exception as error:
            logger.info(
                "compiled code of %s could not be read (%s): it is compiled again",
                self._name.partition("\n")[0],
                error,
            )
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled form; what cannot be kept is compiled in every process."""
        from numba.core.serialize import dumps

        if data.library.has_dynamic_globals or any(not part.can_cache for part in data.lifted):
            return
        body = dumps(data._reduce())
        path = self._path(sig, data.codegen)
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                file.write(hashlib.sha256(body).digest() + body)
            os.replace(file.name, path)
        except OSError as error:
            logger.info("compiled code could not be kept in %s (%s)", self._folder, error)

    @property
    def cache_path(self) -> str:
        """The folder."""
        return str(self._folder)

    def enable(self) -> None:
        """Always on."""

    def disable(self) -> None:
        """Always on."""

    def flush(self) -> None:
        """Nothing is ever stale."""
