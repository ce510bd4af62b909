"""Workers behind `PoolEvaluator` and asynchronous SGD: threads or processes of ours, or a user's
executor.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from optex_core._validation import short_repr
from optex_core.errors import CapabilityError
from optex_core.execution.programs import runner
from optex_core.execution.workers import serialization
from optex_core.execution.workers.pool import WorkerPool
from optex_core.execution.workers.process import WorkerProcess
from optex_core.execution.workers.serialization import SerializedObjective
from optex_core.execution.workers.shared_memory import SharedMemoryPool
from optex_core.execution.workers.thread import ThreadWorker

#: Modules of executors whose processes are known to run on this machine: memory can be shared.
_LOCAL_EXECUTORS = (
    "concurrent.futures.process",
    "loky.process_executor",
    "loky.reusable_executor",
)


class Workers:
    """Workers that run ``run(target, x, *rest)``, a module-level function that returns a
    `SerializedResult`. Large vectors `x` travel to processes of this machine in shared memory.

    Attributes
    ----------
    name : str
        In error messages.
    pool : WorkerPool or None
        Ours.
    out_of_process : bool
        As in `Evaluator`.
    replaces_workers : bool
        True where a dead worker is replaced, and what was lost can be submitted again.
    """

    def __init__(self, name: str, executor: Any, call: tuple[Any, ...], *, local: bool) -> None:
        self.name, self._executor, self._call = name, executor, call
        self.pool = executor if isinstance(executor, WorkerPool) else None
        self.out_of_process, self.replaces_workers = local, local and self.pool is not None
        self._memory = SharedMemoryPool() if local else None
        self.owned = self.pool is not None  # True: `close` ends the executor

    @classmethod
    def threads(cls, run: Callable[..., object], target: object, number: int) -> Workers:
        """Threads of ours: for what releases the GIL, waits for programs, or sleeps. One that hangs
        cannot be ended; it keeps what it runs, and a new one takes its place.
        """
        pool = WorkerPool(ThreadWorker, number)
        return cls("workers='threads'", pool, (run, target), local=False)

    @classmethod
    def processes(cls, run: Callable[..., object], target: Any, number: int) -> Workers:
        """Processes of ours, each given the target once."""
        serialization.forbid_during_import()
        install = serialization.install_objective
        installed = target.name, *SerializedObjective(target).serialize()
        pool = WorkerPool(lambda: WorkerProcess(install, *installed), number)
        return cls(f"workers={number}", pool, (serialization.run_installed, run), local=True)

    @classmethod
    def external(cls, run: Callable[..., object], target: Any, executor: Any) -> Workers:
        """The caller's executor, which gets the target with every call and is not shut down. What
        it runs can be ended where it has a method ``terminate(future)``, as those for Dask and Ray.
        """
        local = any(kind.__module__ in _LOCAL_EXECUTORS for kind in type(executor).__mro__)
        call = serialization.run_serialized, run, SerializedObjective(target)
        return cls(f"workers={type(executor).__name__}", executor, call, local=local)

    def submit(self, x: object, *rest: object, worker: int | None = None) -> Future[Any]:
        """Start a call; on the worker of ours with that number, if one is given."""
        pin = {} if self.pool is None else {"worker": worker}

        def submit(*args: object) -> Any:
            return self._executor.submit(*self._call, *args, **pin)

        memory = self._memory
        future = submit(x, *rest) if memory is None else memory.send(submit, x, *rest)
        if not isinstance(future, Future):
            raise CapabilityError(
                f"submit of {self.name} must return a concurrent.futures.Future, got "
                f"{short_repr(future)}"
            )
        return future

    def batch(self) -> AbstractContextManager[None]:
        """Context within which several are submitted."""
        return nullcontext() if self.pool is None else self.pool.batch()

    def terminate(self, future: Future[Any]) -> bool:
        """Abandon a call and free its worker; False where it runs on."""
        terminate = getattr(self._executor, "terminate", None)
        return bool(terminate(future)) if callable(terminate) else future.cancel()

    def close(self) -> None:
        """End the workers at once, if they are ours."""
        if self.pool is not None:
            self.pool.close()
            runner.release_guardian()
        elif self.owned:
            self._executor.shutdown(wait=False, cancel_futures=True)
        if self._memory is not None:
            self._memory.close()
