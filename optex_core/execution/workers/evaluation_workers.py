"""Workers behind `PoolEvaluator` and asynchronous SGD: threads or processes of ours, or a user's
executor.
"""

from __future__ import annotations

import queue
import time
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

from optex_core._validation import short_repr
from optex_core.errors import CapabilityError
from optex_core.execution import programs
from optex_core.execution.workers import serialization
from optex_core.execution.workers.pool import WorkerPool
from optex_core.execution.workers.process import WorkerProcess
from optex_core.execution.workers.serialization import Run, SerializedObjective
from optex_core.execution.workers.shared_memory import SharedMemoryPool
from optex_core.execution.workers.thread import ThreadWorker

#: Of a call: (id, attempt) of a task, or the id of a burst.
Key: TypeAlias = Any
AnyFuture: TypeAlias = Future[Any]

#: Modules of executors whose processes are known to run on this machine: memory can be shared.
_LOCAL_EXECUTORS = ("concurrent.futures.process", "loky.process_executor", "loky.reusable_executor")


class Workers:
    """Workers that run ``run(target, x, *rest)``, a module-level function that returns a
    `SerializedResult`. Large vectors `x` travel to processes of this machine in shared memory.

    Attributes
    ----------
    name : str
        In error messages.
    pool : WorkerPool or None
        Ours.
    replaces_workers : bool
        True where a dead worker is replaced, and what was lost can be submitted again.
    """

    def __init__(self, name: str, executor: Any, call: tuple[object, ...], *, local: bool) -> None:
        self.name, self._executor, self._call = name, executor, call
        self.pool = executor if isinstance(executor, WorkerPool) else None
        self.replaces_workers = local and self.pool is not None
        self._memory = SharedMemoryPool() if local else None
        self.running: dict[Key, AnyFuture] = {}
        # Not `concurrent.futures.wait`: it locks all futures each time, 0.1 ms of the 0.3 that a
        # result took.
        self._finished: queue.SimpleQueue[tuple[Key, AnyFuture]] = queue.SimpleQueue()
        self._first_seen_running: dict[Key, float] = {}
        self.owned = self.pool is not None  # True: `close` ends the executor

    @classmethod
    def threads(cls, run: Run, target: object, number: int) -> Workers:
        """Threads of ours: for what releases the GIL, waits for programs, or sleeps. One that hangs
        cannot be ended; it keeps what it runs, and a new one takes its place.
        """
        pool = WorkerPool(ThreadWorker, number)
        return cls("workers='threads'", pool, (run, target), local=False)

    @classmethod
    def processes(cls, run: Run, target: Any, number: int) -> Workers:
        """Processes of ours, each given the target once."""
        serialization.forbid_during_import()
        install = serialization.install_objective
        installed = run, target.name, *SerializedObjective(target).serialize()
        pool = WorkerPool(lambda: WorkerProcess(install, *installed), number)
        return cls(f"workers={number}", pool, (serialization.run_installed,), local=True)

    @classmethod
    def external(cls, run: Run, target: Any, executor: Any) -> Workers:
        """The caller's executor, which gets the target with every call and is not shut down. What
        it runs can be ended where it has a method ``terminate(future)``, as those for Dask and Ray.
        """
        local = any(kind.__module__ in _LOCAL_EXECUTORS for kind in type(executor).__mro__)
        call = serialization.run_serialized, run, SerializedObjective(target)
        return cls(f"workers={type(executor).__name__}", executor, call, local=local)

    def submit(
        self, x: object, *rest: object, key: Key = None, worker: int | None = None
    ) -> AnyFuture:
        """Start a call and return its future; on the worker of ours with that number, if one is
        given. A call with a `key` is `running` until `wait` returns it, or it is forgotten.
        """
        pin = {} if self.pool is None else {"worker": worker}

        def submit(*args: object) -> AnyFuture:
            return self._executor.submit(*self._call, *args, **pin)

        memory = self._memory
        future = submit(x, *rest) if memory is None else memory.send(submit, x, *rest)
        if not isinstance(future, Future):
            raise CapabilityError(
                f"submit of {self.name} must return a concurrent.futures.Future, got "
                f"{short_repr(future)}"
            )
        if key is not None:
            self.running[key] = future
            future.add_done_callback(lambda f: self._finished.put((key, f)))
        return future

    def batch(self) -> AbstractContextManager[None]:
        """Context within which several are submitted."""
        return nullcontext() if self.pool is None else self.pool.batch()

    def wait(self, timeout: float | None) -> list[tuple[Key, AnyFuture]]:
        """The calls that are done, and not `running` any more: at least one of them, unless
        `timeout` seconds pass before.
        """
        end = None if timeout is None else time.monotonic() + timeout
        done: list[tuple[Key, AnyFuture]] = []
        while self.running:
            left = None if end is None else max(0.0, end - time.monotonic())
            try:
                key, future = self._finished.get(not done, None if done else left)
            except queue.Empty:
                break
            if self.running.get(key) is future:  # else it was forgotten
                done.append((key, self.forget(key)))
        return done

    def started(self) -> dict[Key, float]:
        """Start times (`time.perf_counter`) of the calls that run, by key."""
        now, found = time.perf_counter(), {}
        for key, future in self.running.items():
            if future.running():  # what is done waits for the driver, which may be in a callback
                seen = self._first_seen_running.setdefault(key, now)
                found[key] = getattr(future, "started_at", None) or seen
        return found

    def forget(self, key: Key) -> AnyFuture:
        """Take a call from those that are running."""
        self._first_seen_running.pop(key, None)
        return self.running.pop(key)

    def cancel(self) -> list[Key]:
        """Cancel and forget what has not begun; its keys."""
        cancelled = [key for key, future in self.running.items() if future.cancel()]
        for key in cancelled:
            self.forget(key)
        return cancelled

    def terminate(self, future: AnyFuture) -> bool:
        """Abandon a call and free its worker; False where it runs on."""
        terminate = getattr(self._executor, "terminate", None)
        return bool(terminate(future)) if callable(terminate) else future.cancel()

    def close(self) -> None:
        """Cancel what has not begun, forget the rest, and end the workers at once, if ours."""
        self.cancel()
        self.running.clear()
        if self.pool is not None:
            self.pool.close()
            programs.release_guardian()
        elif self.owned:
            self._executor.shutdown(wait=False, cancel_futures=True)
        if self._memory is not None:
            self._memory.close()
