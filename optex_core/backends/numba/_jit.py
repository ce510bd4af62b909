"""Compilation of kernels and generated functions, with options that keep IEEE semantics."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from optex_core.backends.numba import _internals
from optex_core.backends.numba._disk_cache import DiskCache, cache_folder
from optex_core.backends.numba._internals import JIT_DISABLED
from optex_core.types import Array

__all__ = [
    "JIT_DISABLED",
    "address_to_pointer",
    "carray",
    "jit",
    "jit_generated",
    "jit_internal",
    "readonly_view",
]

#: This subset of fastmath keeps tests for nan. Divisions by zero give inf, as in NumPy. Not
#: `parallel`: kernel_threads.py shares out the blocks, compiles three times faster and minds
#: neither forks nor Python threads.
OPTIONS: dict[str, object] = {
    "nogil": True,
    "fastmath": {"reassoc", "contract", "arcp", "nsz", "afn"},
    "error_model": "numpy",
}


def jit(function: Callable[..., Any], identity: str | None = None, *, inner: bool = False) -> Any:
    """The compiled `function`, for each combination of argument types.

    `identity` is the text that a generated function is made from; None: its qualified name.
    `inner`: only compiled code calls it.
    """
    if JIT_DISABLED:
        return function if inner else _without_fp_warnings(function)
    dispatcher = _internals.compile_function(function, OPTIONS, inner=inner)
    folder = cache_folder()
    if folder is not None:
        name = identity or f"{function.__module__}.{function.__qualname__}"
        _internals.set_cache(dispatcher, DiskCache(folder, name))
    return dispatcher


def jit_internal(function: Callable[..., Any]) -> Any:
    """`jit` for what only compiled code calls."""
    return jit(function, inner=True)


def jit_generated(name: str, source: Sequence[str], **scope: Any) -> Any:
    """`jit_internal` for a function in lines of Python, which may use `np` and `scope`."""
    scope |= {"np": np, "__name__": __name__}
    exec("\n".join(source), scope)
    return jit(scope[name], "\n".join(source), inner=True)


def _without_fp_warnings(function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel in plain Python; compiled ones overflow without a warning."""

    @wraps(function)
    def silent(*arguments: object) -> object:
        with np.errstate(all="ignore"):
            return function(*arguments)

    return silent


#: NumPy's flags C_CONTIGUOUS and ALIGNED, and these with WRITEABLE.
_READONLY_FLAGS, _FLAGS = 0x101, 0x501


def readonly_view(a: Array) -> np.ndarray:
    """A contiguous read-only view (a copy if need be).

    Writable and read-only arrays are two types to Numba, each compiled on its own.
    """
    host: Any = a
    bits = host.flags.num & _FLAGS
    if bits == _READONLY_FLAGS:
        return host
    view = host.view() if bits & _READONLY_FLAGS == _READONLY_FLAGS else np.array(host, order="C")
    view.setflags(write=False)
    return view


def _as_pointer(_context: object, _address: object) -> object:
    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), code


#: In compiled code, ``carray(address_to_pointer(address), shape, dtype)`` is the memory at an
#: address: vectors that lie apart become one argument.
address_to_pointer: Any = (
    (lambda address: ctypes.c_void_p(int(address))) if JIT_DISABLED else intrinsic(_as_pointer)
)
