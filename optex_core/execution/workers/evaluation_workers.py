"""Workers behind `PoolEvaluator`: threads or processes of ours, or a user's executor."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol

from optex_core._validation import short_repr
from optex_core.errors import CapabilityError
from optex_core.execution.programs import runner
from optex_core.execution.workers import serialization
from optex_core.execution.workers.pool import TaskFuture, WorkerPool
from optex_core.execution.workers.process import WorkerProcess
from optex_core.execution.workers.serialization import SerializedObjective, SerializedResult
from optex_core.execution.workers.shared_memory import SharedMemoryPool
from optex_core.execution.workers.thread import ThreadWorker
from optex_core.types import ObjectiveProtocol, Task

#: Modules of executors whose processes are known to run on this machine: memory can be shared.
_LOCAL_EXECUTORS = (
    "concurrent.futures.process",
    "loky.process_executor",
    "loky.reusable_executor",
)


class EvaluationWorkers(Protocol):
    """Workers as `PoolEvaluator` uses them.

    Attributes
    ----------
    name : str
        In error messages.
    out_of_process : bool
        As in `Evaluator`.
    replaces_workers : bool
        True where a dead worker is replaced, and what was lost can be submitted again.
    """

    name: str
    out_of_process: bool
    replaces_workers: bool

    def submit(self, task: Task) -> Future[SerializedResult]:
        """Start an evaluation."""
        ...

    def batch(self) -> AbstractContextManager[None]:
        """Context within which several are submitted."""
        ...

    def terminate(self, future: Future[SerializedResult]) -> bool:
        """Abandon an evaluation and free its worker; False where it runs on."""
        ...

    def close(self) -> None:
        """End the workers at once, if they are ours."""
        ...


class OwnWorkers:
    """Worker pool of ours, which runs ``function(x, context, perturbation)``.

    A thread cannot be ended: an abandoned evaluation keeps its thread, and a new one takes its
    place. A program that it waits for is killed.
    """

    def __init__(
        self, name: str, pool: WorkerPool, function: Callable[..., object], *, processes: bool
    ) -> None:
        self.name, self._pool, self._function = name, pool, function
        self.out_of_process = self.replaces_workers = processes
        self._memory = SharedMemoryPool() if processes else None

    @classmethod
    def threads(cls, objective: ObjectiveProtocol, number: int) -> OwnWorkers:
        """Threads: for callables that release the GIL, wait for programs, or sleep."""
        run = partial(serialization.run_serialized, SerializedObjective(objective))
        return cls("workers='threads'", WorkerPool(ThreadWorker, number), run, processes=False)

    @classmethod
    def processes(cls, objective: ObjectiveProtocol, number: int) -> OwnWorkers:
        """Processes, each given the objective once; large vectors travel in shared memory."""
        serialization.forbid_during_import()
        installed = objective.name, *SerializedObjective(objective).serialize()
        install = serialization.install_objective
        pool = WorkerPool(lambda: WorkerProcess(install, *installed), number)
        run = serialization.run_installed_objective
        return cls(f"workers={number}", pool, run, processes=True)

    def submit(self, task: Task) -> Future[SerializedResult]:
        def submit(*args: object) -> Future[SerializedResult]:
            return self._pool.submit(self._function, *args)

        item = serialization.as_item(task)
        return submit(*item) if self._memory is None else self._memory.send(submit, *item)

    def batch(self) -> AbstractContextManager[None]:
        return self._pool.batch()

    def terminate(self, future: Future[SerializedResult]) -> bool:
        return isinstance(future, TaskFuture) and self._pool.terminate(future)

    def close(self) -> None:
        self._pool.close()
        runner.release_guardian()
        if self._memory is not None:
            self._memory.close()


class ExternalExecutor:
    """Executor that the caller made, with ``submit(function, *args)``; it gets the objective with
    every point, and is never shut down.

    An evaluation that it runs cannot be ended from here unless the executor has a method
    ``terminate(future)``, as those made for Dask and Ray have: an abandoned one keeps its worker.
    """

    replaces_workers = False

    def __init__(self, objective: ObjectiveProtocol, executor: Any) -> None:
        self.name = f"workers={type(executor).__name__}"
        self._objective, self._executor = SerializedObjective(objective), executor
        self.out_of_process = any(k.__module__ in _LOCAL_EXECUTORS for k in type(executor).__mro__)
        self._memory = SharedMemoryPool() if self.out_of_process else None

    def submit(self, task: Task) -> Future[SerializedResult]:
        def submit(*args: Any) -> Any:
            return self._executor.submit(serialization.run_serialized, self._objective, *args)

        item = serialization.as_item(task)
        future = submit(*item) if self._memory is None else self._memory.send(submit, *item)
        if not isinstance(future, Future):
            raise CapabilityError(
                f"submit of {self.name} must return a concurrent.futures.Future, got "
                f"{short_repr(future)}"
            )
        return future

    def batch(self) -> AbstractContextManager[None]:
        return nullcontext()

    def terminate(self, future: Future[SerializedResult]) -> bool:
        terminate = getattr(self._executor, "terminate", None)
        return bool(terminate(future)) if callable(terminate) else future.cancel()

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()
