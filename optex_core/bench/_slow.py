"""The gradient of `wallclock`: a quadratic that takes a set time. It imports little, since each worker does: 0.4 s, where the engine takes 1.3."""

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
    """0.5 sum h_i x_i^2 with h from 1 to 0.01, taking a set time; notes begin and end of each call in a folder.

    Attributes
    ----------
    d : int
    seconds : float
    busy : bool
        Keeps its core busy and does not sleep.
    folder : str
    """

    d: int
    seconds: float
    busy: bool
    folder: str

    def value_and_grad(self, x: np.ndarray, ctx: Context) -> tuple[float, np.ndarray]:
        """Value and gradient, late."""
        begin, end = time.time(), time.perf_counter() + self.seconds
        if ctx.iteration == WARM:
            time.sleep(0.2)  # long enough for every worker to get one
        gradient = _curvatures(self.d) * x
        if self.busy:
            work, spent = np.ones(1000), time.thread_time() + self.seconds
            while time.thread_time() < spent:  # its own time on the core, however many wait for that core
                np.sqrt(work, out=work)
        else:
            time.sleep(max(0.0, end - time.perf_counter()))
        value = float(0.5 * x @ gradient)
        line = json.dumps([ctx.iteration, ctx.slot, begin, time.time()])
        # Without a file object, which takes 0.1 ms more: eight wake at once.
        note = os.open(f"{self.folder}/{os.getpid()}-{threading.get_ident()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(note, f"{line}\n".encode())
        os.close(note)
        return value, gradient


@cache
def _curvatures(d: int) -> np.ndarray:
    """h: made once in each worker, or the gradients that are to sleep would compute for 7 ms at d = 1e5, eight at a time on two cores."""
    return np.geomspace(1.0, 0.01, d)
