"""The three kinds of pool behind `PoolEvaluator`: the user's, our threads, our processes."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from optex_core._validation import short_repr
from optex_core.errors import CapabilityError
from optex_core.execution.programs import runner as programs
from optex_core.execution.workers.pool import PoolWorker, TaskFuture, WorkerPool
from optex_core.execution.workers.process import WorkerProcess
from optex_core.execution.workers.serialization import (
    SerializedObjective,
    SerializedReport,
    forbid_during_import,
    install_objective,
    preload_objective,
    run_installed_objective,
    run_serialized,
)
from optex_core.execution.workers.shared_memory import SharedMemoryPool
from optex_core.types import Array, Context, ObjectiveProtocol


class ExternalExecutor:
    """A pool that the caller made: it is given the objective with every point, and is never shut
    down.

    An evaluation that it runs cannot be ended from here unless the executor has a method
    ``terminate(future)``, as those of Dask and Ray have that we make: given up, it keeps its worker
    until it returns.

    Parameters
    ----------
    objective : Evaluable
        What to evaluate.
    executor : object
        Anything whose ``submit(function, *args)`` returns a `concurrent.futures.Future`.
    """

    def __init__(self, objective: ObjectiveProtocol, executor: Any) -> None:
        self.name = f"workers={type(executor).__name__}"
        self._objective = SerializedObjective(objective)
        self._executor = executor
        # Memory can be shared with processes of this machine, which is known of no other kind of
        # pool.
        local = ("concurrent.futures.process", "loky.process_executor", "loky.reusable_executor")
        self.out_of_process = any(kind.__module__ in local for kind in type(executor).__mro__)
        self._shared_memory = SharedMemoryPool() if self.out_of_process else None

    def submit(self, x: Array, context: Context) -> Future[SerializedReport]:
        if self._shared_memory is not None:
            return self._shared_memory.send(
                lambda *task: self._executor.submit(run_serialized, self._objective, *task),
                x,
                context,
            )
        future: Future[SerializedReport] = self._executor.submit(
            run_serialized, self._objective, x, context
        )
        if not isinstance(future, Future):
            raise CapabilityError(
                f"submit of {self.name} must return a concurrent.futures.Future, got "
                f"{short_repr(future)}"
            )
        return future

    def batch(self) -> AbstractContextManager[None]:
        return nullcontext()

    def terminate(self, future: Future[SerializedReport]) -> bool:
        terminate = getattr(self._executor, "terminate", None)
        return bool(terminate(future)) if callable(terminate) else future.cancel()

    def restart(self) -> bool:
        return False

    def close(self) -> None:
        """Leave the pool as it is."""
        if self._shared_memory is not None:
            self._shared_memory.close()


class ThreadWorkers:
    """Threads of our own: for callables that release the GIL, wait for programs, or sleep.

    A thread cannot be ended from outside: an evaluation that is given up keeps its thread, beside
    which a new one takes the slot. A program that it waits for is ended.

    Parameters
    ----------
    objective : Evaluable
        What to evaluate; called by several threads at once.
    number : int
        How many threads.
    """

    name = "workers='threads'"
    out_of_process = False

    def __init__(self, objective: ObjectiveProtocol, number: int) -> None:
        self._objective = SerializedObjective(objective)
        self._pool = WorkerPool(_Thread, number)

    def submit(self, x: Array, context: Context) -> Future[SerializedReport]:
        return self._pool.submit(run_serialized, self._objective, x, context)

    def batch(self) -> AbstractContextManager[None]:
        return self._pool.batch()

    def terminate(self, future: Future[SerializedReport]) -> bool:
        assert isinstance(future, TaskFuture)
        return self._pool.terminate(future)

    def restart(self) -> bool:
        return False

    def close(self) -> None:
        """Start nothing more; a thread that still evaluates ends by itself, and does not keep the
        program from ending.
        """
        self._pool.close()
        programs.detach_supervisor()


class ProcessWorkers:
    """Our own worker processes, started as they are needed, each given the objective once.

    Parameters
    ----------
    objective : Evaluable
        What to evaluate.
    number : int
        How many processes.
    """

    out_of_process = True

    def __init__(self, objective: ObjectiveProtocol, number: int) -> None:
        forbid_during_import()
        self.name = f"workers={number}"
        installed = (objective.name, *SerializedObjective(objective).serialize())
        self._pool = WorkerPool(lambda: WorkerProcess(_install_and_load, *installed), number)
        self._shared_memory = SharedMemoryPool()

    def submit(self, x: Array, context: Context) -> Future[SerializedReport]:
        return self._shared_memory.send(
            lambda *task: self._pool.submit(run_installed_objective, *task), x, context
        )

    def batch(self) -> AbstractContextManager[None]:
        return self._pool.batch()

    def terminate(self, future: Future[SerializedReport]) -> bool:
        """Kill the worker of an evaluation and what it has started; a new one takes its place."""
        assert isinstance(future, TaskFuture)
        return self._pool.terminate(future)

    def restart(self) -> bool:
        return True  # the worker that was lost is replaced by the next `send`

    def close(self) -> None:
        """Kill the workers, and what they started, and wait until they are gone."""
        self._pool.close()
        self._shared_memory.close()


class _Thread(PoolWorker):
    """A thread that waits for calls; a daemon, so that an evaluation that hangs does not keep the
    program from ending.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[TaskFuture | None] = queue.SimpleQueue()
        self._busy = False
        self._thread = threading.Thread(target=self._serve, name="optex-core", daemon=True)
        self._thread.start()

    def ready(self) -> Future[Any]:
        up = TaskFuture(())
        up.resolve()
        return up

    def start(self, task: TaskFuture, payload: Any) -> None:
        self._busy = True
        self._calls.put(task)

    def terminate(self, *, wait: bool = True) -> bool:
        self._calls.put(None)
        if self._busy and self._thread.ident is not None:
            programs.kill_for_thread(self._thread.ident)
        return not self._busy

    def _serve(self) -> None:
        while (task := self._calls.get()) is not None:
            function, *args = task.args
            try:
                result = function(*args)
            except BaseException as error:
                # KeyboardInterrupt and SystemExit of user code are the driver's to raise
                self._busy = False
                task.resolve(error=error)
            else:
                self._busy = False
                task.resolve(result=result)
                del result
            del task, args  # not to be kept while this waits


def _install_and_load(name: str, token: str, payload: bytes) -> None:
    """In a new worker process."""
    install_objective(name, token, payload)
    preload_objective()
