"""Shampoo's roots in the background: on worker processes of our own, on threads, or on any
executor.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from optex_core._validation import integer, reject_unknown_keywords, short_repr
from optex_core.errors import ArgumentTypeError, ProtocolError
from optex_core.execution.workers import process_cleanup
from optex_core.execution.workers.process import THREAD_LIMITS
from optex_core.optimizers.shampoo.root_service import (
    RootJob,
    RootResult,
    RootTask,
    balance_load,
    solve_roots,
)

logger = logging.getLogger("optex_core")

#: Seconds after which an idle worker process ends; it is started again when there is work.
IDLE_SECONDS = 60.0


@dataclass(slots=True)
class _SubmittedJob:
    """A job under way: for each worker the matrices it was given with their future (None: it could
    not be sent), and the pool they went to.
    """

    parts: list[tuple[list[int], Future[list[tuple[Any, float]]] | None]]
    executor: Any


class RootPool:
    """Workers that compute the inverse roots of `Shampoo` while steps go on; the bits are those of
    computing them in place.

    The matrices of a job are spread over the workers by cost, the most costly first, each to the
    least loaded. Every worker uses one BLAS thread (two threads in each of two workers took 15
    times as long) and the driver's priority (at ``nice`` 10 steps were no more even). A worker that
    dies loses nothing: its matrices are computed in place, with a warning, and counted. Workers end
    with a driver that is killed.

    Parameters
    ----------
    workers : int, "threads" or executor, default 1
        So many processes of our own; as many threads as there are cores (which start faster, but
        while they compute, BLAS has one thread in the whole process, your gradients included); or
        any ``concurrent.futures.Executor``, which is never shut down.
    shares : int or None, default None
        Into how many parts a job is cut; None: the number of workers, of an executor its
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
    def __init__(self, workers: Any = 1, *, shares: int | None = None) -> None:
        self._own = True
        cores = os.cpu_count() or 1
        if isinstance(workers, str):
            if workers != "threads":
                raise ArgumentTypeError(
                    f"workers must be a number of processes, 'threads' or an executor, "
                    f"got {workers!r}"
                )
            self._kind, number = "threads", cores
        elif callable(getattr(workers, "submit", None)) and not isinstance(workers, type):
            self._kind, number, self._own = (
                "executor",
                getattr(workers, "_max_workers", cores),
                False,
            )
        elif isinstance(workers, (bool, type)) or not hasattr(workers, "__index__"):
            raise ArgumentTypeError(
                f"workers must be a number of processes, 'threads' or an executor, got "
                f"{short_repr(workers)}"
            )
        else:
            self._kind, number = "processes", integer("workers", workers, low=1)
        self._number = number
        self._shares = number if shares is None else integer("shares", shares, low=1)
        self._executor: Any = None if self._own else workers
        self._lock = threading.Lock()
        self._closed = False
        # By the identity of the array that a job holds: two jobs with the same one are the same
        # job. An entry goes when the array does.
        self._jobs: dict[int, _SubmittedJob] = {}
        self.begun = self.inline = 0

    def submit(self, job: RootJob) -> None:
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
            parts = [(group, self._send(job.part(group))) for group in groups if group]
            self._jobs[key] = _SubmittedJob(parts, self._executor)
            self.begun += 1
        weakref.finalize(job.packed, self._forget, key).atexit = False

    def result(self, job: RootJob) -> list[RootResult]:
        """The roots, in the order of the items; what a worker did not give back, or nobody has
        begun, is computed here.
        """
        with self._lock:
            begun = None if self._closed else self._jobs.get(id(job.packed))
        if begun is None:
            return solve_roots(job)
        found: list[Any] = [None] * len(job.items)
        for group, future in begun.parts:
            try:
                solved = (
                    [RootResult(*pair) for pair in future.result()] if future is not None else None
                )
            except (RuntimeError, CancelledError, OSError) as error:
                # RuntimeError: a broken pool; and loky's ShutdownExecutorError, which says so of no
                # class of its own, for what was out when the loss of another part ended the pool.
                self._note_loss(group, error, begun.executor)
                solved = None
            if solved is None:
                solved = solve_roots(job.part(group))
                self.inline += len(group)
            for i, one in zip(group, solved, strict=True):
                found[i] = one
        return found

    def close(self) -> None:
        """End the workers, if they are ours; jobs that are still out are dropped, and computed in
        place when their roots are due.
        """
        with self._lock:
            self._closed = True
            self._jobs.clear()
            executor, self._executor = self._executor, None
        if self._own and executor is not None:
            _end(executor)

    def __enter__(self) -> RootPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- workers -----------------------------------------------------------------------------------

    def _send(self, part: RootJob) -> Future[list[tuple[Any, float]]] | None:
        """The future of a part; None where the pool does not take it any more, even after it has
        been replaced.
        """
        arguments = (
            part.packed,
            [(item.n, item.p) for item in part.items],
            part.ridge,
            part.tolerance,
            part.solver,
        )
        for last in (False, True):
            try:
                if self._executor is None:
                    self._executor = self._start()
                future: Future[list[tuple[Any, float]]] = self._executor.submit(
                    solve_part, *arguments
                )
                return future
            except (BrokenExecutor, RuntimeError, OSError) as error:
                # RuntimeError: a pool that was shut down
                if last or not self._own:
                    logger.warning("Shampoo: %s; roots are computed in place", _first_line(error))
                    return None
                self._executor = None
        return None

    def _start(self) -> Executor:
        if self._kind == "threads":
            return ThreadPoolExecutor(self._number, thread_name_prefix="optex-core-roots")
        from loky import ProcessPoolExecutor  # here: 0.1 s, for those who use processes

        # Not what the environment says: two workers with all cores each are slower than one. Marked
        # and watching, as workers for gradients are: a driver that is killed takes them along.
        environment = {
            **dict.fromkeys(THREAD_LIMITS, "1"),
            process_cleanup.TOKEN_VARIABLE: process_cleanup.new_worker_token(),
        }
        executor: Executor = ProcessPoolExecutor(
            self._number,
            timeout=IDLE_SECONDS,
            env=environment,
            initializer=process_cleanup.start_parent_watchdog,
        )
        return executor

    def _note_loss(self, group: Sequence[int], error: BaseException, executor: Any) -> None:
        logger.warning(
            "Shampoo: %d roots were lost (%s); they are computed in place, with the same bits",
            len(group),
            _first_line(error),
        )
        with self._lock:
            # Only if it has not been replaced yet: all jobs of a pool that broke come by here.
            if (
                self._own
                and executor is not None
                and executor is self._executor
                and isinstance(error, BrokenExecutor)
            ):
                self._executor = None
                _end(executor)

    def _forget(self, key: int) -> None:
        begun = self._jobs.pop(key, None)
        for _, future in begun.parts if begun is not None else ():
            if future is not None:
                future.cancel()


def solve_part(
    packed: np.ndarray,
    items: Sequence[tuple[int, int]],
    ridge: float,
    tolerance: float,
    solver: str,
) -> list[tuple[Any, float]]:
    """What a worker runs: plain arrays and tuples in and out, for any pickler."""
    solved = solve_roots(
        RootJob(packed, tuple(RootTask(n, p) for n, p in items), ridge, tolerance, solver)
    )
    return [(one.matrix, one.residual) for one in solved]


def _end(executor: Any) -> None:
    if isinstance(executor, ThreadPoolExecutor):
        executor.shutdown(wait=False, cancel_futures=True)
    else:
        executor.shutdown(wait=True, kill_workers=True)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
