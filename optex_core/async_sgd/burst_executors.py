"""Executors of bursts: the caller's thread, or workers in the background."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from dataclasses import replace
from typing import Any

from optex_core._validation import callable_, short_repr
from optex_core.async_sgd.records import BurstContext, BurstResult, BurstStatus, Pull, Push
from optex_core.errors import ArgumentTypeError, CapabilityError, EvaluationError, format_traceback
from optex_core.execution.factory import make_workers
from optex_core.execution.workers.evaluation_workers import Workers
from optex_core.execution.workers.serialization import SerializedResult
from optex_core.execution.workers.shared_memory import SharedArrayHandle, open_vector, store_result
from optex_core.types import Array

_EXPECTED = (
    "None (this thread), at least 1 process, 'threads', 'processes', an executor with submit "
    "(such as concurrent.futures.ThreadPoolExecutor(4)), or a distributed.Client"
)


class BurstRunner:
    """Burst objects by worker, from a `Burst`; for evaluations with ``evaluate(v, ctx)``."""

    def __init__(self, burst: Callable[..., object]) -> None:
        self.name = getattr(burst, "__qualname__", type(burst).__qualname__)
        if not hasattr(burst, "spawn"):
            callable_("burst", burst, "v", "ctx")
        self.burst: Any = burst
        self._spawned: dict[int, Callable[..., Any]] = {}

    def for_worker(self, worker: int, seed: int) -> Callable[..., Any]:
        """The burst of a worker; spawned with the seed of the first burst that it runs here, which
        no other spawn shares.
        """
        if not hasattr(self.burst, "spawn"):
            burst: Callable[..., Any] = self.burst
            return burst
        if worker not in self._spawned:
            spawned = self.burst.spawn(worker, seed)
            self._spawned[worker] = callable_("the object that spawn returns", spawned)
        return self._spawned[worker]

    def drop(self, worker: int) -> None:
        """Forget the burst of a worker: the next is spawned anew."""
        self._spawned.pop(worker, None)

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


def _run_burst(
    runner: BurstRunner, v: Array | SharedArrayHandle, context: BurstContext, evaluation: bool
) -> SerializedResult:
    """Run a burst in a worker; a large sum of steps goes back the way the parameters have come."""
    vector = open_vector(v)
    if vector.flags.writeable:  # unpickled arrays are
        vector.flags.writeable = False
    result = runner.run(Pull(vector, context, evaluation))
    push = result.push
    if isinstance(v, SharedArrayHandle) and isinstance(push, Push):
        b = push.b
        if getattr(b, "shape", None) == vector.shape and b.dtype == vector.dtype:
            result = replace(result, push=replace(push, b=store_result(v, b)))
    return SerializedResult(result)


class SerialExecutor:
    """Bursts in this thread: each `next` runs the oldest; N workers in turn give every push, after
    the first N, the delay N - 1. Methods as of `BackgroundExecutor`.
    """

    background = False

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

    def overdue(self, seconds: float) -> list[int]:
        return []

    def give_up(self, burst_id: int) -> None:
        self._waiting = deque(pull for pull in self._waiting if pull.id != burst_id)

    def abandon(self) -> None:
        self._waiting.clear()

    close = abandon


class BackgroundExecutor:
    """Bursts on `Workers`. It decides nothing: the loop says what a failure means and when to stop.

    In threads and processes of ours worker w runs on worker w modulo their number and stays there,
    so that spawned bursts keep their state; one that dies or hangs costs its burst and is replaced.
    In a user's pool a spawned burst lives in each process that has run its worker, begun with
    another seed in each.
    """

    background = True  # bursts run while `next` waits

    def __init__(self, runner: BurstRunner, workers: Workers) -> None:
        self._runner, self._workers = runner, workers

    @property
    def pending(self) -> int:
        """Bursts that neither came back nor were given up."""
        return len(self._workers.running)

    def submit(self, pull: Pull) -> None:
        """Start a burst on the worker that its context names, behind what that worker has to do
        already; an evaluation on any worker.
        """
        worker = None if pull.evaluation else pull.context.worker
        call = pull.v, pull.context, pull.evaluation
        try:
            self._workers.submit(*call, key=pull.id, worker=worker)
        except (BrokenExecutor, RuntimeError) as error:  # RuntimeError: shut down
            raise EvaluationError(
                f"{self._workers.name} takes no work ({error}). It is the caller's pool and is not "
                "replaced here; with workers=<number of processes> a dead worker costs its burst "
                "and is replaced"
            ) from error

    def next(self, timeout: float | None = None) -> list[BurstResult]:
        """Wait until a burst has ended and return all that have; an empty list after `timeout`
        seconds, and where nothing is pending.
        """
        return [_result(burst_id, future) for burst_id, future in self._workers.wait(timeout)]

    def overdue(self, seconds: float) -> list[int]:
        """Ids of bursts that have run for more than `seconds`."""
        latest = time.perf_counter() - seconds
        return [burst_id for burst_id, at in self._workers.started().items() if at < latest]

    def give_up(self, burst_id: int) -> None:
        """Stop waiting for a burst, end it where that is possible, and replace its worker."""
        future = self._workers.forget(burst_id)
        pinned = getattr(future, "worker", None)
        if not self._workers.terminate(future):
            future.cancel()  # else its place in a user's pool stays taken
            if pinned is not None:
                # A thread cannot be ended. It keeps its burst objects: what it still does there
                # must not meet the next burst.
                self._runner.drop(pinned)

    def abandon(self) -> None:
        """Stop waiting for all bursts, without waiting for their end."""
        for burst_id in list(self._workers.running):
            if self._workers.pool is None:
                self._workers.forget(burst_id).cancel()
            else:
                self.give_up(burst_id)

    def close(self) -> None:
        """End what was started here, without waiting; a user's own pool is left as it is."""
        self._workers.close()


BurstExecutor = SerialExecutor | BackgroundExecutor


def _result(burst_id: int, future: Future[SerializedResult]) -> BurstResult:
    try:
        result: BurstResult = future.result().result
        return result
    except (BrokenExecutor, CancelledError):
        return BurstResult(burst_id, failure=BurstStatus.WORKER)
    except Exception as error:  # of the transport: errors of bursts are in their results
        return BurstResult(burst_id, error=error, failure=BurstStatus.ERROR)


def make_burst_executor(
    runner: BurstRunner, workers: object, parallelism: int, timeout: float | None
) -> BurstExecutor:
    """The executor that the argument `workers` of `run` stands for."""
    if workers is None:
        if timeout is not None:
            raise CapabilityError(
                "timeout needs workers that run in the background, got workers=None; pass "
                "'threads', 'processes' or a pool"
            )
        return SerialExecutor(runner)
    made = make_workers(_run_burst, runner, workers, parallelism, _EXPECTED)
    if made is None:
        raise ArgumentTypeError(f"workers must be {_EXPECTED}; got {short_repr(workers)}")
    return BackgroundExecutor(runner, made)
