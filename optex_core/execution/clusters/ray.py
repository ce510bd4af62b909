"""Evaluations on a Ray cluster."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any

from optex_core._validation import positive, reject_unknown_keywords
from optex_core.errors import ArgumentError, MissingExtraError
from optex_core.execution.workers.serialization import SerializedObjective

#: Worker processes that may die under one evaluation.
MAX_LOSSES = 10


@reject_unknown_keywords
def ray(address: str | None = None, *, num_cpus: float = 1) -> RayExecutor:
    """A Ray cluster as ``workers``.

    Parameters
    ----------
    address : str, optional
        Of a cluster, such as "auto" or "ray://10.0.0.5:10001". By default the one that this process
        is connected to; where there is none, one is started on this machine, and ended by
        ``shutdown`` or at the end of ``with``.
    num_cpus : float, default 1
        Cores that one evaluation takes.

    Returns
    -------
    RayExecutor
        A `concurrent.futures.Executor`.

    Raises
    ------
    MissingExtraError
        Without the library ``ray``.
    ArgumentError
        There is no cluster at `address`.
    """
    cores = positive("num_cpus", num_cpus)
    try:
        import ray as library
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("ray", "ray", "ox.executors.ray") from error
    owned = not library.is_initialized()
    if owned:
        # A library must not report its user: only a cluster of ours is started with the statistics
        # off.
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, Any] = {"include_dashboard": False} if address is None else {}
        try:
            library.init(address, log_to_driver=False, configure_logging=False, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ArgumentError(f"no Ray cluster answers at {address!r}: {error}") from error
    return RayExecutor(library, cores, owned=owned)


class RayExecutor(Executor):
    """`concurrent.futures.Executor` on Ray, which has none; made by `ray`.

    As many tasks are handed to Ray as the cluster has cores for; the others wait here. So a future
    that runs is known, and one that waits can be cancelled.

    Parameters
    ----------
    library : module
        Ray.
    cores : float
        Per task.
    owned : bool
        The cluster was started here, and ends with this.
    """

    def __init__(self, library: Any, cores: float, *, owned: bool) -> None:
        self._ray, self._cores, self._owned = library, cores, owned
        self._remote = library.remote(_call).options(num_cpus=cores, max_retries=MAX_LOSSES - 1)
        self._waiting: deque[tuple[Future[Any], tuple[Any, ...]]] = deque()
        self._running: dict[Future[Any], Any] = {}
        self._objectives: dict[int, tuple[SerializedObjective, Any]] = {}
        self._lock = threading.RLock()
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn(*args, **kwargs)`` on the cluster."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[Any] = Future()
        parts = tuple(self._by_reference(a) for a in args)
        with self._lock:
            self._waiting.append((future, (fn, kwargs, *parts)))
        self._dispatch()
        return future

    def terminate(self, future: Future[Any]) -> bool:
        """Give a call up and free its slot: the process that runs it is ended by Ray."""
        if future.cancel():
            return True
        with self._lock:
            reference = self._running.get(future)
        if reference is None:
            return future.done()
        self._ray.cancel(reference, force=True)
        return True

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; end Ray if it was started here."""
        self._closed = True
        with self._lock:
            if cancel_futures:
                for future, _ in self._waiting:
                    future.cancel()
            left = [f for f, _ in self._waiting] + list(self._running)
        if wait:
            for future in left:
                if not future.cancelled():
                    future.exception()
        self._objectives.clear()
        if self._owned:
            self._ray.shutdown()

    def _by_reference(self, argument: Any) -> Any:
        """An objective is put into Ray's store once; a worker gets it from there."""
        if not isinstance(argument, SerializedObjective):
            return argument
        known = self._objectives.get(id(argument))
        if known is None:
            known = self._objectives[id(argument)] = argument, self._ray.put(argument)
        return known[1]

    def _dispatch(self) -> None:
        """Hand waiting tasks to Ray while it has room."""
        with self._lock:
            # Asked anew: clusters grow and shrink.
            room = (
                max(1, int(self._ray.cluster_resources().get("CPU", 1) // self._cores))
                if self._waiting
                else 0
            )
            while self._waiting and len(self._running) < room:
                future, task = self._waiting.popleft()
                if not future.set_running_or_notify_cancel():
                    continue
                reference = self._running[future] = self._remote.remote(*task)
                inner = reference.future()
                inner.add_done_callback(
                    lambda inner, future=future: self._on_finished(future, inner)
                )

    def _on_finished(self, future: Future[Any], inner: Future[Any]) -> None:
        error = inner.exception()
        with self._lock:
            self._running.pop(future, None)
        if future.done():  # it was given up
            pass
        elif error is None:
            future.set_result(inner.result())
        elif isinstance(
            error, (self._ray.exceptions.WorkerCrashedError, self._ray.exceptions.NodeDiedError)
        ):
            future.set_exception(
                BrokenExecutor(f"its worker process died {MAX_LOSSES} times: {error}")
            )
        else:
            future.set_exception(error)
        if not self._closed or self._waiting:
            self._dispatch()


def _call(function: Callable[..., Any], keywords: dict[str, Any], *args: Any) -> Any:
    return function(*args, **keywords)
