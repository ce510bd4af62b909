"""Real clusters: Dask worker processes, an MPI job, Ray; each gives the bits of the loop, and
workers may die where the library survives it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path

import numpy as np
import pytest
from clocks import only_these_take_too_long
from evaluating import finish, need

import optex_core as ox
from optex_core.adapters.objective import make_objective
from optex_core.errors import (
    ArgumentError,
    ArgumentTypeError,
    CapabilityError,
    EvaluationError,
    MissingExtraError,
)
from optex_core.execution.clusters import _executor
from optex_core.execution.clusters.dask import DaskExecutor
from optex_core.execution.factory import make_evaluator
from optex_core.types import Candidate

#: Every library in a process of its own: they install signal handlers and threads, and Ray and MPI
#: end with their process.
MAIN = """
import math, os, pathlib, sys, time
import numpy as np
import optex_core as ox

def fun(x, *, seed):
    with open(LOG, "a") as log:
        log.write(f"{os.getpid()} {seed}\\n")
    # no BLAS: its bits depend on alignment and threads
    return math.fsum(x * x) + 1e-9 * (seed % 7), 2.0 * x

def main(workers, **options):
    options = {"parallelism": 4, "optimizer": ox.SGD(0.1), "maxiter": 4, "rng": 0, **options}
    for d in (3, 140_000):
        x0 = np.linspace(-1, 1, d)
        alone = ox.minimize(fun, x0, **{**options, "backend": "numpy"})
        pathlib.Path(LOG).unlink()
        res = ox.minimize(fun, x0, workers=workers, **{**options, "backend": "numpy"})
        lines = pathlib.Path(LOG).read_text().split("\\n")[:-1]
        pathlib.Path(LOG).unlink()
        assert (res.x == alone.x).all() and res.fun == alone.fun, (res, alone)
        assert res.nit == alone.nit == 4, (res, alone)
        assert len(lines) == res.njev == alone.njev, (lines, res.njev)
        assert str(os.getpid()) not in {line.split()[0] for line in lines}, "nothing ran here"
    unit = 3.0
    closure = lambda x: (unit * float(x @ x), 2 * unit * x)
    res = ox.minimize(closure, np.ones(2), workers=workers, **options)
    assert res.nit == 4, "closures travel"
    def broken(x):
        raise ValueError("the mesh is tangled")
    try:
        ox.minimize(broken, np.ones(2), workers=workers, **options)
    except ValueError as error:
        assert "the mesh is tangled" in str(error) and error.partial_result.njev >= 1
    else:
        raise AssertionError("no error")
    print("all well")
"""


def run(code, *command, cwd, arguments=()):
    script = cwd / "script.py"
    script.write_text(f"LOG = {str(cwd / 'log')!r}\n{MAIN}{code}")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    words = [*command, sys.executable, *arguments, str(script)]
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=600,
        env=env,
        cwd=cwd,
        check=False,
        stdin=subprocess.DEVNULL,
    )


# -- MPI -------------------------------------------------------------------------------------------


def mpiexec():
    need("mpi4py")
    found = shutil.which(
        "mpiexec",
        path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    )
    if found is None:
        pytest.skip("mpiexec is not installed")
    return found


def test_an_mpi_job_evaluates(tmp_path):
    code = 'if __name__ == "__main__":\n    with ox.executors.mpi() as pool:\n        main(pool)\n'
    done = run(code, mpiexec(), "-n", "3", cwd=tmp_path, arguments=("-m", "mpi4py.futures"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all well\n"


@pytest.mark.parametrize(
    ("job", "says"), [(("-n", "2"), "this script runs 2 times"), ((), "not part of an MPI job")]
)
def test_a_script_that_was_started_without_mpi_says_how(tmp_path, job, says):
    code = "try:\n    ox.executors.mpi()\nexcept ox.CapabilityError as error:\n    print(error)\n"
    launcher = mpiexec()
    done = run(code, *((launcher, *job) if job else ()), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    assert "python -m mpi4py.futures script.py" in done.stdout


# -- Ray -------------------------------------------------------------------------------------------

RAY = """
import signal
def dies(x):
    flag = pathlib.Path(LOG + ".died")
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return float(x @ x), 2.0 * x

if __name__ == "__main__":
    with ox.executors.ray() as pool:
        main(pool)
        options = dict(workers=pool, optimizer=ox.SGD(0.1))
        assert ox.minimize(dies, np.ones(2), maxiter=3, **options).nit == 3
        futures = [pool.submit(time.sleep, 0.5) for _ in range(8)]
        assert futures[0].running() and futures[-1].cancel()
        for future in futures[:-1]:
            future.result(60)
        hangs = pathlib.Path(LOG + ".hangs")
        def slow_once(x):
            if not hangs.exists():
                hangs.touch()
                time.sleep(600)
            return float(x @ x), 2.0 * x
        begin = time.monotonic()
        options.update(timeout=3, on_error="retry", parallelism=1)
        res = ox.minimize(slow_once, np.ones(2), maxiter=2, **options)
        assert res.nit == 2 and len(res.failures) == 1 and not res.deterministic, res
        assert time.monotonic() - begin < 60
    import ray
    assert not ray.is_initialized(), "what was started is ended"
    print("the end")
