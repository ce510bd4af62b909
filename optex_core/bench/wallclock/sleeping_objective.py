"""The gradient of `wallclock`: a quadratic that takes a set time. It imports little, since each
worker does: 0.4 s, where the engine takes 1.3.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass
from functools import cache

import numpy as np

from optex_core.types import Context

#: Iteration number of the calls that only wake the workers up.
WARM = -1


@dataclass(frozen=True, slots=True)
class Slow:
    """0.5 sum h_i x_i^2 with h from 1 to 0.01, taking a set time; notes begin and end of each call
    in a folder.

    A worker writes what it has to note at its next call, halfway through its sleep: eight threads
    that woke at once and opened a file each made gradients of 50 ms take 52.3 (50.5 without), and
    the first of eight that wrote as they began kept the last from beginning by 0.6 ms, which
    belongs to nobody. A call with the iteration `WARM` writes what is left.
    """

    d: int
    seconds: float
    busy: bool  # keeps its core busy and does not sleep
    folder: str

    def value_and_grad(self, x: np.ndarray, ctx: Context) -> tuple[float, np.ndarray]:
        """Value and gradient, late."""
        begin, end = time.time(), time.perf_counter() + self.seconds
        if ctx.iteration == WARM:
            time.sleep(0.02 if self._write() else 0.2)  # long enough for every worker to get one
        gradient = _curvatures(self.d) * x
        value = float(0.5 * x @ gradient)
        if self.busy:
            self._write()
            work, spent = np.ones(1000), time.thread_time() + self.seconds
            # its own time on the core, however many wait for that core
            while time.thread_time() < spent:
                np.sqrt(work, out=work)
        else:
            time.sleep(max(0.0, 0.5 * (end - time.perf_counter())))
            self._write()
            time.sleep(max(0.0, end - time.perf_counter()))
        if ctx.iteration != WARM:
            _HELD.notes.append([ctx.iteration, ctx.slot, begin, time.time()])
        return value, gradient

    def _write(self) -> int:
        """Write the notes that this worker holds back; how many there were."""
        notes, _HELD.notes = _HELD.notes, []
        with open(
            f"{self.folder}/{os.getpid()}-{threading.get_ident()}", "a", encoding="utf-8"
        ) as file:
            file.writelines(f"{json.dumps(note)}\n" for note in notes)
        return len(notes)


class _Held(threading.local):
    """What the calls in this thread have to note."""

    def __init__(self) -> None:
        self.notes: list[list[float]] = []


_HELD = _Held()


@cache
def _curvatures(d: int) -> np.ndarray:
    """h: made once in each worker, or the gradients that are to sleep would compute for 7 ms at d =
    1e5, eight at a time on two cores.
    """
    return np.geomspace(1.0, 0.01, d)
