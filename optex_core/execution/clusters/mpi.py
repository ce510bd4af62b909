"""Executor on the processes of an MPI job."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

from optex_core._validation import integer
from optex_core.errors import CapabilityError, MissingExtraError


def mpi(max_workers: int | None = None, **options: Any) -> Executor:
    """Make ``workers`` of the other processes of this MPI job.

    Start the script with ``mpiexec -n 9 python -m mpi4py.futures script.py``: process 0 runs the
    script, the other eight evaluate.

    Parameters
    ----------
    max_workers : int, optional
        At most so many of them. In a script that was not started so, this many new processes are
        spawned, which not every MPI can do.
    **options
        Passed to ``mpi4py.futures.MPIPoolExecutor``, which is returned; ``with`` ends its work.

    Raises
    ------
    MissingExtraError
        Without the library ``mpi4py``, or without an MPI that it can load.
    CapabilityError
        In a script that was started without ``-m mpi4py.futures``.

    Notes
    -----
    A process that dies takes the whole MPI job with it: run simulators that crash as programs
    (`optex_core.adapters.subprocess`), or use another executor.
    """
    try:
        from mpi4py import MPI
        from mpi4py.futures import MPIPoolExecutor, _core
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("mpi4py", "mpi", "ox.executors.mpi") from error
    except (ImportError, RuntimeError) as error:  # what mpi4py raises where there is no MPI library
        raise MissingExtraError(
            f"mpi4py cannot load an MPI ({error}); run: python -m pip install mpich, or load your "
            "system's MPI"
        ) from error
    number = None if max_workers is None else integer("max_workers", max_workers, low=1)
    pooled = getattr(_core, "SharedPool", None) is not None
    size = MPI.COMM_WORLD.Get_size()
    if not pooled and size > 1:
        raise CapabilityError(
            f"this script runs {size} times, once in every process of the MPI job; "
            f"start it with: mpiexec -n {size} python -m mpi4py.futures script.py"
        )
    if not pooled and number is None:
        raise CapabilityError(
            "this script is not part of an MPI job; start it with: mpiexec -n 9 python -m "
            "mpi4py.futures script.py (8 workers), or pass max_workers to have new processes "
            "spawned"
        )
    # Large vectors travel as buffers, not within a pickle.
    executor: Executor = MPIPoolExecutor(number, **{"use_pkl5": True, **options})
    return executor
