"""Private and changing details of other libraries on which the package rests: all of them.

A test that fails here says in one sentence which library changed, what no longer holds and which
file relies on it. Everything else that is used is documented by the libraries.
"""

from __future__ import annotations

import concurrent.futures
import importlib.metadata
import importlib.util
import inspect
import multiprocessing.util
import os
import pickle
import sys
from pathlib import Path

import numpy as np
from evaluating import need

import optex_core


def holds(library, condition, change, where):
    assert (Path(optex_core.__file__).parent / where.split()[0]).exists(), f"{where} has moved"
    version = importlib.metadata.version(library) if library != "CPython" else sys.version
    assert condition, f"{library} {version} has changed: {change}; optex_core/{where} relies on it"


def parameters(function):
    return set(inspect.signature(function).parameters)


# -- Python ----------------------------------------------------------------------------------------


def test_multiprocessing_calls_finalizers_before_it_waits_for_children():
    found = {"exitpriority"} <= parameters(multiprocessing.util.Finalize.__init__)
    change = "multiprocessing.util.Finalize takes no exitpriority"
    holds("CPython", found, change, "execution/workers/process.py")


def test_executors_tell_how_many_workers_they_have():
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        found = getattr(pool, "_max_workers", None) == 3
    change = "ThreadPoolExecutor has no _max_workers, so that shares= must be given"
    holds("CPython", found, change, "execution/workers/root_pool.py")


def test_process_pools_are_known_by_their_modules():
    from loky import ProcessPoolExecutor, get_reusable_executor

    from optex_core.execution.workers.evaluation_workers import _LOCAL_EXECUTORS

    where = "execution/workers/evaluation_workers.py (_LOCAL_EXECUTORS)"
    change = "its process pool is defined in another module, so that no memory is shared with it"
    standard = concurrent.futures.ProcessPoolExecutor.__module__
    holds("CPython", standard in _LOCAL_EXECUTORS, change, where)
    reusable = inspect.getmodule(get_reusable_executor).__name__
    found = {ProcessPoolExecutor.__module__, reusable} <= set(_LOCAL_EXECUTORS)
    holds("loky", found, change, where)


# -- cloudpickle -----------------------------------------------------------------------------------


def test_code_objects_keep_their_file_names_on_the_way_to_workers():
    from optex_core.execution.workers.serialization import dumps

    unit = 3.0

    def closure(x):
        return unit * x

    where = "execution/workers/serialization.py (dumps)"
    again = pickle.loads(dumps(closure))  # the standard pickle reads what cloudpickle writes
    found = again.__code__.co_filename == __file__
    change = "a pickler's dispatch_table no longer decides how code objects are written, so that "
    holds("cloudpickle", found, change + "tracebacks lose their source lines", where)
    holds("cloudpickle", again(2.0) == 6.0, "closures do not travel by value", where)


# -- loky ------------------------------------------------------------------------------------------


def main_module():
    return os.environ.get("OPTEX_TEST"), getattr(sys.modules["__main__"], "__file__", "")


def test_loky_starts_a_new_interpreter_without_the_callers_main_program():
    from loky.backend import get_context

    from optex_core.execution.workers.pool import WorkerPool
    from optex_core.execution.workers.process import WorkerProcess

    where = "execution/workers/process.py (WorkerProcess)"
    context = get_context("loky")
    found = "env" in parameters(context.Process.__init__) and hasattr(context, "Pipe")
    holds("loky", found, "loky.backend's Process takes no env=, or there is no Pipe", where)
    pool = WorkerPool(lambda: WorkerProcess(environment={"OPTEX_TEST": "1"}), 1)
    try:
        variable, main = pool.submit(main_module).result(60)
    finally:
        pool.close()
    holds("loky", variable == "1", "a process does not get the variables of env=", where)
    holds("loky", "loky" in main, "a process imports the caller's main program", where)


# -- threadpoolctl ---------------------------------------------------------------------------------


def test_threadpoolctl_names_the_threading_layer_of_openblas():
    import threadpoolctl

    where = "backends/blas_threads.py"
    found = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
    complete = all(
        hasattr(c, "filepath") and hasattr(c, "num_threads") and hasattr(c, "internal_api")
        for c in found
    )
    change = "its controllers have no filepath, num_threads or internal_api"
    holds("threadpoolctl", complete, change, where)
    layers = [hasattr(c, "threading_layer") for c in found if c.internal_api == "openblas"]
    holds("threadpoolctl", all(layers), "OpenBLAS controllers have no threading_layer", where)


