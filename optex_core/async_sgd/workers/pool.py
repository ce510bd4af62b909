"""The user's pool: any concurrent.futures.Executor, or a client of a Dask cluster."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from typing import Any, ClassVar

from optex_core.async_sgd.records import Pull
from optex_core.async_sgd.workers.base import BurstExecutor
from optex_core.async_sgd.workers.burst_runner import BurstResult, BurstRunner
from optex_core.async_sgd.workers.serialization import as_burst_result, run_sent, serialize_runner
from optex_core.errors import EvaluationError

logger = logging.getLogger("optex_core")


class UserExecutor(BurstExecutor):
    """Bursts in a pool that the caller made and keeps: of it, ``submit`` and standard futures are
    used.

    Which process runs a worker's next burst is the pool's choice. A spawned burst lives in each
    process that has run its worker, begun with another seed in each, and goes on there when the
    worker comes back.

    Parameters
    ----------
    team : BurstRunner
        Whose bursts run.
    executor : object
        With ``submit(function, *args) -> Future``.
    """

    background: ClassVar[bool] = True

    def __init__(self, runner: BurstRunner, executor: Any) -> None:
        self._parcel = serialize_runner(runner)
        self._executor = executor
        # job -> future, and when it was first seen to run
        self._running: dict[int, tuple[Any, float | None]] = {}
        self._ended: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()

    @property
    def pending(self) -> int:
        return len(self._running)

    def submit(self, job: Pull) -> None:
        try:
            future = self._send(job)
        except (BrokenExecutor, RuntimeError) as error:  # RuntimeError: shut down
            raise EvaluationError(
                f"workers={type(self._executor).__name__} takes no work ({error}). It "
                f"is the caller's pool and is not replaced here; "
                "with workers=<number of processes> a dead worker costs its burst and is replaced"
            ) from error
        self._running[job.id] = future, None
        future.add_done_callback(self._note(job.id))

    def next(self, timeout: float | None = None) -> list[BurstResult]:
        end = None if timeout is None else time.monotonic() + timeout
        found: list[BurstResult] = []
        while self._running:
            left = None if end is None else max(0.0, end - time.monotonic())
            try:
                job, future = self._ended.get(block=not found, timeout=None if found else left)
            except queue.Empty:
                break
            if self._running.pop(job, None) is not None:  # else it was given up
                found.append(self._burst_result(job, future))
        return found

    def overdue(self, seconds: float) -> list[int]:
        now, late = time.monotonic(), []
        for job, (future, since) in self._running.items():
            if since is None:
                if self._begun(future):
                    self._running[job] = future, now
            elif now - since > seconds:
                late.append(job)
        return late

    def give_up(self, job: int) -> list[int]:
        future, _ = self._running.pop(job)
        # pools of `optex_core.executors` can; in others its place stays taken until it returns
        end = getattr(self._executor, "end", None)
        if callable(end):
            end(future)
        else:
            future.cancel()
        return []

    def close(self) -> None:
        for future, _ in self._running.values():
            future.cancel()
        self._running.clear()

    def _note(self, job: int) -> Callable[[Any], None]:
        return lambda future: self._ended.put((job, future))

    def _send(self, job: Pull) -> Any:
        future: Future[Any] = self._executor.submit(run_sent, self._parcel, job.v, job.context)
        return future

    def _begun(self, future: Any) -> bool:
        return bool(future.running())

    def _burst_result(self, job: int, future: Any) -> BurstResult:
        try:
            return as_burst_result(job, future.result())
        except (BrokenExecutor, CancelledError):
            return BurstResult(job, lost=True)
        except Exception as error:
            # of the way and not of the burst, whose errors come back in its report
            return BurstResult(job, None, error)


class DaskExecutor(UserExecutor):
    """Bursts on the workers of a Dask cluster: worker w prefers the Dask worker w modulo their
    number, in the order of their addresses.

    A burst whose Dask worker dies is run again by the scheduler, with the same seed, on another
    one; the master applies it once.

    Parameters
    ----------
    team : BurstRunner
        Whose bursts run.
    client : distributed.Client
        Stays open.
    """

    def __init__(self, runner: BurstRunner, client: Any) -> None:
        super().__init__(runner, client)
        self._sent: Any = None
        self._addresses: list[str] = []
        self._looked = -1.0

    def _send(self, job: Pull) -> Any:
        if self._sent is None:
            # Once, and not with every burst: the parcel may hold a user's data.
            self._sent = self._executor.scatter(self._parcel, broadcast=True, hash=False)
        if time.monotonic() - self._looked > 5.0:  # workers come and go
            self._addresses, self._looked = (
                sorted(self._executor.scheduler_info(n_workers=-1)["workers"]),
                time.monotonic(),
            )
        preferred = {}
        if self._addresses:
            address = self._addresses[job.context.worker % len(self._addresses)]
            preferred = {"workers": [address], "allow_other_workers": True}
        return self._executor.submit(
            run_sent, self._sent, job.v, job.context, pure=False, **preferred
        )

    def _begun(self, future: Any) -> bool:
        return False  # a client does not know when a task begins: see `overdue`

    def overdue(self, seconds: float) -> list[int]:
        """Ids of jobs that some Dask worker has run for more than `seconds`; the scheduler is
        asked, which takes a few ms.
        """
        running = {key for keys in self._executor.processing().values() for key in keys}
        now, late = time.monotonic(), []
        for job, (future, since) in self._running.items():
            if since is None:
                if future.key in running:
                    self._running[job] = future, now
            elif now - since > seconds:
                late.append(job)
        return late

    def give_up(self, job: int) -> list[int]:
        """Let the nanny restart the worker process that runs the job; Dask runs anew what else was
        on it.
        """
        future, _ = self._running.pop(job)
        where = next(
            (
                address
                for address, keys in self._executor.processing().items()
                if future.key in keys
            ),
            None,
        )
        future.cancel()
        if where is not None and self._executor.scheduler_info(n_workers=-1)["workers"].get(
            where, {}
        ).get("nanny"):
            # Takes seconds, which nobody has to wait for.
            threading.Thread(
                target=self._restart, args=(where,), name="optex-core-dask", daemon=True
            ).start()
        return []

    def _restart(self, address: str) -> None:
        try:
            answer = self._executor.restart_workers([address], raise_for_error=False).get(address)
        except Exception as error:
            # it is gone already, or the client is closed: nobody is there to tell but the log
            answer = error
        if answer != "OK":
            logger.warning(
                "the Dask worker %s could not be restarted (%s): a burst that was "
                "given up may still keep it",
                address,
                answer,
            )

    def _burst_result(self, job: int, future: Any) -> BurstResult:
        from distributed.scheduler import KilledWorker

        try:
            return as_burst_result(job, future.result())
        except KilledWorker:
            return BurstResult(job, lost=True)
        except CancelledError:  # what was scattered went with the last worker that held it
            self._sent = None
            return BurstResult(job, lost=True)
        except Exception as error:
            return BurstResult(job, None, error)
