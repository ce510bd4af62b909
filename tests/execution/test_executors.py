"""Whatever runs the evaluations, the outcomes are the same: serial, batched, threads, processes,
users' pools, map-likes; and workers may die.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from evaluating import finish
from fresh_python import python

import optex_core as ox
from optex_core.adapters.objective import make_objective
from optex_core.errors import (
    ArgumentError,
    ArgumentTypeError,
    CapabilityError,
    EvaluationError,
    ObjectiveError,
    ProtocolError,
)
from optex_core.execution.base import Evaluator, attached_call_counts
from optex_core.execution.factory import make_evaluator
from optex_core.execution.synchronous import BatchEvaluator, MapEvaluator, SerialEvaluator
from optex_core.execution.workers import serialization, shared_memory
from optex_core.execution.workers.pool import WorkerLostError, WorkerPool
from optex_core.execution.workers.process import WorkerProcess
from optex_core.execution.workers.serialization import SerializedObjective, SerializedResult
from optex_core.types import Candidate, EvaluationResult

X = np.array([1.0, -2.0, 0.5])


class MeshError(Exception):
    """Unpickles only with two arguments, as many users' exceptions do."""

    def __init__(self, where, cells):
        super().__init__(f"{cells} bad cells at {where}")


def candidates(n, first=0):
    return [
        Candidate(id=first + i, x=_frozen(X + i), seed=100 + i, iteration=first, slot=i)
        for i in range(n)
    ]


def _frozen(x):
    x.flags.writeable = False
    return x


def noisy(x, *, seed):
    """Depends on the point and the seed alone; writes into its argument."""
    result = float(x @ x) + seed, 2 * x + seed
    x[:] = 0
    return result


def fails_at_two(x):
    if x[0] == 2.0:
        raise ValueError("slot one is out of its depth")
    return float(x @ x), 2 * x


def raises_mesh_error(x):
    raise MeshError("the wing", 7)


@pytest.fixture(scope="module")
def loky_pool():
    from loky import ProcessPoolExecutor as Loky

    pool = Loky(2)
    yield pool
    pool.shutdown(kill_workers=True)


@pytest.fixture(scope="module")
def spawn_pool():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def mp_pool():
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def thread_pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


WORKERS = [
    "none",
    "integer",
    "threads",
    "thread_pool",
    "spawn_pool",
    "loky_pool",
    "mp_pool",
    "mp_pool.map",
    "map",
]


@pytest.fixture
def workers(request):
    """Every kind of `workers`, by name."""
    name = request.param
    if name.endswith("_pool"):
        return request.getfixturevalue(name)
    return (
        {"none": None, "integer": 2, "threads": "threads", "map": map}[name]
        if name != "mp_pool.map"
        else request.getfixturevalue("mp_pool").map
    )


@pytest.mark.parametrize("workers", WORKERS, indirect=True)
def test_every_executor_gives_the_bits_of_the_loop(workers):
    objective = make_objective(noisy, x0=X)
    with make_evaluator(objective, workers, parallelism=2) as evaluator:
        evaluator.submit(candidates(3))
        evaluator.submit(candidates(2, first=10), attempt=1)
        assert evaluator.pending == 5
        outcomes = finish(evaluator)
    assert [o.candidate.id for o in outcomes] == [0, 1, 2, 10, 11]
    assert [o.attempt for o in outcomes] == [0, 0, 0, 1, 1]
    for outcome in outcomes:
        c = outcome.candidate
        value, gradient = noisy(np.array(c.x), seed=c.seed)
        assert outcome.error is None
        assert outcome.value == value
        np.testing.assert_array_equal(outcome.gradient, gradient)
        assert (outcome.nfev, outcome.njev) == (1, 1)
        assert outcome.seconds >= 0
    # fun wrote into its argument, and nobody noticed
    np.testing.assert_array_equal(outcomes[0].candidate.x, X)


