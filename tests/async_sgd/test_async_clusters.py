"""A real Dask cluster with a killed worker, a hanging burst, a push of nan; MPI workers; Ctrl-C."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from clocks import only_these_bursts_take_too_long

import optex_core
from optex_core.async_sgd import Master, Push, run
from optex_core.execution import factory as executors

ROOT = Path(optex_core.__file__).parent.parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
}


class Counting:
    """Counts in the place of the burst's id; each worker has its own object."""

    def __init__(self, hangs):
        self.hangs = hangs

    def spawn(self, worker, seed):
        made = Counting(self.hangs)
        made.worker = worker
        return made

    def __call__(self, v, ctx):
        assert ctx.worker == self.worker
        if ctx.id == 30:
            self.hangs.touch()
            time.sleep(3600)
        s = np.zeros_like(v)
        s[ctx.id % len(v)] = np.nan if ctx.id == 20 else -1.0
        time.sleep(0.01)
        return Push.steps(s, report={"process": os.getpid()})


@pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="distributed is not installed"
)
# Dask's own, of ports and of processes that were killed on purpose
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "executor",
    [None, pytest.param(executors.dask, marks=pytest.mark.slow)],
    ids=["client", "executor"],
)
def test_a_dask_cluster(executor, tmp_path, monkeypatch) -> None:
    from distributed import Client, LocalCluster

    killed, hangs = [], tmp_path / "hangs"
    only_these_bursts_take_too_long(monkeypatch, lambda burst: burst == 30 and hangs.exists())

    def kill(result):
        if result.master.version == 10:
            killed.append(int(result.push.report["process"]))
            os.kill(killed[0], signal.SIGKILL)

    master = Master(np.zeros(200), rng=0)
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        workers = client if executor is None else executor(client)
        report = run(
            master,
            Counting(hangs),
            parallelism=3,
            workers=workers,
            maxiter=60,
            timeout=1.0,
            callback=kill,
        )
        assert client.submit(int, 3).result() == 3, "the client was closed"
    assert killed
    assert report.pushes == 60
    lost = {entry.id: entry.status for entry in master.lost}
    assert lost.pop(20) == "not finite"
    assert lost.pop(30) == "timeout"
    # The scheduler runs bursts of a dead worker again, unless it blames one of them.
    assert set(lost.values()) <= {"worker"}
    assert len(set(master.push_trace.job)) == 60
    assert master.x.sum() == 60
    assert master.x.max() == 1


MPI = """
    import numpy as np
    from mpi4py.futures import MPIPoolExecutor
    from optex_core.async_sgd import minimize

    def fun(x, *, seed):
        return 0.5 * x @ x, x + 0.1 * np.random.default_rng(seed).standard_normal(x.shape)

    if __name__ == "__main__":
        with MPIPoolExecutor(2) as pool:
            options = {"rate": 0.02, "parallelism": 3, "maxiter": 60, "rng": 0}
            res = minimize(fun, np.full(50, 3.0), workers=pool, **options)
        print(res.nit, res.fun < 1.0, len(res.lost))
"""


@pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed")
@pytest.mark.skipif(shutil.which("mpiexec") is None, reason="mpiexec is not installed")
def test_mpi_workers(tmp_path) -> None:
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(MPI))
    command = ["mpiexec", "-n", "3", sys.executable, "-m", "mpi4py.futures", str(script)]
    done = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["60", "True", "0"]


INTERRUPTED = """
    import os, sys, time
    import numpy as np
    from optex_core.async_sgd import minimize

    def fun(x):
        time.sleep(0.02)
        return 0.5 * x @ x, x

    def note(intermediate_result):
        print("update", intermediate_result.nit, flush=True)

    if __name__ == "__main__":
        options = {"rate": 0.01, "inner_steps": 2, "parallelism": 2, "maxiter": 10**6}
        files = {"workers": sys.argv[1], "log": sys.argv[2]}
        res = minimize(fun, np.ones(5), callback=note, **options, **files)
        rows = len(res.push_trace)
        print("ended", res.status.name, res.nit, rows, res.abandoned, flush=True)
"""


@pytest.mark.parametrize("workers", ["processes", "threads"])
def test_ctrl_c_returns_the_result_so_far(tmp_path, workers: str) -> None:
    from optex_core.async_sgd import replay

    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(INTERRUPTED))
    command = [sys.executable, str(script), workers, str(tmp_path / "run.log")]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        assert program.stdout is not None
        for line in program.stdout:
            if line.split() == ["update", "5"]:
                break
        os.killpg(program.pid, signal.SIGINT)  # as a terminal does: to workers too
        rest = program.stdout.read().splitlines()
        assert program.wait(timeout=600) == 0
    word, status, nit, rows, abandoned = rest[-1].split()
    assert (word, status) == ("ended", "INTERRUPTED")
    assert int(nit) == int(rows) >= 5
    assert int(abandoned) <= 2
    assert replay(tmp_path / "run.log").version == int(nit)
