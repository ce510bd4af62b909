"""Threads that share out the blocks of one compiled kernel.

Kernels release the GIL, so Python threads run them on all cores. Unlike Numba's own `parallel`, any
number of Python threads may launch kernels at once (its `workqueue` layer aborts the process),
a forked child works (its `omp` layer dies there), and compilation takes a third of the time. Blocks
do not depend on who computes them: the number of threads changes no bit.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from optex_core.backends.numba._internals import num_threads

#: Array entries that are worth one more thread: about 0.2 ms. Handing over takes 0.05 ms.
ENTRIES_PER_THREAD = 1_048_576
#: Chunks for each thread, so that the last one, which all wait for, is small.
CHUNKS_PER_THREAD = 4


class KernelThreadPool:
    """The calling thread and helpers, which are started when the first large kernel runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._size, self._process = 0, 0

    def run(
        self, kernel: Callable[..., object], entries: int, blocks: int, *arguments: object
    ) -> None:
        """Call ``kernel(*arguments, low, high)`` so that every block in range(blocks) is covered.

        The kernel runs without the GIL, and its blocks do not depend on each other; together they
        read so many `entries` of arrays.
        """
        threads = min(1 + entries // ENTRIES_PER_THREAD, blocks)
        if threads <= 1 or (threads := min(num_threads(), threads)) <= 1:
            kernel(*arguments, 0, blocks)
            return
        chunks, taken = min(blocks, CHUNKS_PER_THREAD * threads), itertools.count()

        def work() -> None:
            while (chunk := next(taken)) < chunks:
                kernel(*arguments, blocks * chunk // chunks, blocks * (chunk + 1) // chunks)

        pool = self._helpers(threads - 1)
        futures: list[Future[None]] = []
        try:
            for _ in range(threads - 1):
                futures.append(pool.submit(work))
            work()
        finally:
            while next(taken) < chunks:  # after an error nobody writes once it has been raised
                pass
            for future in futures:
                if not future.cancel():  # it never started where another kernel keeps the helpers
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
        """Renew the lock: another thread of the parent may have held it."""
        self._lock = threading.Lock()


KERNEL_THREADS = KernelThreadPool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=KERNEL_THREADS.after_fork)