"""


def test_ray_evaluates_and_survives_the_death_of_a_worker(tmp_path):
    need("ray")
    done = run(RAY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("all well\n")
    assert done.stdout.endswith("the end\n")


# -- Dask ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    need("distributed")
    import dask
    from distributed import LocalCluster

    # After so long a worker that went counts as lost if none of its name is there in that moment,
    # even if another one came meanwhile and is being restarted: the cluster then has one for ever
    # (distributed 2026.8, SpecCluster._update_worker_status).
    patience = dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"})
    # it tells about every worker that is killed here
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    # Any free port. Without one, or with None, the scheduler tries 8787 first: where another
    # cluster has it, distributed abandons the socket, which ends in a ResourceWarning.
    with (
        patience,
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="module")
def client(cluster):
    from distributed import Client

    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=120)
        yield client


def candidates(n, d):
    return [Candidate(i, np.full(d, float(i)), 100 + i, 0, i) for i in range(n)]


# Dask warns about tasks of 10 MB: not about these.
@pytest.mark.parametrize(
    ("form", "d"),
    [
        ("client", 3),
        ("client", 1_400_000),
        ("cluster", 3),
        ("address", 3),
        ("executor", 3),
        ("bare client", 1_400_000),
    ],
)
def test_a_dask_cluster_evaluates(form, d, cluster, client):
    offset = np.ones(200_000)  # in the closure: sent once, and not within every task

    def fun(x, *, seed):
        return float(x[0]) + seed + offset[0], 2 * x

    workers = {
        "client": lambda: ox.executors.dask(client),
        "cluster": lambda: ox.executors.dask(cluster),
        "address": lambda: ox.executors.dask(cluster.scheduler_address),
        "executor": lambda: client.get_executor(pure=False),
        "bare client": lambda: client,
    }[form]()
    with make_evaluator(make_objective(fun, x0=np.ones(d)), workers) as evaluator:
        evaluator.submit(candidates(4, d))
        for o in finish(evaluator):
            assert o.error is None, o.traceback
            assert o.value == 2 * o.candidate.id + 101
            np.testing.assert_array_equal(o.gradient, 2 * o.candidate.x)
    if form in ("cluster", "address"):
        workers.shutdown()
    assert client.status == "running"


def test_equal_calls_are_all_made(client, tmp_path):
    with ox.executors.dask(client) as pool:
        pids = [f.result(60) for f in [pool.submit(_leave_a_mark, str(tmp_path)) for _ in range(4)]]
    assert len(list(tmp_path.iterdir())) == 4
    assert os.getpid() not in pids
    assert client.status == "running", "the user's client is left as it is"


def _leave_a_mark(folder):
    import uuid

    Path(folder, uuid.uuid4().hex).touch()
    return os.getpid()


def test_an_executor_that_merges_equal_calls_is_refused(client):
    with pytest.raises(ArgumentError, match=r"merges equal calls .* ox\.executors\.dask\(client\)"):
        make_evaluator(make_objective(lambda x: (1.0, x), x0=np.ones(2)), client.get_executor())


def test_a_future_runs_when_its_worker_has_begun_and_can_be_cancelled_before(client, tmp_path):
    gate = str(tmp_path / "gate")
    with ox.executors.dask(client) as pool:
        futures = [pool.submit(_wait_for, gate) for _ in range(6)]
        end = time.monotonic() + 120
        while sum(f.running() for f in futures) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert [f.running() for f in futures].count(True) == 2  # two workers with one thread each
        waiting = [f for f in futures if not f.running()]
        assert all(f.cancel() for f in waiting)
        Path(gate).touch()
        assert sorted(f.result(120) for f in futures if f not in waiting) == [1, 1]


def _wait_for(path):
    while not Path(path).exists():
        time.sleep(0.01)
    return 1


@pytest.mark.parametrize("d", [3, 1_400_000])
def test_a_dask_worker_that_is_killed_costs_nothing_but_time(client, tmp_path, d):
    flag = tmp_path / "died"

    def fun(x):
        if x[0] == 1.0 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return float(x[0]), 2 * x

    with make_evaluator(make_objective(fun, x0=np.ones(d)), ox.executors.dask(client)) as evaluator:
        evaluator.submit(candidates(4, d))
        outcomes = finish(evaluator)
    assert [o.value for o in outcomes] == [0.0, 1.0, 2.0, 3.0]
    assert flag.exists()


def test_a_timeout_restarts_the_worker(client, tmp_path, monkeypatch):
    def hangs(id_, attempt):
        return not attempt and (tmp_path / f"hangs{id_}").exists()

    def hangs_once(x, *, ctx):
        if ctx.id == 0 and not ctx.attempt:
            (tmp_path / "hangs0").touch()
            time.sleep(600)
            (tmp_path / "waited for").touch()
        return float(x @ x), 2 * x

    only_these_take_too_long(monkeypatch, hangs)
    options = {"optimizer": ox.SGD(0.1), "parallelism": 2, "timeout": 1, "on_error": "retry"}
    res = ox.minimize(hangs_once, np.ones(2), workers=client, maxiter=4, **options)
    assert res.nit == 4
    assert [p.name for p in tmp_path.iterdir()] == ["hangs0"]
    assert "longer than timeout=1 s" in res.failures[0].message
    assert not res.deterministic
    end, up = time.monotonic() + 120, 0
    while up < 2 and time.monotonic() < end:  # both workers are back
        time.sleep(0.1)
        with contextlib.suppress(OSError):  # the one that is just going
            up = len(client.run(os.getpid))
    assert up == 2


class FakeClient:
    """A client whose tasks are given up, as Dask does after four dead workers."""

    status = "running"

    def __init__(self):
        self.submitted = 0

    def subscribe_topic(self, topic, handler):
        """Nothing is ever told."""

    unsubscribe_topic = close = subscribe_topic

    def submit(self, *args, **kwargs):
        self.submitted += 1
        return Killed()


class KilledWorker(Exception):
    pass


class Killed:
    def add_done_callback(self, call):
        threading.Timer(0.01, call, [self]).start()

    def result(self):
        raise KilledWorker("its workers died")

    def cancel(self):
        """Nothing runs."""


def test_a_point_that_always_kills_ends_the_run(caplog):
    client = FakeClient()
    pool = DaskExecutor(client, owned=False)
    with (
        caplog.at_level(logging.WARNING, "optex_core"),
        pytest.raises(BrokenExecutor, match="10 times in a row"),
    ):
        pool.submit(abs, -3).result(30)
    assert client.submitted == _executor.MAX_LOSSES
    assert "its point is asked again (loss 9 of at most 10)" in caplog.text


@pytest.mark.parametrize("first", ["result", "error"])
def test_a_result_and_the_end_of_its_time_may_come_at_once(first):
    pool, task = DaskExecutor(FakeClient(), owned=False), _executor.ClusterTask(abs, (-3,))
    both = [lambda: pool._finish(task, 3), lambda: task.fail(EvaluationError("abandoned"))]
    for one in both if first == "result" else both[::-1]:
        one()
    assert (task.future.exception() is None) == (first == "result")


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_ends_a_script_ends_the_run_and_no_dask_worker(client, kind):
    def fun(x):
        raise kind("licence lost")

    before = client.run(os.getpid)
    with make_evaluator(make_objective(fun, x0=np.ones(2)), client) as evaluator:
        evaluator.submit(candidates(2, 2))
        with pytest.raises(kind, match="licence lost"):
            evaluator.next(timeout=60)
    assert client.run(os.getpid) == before


def test_a_closed_client_ends_the_run_with_a_sentence(cluster):
    from distributed import Client

    client = Client(cluster, set_as_default=False)
    evaluator = make_evaluator(make_objective(lambda x: (time.sleep(60), x), x0=np.ones(2)), client)
    evaluator.submit(candidates(1, 2))
    client.close()
    with pytest.raises(EvaluationError, match="Dask client"):
        evaluator.next(timeout=120)
    with pytest.raises(ArgumentError, match="the Dask client is closed"):
        ox.executors.dask(client)


def test_what_is_no_cluster_is_refused(monkeypatch):
    need("distributed")
    with pytest.raises(
        ArgumentTypeError,
        match=r"takes a distributed\.Client, the address of a scheduler, or a cluster; got 3",
    ):
        ox.executors.dask(3)
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.3s"}),
        pytest.raises(ArgumentError, match="no Dask scheduler answers"),
    ):
        ox.executors.dask("tcp://127.0.0.1:9")


def test_an_address_where_nobody_answers_ends_the_program_at_once(tmp_path):
    need("distributed")
    code = (
        "import optex_core as ox\ntry:\n    ox.executors.dask('foo://x:1')\nexcept "
        "ox.ArgumentError as error:\n    print(error)\nprint(time.monotonic())\n"
    )
    done = run(code, cwd=tmp_path)
    # it waited for a minute when the client was collected
    assert time.monotonic() - float(done.stdout.split()[-1]) < 45
    assert done.returncode == 0
    assert done.stdout.startswith(
        "no Dask scheduler answers at 'foo://x:1': unknown address scheme"
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("library", "factory"),
    [
        ("distributed", lambda: ox.executors.dask(1)),
        ("mpi4py", ox.executors.mpi),
        ("ray", ox.executors.ray),
    ],
)
def test_a_missing_library_names_its_extra(monkeypatch, library, factory):
    for name in [m for m in sys.modules if m.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    extra = {"distributed": "dask", "mpi4py": "mpi", "ray": "ray"}[library]
    with pytest.raises(MissingExtraError, match=rf"python -m pip install 'optex_core\[{extra}\]'"):
        factory()


def test_mpi_options_are_checked():
    need("mpi4py")
    with pytest.raises((ArgumentError, CapabilityError, MissingExtraError)):
        ox.executors.mpi(0)
