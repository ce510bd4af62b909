"""Array libraries behind one interface; `get_backend` is the only dispatch."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

import numpy as np

from optex_core._validation import has_masked_entries, one_of
from optex_core.backends.base import Backend
from optex_core.errors import ArgumentTypeError, BackendError
from optex_core.types import Array

BACKEND_NAMES = ("numpy", "numba", "cupy")

#: Parameters from which on "auto" takes Numba. Measured (two cores, float64, ms of a round with
#: NumPy, Numba; `auto` and `paper` with N = 5, `verified` with N = 8; Adam):
#:   d = 700      auto 12, 11     paper 4.1, 4.6   verified 24, 20
#:   d = 3,000    auto 37, 17     paper 7.0, 4.8   verified 50, 20
#:   d = 10,000   auto 105, 29    paper 14, 6.7    verified 151, 41
#: A process waits 1 s for Numba and its rule, the first on a machine 4 s for all kernels: repaid at
#: 10,000 after 10 to 15 rounds (first process 40 to 60, `paper` 130), at 3,000 after 50. Rollouts
#: on coefficients gain 1.5 ms a round at any d, and do not decide.
NUMBA_MIN_SIZE = 10_000


@cache
def _load(name: str) -> Backend:
    # Imported on use: Numba takes 0.7 s and CuPy 0.4 s, and small problems need neither.
    if name == "numpy":
        from optex_core.backends.numpy_ import NumpyBackend

        return NumpyBackend()
    if name == "numba":
        from optex_core.backends.numba_ import NumbaBackend

        return NumbaBackend()
    from optex_core.backends.cupy_ import CupyBackend

    return CupyBackend()


def is_cupy(x: Array) -> bool:
    """True for a CuPy array; never imports CuPy (if nobody did, nothing can be one)."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(x, cupy.ndarray)


def real_array(name: str, given: Any) -> Array:
    """`given` as an array of real numbers, not copied if it is one; integers stay what they are."""
    try:
        array: Array = given if is_cupy(given) else np.asarray(given)
    except ValueError as error:
        raise ArgumentTypeError(
            f"{name} must be an array of numbers, got a ragged sequence ({error})"
        ) from error
    if array.dtype.kind == "c":
        raise ArgumentTypeError(
            f"{name} must hold real numbers, got complex numbers; stack real and imaginary parts"
        )
    if array.dtype.kind not in "fiub":
        raise ArgumentTypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if has_masked_entries(given):
        raise ArgumentTypeError(
            f"{name} is an array with masked entries, which are no numbers; fill them first"
        )
    return array


def float_array(name: str, given: Any) -> Array:
    """`given` as an array of float32 or float64; integers become float64."""
    array = real_array(name, given)
    if array.dtype.kind in "iub":
        return array.astype(np.float64)
    array = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    if array.dtype not in (np.float32, np.float64):
        raise ArgumentTypeError(
            f"{name} must be float32 or float64, got {array.dtype}; pass"
            f" {name}.astype(numpy.float64)"
        )
    return array


def _jit_disabled() -> bool:
    """True if Numba compiles nothing: its kernels then take a thousand times as long as NumPy."""
    loaded = sys.modules.get("numba.core.config")
    if loaded is not None:
        return bool(loaded.DISABLE_JIT)
    return os.environ.get("NUMBA_DISABLE_JIT", "0").strip() not in ("", "0")


def get_backend(name: str | Backend = "auto", x: Array | None = None) -> Backend:
    """The backend called `name`; "auto" chooses by the array `x`.

    CuPy for CuPy arrays, Numba from 10,000 parameters on (not where NUMBA_DISABLE_JIT is set), else
    NumPy. Arrays are never moved: a CuPy array with a CPU backend, or the reverse, is an error.
    """
    if isinstance(name, Backend):
        return name
    one_of("backend", name, ("auto", *BACKEND_NAMES))
    on_gpu = x is not None and is_cupy(x)
    if name == "auto":
        large = x is not None and getattr(x, "size", 0) >= NUMBA_MIN_SIZE and not _jit_disabled()
        name = "cupy" if on_gpu else "numba" if large else "numpy"
    if on_gpu and name != "cupy":
        raise BackendError(
            f"x0 is a CuPy array but backend={name!r} works on the CPU; pass "
            f"cupy.asnumpy(x0), or leave backend='auto'"
        )
    if x is not None and not on_gpu and name == "cupy":
        raise BackendError(
            "backend='cupy' needs x0 on the GPU, got a NumPy array; pass cupy.asarray(x0)"
        )
    backend = _load(name)
    # Numba's keep memory of large vectors, which goes with the engine that holds one.
    return type(backend)() if name == "numba" else backend


def for_array(x: Array) -> Backend:
    """The plain backend of the library of `x`, NumPy or CuPy: for optimizers used on their own."""
    return _load("cupy" if is_cupy(x) else "numpy")


__all__ = ["BACKEND_NAMES", "Backend", "for_array", "get_backend", "is_cupy"]
