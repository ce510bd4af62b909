"""Inverse roots for Shampoo, and eigenbases for SOAP, in the background: on processes, threads, or
any executor.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import Any, TypeAlias

from optex_core._validation import integer, reject_unknown_keywords, short_repr
from optex_core.errors import ArgumentTypeError, ProtocolError, describe
from optex_core.execution.workers.evaluation_workers import Workers
from optex_core.execution.workers.pool import WorkerPool
from optex_core.execution.workers.process import THREAD_LIMITS, WorkerProcess
from optex_core.execution.workers.shared_memory import SharedArrayHandle, open_vector
from optex_core.execution.workers.thread import ThreadWorker
from optex_core.optimizers._kronecker.matrix_jobs import (
    MatrixJob,
    MatrixResult,
    balance_load,
    solve_job,
)
from optex_core.types import Array

logger = logging.getLogger("optex_core")

#: Matrices of one part of a job, and the future of their roots; None: it could not be sent.
_Part: TypeAlias = tuple[list[int], Future[list[MatrixResult]] | None]


class RootPool:
    """Workers that compute the matrices of `Shampoo` and `SOAP` while steps go on, with the bits of
    computing them in place.

    The matrices of a job are spread over the workers by cost, each to the least loaded. A worker
    that dies loses nothing: its matrices are computed in place, with a warning, and counted.

    Parameters
    ----------
    workers : int, "threads" or executor, default 1
        A number of processes; as many threads as there are cores (which start faster, but while
        they compute, BLAS has one thread in the whole process, your gradients included); or any
        ``concurrent.futures.Executor``, which is never shut down.
    shares : int or None, default None
        Number of parts a job is cut into; None: the number of workers, of an executor its
        ``_max_workers`` or the number of cores.

    Attributes
    ----------
    begun, inline : int
        Jobs that were sent off, and matrices that were computed in place because no worker gave
        them back.

    Examples
    --------
    >>> import numpy as np
    >>> import optex_core as ox
    >>> with ox.RootPool("threads") as pool:
    ...     optimizer = ox.Shampoo(0.1, shapes={"w": (8, 4)}, interval=2, delay=2, roots=pool)
    ...     x = np.ones(32)
    ...     state = optimizer.init(x)
    ...     for _ in range(6):
    ...         x, state = optimizer.step(x, x, state)
    >>> optimizer.report(state)["roots"], pool.inline
    (2, 0)

    References
    ----------
    Anil, Gupta, Koren, Regan, Singer, Scalable second order optimization for deep learning, arXiv
    2002.09018, on its heterogeneous pipeline: there whichever root is ready is used; here each at
    its stated step.
    """

    @reject_unknown_keywords
    def __init__(self, workers: object = 1, *, shares: int | None = None) -> None:
        number = os.cpu_count() or 1
        executor, is_processes = workers, False
        if callable(getattr(workers, "submit", None)) and not isinstance(workers, type):
            number = getattr(workers, "_max_workers", number)
        elif isinstance(workers, str) and workers == "threads":
            executor = WorkerPool(ThreadWorker, number)
        elif isinstance(workers, (str, bool, type)) or not hasattr(workers, "__index__"):
            raise ArgumentTypeError(
                "workers must be a number of processes, 'threads' or an executor, got "
                f"{short_repr(workers)}"
            )
        else:
            number, is_processes = integer("workers", workers, low=1), True
            # Not what the environment says: two threads in each of two workers took 15 times as
            # long as one.
            environment = dict.fromkeys(THREAD_LIMITS, "1")
            executor = WorkerPool(lambda: WorkerProcess(environment=environment), number)
        self._workers = Workers("RootPool", executor, (solve_part,), local=is_processes)
        self._shares = number if shares is None else integer("shares", shares, low=1)
        self._lock = threading.Lock()
        self._closed = False
        # By the identity of the array that a job holds: two jobs with the same one are the same
        # job. An entry goes when the array does.
        self._jobs: dict[int, list[_Part]] = {}
        self.begun = self.inline = 0

    def submit(self, job: MatrixJob) -> None:
        """Send the matrices of `job` to the workers, unless that has been done."""
        with self._lock:
            if self._closed:
                raise ProtocolError("this RootPool is closed; make another one, or leave roots out")
            key = id(job.packed)
            if key in self._jobs:
                return
            where = balance_load([item.cost for item in job.items], self._shares)
            groups = [
                [i for i, w in enumerate(where) if w == share] for share in range(self._shares)
            ]
            self._jobs[key] = [(group, self._send(job.part(group))) for group in groups if group]
            self.begun += 1
        weakref.finalize(job.packed, self._forget, key).atexit = False

    def result(self, job: MatrixJob) -> list[MatrixResult]:
        """Return the roots, in the order of the items; compute here what no worker gave back."""
        with self._lock:
            parts = None if self._closed else self._jobs.get(id(job.packed))
        if parts is None:
            return solve_job(job)
        found: list[Any] = [None] * len(job.items)
        for group, future in parts:
            solved = None
            if future is not None:
                try:
                    solved = future.result()
                # RuntimeError: a broken or closed pool, in any library's words.
                except (RuntimeError, CancelledError, OSError) as error:
                    lost = f"{len(group)} roots were lost ({_first_line(error)})"
                    text = "root pool: %s; they are computed in place, with the same bits"
                    logger.warning(text, lost)
            if solved is None:
                solved = solve_job(job.part(group))
                self.inline += len(group)
            for i, one in zip(group, solved, strict=True):
                found[i] = one
        return found

    def close(self) -> None:
        """End the workers, if ours; what is out is computed in place when it is due."""
        with self._lock:
            self._closed = True
            self._jobs.clear()
        self._workers.close()

    def __enter__(self) -> RootPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, part: MatrixJob) -> Future[list[MatrixResult]] | None:
        """Future of a part; None where the executor takes no work."""
        try:
            return self._workers.submit(part.packed, replace(part, packed=part.packed[:0]))
        except (RuntimeError, OSError) as error:  # RuntimeError: it is broken or closed
            logger.warning("root pool: %s; roots are computed in place", _first_line(error))
            return None

    def _forget(self, key: int) -> None:
        for _, future in self._jobs.pop(key, ()):
            if future is not None:
                future.cancel()


def solve_part(packed: Array | SharedArrayHandle, part: MatrixJob) -> list[MatrixResult]:
    """Solve a part in a worker; the array travels outside of it, in shared memory."""
    return solve_job(replace(part, packed=open_vector(packed)))


def _first_line(error: BaseException) -> str:
    return (describe(error).strip().splitlines() or [""])[0]
