"""From what the user calls ``workers`` to a burst executor."""

from __future__ import annotations

from typing import Any

from optex_core._validation import integer, one_of, short_repr
from optex_core.async_sgd.workers.base import BurstExecutor
from optex_core.async_sgd.workers.burst_runner import BurstRunner
from optex_core.async_sgd.workers.pool import DaskExecutor, UserExecutor
from optex_core.async_sgd.workers.processes import ProcessExecutor
from optex_core.async_sgd.workers.serial import SerialExecutor
from optex_core.async_sgd.workers.threads import ThreadExecutor
from optex_core.errors import ArgumentError, ArgumentTypeError

_EXPECTED = (
    "None (this thread), a number of processes, 'threads', 'processes', an executor "
    "with submit (such as "
    "concurrent.futures.ThreadPoolExecutor(4)), or a distributed.Client"
)


def make_burst_executor(runner: BurstRunner, workers: Any, parallelism: int) -> BurstExecutor:
    """The executor that `workers` stands for; see `run`.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        `workers` is nothing that runs bursts, or the burst cannot be sent to processes.
    """
    if workers is None:
        return SerialExecutor(runner)
    if isinstance(workers, BurstExecutor):
        return workers
    if isinstance(workers, str):
        threads = one_of("workers", workers, ("threads", "processes")) == "threads"
        return (
            ThreadExecutor(runner, parallelism) if threads else ProcessExecutor(runner, parallelism)
        )
    if isinstance(workers, type):
        raise ArgumentTypeError(
            f"workers must be {_EXPECTED}; got the class {workers.__name__}; write "
            f"{workers.__name__}(...)"
        )
    if hasattr(workers, "scheduler_info") and hasattr(workers, "get_executor"):
        return DaskExecutor(runner, workers)
    if callable(getattr(workers, "submit", None)):
        return UserExecutor(runner, workers)
    try:
        number = integer("workers", workers, low=1)
    except ArgumentTypeError as error:
        raise ArgumentTypeError(
            f"workers must be {_EXPECTED}; got {short_repr(workers)}"
        ) from error
    except ArgumentError as error:
        raise ArgumentError(
            f"workers must be at least 1 process, got {short_repr(workers)}; for this "
            f"thread pass None"
        ) from error
    return ProcessExecutor(runner, min(number, parallelism))
