"""Every private or changing detail of Numba that the package uses, in one place.

Numba caches no generated functions, so its compiled code is kept here (`_disk_cache`) through the
hook its own cache uses. `tests/test_dependencies.py` names what changed when a release of Numba
moves one of these.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import Any

import numba
import numba.core.config
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

config: Any = numba.core.config

#: NUMBA_DISABLE_JIT is set: kernels run as plain Python. Numba reads it when it is imported.
JIT_DISABLED = bool(config.DISABLE_JIT)


def compile_function(
    function: Callable[..., Any], options: dict[str, Any], *, inner: bool = False
) -> object:
    """``numba.njit``; `inner`: without the wrapper for Python, which takes time to compile."""
    return numba.njit(**options | {"no_cpython_wrapper": inner, "no_cfunc_wrapper": True})(function)


def set_cache(dispatcher: Any, cache: object) -> None:
    """Set an object with `load_overload` and `save_overload` in the place of Numba's own."""
    dispatcher._cache = cache


def entry_key(name: str, signature: object, target_context: Any) -> str:
    """A text that names one compiled form of a function on this processor."""
    return repr((name, signature, target_context.codegen().magic_tuple()))


def serialize(compiled: Any) -> bytes | None:
    """A compiled form as bytes; None where it holds what only this process has."""
    if compiled.library.has_dynamic_globals or any(not part.can_cache for part in compiled.lifted):
        return None
    return dumps(compiled._reduce())


def deserialize(body: bytes, target_context: object) -> object:
    """The compiled form. `body` is executed: it must come from a trusted file."""
    return CompileResult._rebuild(target_context, *pickle.loads(body))


def is_compiled(function: object) -> bool:
    """True for a dispatcher that has compiled something, and for a plain function."""
    return bool(getattr(function, "overloads", True))


def cache_directory() -> str:
    """NUMBA_CACHE_DIR, "" where it is not set."""
    return str(config.CACHE_DIR)


def num_threads() -> int:
    """NUMBA_NUM_THREADS, or fewer after ``numba.set_num_threads``."""
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    # Asking Numba starts its threads; it is asked only where somebody else has started them.
    started = getattr(parallel, "_is_initialized", False)
    return int(numba.get_num_threads() if started else config.NUMBA_NUM_THREADS)
