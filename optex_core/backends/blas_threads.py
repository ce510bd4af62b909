"""One BLAS thread for the package's own products.

Small products are kept below the size at which BLAS takes a second thread; for large ones BLAS is
limited to one. On shared cores the default thread pool made a round ten times slower (227 ms, not
23, at T0 = 30, d = 300). The limit costs 20 to 60 us and holds for the whole process: gradients
computed in other threads meanwhile get other bits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

#: Below so many numbers no BLAS call on them is large enough to be threaded.
MIN_THREADED_SIZE = 2048
#: OpenBLAS takes one thread for products of matrices with m n k up to this, and for dot products of
#: up to 10,000 numbers.
MAX_GEMM_UNTHREADED, MAX_DOT_UNTHREADED = 262_144, 8_192
#: Up to so many rows everything T0 x T0 is below (64^3). Eigenvalues and factors have the same bits
#: with one thread and with two (rows of 20 to 128, OpenBLAS 0.3.31), in the same time.
MAX_ROWS_UNTHREADED = 64
#: The same for coefficients, which multiply three times as many rows by twice as many columns.
MAX_ROWS_UNTHREADED_SUBSPACE = 36


class _SharedLimit:
    """A limit per process, set by the first that enters and lifted by the last that leaves.

    Two engines in two threads leave in any order. If each put back what it had found, the limit of
    the first could stay for good.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0

    def enter(self, controller: ThreadpoolController) -> None:
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
def _controllers() -> tuple[ThreadpoolController, ThreadpoolController]:
    """BLAS libraries with a limit per process, and with one per thread (OpenMP)."""
    from threadpoolctl import ThreadpoolController  # looks at the loaded libraries: 2 ms

    blas = ThreadpoolController().select(user_api="blas")
    own = [
        c.filepath
        for c in blas.lib_controllers
        if c.internal_api == "openblas" and getattr(c, "threading_layer", "") == "openmp"
    ]
    shared = [c.filepath for c in blas.lib_controllers if c.filepath not in own]
    return blas.select(filepath=shared), blas.select(filepath=own)


def refresh_libraries() -> None:
    """Look again: SciPy has been loaded, which brings a BLAS of its own."""
    _controllers.cache_clear()


def _reset_controlling_thread() -> None:
    """Let any thread change the limits next: threadpoolctl 3.8 lets only the last that did."""
    import threadpoolctl

    controller = getattr(threadpoolctl, "OpenBLASController", None)
    clear = getattr(controller, "clear_controlling_thread", None)
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


def blas_single_threaded(numbers: int) -> AbstractContextManager[None]:
    """A context in which BLAS uses one thread, for work on so many numbers; nothing for few."""
    return _NOTHING if numbers < MIN_THREADED_SIZE else _limited()
