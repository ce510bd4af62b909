"""All workers in the caller's thread, in a fixed order: asynchrony that repeats bit for bit."""

from __future__ import annotations

from collections import deque

import numpy as np

from optex_core.async_sgd.records import Pull
from optex_core.async_sgd.workers.base import BurstExecutor
from optex_core.async_sgd.workers.burst_runner import BurstResult, BurstRunner


class SerialExecutor(BurstExecutor):
    """Each `next` runs one waiting job; N workers in turn give every push, after the first N, the
    delay N - 1.

    Parameters
    ----------
    team : BurstRunner
        Whose bursts run.
    shuffle : int, optional
        A seed: jobs end in a random order that it decides, which spreads the delays. None: first
        come, first served.
    """

    def __init__(self, runner: BurstRunner, shuffle: int | None = None) -> None:
        self._runner = runner
        self._waiting: deque[Pull] = deque()
        self._rng = None if shuffle is None else np.random.default_rng(shuffle)

    @property
    def pending(self) -> int:
        return len(self._waiting)

    def submit(self, job: Pull) -> None:
        self._waiting.append(job)

    def next(self, timeout: float | None = None) -> list[BurstResult]:
        """Run a waiting job; `timeout` cannot interrupt it."""
        if not self._waiting:
            return []
        if self._rng is not None:
            self._waiting.rotate(int(self._rng.integers(len(self._waiting))))
        return [self._runner.run(self._waiting.popleft())]

    def give_up(self, job: int) -> list[int]:
        self._waiting = deque(j for j in self._waiting if j.id != job)
        return []

    def close(self) -> None:
        self._waiting.clear()
