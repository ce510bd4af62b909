"""Workers behind `PoolEvaluator`: threads of ours, processes of ours, a user's executor."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from optex_core._validation import short_repr
from optex_core.errors import CapabilityError
from optex_core.execution.programs import runner
from optex_core.execution.workers.pool import TaskFuture, WorkerPool
from optex_core.execution.workers.process import WorkerProcess
from optex_core.execution.workers.serialization import (
    SerializedObjective,
    SerializedResult,
    forbid_during_import,
    install_objective,
    run_installed_objective,
    run_serialized,
)
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


class ExternalExecutor:
    """Executor that the caller made; it gets the objective with every point, and is never shut
    down.

    An evaluation that it runs cannot be ended from here unless the executor has a method
    ``terminate(future)``, as those made for Dask and Ray have: an abandoned one keeps its worker.

    Parameters
    ----------
    objective : ObjectiveProtocol
    executor : object
        Anything whose ``submit(function, *args)`` returns a `concurrent.futures.Future`.
    """

    replaces_workers = False

    def __init__(self, objective: ObjectiveProtocol, executor: Any) -> None:
        self.name = f"workers={type(executor).__name__}"
        self._objective, self._executor = SerializedObjective(objective), executor
        self.out_of_process = any(k.__module__ in _LOCAL_EXECUTORS for k in type(executor).__mro__)
        self._memory = SharedMemoryPool() if self.out_of_process else None

    def submit(self, task: Task) -> Future[SerializedResult]:
        def submit(*args: Any) -> Future[SerializedResult]:
            future: Future[SerializedResult] = self._executor.submit(
                run_serialized, self._objective, *args
            )
            return future

        args = task.candidate.x, task.context, task.perturbation
        future = submit(*args) if self._memory is None else self._memory.send(submit, *args)
        if not isinstance(future, Future):
            raise CapabilityError(
                f"submit of {self.name} must return a concurrent.futures.Future, "
                f"got {short_repr(future)}"
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


class ThreadWorkers:
    """Threads of ours: for callables that release the GIL, wait for programs, or sleep.

    A thread cannot be ended: an abandoned evaluation keeps its thread, and a new one takes its
    place. A program that it waits for is killed.
    """

    name = "workers='threads'"
    out_of_process = replaces_workers = False

    def __init__(self, objective: ObjectiveProtocol, number: int) -> None:
        self._objective = SerializedObjective(objective)
        self._pool = WorkerPool(ThreadWorker, number)

    def submit(self, task: Task) -> Future[SerializedResult]:
        args = task.candidate.x, task.context, task.perturbation
        return self._pool.submit(run_serialized, self._objective, *args)

    def batch(self) -> AbstractContextManager[None]:
        return self._pool.batch()

    def terminate(self, future: Future[SerializedResult]) -> bool:
        assert isinstance(future, TaskFuture)
        return self._pool.terminate(future)

    def close(self) -> None:
        self._pool.close()
        runner.release_guardian()


class ProcessWorkers:
    """Worker processes of ours, each given the objective once; large vectors in shared memory."""

    out_of_process = replaces_workers = True

    def __init__(self, objective: ObjectiveProtocol, number: int) -> None:
        forbid_during_import()
        self.name = f"workers={number}"
        installed = objective.name, *SerializedObjective(objective).serialize()
        self._pool = WorkerPool(lambda: WorkerProcess(install_objective, *installed), number)
        self._memory = SharedMemoryPool()

    def submit(self, task: Task) -> Future[SerializedResult]:
        return self._memory.send(
            lambda *args: self._pool.submit(run_installed_objective, *args),
            task.candidate.x,
            task.context,
            task.perturbation,
        )

    def batch(self) -> AbstractContextManager[None]:
        return self._pool.batch()

    def terminate(self, future: Future[SerializedResult]) -> bool:
        assert isinstance(future, TaskFuture)
        return self._pool.terminate(future)

    def close(self) -> None:
        self._pool.close()
        self._memory.close()
