"""One BLAS thread for our own products: small ones are kept too small for a second thread, for
large ones BLAS is held at one.

On shared cores the default thread pool made a round ten times slower (227 ms against 23 ms at T0 =
30, d = 300). Holding it costs 20 to 60 us, and is seen by the whole process: gradients that are
computed in other threads meanwhile come out with other bits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

#: Below so many numbers no BLAS call on them is large enough to be threaded.
MIN_THREADED_SIZE = 2048
#: OpenBLAS takes one thread for products of matrices with m n k up to this, and for dot products of
#: up to 10,000 numbers.
MAX_GEMM_UNTHREADED, MAX_DOT_UNTHREADED = 262_144, 8_192
#: Up to so many rows everything T0 x T0 is below (64^3); their eigenvalues and factors have the
#: same bits with one thread and with two (rows of 20 to 128, OpenBLAS 0.3.31), in the same time.
MAX_ROWS_UNTHREADED = 64
#: The same for steps on coefficients, which multiply three times as many rows by twice as many
#: columns.
MAX_ROWS_UNTHREADED_SUBSPACE = 36


class _SharedLimit:
    """The limit of libraries that have one thread pool per process: set by the first that enters,
    lifted by the last that leaves.

    Two engines in two threads leave in any order. If each put back what it had found, the one that
    came second could leave last and put back the limit of the first, for good.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._limit: Any = None

    def enter(self, controller: Any) -> None:
        with self._lock:
            if not self._depth:
                self._limit = controller.limit(limits=1)
                _reset_controlling_thread()
            self._depth += 1

    def leave(self) -> None:
        with self._lock:
            self._depth -= 1
            if not self._depth:
                self._limit.restore_original_limits()
                _reset_controlling_thread()


_SHARED, _NOTHING = _SharedLimit(), nullcontext()


@cache
def _controllers() -> tuple[Any, Any]:
    """The BLAS libraries with a thread pool per process, and those (OpenBLAS on OpenMP) in which
    every thread has a limit of its own.
    """
    # 2 ms to look at the loaded libraries: once, on use
    from threadpoolctl import ThreadpoolController

    blas = ThreadpoolController().select(user_api="blas")
    own = [
        c.filepath
        for c in blas.lib_controllers
        if c.internal_api == "openblas" and getattr(c, "threading_layer", "") == "openmp"
    ]
    shared = [c.filepath for c in blas.lib_controllers if c.filepath not in own]
    return blas.select(filepath=shared), blas.select(filepath=own)


def refresh_libraries() -> None:
    """A library has come that brings a BLAS of its own: SciPy's."""
    _controllers.cache_clear()


def _reset_controlling_thread() -> None:
    """Let any thread change the limits next: threadpoolctl 3.8 ignores all but the last that did,
    and who leaves last is not known.
    """
    import threadpoolctl

    clear = getattr(
        getattr(threadpoolctl, "OpenBLASController", None), "clear_controlling_thread", None
    )
    if clear is not None:
        clear()


@contextmanager
def _limited() -> Iterator[None]:
    shared, own = _controllers()
    with own.limit(limits=1) if own.lib_controllers else nullcontext():
        _SHARED.enter(shared)
        try:
            yield
        finally:
            _SHARED.leave()


def is_single_threaded() -> bool:
    """True if every BLAS library has one thread at most, so that `blas_single_threaded` changes
    nothing for anybody.
    """
    return all(
        c.num_threads == 1 for controller in _controllers() for c in controller.lib_controllers
    )


def blas_single_threaded(numbers: int) -> AbstractContextManager[Any]:
    """A context in which BLAS uses one thread, for work on a history of `numbers` entries; nothing
    for the smallest.
    """
    return _NOTHING if numbers < MIN_THREADED_SIZE else _limited()
