"""The bursts of one place (a thread, a process): one for all workers there, or one spawned for
each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optex_core._validation import callable_
from optex_core.async_sgd.records import Pull, Push
from optex_core.errors import format_traceback


@dataclass(frozen=True, slots=True)
class BurstResult:
    """How a burst ended.

    Attributes
    ----------
    job : int
        Its id.
    push : Push or None
        None where there is none.
    error : Exception or None
        What the burst raised.
    traceback : str
        Of that, as text.
    lost : bool
        True where the worker died.
    seconds : float
        What it took.
    """

    job: int
    push: Push | None = None
    error: Exception | None = None
    traceback: str = ""
    lost: bool = False
    seconds: float = 0.0


class BurstRunner:
    """Burst objects by worker.

    Parameters
    ----------
    burst : callable
        See `records.Burst`.
    """

    def __init__(self, burst: Callable[..., Any]) -> None:
        self.name = getattr(burst, "__qualname__", type(burst).__qualname__)
        self.burst = (
            callable_("burst", burst, "v", "version", "seed", "ctx")
            if not hasattr(burst, "spawn")
            else burst
        )
        self._spawned: dict[int, Callable[..., Any]] = {}

    def for_worker(self, worker: int, seed: int) -> Callable[..., Any]:
        """The burst of a worker; spawned with the seed of the first job it runs here, which no
        other spawn shares.
        """
        spawn = getattr(self.burst, "spawn", None)
        if spawn is None:
            return self.burst
        if worker not in self._spawned:
            self._spawned[worker] = callable_("what spawn returns", spawn(worker, seed))
        return self._spawned[worker]

    def drop(self, worker: int) -> None:
        """Drop the worker's burst: the next job gets a new one."""
        self._spawned.pop(worker, None)

    def run(self, job: Pull) -> BurstResult:
        """Run a job here; every Exception becomes a Done."""
        start, c = time.perf_counter(), job.context
        try:
            push = self.for_worker(c.worker, c.seed)(job.v, c.version, c.seed, c)
        except Exception as error:
            return BurstResult(
                c.id, None, error, format_traceback(error), False, time.perf_counter() - start
            )
        return BurstResult(c.id, push, seconds=time.perf_counter() - start)
