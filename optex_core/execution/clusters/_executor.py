"""Base of the executors for cluster libraries: futures, retries, objectives that are sent once."""

from __future__ import annotations

import contextlib
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, InvalidStateError
from functools import partial
from typing import Any

from optex_core.errors import EvaluationError
from optex_core.execution.workers.serialization import SerializedObjective

logger = logging.getLogger("optex_core")

#: So many lost workers in a row, without one finished call between them, end the run.
MAX_LOSSES = 10


class ClusterTask:
    """One call: the future that was given out, and the library's handle of what serves it now."""

    def __init__(self, function: Callable[..., object], args: tuple[object, ...]) -> None:
        self.function, self.args = function, args
        self.future: Future[object] = Future()
        self.handle: Any = None
        self.worker: str | None = None

    def fail(self, error: BaseException) -> None:
        """Set the error of the future, unless it is done."""
        with contextlib.suppress(InvalidStateError):  # another thread is quicker
            self.future.set_exception(error)

    def mark_running(self) -> bool:
        """Note that it has begun; False where it was cancelled before."""
        if self.future.running() or self.future.done():  # the result may overtake the message
            return not self.future.cancelled()
        try:
            return self.future.set_running_or_notify_cancel()
        except RuntimeError:  # it is done in this moment
            return True


class ClusterExecutor(Executor, ABC):
    """`concurrent.futures.Executor` on a cluster; a call whose worker dies is made again."""

    def __init__(self, library: str) -> None:
        self._library = library
        self._tasks: dict[Future[object], ClusterTask] = {}
        self._objectives: dict[int, tuple[SerializedObjective, object]] = {}
        self._losses = 0
        self._closed = False
        self._lock = threading.RLock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn(*args, **kwargs)`` on the cluster, in any case: equal calls are not merged."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        task = ClusterTask(partial(fn, **kwargs) if kwargs else fn, args)
        self._tasks[task.future] = task
        task.future.add_done_callback(self._on_done)
        self._launch(task)
        return task.future

    def terminate(self, future: Future[object]) -> bool:
        """Abandon a call and free its worker; False where it runs on."""
        if future.cancel():
            return True
        task = self._tasks.get(future)
        end = None if task is None else self._terminator(task)
        if task is None or end is None:
            return future.done()
        task.fail(EvaluationError("the evaluation was abandoned"))
        end()
        return True

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; end what was started or connected here."""
        self._closed = True
        futures = list(self._tasks)
        for future in futures if cancel_futures else ():
            future.cancel()
        for future in futures if wait else ():
            if not future.cancelled():
                future.exception()
        self._objectives.clear()
        self._disconnect()

    def _by_reference(self, argument: object) -> object:
        """What stands for an argument in a call: a large objective is sent once."""
        if not isinstance(argument, SerializedObjective):
            return argument
        known = self._objectives.get(id(argument))
        if known is None:
            known = self._objectives[id(argument)] = argument, self._store(argument)
        return known[1]

    def _finish(self, task: ClusterTask, result: object) -> None:
        """Set the result of a call."""
        self._losses = 0
        if task.mark_running():
            with contextlib.suppress(InvalidStateError):  # abandoned in this moment
                task.future.set_result(result)

    def _launch_again(self, task: ClusterTask, error: BaseException) -> None:
        """Make a call again whose worker was lost."""
        with self._lock:
            self._losses += 1
            losses = self._losses
        if losses >= MAX_LOSSES:
            text = f"{losses} times in a row {self._library} gave an evaluation up, before any "
            task.fail(BrokenExecutor(f"{text}other finished: {error}"))
            return
        logger.warning(
            "%s lost the workers of an evaluation (%s); its point is asked again (loss %d of at "
            "most %d)", self._library, error, losses, MAX_LOSSES,
        )  # fmt: skip
        try:
            self._launch(task)
        except Exception as second:  # it has to reach whoever waits for the future
            task.fail(second)

    def _on_done(self, future: Future[object]) -> None:
        task = self._tasks.pop(future)
        if future.cancelled() and task.handle is not None:
            task.handle.cancel()
        task.handle = None  # lets the cluster forget the result

    @abstractmethod
    def _launch(self, task: ClusterTask) -> None:
        """Hand a call to the library, which reports to `_finish`, `_launch_again` or `fail`."""

    @abstractmethod
    def _store(self, objective: SerializedObjective) -> object:
        """Send an objective to the cluster; return its reference."""

    @abstractmethod
    def _terminator(self, task: ClusterTask) -> Callable[[], object] | None:
        """What ends the worker of a call; None where it cannot be ended."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Let go of the cluster, or end it, if it is owned."""
