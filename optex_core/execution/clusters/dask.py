"""Evaluations on a Dask cluster: more machines than one, with the code of one."""

from __future__ import annotations

import itertools
import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, InvalidStateError
from typing import Any

from optex_core._validation import short_repr
from optex_core.errors import ArgumentError, ArgumentTypeError, EvaluationError, MissingExtraError
from optex_core.execution.workers.serialization import SerializedObjective

logger = logging.getLogger("optex_core")

#: Bytes from which an objective is sent to a worker once, as the result of a task of its own, and
#: not within every task.
MIN_SCATTER_BYTES = 1 << 16
#: Dask warns about tasks with more data than this. Vectors stay within their task all the same:
#: scattered to a worker beforehand they take as long (measured, 2 workers: d = 1e5 23 ms against
#: 16, 1e6 55 against 48, 4e6 114 against 231), block the driver meanwhile, and die with their
#: worker.
_NO_WARNING = {"distributed.admin.large-graph-warning-threshold": "1 PB"}
#: So many lost workers in a row, without one finished evaluation between them, end the run.
MAX_LOSSES = 10


def dask(client: Any) -> DaskExecutor:
    """A Dask cluster as ``workers``.

    Parameters
    ----------
    client : distributed.Client, str or cluster
        A client; the address of a scheduler, such as "tcp://10.0.0.5:8786"; or a cluster object
        (``LocalCluster``, ``SLURMCluster``, ...). A client that is made here is closed by
        ``shutdown``, or at the end of ``with``; yours, and the cluster, are left as they are.

    Returns
    -------
    DaskExecutor
        A `concurrent.futures.Executor`.

    Raises
    ------
    MissingExtraError
        Without the library ``distributed``.
    ArgumentError, ArgumentTypeError
        `client` is none of these, or nobody answers at the address.

    Notes
    -----
    Every evaluation is submitted with ``pure=False`` and carries its own seed and id: by default
    Dask runs equal calls once and gives the one result to all. A worker that dies has its
    evaluations asked again, by Dask and then from here: the same point with the same seed. One
    evaluation takes about 10 ms of Dask's own time; for evaluations below 0.1 s on one machine
    ``workers=<number>`` is better. Workers need the same optex_core.

    Examples
    --------
    See examples/dask_cluster.py: with ``cluster = LocalCluster(n_workers=4)`` and ``client =
    Client(cluster)``, ``ox.minimize(fun, x0, parallelism=4, workers=ox.executors.dask(client))``.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("distributed", "dask", "ox.executors.dask") from error
    if isinstance(client, Client):
        if client.asynchronous:
            raise ArgumentError(
                "the Dask client is asynchronous; make one with Client(address), "
                "without asynchronous=True"
            )
        if client.status != "running":
            raise ArgumentError(f"the Dask client is {client.status}; make a new one")
        return DaskExecutor(client, owned=False)
    address = client if isinstance(client, str) else getattr(client, "scheduler_address", None)
    if not isinstance(address, str):
        raise ArgumentTypeError(
            f"dask() takes a distributed.Client, the address of a scheduler, or a "
            f"cluster; got {short_repr(client)}"
        )
    made = Client.__new__(Client)
    try:
        Client.__init__(made, address, set_as_default=False)
    except (OSError, ValueError) as error:
        # or it would wait for its scheduler for another minute when it is collected, and write a
        # traceback
        made.status = "closed"
        raise ArgumentError(f"no Dask scheduler answers at {address!r}: {error}") from error
    return DaskExecutor(made, owned=True)


class DaskExecutor(Executor):
    """`concurrent.futures.Executor` on a Dask client; made by `dask`.

    Its futures say when they run, which those of ``client.get_executor()`` do not: a time limit
    counts from there and not from the queue.

    Parameters
    ----------
    client : distributed.Client
    owned : bool
        The client was made here, and is closed with this.
    """

    def __init__(self, client: Any, *, owned: bool) -> None:
        self._client, self._owned = client, owned
        self._closed = False
        self._topic = f"optex-core-{uuid.uuid4().hex}"
        self._numbers = itertools.count()
        self._out: dict[int, _DaskTask] = {}
        self._objectives: dict[int, tuple[SerializedObjective, Any]] = {}
        self._losses = 0
        self._lock = threading.Lock()
        client.subscribe_topic(self._topic, self._on_started)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn(*args, **kwargs)`` on the cluster, in any case: equal calls are not merged."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        job = _DaskTask(next(self._numbers), fn, args, kwargs)
        self._out[job.number] = job
        job.future.add_done_callback(lambda future: self._on_done(job, future))
        self._start(job)
        return job.future

    def terminate(self, future: Future[Any]) -> bool:
        """Give a call up and free its slot: the worker process that runs it is restarted by its
        nanny, and Dask runs anew what else was on it.

        Returns
        -------
        bool
            False where the worker has no nanny (in threads of this process, say): the call runs on.
        """
        if future.cancel():
            return True
        job = next((j for j in list(self._out.values()) if j.future is future), None)
        if job is None or job.task is None or job.worker is None:
            return future.done()
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        if not workers.get(job.worker, {}).get("nanny"):
            return False
        task, worker = job.task, job.worker
        _set_exception(job.future, EvaluationError("the evaluation was given up"))
        task.cancel()
        # Takes seconds, which nobody has to wait for.
        threading.Thread(
            target=self._restart, args=(worker,), name="optex-core-dask", daemon=True
        ).start()
        return True

    def _restart(self, worker: str) -> None:
        try:
            answer = self._client.restart_workers([worker], raise_for_error=False).get(worker)
        except Exception as error:
            # it is gone already, or the client is closed: nobody is there to tell but the log
            answer = error
        if answer != "OK":
            logger.warning(
                "the Dask worker %s could not be restarted (%s): a call that was given "
                "up may still keep it",
                worker,
                answer,
            )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; close the client if it was made here."""
        self._closed = True
        jobs = list(self._out.values())
        if cancel_futures:
            for job in jobs:
                job.future.cancel()
        if wait:
            for job in jobs:
                if not job.future.cancelled():
                    job.future.exception()
        self._objectives.clear()
        if self._client.status == "running":
            self._client.unsubscribe_topic(self._topic)
        if self._owned:
            self._client.close()

    def _start(self, job: _DaskTask) -> None:
        from dask import config

        args = [self._by_reference(a) for a in job.args]
        key = f"{self._topic}-{next(self._numbers)}"
        with config.set(_NO_WARNING):
            job.task = self._client.submit(
                _run_and_report_start,
                self._topic,
                job.number,
                job.function,
                *args,
                pure=False,
                key=key,
                **job.keywords,
            )
        job.task.add_done_callback(lambda task: self._on_finished(job, task))

    def _by_reference(self, argument: Any) -> Any:
        """What stands for an argument in the task: a large objective is sent once and kept by the
        workers.
        """
        if (
            not isinstance(argument, SerializedObjective)
            or len(argument.serialize()[1]) < MIN_SCATTER_BYTES
        ):
            return argument
        known = self._objectives.get(id(argument))
        if known is None:
            # A task and not scattered data: if the worker that holds it dies, the scheduler makes
            # it again.
            known = self._objectives[id(argument)] = (
                argument,
                self._client.submit(_identity, argument, pure=False),
            )
        return known[1]

    def _on_started(self, event: tuple[Any, Any]) -> None:
        """A worker says that it has begun a task."""
        number, worker = event[1]
        job = self._out.get(number)
        if job is not None:
            job.worker = worker
        if job is not None and not job.future.running():
            try:
                job.future.set_running_or_notify_cancel()
            except InvalidStateError:  # it is done: the result has overtaken the message
                return

    def _on_finished(self, job: _DaskTask, task: Any) -> None:
        """Hand the outcome of a task on; a thread of the client calls this."""
        if job.future.done() or task is not job.task:
            return
        try:
            result = task.result()
        except CancelledError as error:  # the client or the cluster was closed, or restarted
            if self._closed or self._client.status != "running":
                _set_exception(
                    job.future,
                    EvaluationError(f"the Dask client was closed while evaluations ran ({error})"),
                )
            else:
                self._retry(job, error)
        except Exception as error:
            if type(error).__name__ == "KilledWorker":
                self._retry(job, error)
            else:
                _set_exception(job.future, error)
        else:
            self._losses = 0
            if not job.future.done():
                self._mark_running(job.future)
                job.future.set_result(result)

    @staticmethod
    def _mark_running(future: Future[Any]) -> None:
        if not future.running() and not future.done():
            future.set_running_or_notify_cancel()

    def _retry(self, job: _DaskTask, error: BaseException) -> None:
        with self._lock:
            self._losses += 1
            losses = self._losses
        if losses >= MAX_LOSSES:
            _set_exception(
                job.future,
                BrokenExecutor(
                    f"{losses} times in a row Dask gave an evaluation up, before any "
                    f"other finished: {error}"
                ),
            )
            return
        logger.warning(
            "Dask lost the workers of an evaluation (%s); its point is asked again "
            "(loss %d of at most %d)",
            error,
            losses,
            MAX_LOSSES,
        )
        try:
            self._start(job)
        except Exception as second:
            # whatever the client raises: it has to reach whoever waits for the future
            _set_exception(job.future, second)

    def _on_done(self, job: _DaskTask, future: Future[Any]) -> None:
        self._out.pop(job.number, None)
        if future.cancelled() and job.task is not None:
            job.task.cancel()
        job.task = None  # lets the cluster forget the result


class _DaskTask:
    """One call: what was asked, the future that was given out, and the task that serves it now."""

    def __init__(
        self,
        number: int,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> None:
        self.number, self.function, self.args, self.keywords = number, function, args, keywords
        self.future: Future[Any] = Future()
        self.task: Any = None
        self.worker: str | None = None


def _set_exception(future: Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _identity(parcel: SerializedObjective) -> SerializedObjective:
    return parcel


def _run_and_report_start(
    topic: str, number: int, function: Callable[..., Any], *args: Any, **keywords: Any
) -> Any:
    """What a Dask worker runs: it tells the driver that it has begun."""
    from distributed import get_worker

    worker = get_worker()
    worker.log_event(topic, (number, worker.address))
    return function(*args, **keywords)