@pytest.mark.parametrize("workers", WORKERS, indirect=True)
def test_closures_travel_and_exceptions_keep_type_message_and_traceback(workers):
    class LocalError(Exception):
        pass

    def fun(x):
        if x[0] == 2.0:
            raise LocalError("at slot one")
        return float(x @ x), 2 * x

    with make_evaluator(make_objective(fun, x0=X), workers, parallelism=2) as evaluator:
        evaluator.submit(candidates(3))
        good, bad, good2 = finish(evaluator)
    assert good.value == X @ X
    assert good2.error is None
    assert bad.gradient is None
    assert type(bad.error).__name__ == "LocalError"
    # the very class: cloudpickle knows which ones it has sent
    assert isinstance(bad.error, LocalError)
    assert str(bad.error) == "at slot one"
    assert 'raise LocalError("at slot one")' in bad.traceback
    assert (bad.nfev, bad.njev) == (1, 1)


@pytest.mark.parametrize(
    "workers", ["integer", "thread_pool", "spawn_pool", "loky_pool", "mp_pool"], indirect=True
)
def test_exceptions_that_do_not_unpickle_do_not_break_the_pool(workers):
    with make_evaluator(make_objective(raises_mesh_error, x0=X), workers) as evaluator:
        evaluator.submit(candidates(2))
        for outcome in finish(evaluator):
            assert "7 bad cells at the wing" in str(outcome.error)
            assert "MeshError" in outcome.traceback
            assert isinstance(outcome.error, (MeshError, EvaluationError))


# -- serial and batched ----------------------------------------------------------------------------


def test_serial_evaluates_one_candidate_per_call_and_drops_the_rest():
    calls = []
    evaluator = make_evaluator(make_objective(lambda x: (calls.append(x), (1.0, x))[1], x0=X))
    assert isinstance(evaluator, SerialEvaluator)
    evaluator.submit(candidates(3))
    assert [o.candidate.id for o in evaluator.next()] == [0]
    assert (len(calls), evaluator.pending) == (1, 2)
    assert evaluator.drain() == []
    assert (len(calls), evaluator.pending) == (1, 0)


class Abort(BaseException):
    """Of a script's own."""


class SecondInterrupt(KeyboardInterrupt):
    """Derived from what Ctrl-C raises, and not it."""

    def __reduce__(self):
        raise TypeError("it does not travel")


@pytest.mark.parametrize(
    ("workers", "kind"),
    [
        *((name, Abort) for name in WORKERS),
        *((name, SystemExit) for name in ("threads", "integer", "mp_pool")),
        *((name, KeyboardInterrupt) for name in ("none", "integer")),
        ("integer", SecondInterrupt),
    ],
    indirect=["workers"],
)
def test_what_is_no_exception_ends_the_run_as_what_it_was(workers, kind):
    def fun(x):
        raise kind("licence lost")

    expected = KeyboardInterrupt if kind is SecondInterrupt else kind
    with make_evaluator(make_objective(fun, x0=X), workers) as evaluator:
        evaluator.submit(candidates(1))
        with pytest.raises(expected, match="licence lost") as caught:
            evaluator.next()
    counts = attached_call_counts(caught.value)
    assert (counts.nfev, counts.njev) == (1, 1)


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no message today")


class Unformattable(Exception):
    def __getattr__(self, name):
        raise RuntimeError(f"no {name} today")


@pytest.mark.parametrize("kind", [Unprintable, Unformattable])
@pytest.mark.parametrize("workers", ["none", "threads", "integer"], indirect=True)
def test_an_exception_without_a_message_is_a_failure_like_others(workers, kind):
    def fun(x, *, ctx):
        if ctx.id == 4 and not ctx.attempt:
            raise kind
        return float(x @ x), 2 * x

    for on_error in ("drop", "retry"):
        options = {"parallelism": 3, "strategy": "verified", "maxiter": 5, "rng": 0}
        res = ox.minimize(
            fun, X, optimizer=ox.SGD(0.05), workers=workers, on_error=on_error, **options
        )
        (failure,) = res.failures
        assert kind.__name__ in failure.message
        assert kind.__name__ in failure.traceback
        assert res.nit == 5


class WithoutInit:
    """Pickles as an exception that was made by `__new__` alone."""

    def __reduce__(self):
        return SystemExit.__new__, (SystemExit, 3)


def test_an_exit_keeps_its_status_whatever_the_pickler_calls():
    plain = EvaluationResult(None, None, error=SystemExit("3"), traceback="")
    opened = serialization._open_result(pickle.dumps(WithoutInit()), plain)
    assert opened.result.error.code == 3