# -- SciPy -----------------------------------------------------------------------------------------


def test_scipy_wraps_functions_that_return_value_and_gradient():
    from scipy.optimize import minimize

    seen = []

    def method(fun, x0, args=(), jac=None, **options):
        seen.append((fun, jac))
        return minimize(fun, x0, jac=jac, method="L-BFGS-B")

    minimize(lambda x: (x @ x, 2 * x), np.ones(2), jac=True, method=method)
    ((fun, jac),) = seen
    found = type(fun).__name__ == "MemoizeJac" and jac.__self__ is fun and callable(fun.fun)
    change = "minimize(jac=True) no longer wraps fun in MemoizeJac with its derivative as jac"
    holds("scipy", found and jac.__name__ == "derivative", change, "_minimize.py (scipy_method)")


# -- Numba -----------------------------------------------------------------------------------------


def test_numba_compiles_caches_and_restores_a_function():
    from optex_core.backends.numba import _internals

    where = "backends/numba/_internals.py"
    if _internals.JIT_DISABLED:
        return

    class Cache:
        saved = None

        def load_overload(self, sig, target_context):
            if self.saved is None:
                return None
            return _internals.deserialize(self.saved, target_context)

        def save_overload(self, sig, data):
            self.saved = _internals.serialize(data)

    def plus_one(x):
        return x + 1.0

    cache, results = Cache(), []
    for _ in range(2):
        compiled = _internals.compile_function(plus_one, {"nogil": True})
        _internals.set_cache(compiled, cache)
        results.append(compiled(1.0))
        holds("numba", cache.saved, "a dispatcher does not ask its _cache to keep code", where)
    holds("numba", results == [2.0, 2.0], "compiled code cannot be restored from bytes", where)
    restored = _internals.is_compiled(compiled)
    holds("numba", restored, "a dispatcher has no overloads after a call", where)
    for name in ("CACHE_DIR", "DISABLE_JIT", "NUMBA_NUM_THREADS"):
        holds("numba", hasattr(_internals.config, name), f"its config has no {name}", where)


def test_numba_functions_show_what_they_are_made_of():
    import numba

    def square(x):
        return x * x

    compiled = numba.njit(parallel=True)(square)
    where = "adapters/numba_.py and async_sgd/hogwild.py"
    found = getattr(compiled, "py_func", None) is square
    holds("numba", found, "a dispatcher has no py_func", where)
    found = getattr(compiled, "targetoptions", {}).get("parallel") is True
    holds("numba", found, "a dispatcher's targetoptions do not tell of parallel=True", where)


# -- Dask ------------------------------------------------------------------------------------------


def test_distributed_tells_when_tasks_start_and_restarts_single_workers():
    need("distributed")
    import distributed
    from distributed.scheduler import KilledWorker

    client, where = distributed.Client, "execution/clusters/dask.py"
    for name in ("subscribe_topic", "unsubscribe_topic", "submit", "close"):
        holds("distributed", hasattr(client, name), f"Client has no {name}", where)
    found = {"workers", "raise_for_error"} <= parameters(client.restart_workers)
    holds("distributed", found, "Client.restart_workers takes other arguments", where)
    found = "n_workers" in parameters(client.scheduler_info)
    holds("distributed", found, "Client.scheduler_info takes no n_workers", where)
    found = {"pure", "key"} <= parameters(client.submit)
    holds("distributed", found, "Client.submit takes no pure or key", where)
    found = hasattr(distributed.Worker, "log_event")
    holds("distributed", found, "workers have no log_event", where)
    holds("distributed", KilledWorker.__name__ == "KilledWorker", "no KilledWorker", where)


def test_distributed_executors_show_whether_equal_calls_are_merged():
    need("distributed")
    from distributed.cfexecutor import ClientExecutor

    source = inspect.getsource(ClientExecutor.__init__)
    found = ClientExecutor.__name__ == "ClientExecutor" and "self._kwargs = kwargs" in source
    change = "client.get_executor() no longer keeps its options in ClientExecutor._kwargs"
    holds("distributed", found, change, "execution/factory.py (_from_dask)")


# -- MPI -------------------------------------------------------------------------------------------


def test_mpi4py_tells_whether_a_script_was_started_by_its_futures():
    need("mpi4py")
    from mpi4py.futures import _core

    change = "mpi4py.futures._core has no SharedPool"
    holds("mpi4py", hasattr(_core, "SharedPool"), change, "execution/clusters/mpi.py")
