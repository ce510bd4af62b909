"""Threads that share out the blocks of one compiled kernel.

Kernels release the GIL, so Python threads run them on all cores. Against Numba's own
`parallel=True`: it compiles three times faster, any number of Python threads may launch kernels at
once (its `workqueue` layer aborts the process), and a forked child works (its `omp` layer dies
there). What a block computes does not depend on who computes it, so the number of threads changes
no bit.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

#: Array entries that are worth one more thread: about 0.2 ms. Handing over takes 0.05 ms, and on
#: busy cores all wait for the last thread.
ENTRIES_PER_THREAD = 1_048_576
#: Pieces for each thread: the last piece, which others wait for, is small, and each piece costs
#: only one call.
CHUNKS_PER_THREAD = 4


class KernelThreadPool:
    """The calling thread and helpers, which are started when the first large kernel runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._size, self._process = 0, 0

    def run(self, kernel: Callable[..., Any], entries: int, blocks: int, *arguments: Any) -> None:
        """Call ``kernel(*arguments, low, high)`` so that every block in range(blocks) is covered
        once.

        Parameters
        ----------
        kernel : callable
            Compiled, without the GIL; blocks do not depend on each other.
        entries : int
            Array entries that all blocks read together.
        blocks : int
        """
        threads = min(1 + entries // ENTRIES_PER_THREAD, blocks)
        if threads <= 1 or (threads := min(num_threads(), threads)) <= 1:
            kernel(*arguments, 0, blocks)
            return
        pieces, taken = min(blocks, CHUNKS_PER_THREAD * threads), itertools.count()

        def work() -> None:
            while (piece := next(taken)) < pieces:
                kernel(*arguments, blocks * piece // pieces, blocks * (piece + 1) // pieces)

        pool = self._helpers(threads - 1)
        futures: list[Future[None]] = []
        try:
            for _ in range(threads - 1):
                futures.append(pool.submit(work))
            work()
        finally:
            # an error, such as a thread that cannot be started: nobody writes after it has been
            # raised
            while next(taken) < pieces:
                pass
            for future in futures:
                # one that never started, as another kernel keeps the helpers, has nothing left to
                # do
                if not future.cancel():
                    future.result()

    def _helpers(self, number: int) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None or self._size < number or self._process != os.getpid():
                # A forked child has the pool but none of its threads.
                if self._pool is not None and self._process == os.getpid():
                    self._pool.shutdown(wait=False)
                self._pool = ThreadPoolExecutor(number, thread_name_prefix="optex_core kernels")
                self._size, self._process = number, os.getpid()
            return self._pool

    def after_fork(self) -> None:
        """Another thread of the parent may have held the lock: nobody in the child would ever open
        it.
        """
        self._lock = threading.Lock()


def num_threads() -> int:
    """Threads that kernels may use: NUMBA_NUM_THREADS (by default the cores this process may use),
    or fewer after numba.set_num_threads.
    """
    import numba
    from numba.core import config

    parallel = sys.modules.get("numba.np.ufunc.parallel")
    # Asking Numba starts its own threads, so it is asked only where somebody else has started them.
    return int(
        numba.get_num_threads()
        if getattr(parallel, "_is_initialized", False)
        else config.NUMBA_NUM_THREADS
    )  # type: ignore[attr-defined]


KERNEL_THREADS = KernelThreadPool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=KERNEL_THREADS.after_fork)