def test_vectorized_is_one_call_for_all_that_wait():
    shapes = []

    def fun(A, *, seed):
        shapes.append((A.shape, seed))
        return (A**2).sum(axis=1), 2 * A

    evaluator = make_evaluator(make_objective(fun, x0=X, vectorized=True))
    assert isinstance(evaluator, BatchEvaluator)
    evaluator.submit(candidates(2))
    evaluator.submit(candidates(1, first=5))
    outcomes = evaluator.next()
    assert shapes == [((3, 3), (100, 101, 100))]
    assert [o.candidate.id for o in outcomes] == [0, 1, 5]
    for outcome in outcomes:
        np.testing.assert_array_equal(outcome.gradient, 2 * outcome.candidate.x)


def test_a_batch_that_raises_fails_for_every_row_and_counts_rows():
    def fun(A):
        raise EvaluationError("no")

    evaluator = make_evaluator(make_objective(fun, x0=X, vectorized=True))
    evaluator.submit(candidates(3))
    outcomes = evaluator.next()
    assert [(o.nfev, o.njev, type(o.error)) for o in outcomes] == [(1, 1, EvaluationError)] * 3
    assert evaluator.pending == 0


# -- threads and users' pools ----------------------------------------------------------------------


def test_outcomes_come_as_they_finish_and_a_timeout_returns_empty():
    gate = threading.Event()

    def fun(x):
        if x[0] == 1.0:
            gate.wait(60)
        return float(x @ x), 2 * x

    with make_evaluator(make_objective(fun, x0=X), "threads", parallelism=2) as evaluator:
        evaluator.submit(candidates(2))
        assert [o.candidate.id for o in evaluator.next()] == [1]  # the first is still out
        assert evaluator.next(timeout=0.01) == []
        assert evaluator.pending == 1
        gate.set()
        assert [o.candidate.id for o in evaluator.next(timeout=60)] == [0]


def test_drain_drops_what_waits_and_returns_what_runs(thread_pool):
    gate, started, calls, futures = threading.Event(), threading.Semaphore(0), [], []

    def fun(x):
        calls.append(x[0])
        started.release()
        gate.wait(60)
        return float(x @ x), 2 * x

    class Noted:
        def submit(self, *call):
            futures.append(thread_pool.submit(*call))
            return futures[-1]

    evaluator = make_evaluator(make_objective(fun, x0=X), Noted())
    evaluator.submit(candidates(5))
    for _ in range(2):
        assert started.acquire(timeout=60)
    for waiting in futures[2:]:  # what runs goes on when the last of them is dropped
        waiting.add_done_callback(lambda _: all(f.done() for f in futures[2:]) and gate.set())
    assert [o.candidate.id for o in evaluator.drain()] == [0, 1]
    assert evaluator.pending == 0
    assert len(calls) == 2


def test_the_users_pool_is_usable_afterwards(thread_pool, spawn_pool, loky_pool):
    for pool in (thread_pool, spawn_pool, loky_pool):
        evaluator = make_evaluator(make_objective(noisy, x0=X), pool)
        evaluator.submit(candidates(2))
        evaluator.next()
        evaluator.close()
        evaluator.close()  # again, without harm
        with pytest.raises(ProtocolError, match="closed"):
            evaluator.submit(candidates(1))
        assert pool.submit(abs, -3).result(timeout=120) == 3


def test_only_submit_and_standard_futures_are_assumed():
    class Minimal:
        """As narrow as an executor can be."""

        def submit(self, function, *args):
            future = Future()
            future.set_result(
                pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(args)))))
            )
            return future

    with make_evaluator(
        make_objective(lambda x: (float(x @ x), 2 * x), x0=X), Minimal()
    ) as evaluator:
        evaluator.submit(candidates(3))
        assert [o.value for o in evaluator.next()] == [float(c.x @ c.x) for c in candidates(3)]


def test_a_pool_that_is_shut_down_or_drops_work_ends_with_a_sentence():
    objective = make_objective(noisy, x0=X)
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(EvaluationError, match="workers=ThreadPoolExecutor takes no work"):
        make_evaluator(objective, pool).submit(candidates(1))

    class Dropping:
        def submit(self, function, *args):
            future = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future

    evaluator = make_evaluator(objective, Dropping())
    evaluator.submit(candidates(1))
    with pytest.raises(EvaluationError, match="workers=Dropping dropped a waiting evaluation"):
        evaluator.next()


