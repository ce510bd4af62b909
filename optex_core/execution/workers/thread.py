"""Worker thread."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future

from optex_core.execution import programs
from optex_core.execution.workers.pool import PoolWorker, TaskFuture


class ThreadWorker(PoolWorker):
    """Daemon thread that waits for calls: one that hangs does not keep the program from ending."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[TaskFuture | None] = queue.SimpleQueue()
        self._busy = self._ended = False
        self._ending = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="optex-core", daemon=True)
        self._thread.start()

    def ready(self) -> Future[object]:
        up = TaskFuture()
        up.resolve()
        return up

    def start(self, task: TaskFuture, payload: object) -> None:
        self._busy = True
        self._calls.put(task)

    def terminate(self, *, wait: bool = True) -> bool:
        """Let the thread end after its call; kill the program that it waits for or starts."""
        self._calls.put(None)
        with self._ending:
            if self._busy and not self._ended and self._thread.ident is not None:
                programs.kill_for_thread(self._thread.ident)
        return not self._busy

    def _serve(self) -> None:
        while (task := self._calls.get()) is not None:
            function, *args = task.call
            try:
                result = function(*args)
            except BaseException as error:
                self._busy = False
                task.resolve(error=error)
            else:
                self._busy = False
                task.resolve(result=result)
                del result
            del task, args  # not to be kept while this waits
        with self._ending:
            self._ended = True
            programs.forget_thread(threading.get_ident())
