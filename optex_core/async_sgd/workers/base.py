"""Interface between the loop and whatever runs bursts, and bursts in the caller's thread."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

from optex_core._validation import callable_
from optex_core.async_sgd.records import BurstResult, Pull
from optex_core.async_sgd.status import BurstStatus
from optex_core.errors import format_traceback


class BurstExecutor(ABC):
    """Runs bursts and returns their results; a context manager that closes itself.

    It decides nothing: the loop says what a failure means and when to stop.

    Attributes
    ----------
    background : bool
        True where bursts run while `next` waits; False where `next` itself runs one.
    """

    background: ClassVar[bool] = False

    @property
    @abstractmethod
    def pending(self) -> int:
        """Bursts that neither came back nor were given up."""

    @abstractmethod
    def submit(self, pull: Pull) -> None:
        """Start a burst on the worker that its context names, behind what that worker has to do
        already; an evaluation on any worker.
        """

    @abstractmethod
    def next(self, timeout: float | None = None) -> list[BurstResult]:
        """Wait until a burst has ended and return all that have; an empty list after `timeout`
        seconds, and where nothing is pending.
        """

    def overdue(self, seconds: float) -> list[int]:
        """Ids of bursts that have run for more than `seconds`."""
        return []

    @abstractmethod
    def give_up(self, burst_id: int) -> None:
        """Stop waiting for a burst, end it where that is possible, and replace its worker."""

    @abstractmethod
    def abandon(self) -> None:
        """Stop waiting for all bursts, without waiting for their end."""

    def close(self) -> None:
        """End what was started here, without waiting; a user's own pool is left as it is."""
        self.abandon()

    def __enter__(self) -> BurstExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BurstRunner:
    """Burst objects by worker, from a `Burst`; for evaluations with ``evaluate(v, ctx)``."""

    def __init__(self, burst: Callable[..., object]) -> None:
        self.name = getattr(burst, "__qualname__", type(burst).__qualname__)
        if not hasattr(burst, "spawn"):
            callable_("burst", burst, "v", "ctx")
        self.burst: Any = burst
        self._spawned: dict[int, Callable[..., Any]] = {}

    def for_worker(self, worker: int, seed: int) -> Callable[..., object]:
        """The burst of a worker; spawned with the seed of the first burst that it runs here, which
        no other spawn shares.
        """
        if not hasattr(self.burst, "spawn"):
            burst: Callable[..., object] = self.burst
            return burst
        if worker not in self._spawned:
            spawned = self.burst.spawn(worker, seed)
            self._spawned[worker] = callable_("the object that spawn returns", spawned)
        return self._spawned[worker]

    def drop(self, slot: int, number: int) -> None:
        """Forget the bursts of workers w with w modulo `number` = `slot`: the next are spawned
        anew.
        """
        for worker in [w for w in self._spawned if w % number == slot]:
            del self._spawned[worker]

    def run(self, pull: Pull) -> BurstResult:
        """Run a burst here; whatever it raises becomes the result's `error`."""
        start, c = time.perf_counter(), pull.context
        try:
            if pull.evaluation:
                push = self.burst.evaluate(pull.v, c)
            else:
                push = self.for_worker(c.worker, c.seed)(pull.v, c)
        # SystemExit, KeyboardInterrupt and a user's BaseException too: in a worker they would end a
        # thread, and nobody would hear of it. The loop raises them.
        except BaseException as error:
            seconds = time.perf_counter() - start
            traceback, failure = format_traceback(error), BurstStatus.ERROR
            return BurstResult(c.id, None, error, traceback, failure, seconds)
        return BurstResult(c.id, push, seconds=time.perf_counter() - start)


class SerialExecutor(BurstExecutor):
    """Each `next` runs the oldest burst; N workers in turn give every push, after the first N, the
    delay N - 1.
    """

    def __init__(self, runner: BurstRunner) -> None:
        self._runner = runner
        self._waiting: deque[Pull] = deque()

    @property
    def pending(self) -> int:
        return len(self._waiting)

    def submit(self, pull: Pull) -> None:
        self._waiting.append(pull)

    def next(self, timeout: float | None = None) -> list[BurstResult]:
        """Run a burst; `timeout` cannot interrupt it."""
        return [self._runner.run(self._waiting.popleft())] if self._waiting else []

    def give_up(self, burst_id: int) -> None:
        self._waiting = deque(pull for pull in self._waiting if pull.id != burst_id)

    def abandon(self) -> None:
        self._waiting.clear()