def test_a_users_broken_pool_is_not_replaced():
    def dies(x):
        os._exit(3)

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        evaluator = make_evaluator(make_objective(dies, x0=X), pool)
        evaluator.submit(candidates(1))
        with pytest.raises(
            EvaluationError, match="workers=ProcessPoolExecutor broke: a worker process died"
        ):
            evaluator.next()


def test_a_map_like_must_return_every_result():
    objective = make_objective(noisy, x0=X)
    evaluator = make_evaluator(objective, lambda function, items: [function(items[0])])
    assert isinstance(evaluator, MapEvaluator)
    evaluator.submit(candidates(2))
    with pytest.raises(EvaluationError, match="2 points gave 1 results"):
        evaluator.next()


# -- our own processes -----------------------------------------------------------------------------


def _children():
    """Process ids of our children, without the two trackers of shared memory that Python and loky
    keep until the end.
    """
    found = []
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else []:
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command = (entry / "cmdline").read_bytes()
            except OSError:  # it ended while we looked
                continue
            if parent == os.getpid() and b"resource_tracker" not in command:
                found.append(int(entry.name))
    return set(found)


def test_processes_are_capped_given_the_objective_once_and_gone_after_close(tmp_path):
    def fun(x):
        return float(os.getpid()), [float(os.environ["OMP_NUM_THREADS"]), len(payload.loads), 0.0]

    class Payload:
        """Counts in each worker how often it was unpickled there."""

        def __init__(self):
            self.loads = []

        def __setstate__(self, state):
            self.loads = [*state["loads"], os.getpid()]

        def __getstate__(self):
            return {"loads": self.loads}

    payload = Payload()
    before = _children()
    evaluator = make_evaluator(make_objective(fun, x0=X), 2)
    seen = []
    for first in (0, 10):
        evaluator.submit(candidates(4, first=first))
        seen += finish(evaluator)
    pids = {int(o.value) for o in seen}
    assert os.getpid() not in pids
    assert len(pids) <= 2
    for outcome in seen:
        assert outcome.gradient[0] == float(os.environ.get("OMP_NUM_THREADS", "1"))
        assert outcome.gradient[1] == 1
    evaluator.close()
    assert _children() <= before
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_program_that_closes_nothing_ends_and_leaves_no_worker(tmp_path):
    code = (
        "import numpy as np, os\n"
        "from optex_core.adapters.objective import make_objective\n"
        "from optex_core.execution.factory import make_evaluator\n"
        "from optex_core.types import Candidate\n"
        "evaluator = make_evaluator(make_objective(lambda x: (float(os.getpid()), x), "
        "x0=np.ones(2)), 1)\n"
        "evaluator.submit([Candidate(0, np.ones(2), 0, 0, 0)])\n"
        "print(int(evaluator.next()[0].value))\n"
    )
    done = python("-c", code, cwd=tmp_path)
    assert done.stderr == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_a_worker_that_was_stopped_while_it_waited_does_not_stop_the_driver():
    # the longest that goes by pipe, which must hold it
    x = np.ones(shared_memory.MIN_BYTES // 8 - 1)
    objective = make_objective(lambda x: (float(os.getpid()), x), x0=x)
    with make_evaluator(objective, 1) as evaluator:
        evaluator.submit([Candidate(0, x, 0, 0, 0)])
        (first,) = finish(evaluator)
        os.kill(int(first.value), signal.SIGSTOP)
        evaluator.submit([Candidate(1, x, 0, 0, 1)])
        assert evaluator.next(timeout=0.2) == []
        assert evaluator.abandon(1, 0)
        evaluator.submit([Candidate(2, x, 0, 0, 2)])
        (last,) = finish(evaluator)
        assert last.value != first.value


# Python 3.12 on forks beside threads, which users do all the same
@pytest.mark.filterwarnings("ignore:This process")
@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(),
    reason="environments of other processes cannot be read here",
)
def test_the_death_of_a_worker_that_has_forked_is_noticed(tmp_path):
    def fun(x):
        if not (tmp_path / "forked").exists():
            child = os.fork()
            if not child:
                time.sleep(600)  # holds all that it has inherited
            (tmp_path / "forked").write_text(str(child))
            os.kill(os.getpid(), signal.SIGKILL)
        return float(x @ x), 2 * x

    with make_evaluator(make_objective(fun, x0=X), 1) as evaluator:
        evaluator.submit(candidates(1))
        outcomes = evaluator.next(timeout=60.0)
    assert [o.value for o in outcomes] == [float(X @ X)]
    # killed with the worker
    assert _is_gone(int((tmp_path / "forked").read_text()))


