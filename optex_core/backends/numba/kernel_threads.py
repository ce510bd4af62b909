"""Threads that share out the blocks of one compiled kernel.

Kernels release the GIL, so Python threads run them on all cores. Unlike Numba's own `parallel`, any
number of Python threads may launch kernels at once (its `workqueue` layer aborts the process),
a forked child works (its `omp` layer dies there), and compilation takes a third of the time. Blocks
do not depend on who computes them: the number of threads changes no bit.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

from optex_core.backends.numba._internals import num_threads

#: Array entries that are worth one more thread: about 0.2 ms. Handing over takes 0.05 ms.
ENTRIES_PER_THREAD = 1_048_576
#: Chunks for each thread, so that the last one, which all wait for, is small.
CHUNKS_PER_THREAD = 4


def run_blocks(
    kernel: Callable[..., object], entries: int, blocks: int, *arguments: object
) -> None:
    """Call ``kernel(*arguments, low, high)`` so that every block in range(blocks) is covered, in
    this thread and in helpers, which are started when the first large kernel runs.

    The kernel runs without the GIL, and its blocks do not depend on each other; together they read
    so many `entries` of arrays.
    """
    worth = min(1 + entries // ENTRIES_PER_THREAD, blocks)
    allowed = num_threads() if worth > 1 else 1
    threads = min(allowed, worth)
    if threads <= 1:
        kernel(*arguments, 0, blocks)
        return
    chunks, taken = min(blocks, CHUNKS_PER_THREAD * threads), itertools.count()

    def work() -> None:
        while (chunk := next(taken)) < chunks:
            kernel(*arguments, blocks * chunk // chunks, blocks * (chunk + 1) // chunks)

    pool = _helpers(os.getpid(), allowed)
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


@cache
def _helpers(process: int, number: int) -> ThreadPoolExecutor:
    """The helpers of this process: a forked child has its parent's pool but none of its threads."""
    return ThreadPoolExecutor(number, thread_name_prefix=f"optex_core kernels {process}")
