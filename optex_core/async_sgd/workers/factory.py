"""From what the user calls ``workers`` to an engine."""

from __future__ import annotations

from typing import Any

from optex_core._validation import choice, integer, shown
from optex_core.async_sgd.workers.base import Engine
from optex_core.async_sgd.workers.burst_runner import Team
from optex_core.async_sgd.workers.pool import Dask, Pool
from optex_core.async_sgd.workers.processes import Processes
from optex_core.async_sgd.workers.serial import Serial
from optex_core.async_sgd.workers.threads import Threads
from optex_core.errors import ArgumentError, ArgumentTypeError

_EXPECTED = (
    "None (this thread), a number of processes, 'threads', 'processes', an executor with submit (such as "
    "concurrent.futures.ThreadPoolExecutor(4)), or a distributed.Client"
)


def make_engine(team: Team, workers: Any, parallelism: int) -> Engine:
    """The engine that `workers` stands for; see `run`.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        `workers` is nothing that runs bursts, or the burst cannot be sent to processes.
    """
    if workers is None:
        return Serial(team)
    if isinstance(workers, Engine):
        return workers
    if isinstance(workers, str):
        threads = choice("workers", workers, ("threads", "processes")) == "threads"
        return Threads(team, parallelism) if threads else Processes(team, parallelism)
    if isinstance(workers, type):
        raise ArgumentTypeError(f"workers must be {_EXPECTED}; got the class {workers.__name__}; write {workers.__name__}(...)")
    if hasattr(workers, "scheduler_info") and hasattr(workers, "get_executor"):
        return Dask(team, workers)
    if callable(getattr(workers, "submit", None)):
        return Pool(team, workers)
    try:
        number = integer("workers", workers, low=1)
    except ArgumentTypeError as error:
        raise ArgumentTypeError(f"workers must be {_EXPECTED}; got {shown(workers)}") from error
    except ArgumentError as error:
        raise ArgumentError(f"workers must be at least 1 process, got {shown(workers)}; for this thread pass None") from error
    return Processes(team, min(number, parallelism))