def _is_gone(pid):
    """Whether a process that was killed ends; one that nobody has waited for yet has ended."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_close_does_not_wait_for_a_hanging_evaluation(tmp_path):
    def fun(x):
        (tmp_path / "begun").touch()
        time.sleep(60)
        (tmp_path / "waited for").touch()

    evaluator = make_evaluator(make_objective(fun, x0=X), 1)
    evaluator.submit(candidates(1))
    while not (tmp_path / "begun").exists():
        assert evaluator.next(timeout=0.1) == []
    evaluator.close()
    assert [p.name for p in tmp_path.iterdir()] == ["begun"]
    assert evaluator.pending == 0


def test_a_killed_worker_costs_nothing_but_time(tmp_path, caplog):
    flag = tmp_path / "died"

    def fun(x):
        if x[0] == 2.0 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return float(x @ x), 2 * x

    with (
        caplog.at_level(logging.WARNING, "optex_core"),
        make_evaluator(make_objective(fun, x0=X), 2) as evaluator,
    ):
        evaluator.submit(candidates(4), attempt=2)
        outcomes = finish(evaluator)
    assert [o.candidate.id for o in outcomes] == [0, 1, 2, 3]
    assert [o.value for o in outcomes] == [float(c.x @ c.x) for c in candidates(4)]
    assert {o.attempt for o in outcomes} == {2}
    assert "a worker process died" in caplog.text


def test_points_that_always_kill_end_the_run(monkeypatch):
    monkeypatch.setattr("optex_core.execution.pool_evaluator.MAX_LOSSES", 2)  # ten would take 5 s

    def dies(x):
        os._exit(3)

    with make_evaluator(make_objective(dies, x0=X), 1) as evaluator:
        evaluator.submit(candidates(2))
        with pytest.raises(
            EvaluationError, match=r"2 times in a row a worker process died .* ids \[0, 1\]"
        ):
            evaluator.next()


def test_an_objective_that_cannot_be_loaded_in_a_worker_says_so():
    class Unloadable:
        def __call__(self, x):
            return 1.0, x

        def __reduce__(self):
            return int, ("not a number",)

    with make_evaluator(make_objective(Unloadable(), x0=X), 1) as evaluator:
        evaluator.submit(candidates(1))
        (outcome,) = evaluator.next()
    assert isinstance(outcome.error, ObjectiveError)
    assert "cannot be loaded in a worker process: ValueError" in str(outcome.error)


def _needs(lock):
    def fun(x):
        with lock:
            return 1.0, x

    return fun


def _takes_a_lock(x, lock):
    return 1.0, x


class _Holder:
    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, x):
        return 1.0, x


@pytest.mark.parametrize(
    ("fun", "args", "culprit"),
    [
        (_needs(threading.Lock()), (), "the variable 'lock'"),
        (_Holder(), (), "the attribute 'lock'"),
        (_Holder().__call__, (), "the attribute 'lock'"),
        (_takes_a_lock, (threading.Lock(),), "lock"),
        (functools.partial(_needs(threading.Lock())), (), "the variable 'lock'"),
        (functools.partial(noisy, seed=threading.Lock()), (), "the argument 'seed'"),
    ],
)
def test_what_cannot_be_pickled_is_named_before_anything_starts(fun, args, culprit):
    with pytest.raises(
        ArgumentTypeError,
        match=f"cannot be sent to worker processes: cloudpickle cannot pickle {culprit}",
    ):
        make_evaluator(make_objective(fun, args=args, x0=X), 2)


def test_what_cannot_be_pickled_is_named_by_a_users_pool_too(spawn_pool):
    with make_evaluator(make_objective(_needs(threading.Lock()), x0=X), spawn_pool) as evaluator:
        evaluator.submit(candidates(1))
        with pytest.raises(ArgumentTypeError, match="the variable 'lock'"):
            evaluator.next()


# -- the door --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "error", "says"),
    [
        (0, ArgumentError, "at least 1 process"),
        (-1, ArgumentError, r"os\.cpu_count\(\)"),
        (True, ArgumentTypeError, "got True"),
        (2.0, ArgumentTypeError, "workers must be None"),
        ("thread", ArgumentError, "did you mean 'threads'"),
        (ThreadPoolExecutor, ArgumentTypeError, r"write ThreadPoolExecutor\(...\)"),
        (object(), ArgumentTypeError, "workers must be None"),
    ],
)
def test_workers_that_cannot_work_are_refused(workers, error, says):
    with pytest.raises(error, match=says):
        make_evaluator(make_objective(noisy, x0=X), workers)


def test_vectorized_and_workers_exclude_each_other():
    with pytest.raises(CapabilityError, match="vectorized=True"):
        make_evaluator(make_objective(noisy, x0=X, vectorized=True), 2)


def test_a_numpy_integer_is_a_number_of_processes_and_nothing_starts_before_the_first_point():
    before = _children()
    with make_evaluator(make_objective(noisy, x0=X), np.int64(2)) as evaluator:
        assert isinstance(evaluator, Evaluator)
        assert _children() <= before


def test_objectives_are_serialized_and_loaded_once():
    serialized = SerializedObjective(make_objective(lambda x: (1.0, x), x0=X))
    assert serialized.serialize() is serialized.serialize()
    one, two = pickle.loads(pickle.dumps(serialized)), pickle.loads(pickle.dumps(serialized))
    assert one.objective is two.objective
    assert one.objective is not serialized.objective


def test_a_result_survives_any_pickler():
    result = EvaluationResult(None, None, 3, 2, 0.5, MeshError("here", 1), "text")
    again = pickle.loads(pickle.dumps(SerializedResult(result))).result
    assert "1 bad cells at here" in str(again.error)
    assert (again.traceback, again.nfev, again.njev, again.seconds) == ("text", 3, 2, 0.5)


def test_a_worker_that_dies_while_a_call_is_written_to_it_is_lost_and_nothing_else(monkeypatch):
    write, cut = os.write, []

    def killing(handle, data):
        written = write(handle, data)
        if written < len(data):  # the pipe is full: the rest waits for the worker
            os.kill(pid, signal.SIGKILL)
            cut.append(written)
        return written

    monkeypatch.setattr(os, "write", killing)
    for turn in range(3):
        pool = WorkerPool(WorkerProcess, 1)
        pid = pool.submit(os.getpid).result(60)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(WorkerLostError, match="a worker process died"):
            pool.submit(len, bytes(5_000_000)).result(60)
        assert len(cut) == turn + 1
        assert pool.submit(len, b"12").result(60) == 2
        pool.close()


SILENT = """
import sys
import numpy as np
import optex_core as ox

def fun(x):
    print("user code prints")
    return float(x @ x), 2 * x

words = ["/bin/sh", "-c", 'cp "$1" "$2"; echo 2 > "$3"', "sim"]
program = ox.adapters.subprocess([*words, "{parameters}", "{gradient}", "{value}"])
options = {"optimizer": ox.SGD(0.1), "maxiter": 3, "rng": 0, "workers": 2}
done = [ox.minimize(f, np.ones(3), **options).nit for f in (fun, program)]
open(sys.argv[1], "w").write(repr(done))
"""


@pytest.mark.skipif(not Path("/bin/sh").exists(), reason="/bin/sh is not installed")
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_workers_and_programs_need_no_standard_streams(tmp_path, closed):
    script, result = tmp_path / "script.py", tmp_path / "result"
    script.write_text(SILENT)
    line = f'exec "{sys.executable}" "{script}" "{result}" {closed}'
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run(["/bin/sh", "-c", line], check=True, timeout=120, env=env, cwd=tmp_path)
    assert result.read_text() == "[3, 3]"
