"""Evaluators from the public argument ``workers``."""

from __future__ import annotations

from typing import Any

from optex_core._validation import callable_, integer, one_of, short_repr
from optex_core.errors import ArgumentError, ArgumentTypeError, CapabilityError
from optex_core.execution.base import Evaluator
from optex_core.execution.clusters.dask import dask
from optex_core.execution.clusters.mpi import mpi
from optex_core.execution.clusters.ray import ray
from optex_core.execution.difference_evaluator import wrap_finite_differences
from optex_core.execution.pool_evaluator import PoolEvaluator
from optex_core.execution.synchronous import BatchEvaluator, MapEvaluator, SerialEvaluator
from optex_core.execution.workers.evaluation_workers import Workers
from optex_core.execution.workers.serialization import Run, evaluate_point
from optex_core.types import ObjectiveProtocol

__all__ = ["dask", "make_evaluator", "mpi", "ray"]

_EXPECTED = (
    "None (this thread), a number of processes, 'threads' or 'processes', "
    "an executor with submit (such as concurrent.futures.ThreadPoolExecutor(4)), or a map-like"
)


def make_evaluator(
    objective: ObjectiveProtocol,
    workers: object = None,
    *,
    vectorized: bool | None = None,
    parallelism: int = 1,
) -> Evaluator:
    """Make the evaluator that `workers` stands for. Calls of a finite difference are tasks of
    their own.

    Parameters
    ----------
    objective : ObjectiveProtocol
    workers : None, int, "threads", "processes", executor, map-like
        None: this thread. An integer: so many processes. A name: `parallelism` of them. Anything
        with ``submit`` is used as a `concurrent.futures.Executor`; anything else that is callable,
        or has a ``map`` (``multiprocessing.Pool``), as ``map(function, items)``.
    vectorized : bool, optional
        Evaluate all candidates of an iteration in one call; by default what the objective says.
    parallelism : int
        Number of candidates that are out at once.
    """
    batched = objective.vectorized if vectorized is None else bool(vectorized)
    if workers is None:
        return BatchEvaluator(objective, parallelism) if batched else SerialEvaluator(objective)
    if batched:
        raise CapabilityError(
            "vectorized=True evaluates all points of a round in one call in this thread, "
            f"workers={short_repr(workers)} spreads them over several; pass one of the two"
        )
    pool = make_workers(evaluate_point, objective, workers, parallelism, _EXPECTED)
    evaluator = _map_evaluator(objective, workers) if pool is None else PoolEvaluator(pool)
    return wrap_finite_differences(objective, evaluator)


def make_workers(
    run: Run, target: object, workers: Any, parallelism: int, expected: str
) -> Workers | None:
    """The `Workers` for ``run(target, x, *rest)`` that the argument `workers` stands for, which
    must be `expected`; None where it may be a map-like.
    """
    if isinstance(workers, str):
        kind = one_of("workers", workers, ("threads", "processes"))
        make = Workers.threads if kind == "threads" else Workers.processes
        return make(run, target, parallelism)
    if isinstance(workers, (type, bool)) and workers is not map:  # the builtin map-like is a class
        name = getattr(workers, "__name__", "")
        what = f"the class {name}; write {name}(...)" if name else repr(workers)
        raise ArgumentTypeError(f"workers must be {expected}; got {what}")
    if hasattr(type(workers), "__index__"):
        number = integer("workers", workers)
        if number < 1:
            raise ArgumentError(
                f"workers must be at least 1 process, got {short_repr(number)}; for all cores "
                "pass os.cpu_count(), for this thread None"
            )
        return Workers.processes(run, target, number)
    given = workers
    if type(workers).__module__.partition(".")[0] == "distributed":
        workers = _from_dask(workers)
    if not callable(getattr(workers, "submit", None)):
        return None
    made = Workers.external(run, target, workers)
    made.owned = workers is not given
    return made


def _map_evaluator(objective: ObjectiveProtocol, workers: Any) -> Evaluator:
    mapper = workers if callable(workers) else getattr(workers, "map", None)
    if not callable(mapper):
        raise ArgumentTypeError(f"workers must be {_EXPECTED}; got {short_repr(workers)}")
    return MapEvaluator(objective, callable_("workers", mapper, "a function", "the items"))


def _from_dask(workers: object) -> object:
    """A bare Dask client as an executor: its own ``submit`` merges equal calls."""
    if type(workers).__name__ != "ClientExecutor":
        return dask(workers)
    if getattr(workers, "_kwargs", {}).get("pure", True):
        raise ArgumentError(
            "client.get_executor() merges equal calls unless told not to; pass "
            "ox.executors.dask(client), or client.get_executor(pure=False)"
        )
    return workers
