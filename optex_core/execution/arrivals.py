"""What ends in the threads of workers, on its way to the one thread that waits for it, which is woken once for those that end together."""

from __future__ import annotations

import queue
import sys
import time
from collections import deque
from typing import Generic, TypeVar

#: Seconds in which those that end together have come.
TOGETHER = 0.003
_NEVER = sys.maxsize

T = TypeVar("T")


class Arrivals(Generic[T]):
    """A queue whose reader sleeps until the first has come and then until the last has, or those that end with it.

    Eight threads that wake at once have one interpreter between them, and a reader that is woken by each of them takes it eight times from those
    that have not come yet.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._wanted = _NEVER
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()  # an extra ring wakes the reader once for nothing

    def put(self, item: T) -> None:
        """Add one; in any thread."""
        self._items.append(item)
        if len(self._items) >= self._wanted:
            self._wanted = _NEVER
            self._bell.put(None)

    def take(self, number: int, timeout: float | None) -> list[T]:
        """Take all that have come: at least one, unless `timeout` seconds pass before; where they are fewer than `number`, after waiting for more."""
        end = None if timeout is None else time.monotonic() + timeout
        if self._wait(1, end):
            soon = time.monotonic() + TOGETHER
            self._wait(number, soon if end is None else min(soon, end))
        taken = []
        while self._items:
            taken.append(self._items.popleft())
        return taken

    def _wait(self, number: int, end: float | None) -> bool:
        """Wait until so many are there; False where `end` comes before."""
        while len(self._items) < number:
            self._wanted = number
            if len(self._items) >= number:  # it came in between, and saw what was wanted before
                break
            try:
                self._bell.get(timeout=None if end is None else max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
        self._wanted = _NEVER
        return len(self._items) >= number
