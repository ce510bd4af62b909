"""Workers one by one: each evaluates one point at a time, and one that hangs or dies is replaced while the others go on.

A pool whose processes share a queue is broken as a whole when one of them dies: what the others were computing is lost with it, and one evaluation
cannot be ended alone. Here every worker is an executor of one and the queue is ours: an evaluation is handed over only when a worker is up and free,
so it is known which worker runs what, and since when.
"""

from __future__ import annotations

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, InvalidStateError
from typing import Any

from optex_core.execution.parcels import Sealed


class WorkerLost(BrokenExecutor):
    """The worker that ran an evaluation is gone; the others are not affected."""


class Worker(ABC):
    """Takes one call at a time."""

    @abstractmethod
    def warm(self) -> Future[Any]:
        """A future that is done when the worker is up."""

    @abstractmethod
    def call(self, *args: Any) -> Future[Any]:
        """Start a call; BrokenExecutor if the worker is gone."""

    @abstractmethod
    def end(self, *, wait: bool = True) -> bool:
        """End the worker at once, with what it runs; False where that runs on, and the worker ends after it. `wait`: until it is gone."""


class Ride(Future[Sealed]):
    """One evaluation on its way.

    Attributes
    ----------
    args : tuple
        Of the call.
    since : float or None
        When a worker was given it, on the clock `time.perf_counter`; None while it waits.
    """

    def __init__(self, args: tuple[Any, ...]) -> None:
        super().__init__()
        self.args = args
        self.since: float | None = None


class _Seat:
    """A worker's place."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.up = False
        self.ride: Ride | None = None


class Fleet:
    """Workers, and the queue before them.

    Parameters
    ----------
    make : callable
        Makes one worker.
    number : int
        How many at most; they are made as they are needed, in the thread that sends or ends.
    """

    def __init__(self, make: Callable[[], Worker], number: int) -> None:
        self._make, self._number = make, number
        self._seats: list[_Seat] = []
        self._waiting: deque[Ride] = deque()
        self._dead: list[Worker] = []
        self._halted = False  # by an interrupt that a call has raised: what waits is not begun before somebody has heard of it
        self._lock = threading.RLock()  # futures call back in the threads of their executors

    def send(self, *args: Any) -> Ride:
        """Queue a call."""
        ride = Ride(args)
        with self._lock:
            self._waiting.append(ride)
            self._halted = False
        self._bury()
        self._dispatch()
        self._hire()
        return ride

    def end(self, ride: Ride) -> bool:
        """Free the slot of a call that runs by replacing its worker; False if the call itself runs on, apart from the others."""
        with self._lock:
            seat = next((s for s in self._seats if s.ride is ride), None)
            if seat is None:  # it has come back, or still waits
                return ride.done() or ride.cancel()
            self._seats.remove(seat)
        ended = seat.worker.end()
        if ended:
            _settle(ride, error=WorkerLost("its worker was ended"))
        self._hire()
        return ended

    def close(self) -> None:
        """End everything at once."""
        with self._lock:
            seats, self._seats = self._seats, []
            rides = [*self._waiting, *(s.ride for s in seats if s.ride is not None)]
            self._waiting.clear()
        for wait in (False, True):  # all are told before the first is waited for
            for seat in seats:
                seat.worker.end(wait=wait)
        for ride in rides:
            if not ride.cancel():
                _settle(ride, error=WorkerLost("the pool is closed"))
        self._bury()

    def _hire(self) -> None:
        """Make workers while more calls wait than workers are on their way."""
        while True:
            with self._lock:
                starting = sum(not seat.up for seat in self._seats)
                if len(self._waiting) <= starting or len(self._seats) >= self._number:
                    return
            seat = _Seat(self._make())
            with self._lock:
                self._seats.append(seat)
            seat.worker.warm().add_done_callback(lambda f, seat=seat: self._up(seat, f))  # type: ignore[misc]

    def _bury(self) -> None:
        """End what dead workers have left; not in their own threads, which would wait for themselves."""
        with self._lock:
            dead, self._dead = self._dead, []
        for worker in dead:
            worker.end()

    def _up(self, seat: _Seat, future: Future[Any]) -> None:
        with self._lock:
            if seat not in self._seats:
                return
            if not future.cancelled() and not isinstance(future.exception(), BrokenExecutor):
                seat.up = True
                lost = None
            else:  # died before its first call: one that waits is told, so that somebody notices
                lost = self._discard(seat) or (self._waiting.popleft() if self._waiting else None)
        if lost is not None:
            _settle(lost, error=WorkerLost("a worker process died while it started"))
        self._dispatch()

    def _dispatch(self) -> None:
        """Give waiting calls to free workers."""
        while True:
            with self._lock:
                seat = next((s for s in self._seats if s.up and s.ride is None), None)
                if seat is None or not self._waiting or self._halted:
                    return
                ride = self._waiting.popleft()
                if not ride.set_running_or_notify_cancel():
                    continue
                seat.ride, ride.since = ride, time.perf_counter()
            try:
                future = seat.worker.call(*ride.args)
            except BrokenExecutor as error:  # died while it was idle
                with self._lock:
                    self._discard(seat)
                _settle(ride, error=WorkerLost(str(error)))
            except BaseException as error:
                with self._lock:
                    seat.ride = None
                _settle(ride, error=error)
            else:
                future.add_done_callback(lambda f, seat=seat, ride=ride: self._back(seat, ride, f))  # type: ignore[misc]

    def _back(self, seat: _Seat, ride: Ride, future: Future[Any]) -> None:
        error = WorkerLost("its call was dropped") if future.cancelled() else future.exception()
        with self._lock:
            if seat.ride is ride:
                seat.ride = None
            self._halted = self._halted or (error is not None and not isinstance(error, Exception))
            if isinstance(error, BrokenExecutor) and seat in self._seats:
                self._discard(seat)
        self._dispatch()
        if isinstance(error, BrokenExecutor):
            _settle(ride, error=WorkerLost(str(error)))
        else:
            _settle(ride, error=error, result=None if error is not None else future.result())

    def _discard(self, seat: _Seat) -> Ride | None:
        """Take a dead worker out; the call it had."""
        if seat in self._seats:
            self._seats.remove(seat)
            self._dead.append(seat.worker)
        ride, seat.ride = seat.ride, None
        return ride


def _settle(ride: Ride, *, error: BaseException | None = None, result: Any = None) -> None:
    with contextlib.suppress(InvalidStateError):  # it was settled or cancelled before: an ended worker reports its own end too
        if error is not None:
            ride.set_exception(error)
        else:
            ride.set_result(result)
