"""The three kinds of pool behind `PoolEvaluator`: the user's, our threads, our processes."""

from __future__ import annotations

import os
import signal
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from optex_core.execution.parcels import Parcel, Sealed, install, run_installed, run_parcel
from optex_core.execution.slabs import Slabs
from optex_core.types import Array, Context, Evaluable

#: One thread each: N workers with all cores each are slower than one, and the bits of a sum depend on the number of threads.
THREAD_LIMITS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


class UserPool:
    """A pool that the caller made: it is given the objective with every point, and is never shut down.

    Parameters
    ----------
    objective : Evaluable
        What to evaluate.
    executor : object
        Anything whose ``submit(function, *args)`` returns a `concurrent.futures.Future`.
    """

    def __init__(self, objective: Evaluable, executor: Any) -> None:
        self.name = f"workers={type(executor).__name__}"
        self._parcel = Parcel(objective)
        self._executor = executor
        # Memory can be shared with processes of this machine, which is known of no other kind of pool.
        local = ("concurrent.futures.process", "loky.process_executor", "loky.reusable_executor")
        self._slabs = Slabs() if any(kind.__module__ in local for kind in type(executor).__mro__) else None

    def send(self, x: Array, context: Context) -> Future[Sealed]:
        if self._slabs is not None:
            return self._slabs.send(lambda *task: self._executor.submit(run_parcel, self._parcel, *task), x, context)
        future: Future[Sealed] = self._executor.submit(run_parcel, self._parcel, x, context)
        return future

    def renew(self) -> bool:
        return False

    def close(self) -> None:
        """Leave the pool as it is."""
        if self._slabs is not None:
            self._slabs.close()


class Threads:
    """A pool of threads: for callables that release the GIL, wait for programs, or sleep.

    Parameters
    ----------
    objective : Evaluable
        What to evaluate; called by several threads at once.
    number : int
        How many threads.
    """

    name = "workers='threads'"

    def __init__(self, objective: Evaluable, number: int) -> None:
        self._parcel = Parcel(objective)
        self._executor = ThreadPoolExecutor(number, thread_name_prefix="optex-core")

    def send(self, x: Array, context: Context) -> Future[Sealed]:
        return self._executor.submit(run_parcel, self._parcel, x, context)

    def renew(self) -> bool:
        return False

    def close(self) -> None:
        """Start nothing more; a thread cannot be ended from outside, so one that still evaluates ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class Processes:
    """Our own worker processes, started at the first point, each given the objective once.

    loky's processes are new interpreters: a fork would inherit locks, CUDA contexts and OpenMP pools that do not survive it, and the
    spawn of the standard library needs a guard around the caller's main program.

    Parameters
    ----------
    objective : Evaluable
        What to evaluate.
    number : int
        How many processes.
    """

    def __init__(self, objective: Evaluable, number: int) -> None:
        self.name = f"workers={number}"
        self._number = number
        self._installed = (objective.name, *Parcel(objective).pack())
        self._executor: Executor | None = None
        self._slabs = Slabs()

    def send(self, x: Array, context: Context) -> Future[Sealed]:
        if self._executor is None:
            self._executor = self._start()
        executor = self._executor
        return self._slabs.send(lambda *task: executor.submit(run_installed, *task), x, context)

    def renew(self) -> bool:
        self.close()
        return True

    def close(self) -> None:
        """Kill the workers, and what they started, and wait until they are gone."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, kill_workers=True)  # type: ignore[call-arg]  # loky's own keyword
        self._slabs.close()

    def _start(self) -> Executor:
        from loky import ProcessPoolExecutor  # here: 0.1 s, for those who use processes

        limits = {name: os.environ.get(name, "1") for name in THREAD_LIMITS}  # a user who has set one knows better
        # Not loky's shared reusable pool: that one belongs to everybody in this process and outlives us.
        executor: Executor = ProcessPoolExecutor(self._number, initializer=_start_worker, initargs=self._installed, env=limits)
        return executor


def _start_worker(name: str, token: str, payload: bytes) -> None:
    # Ctrl-C reaches every process of the terminal's group; the driver ends the workers itself. A function and not SIG_IGN: programs that
    # the worker starts would inherit the latter.
    signal.signal(signal.SIGINT, _wait_for_driver)
    install(name, token, payload)


def _wait_for_driver(_signal: int, _frame: Any) -> None:
    """Leave the interrupt to the driver."""
