"""Settings of a run, and its burst executor from the argument ``workers``."""

from __future__ import annotations

from dataclasses import dataclass

from optex_core._validation import integer, one_of, positive, short_repr
from optex_core.async_sgd.workers.base import BurstExecutor, BurstRunner, SerialExecutor
from optex_core.async_sgd.workers.futures import PoolExecutor, UserExecutor
from optex_core.errors import ArgumentError, ArgumentTypeError, CapabilityError

_EXPECTED = (
    "None (this thread), at least 1 process, 'threads', 'processes', an executor with submit "
    "(such as concurrent.futures.ThreadPoolExecutor(4)), or a distributed.Client"
)


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Limits of a run and the meaning of failures; attributes as the parameters of `run`."""

    parallelism: int
    maxiter: int | None
    max_evals: int | None
    max_time: float | None
    timeout: float | None
    on_error: str
    max_failures: int | None

    def __post_init__(self) -> None:
        integer("parallelism", self.parallelism, low=1)
        for name, low in (("maxiter", 0), ("max_evals", 1), ("max_failures", 0)):
            if getattr(self, name) is not None:
                integer(name, getattr(self, name), low=low)
        for name in ("max_time", "timeout"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        one_of("on_error", self.on_error, ("raise", "drop"))


def make_burst_executor(
    runner: BurstRunner, workers: object, settings: LoopSettings
) -> BurstExecutor:
    """The executor that `workers` stands for; see `run`.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        `workers` is nothing that runs bursts, or the burst cannot be sent to processes.
    CapabilityError
        For a timeout where nothing runs in the background.
    """
    parallelism = settings.parallelism
    if workers is None:
        if settings.timeout is not None:
            raise CapabilityError(
                "timeout needs workers that run in the background, got workers=None; pass "
                "'threads', 'processes' or a pool"
            )
        return SerialExecutor(runner)
    if isinstance(workers, BurstExecutor):
        return workers
    if isinstance(workers, str):
        kind = one_of("workers", workers, ("threads", "processes"))
        return PoolExecutor(runner, parallelism, processes=kind == "processes")
    if isinstance(workers, type):
        raise ArgumentTypeError(
            f"workers must be {_EXPECTED}; got the class {workers.__name__}; write "
            f"{workers.__name__}(...)"
        )
    if hasattr(workers, "scheduler_info") and hasattr(workers, "get_executor"):
        from optex_core.execution.clusters.dask import dask

        return UserExecutor(runner, dask(workers), owned=True)
    if callable(getattr(workers, "submit", None)):
        return UserExecutor(runner, workers)
    try:
        number = integer("workers", workers, low=1)
    except (ArgumentError, ArgumentTypeError) as error:
        raise type(error)(f"workers must be {_EXPECTED}; got {short_repr(workers)}") from error
    return PoolExecutor(runner, min(number, parallelism), processes=True)
