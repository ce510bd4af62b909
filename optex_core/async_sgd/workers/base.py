"""The seam between the loop and whatever runs bursts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from optex_core.async_sgd.records import Pull
from optex_core.async_sgd.workers.burst_runner import BurstResult


class BurstExecutor(ABC):
    """Runs jobs and hands back how they ended; also a context manager that closes itself.

    It decides nothing: what a failure means and when to stop is the loop's.

    Attributes
    ----------
    background : bool
        True where bursts run while `next` waits; False where `next` itself runs one.
    """

    background: ClassVar[bool] = False

    @property
    @abstractmethod
    def pending(self) -> int:
        """Jobs that have neither come back nor were given up."""

    @abstractmethod
    def submit(self, job: Pull) -> None:
        """Start a job on the worker that its context names, behind what that worker has to do
        already.
        """

    @abstractmethod
    def next(self, timeout: float | None = None) -> list[BurstResult]:
        """Wait until a job has ended and return all that have; an empty list after `timeout`
        seconds.
        """

    def overdue(self, seconds: float) -> list[int]:
        """Ids of jobs that have run for more than `seconds`."""
        return []

    @abstractmethod
    def give_up(self, job: int) -> list[int]:
        """Stop waiting for a job and free its worker; returns the ids of other jobs that are lost
        by it.
        """

    @abstractmethod
    def close(self) -> None:
        """End what was started here, without waiting; a user's own pool is left as it is."""

    def __enter__(self) -> BurstExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
