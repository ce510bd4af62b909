"""In worker processes of ours: memory that was freed is kept for the next evaluation, where the C
library would give it back to the system.
"""

from __future__ import annotations

import ctypes
import os
import sys

from optex_core.execution.workers import process_cleanup

#: Vectors' worth of freed memory that a worker keeps: its copy of x, the gradient, its copy, and
#: what user code makes on the way.
VECTORS = 16
#: At most, in bytes.
MOST = 1 << 28
#: Of glibc's malloc.h; the threshold from which memory is mapped apart, and given back when it is
#: freed, can be no higher.
_TRIM, _MAP, _HIGHEST = -1, -3, 1 << 25

_kept = 0


def keep_freed(size: int) -> None:
    """Keep enough for evaluations of vectors of `size` bytes; in a process that is not ours, or has
    another C library, or whose user has set what it keeps, nothing is changed.

    With eight processes on two cores and vectors of 800 kB the pages given back after each
    evaluation, and taken anew in the next, took 3 of the 5 ms that transport cost (2.2 without
    them).
    """
    global _kept  # noqa: PLW0603  a process has one heap
    wanted = min(VECTORS * size, MOST)
    ours = process_cleanup.TOKEN_VARIABLE in os.environ and not any(
        name.startswith("MALLOC_") for name in os.environ
    )
    if wanted <= _kept or not ours or not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MAP, _HIGHEST)
        mallopt(_TRIM, wanted)
    _kept = wanted
