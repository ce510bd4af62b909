"""Executor on a Ray cluster."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from types import ModuleType

from optex_core._validation import positive, reject_unknown_keywords
from optex_core.errors import ArgumentError, MissingExtraError
from optex_core.execution.clusters._executor import ClusterExecutor, ClusterTask
from optex_core.execution.workers.serialization import SerializedObjective


@reject_unknown_keywords
def ray(address: str | None = None, *, num_cpus: float = 1) -> RayExecutor:
    """Make ``workers`` of a Ray cluster: a `concurrent.futures.Executor`.

    Parameters
    ----------
    address : str, optional
        Of a cluster, such as "auto" or "ray://10.0.0.5:10001". By default the one that this process
        is connected to; where there is none, one is started on this machine, and ended by
        ``shutdown`` or at the end of ``with``.
    num_cpus : float, default 1
        Cores that one evaluation takes.

    Raises
    ------
    MissingExtraError, ArgumentError
        Without the library ``ray``, or without a cluster at `address`.
    """
    cores = positive("num_cpus", num_cpus)
    try:
        import ray as library
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("ray", "ray", "ox.executors.ray") from error
    owned = not library.is_initialized()
    if owned:
        # A library must not report its user: a cluster of ours is started without statistics.
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, object] = {"include_dashboard": False} if address is None else {}
        try:
            library.init(address, log_to_driver=False, configure_logging=False, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ArgumentError(f"no Ray cluster answers at {address!r}: {error}") from error
    return RayExecutor(library, cores, owned=owned)


class RayExecutor(ClusterExecutor):
    """`concurrent.futures.Executor` on Ray, which has none; made by `ray`.

    As many tasks are handed to Ray as the cluster has `cores` for; the others wait here. So a
    future that runs is known, and one that waits can be cancelled. An `owned` cluster, started
    here, ends with it.
    """

    def __init__(self, library: ModuleType, cores: float, *, owned: bool) -> None:
        super().__init__("Ray")
        self._ray, self._cores, self._owned = library, cores, owned
        self._remote = library.remote(_call).options(num_cpus=cores, max_retries=0)
        self._waiting: deque[ClusterTask] = deque()
        self._running: set[Future[object]] = set()

    def _launch(self, task: ClusterTask) -> None:
        with self._lock:
            self._waiting.append(task)
        self._dispatch()

    def _dispatch(self) -> None:
        """Hand waiting tasks to Ray while it has room."""
        with self._lock:
            # Asked anew: clusters grow and shrink.
            cpus = self._ray.cluster_resources().get("CPU", 1) if self._waiting else 0
            while self._waiting and len(self._running) < max(1, int(cpus // self._cores)):
                task = self._waiting.popleft()
                if not task.mark_running():
                    continue
                args = [self._by_reference(a) for a in task.args]
                task.handle = self._remote.remote(task.function, *args)
                inner: Future[object] = task.handle.future()
                self._running.add(inner)
                inner.add_done_callback(partial(self._on_finished, task))

    def _on_finished(self, task: ClusterTask, inner: Future[object]) -> None:
        with self._lock:
            self._running.discard(inner)
        error, exceptions = inner.exception(), self._ray.exceptions
        if error is None:
            self._finish(task, inner.result())
        elif task.future.done():  # it was abandoned
            pass
        elif isinstance(error, (exceptions.WorkerCrashedError, exceptions.NodeDiedError)):
            self._launch_again(task, error)
        else:
            task.fail(error)
        if not self._closed or self._waiting:
            self._dispatch()

    def _store(self, objective: SerializedObjective) -> object:
        return self._ray.put(objective)

    def _terminator(self, task: ClusterTask) -> Callable[[], object] | None:
        handle = task.handle
        return None if handle is None else partial(self._ray.cancel, handle, force=True)

    def _disconnect(self) -> None:
        if self._owned:
            self._ray.shutdown()


def _call(function: Callable[..., object], *args: object) -> object:
    return function(*args)
