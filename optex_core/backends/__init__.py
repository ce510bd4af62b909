"""Array libraries behind one interface; `get_backend` is the only dispatch."""

from __future__ import annotations

import sys
from functools import cache

from optex_core._checks import choice
from optex_core.backends.base import Backend
from optex_core.errors import BackendError
from optex_core.types import Array

NAMES = ("numpy", "numba", "cupy")

#: From this many parameters on, "auto" takes Numba. Measured for a round with 30 history rows, N = 5 and Adam, on two busy cores: NumPy's time
#: over Numba's is 1 at d = 1e2, 1.6 to 2.5 at 1e3, 3 to 5 at 1e4 and 1e5, 2.5 to 8 at 1e6. But a process waits 2 s for the import and the
#: optimizer's rule, the very first one 10 s for all kernels: at 1e5 that is repaid after 20 and 100 rounds, at 1e4 after 250 and 1,200.
NUMBA_FROM = 100_000


@cache
def _load(name: str) -> Backend:
    # Imported here, not above: Numba takes 0.7 s and CuPy 0.4 s to import, and small problems need neither.
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


def get_backend(name: str | Backend = "auto", x: Array | None = None) -> Backend:
    """The backend called `name`; "auto" chooses by the array `x`: CuPy for CuPy arrays, else Numba from 100,000 parameters on, else NumPy.

    Arrays are never moved silently: a CuPy array with a CPU backend, or the reverse, is an error.
    """
    if isinstance(name, Backend):
        return name
    choice("backend", name, ("auto", *NAMES))
    on_gpu = x is not None and is_cupy(x)
    if name == "auto":
        large = x is not None and getattr(x, "size", 0) >= NUMBA_FROM
        name = "cupy" if on_gpu else "numba" if large else "numpy"
    if on_gpu and name != "cupy":
        raise BackendError(f"x0 is a CuPy array but backend={name!r} works on the CPU; pass cupy.asnumpy(x0), or leave backend='auto'")
    if x is not None and not on_gpu and name == "cupy":
        raise BackendError("backend='cupy' needs x0 on the GPU, got a NumPy array; pass cupy.asarray(x0)")
    return _load(name)


def for_array(x: Array) -> Backend:
    """The plain backend of the library that `x` belongs to (NumPy or CuPy): for optimizers used on their own."""
    return _load("cupy" if is_cupy(x) else "numpy")


__all__ = ["NAMES", "Backend", "for_array", "get_backend", "is_cupy"]
