"""Executor on a Dask cluster."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from optex_core._validation import short_repr
from optex_core.errors import ArgumentError, ArgumentTypeError, EvaluationError, MissingExtraError
from optex_core.execution.clusters._executor import ClusterExecutor, ClusterTask, logger
from optex_core.execution.workers.serialization import SerializedObjective

#: Bytes from which an objective is sent to a worker once, as the result of a task of its own, and
#: not within every task.
MIN_SCATTER_BYTES = 1 << 16
#: Dask warns about tasks with more data than this. Vectors stay within their task all the same:
#: scattered to a worker beforehand they take as long (2 workers: d = 1e5 23 ms against 16, 1e6 55
#: against 48, 4e6 114 against 231), block the driver meanwhile, and die with their worker.
_NO_WARNING = {"distributed.admin.large-graph-warning-threshold": "1 PB"}


def dask(client: object) -> DaskExecutor:
    """Make ``workers`` of a Dask cluster: a `concurrent.futures.Executor`.

    Parameters
    ----------
    client : distributed.Client, str or cluster
        A client; the address of a scheduler, such as "tcp://10.0.0.5:8786"; or a cluster object
        (``LocalCluster``, ``SLURMCluster``, ...). A client that is made here is closed by
        ``shutdown``, or at the end of ``with``; yours, and the cluster, are left as they are.

    Raises
    ------
    MissingExtraError
        Without the library ``distributed``.
    ArgumentError, ArgumentTypeError
        `client` is none of these, or nobody answers at the address.

    Notes
    -----
    Equal calls are not merged, as Dask does by default. A worker that dies has its evaluations
    asked again, by Dask and then from here: the same point with the same seed. One evaluation takes
    about 10 ms of Dask's own time; for evaluations below 0.1 s on one machine ``workers=<number>``
    is better. Workers need the same optex_core.

    Examples
    --------
    See examples/dask_cluster.py: with ``cluster = LocalCluster(n_workers=4)`` and
    ``client = Client(cluster)``, ``ox.minimize(fun, x0, parallelism=4,
    workers=ox.executors.dask(client))``.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("distributed", "dask", "ox.executors.dask") from error
    if isinstance(client, Client):
        if client.asynchronous:
            raise ArgumentError(
                "the Dask client is asynchronous; make one with Client(address), without "
                "asynchronous=True"
            )
        if client.status != "running":
            raise ArgumentError(f"the Dask client is {client.status}; make a new one")
        return DaskExecutor(client, owned=False)
    address = client if isinstance(client, str) else getattr(client, "scheduler_address", None)
    if not isinstance(address, str):
        raise ArgumentTypeError(
            "dask() takes a distributed.Client, the address of a scheduler, or a cluster; got "
            f"{short_repr(client)}"
        )
    made = Client.__new__(Client)
    try:
        Client.__init__(made, address, set_as_default=False)
    except (OSError, ValueError) as error:
        # Else it would wait for its scheduler for another minute when it is collected.
        made.status = "closed"
        raise ArgumentError(f"no Dask scheduler answers at {address!r}: {error}") from error
    return DaskExecutor(made, owned=True)


class DaskExecutor(ClusterExecutor):
    """`concurrent.futures.Executor` on a Dask client; made by `dask`.

    Its futures say when they run, which those of ``client.get_executor()`` do not: a time limit
    counts from there and not from the queue. An `owned` client, made here, is closed with it.
    """

    def __init__(self, client: Any, *, owned: bool) -> None:
        super().__init__("Dask")
        self._client, self._owned = client, owned
        self._topic = f"optex-core-{uuid.uuid4().hex}"
        self._numbers = itertools.count()
        self._by_key: dict[str, ClusterTask] = {}
        client.subscribe_topic(self._topic, self._on_started)

    def _launch(self, task: ClusterTask) -> None:
        from dask import config

        args = [self._by_reference(a) for a in task.args]
        key = f"{self._topic}-{next(self._numbers)}"
        self._by_key[key] = task
        task.future.add_done_callback(lambda _: self._by_key.pop(key, None))
        with config.set(_NO_WARNING):
            call = _run_and_report_start, self._topic, key, task.function, *args
            handle = task.handle = self._client.submit(*call, pure=False, key=key)
        handle.add_done_callback(lambda handle: self._on_finished(task, handle))

    def _on_started(self, event: tuple[Any, Any]) -> None:
        """A worker says that it has begun a task."""
        key, worker = event[1]
        task = self._by_key.get(key)
        if task is not None:
            task.worker = worker
            task.mark_running()

    def _on_finished(self, task: ClusterTask, handle: object) -> None:
        """Pass the outcome of a task on; called by a thread of the client."""
        if task.future.done() or handle is not task.handle:
            return
        try:
            result = handle.result()
        except CancelledError as error:  # the client or the cluster was closed, or restarted
            if self._closed or self._client.status != "running":
                text = f"the Dask client was closed while evaluations ran ({error})"
                task.fail(EvaluationError(text))
            else:
                self._launch_again(task, error)
        except BaseException as error:
            if type(error).__name__ == "KilledWorker":
                self._launch_again(task, error)
            else:
                task.fail(error)
        else:
            self._finish(task, result)

    def _store(self, objective: SerializedObjective) -> object:
        if len(objective.serialize()[1]) < MIN_SCATTER_BYTES:
            return objective
        # A task and not scattered data: if the worker that holds it dies, the scheduler makes it
        # again.
        return self._client.submit(_identity, objective, pure=False)

    def _terminator(self, task: ClusterTask) -> Callable[[], object] | None:
        # Where the worker has a nanny, which starts it again. Dask runs anew what else was on it.
        if task.handle is None or task.worker is None:
            return None
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        if not workers.get(task.worker, {}).get("nanny"):
            return None
        handle, worker = task.handle, task.worker

        def end() -> None:
            handle.cancel()
            # It takes seconds, which nobody has to wait for.
            threading.Thread(target=self._restart, args=(worker,), daemon=True).start()

        return end

    def _restart(self, worker: str) -> None:
        try:
            restarted = self._client.restart_workers([worker], raise_for_error=False)
            answer = restarted.get(worker)
        except Exception as error:  # it is gone already, or the client is closed
            answer = repr(error)
        if answer != "OK":
            text = "the Dask worker %s could not be restarted (%s): an abandoned call may keep it"
            logger.warning(text, worker, answer)

    def _disconnect(self) -> None:
        if self._client.status == "running":
            self._client.unsubscribe_topic(self._topic)
        if self._owned:
            self._client.close()


def _identity(objective: SerializedObjective) -> SerializedObjective:
    return objective


def _run_and_report_start(
    topic: str, key: str, function: Callable[..., object], *args: object
) -> object:
    """Run a call in a Dask worker, and tell the driver that it has begun."""
    from distributed import get_worker

    worker = get_worker()
    worker.log_event(topic, (key, worker.address))
    return function(*args)
