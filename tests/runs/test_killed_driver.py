"""The driver is killed, the disk fills up, files are damaged: the continued run has the bits of the
uninterrupted one, and nothing arrives twice.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from optex_core.runs import journal

X0 = np.array([-1.2, 1.0, 0.7, 2.0])
ROUNDS = 60

#: What the drivers run: an objective that notes each evaluation in a file before it returns, and
#: one in three of them first fails. When the file is as long as it may be it waits to be killed.
DRIVER = """
import os, sys, time
import numpy as np, optex_core as ox

def fun(x, *, ctx):
    while os.path.exists("evaluated") and os.path.getsize("evaluated") >= int(sys.argv[3]):
        time.sleep(0.01)
    if ctx.id % 3 == 1 and ctx.attempt == 0:
        raise RuntimeError("flaky")
    time.sleep(0.004)
    a, b = 1.0 - x[:-1], x[1:] - x[:-1] ** 2
    g = np.zeros_like(x)
    g[:-1] = -2.0 * a - 40.0 * x[:-1] * b
    g[1:] += 20.0 * b
    g += 0.01 * np.random.default_rng(ctx.seed).standard_normal(len(x))
    line = os.open("evaluated", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(line, f"{ctx.id}\\n".encode())
    os.close(line)
    return float(a @ a + 10.0 * b @ b), g

if __name__ == "__main__":
    workers = {"none": None, "threads": "threads"}.get(sys.argv[1], 2)
    every = {"1": 1, "7": 7}.get(sys.argv[2], 0.05)
    res = ox.minimize(fun, np.array([-1.2, 1.0, 0.7, 2.0]), optimizer=ox.SGD(2e-3, momentum=0.5),
        parallelism=3, strategy="verified", maxiter=ROUNDS, rng=5, workers=workers,
        on_error="retry", checkpoint="run.npz", checkpoint_every=every, resume=True)
    h = res.history.to_arrays()
    np.savez("answer.npz", x=res.x, fun=res.fun, jac=res.jac, best_x=res.best_x,
        counts=[res.nit, res.nsteps, res.deterministic],
        **{k: h[k] for k in h if k not in ("seconds", "overhead", "slowest", "note")})
""".replace("ROUNDS", str(ROUNDS))


def start(folder, workers, every="1", most=10**9):
    (folder / "driver.py").write_text(DRIVER)
    tmp = folder / "tmp"
    tmp.mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp)}
    # no pipe: workers hold it open for a moment longer than a killed driver
    with (folder / "errors").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "driver.py", workers, every, str(most)],
            cwd=folder, env=env, stderr=errors,
        )  # fmt: skip


def finish(folder, *options):
    assert start(folder, *options).wait(timeout=300) == 0, (folder / "errors").read_text()


def answer(folder):
    with np.load(folder / "answer.npz") as file:
        return {name: file[name] for name in file.files}


def assert_same(one, other):
    assert set(one) == set(other)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def arrived(folder):
    """The ids of the gradients that are on disk."""
    found = set()
    for name in ("run.npz.previous.journal", "run.npz.journal"):
        read = journal.read_journal(folder / name)
        found |= {r["id"] for r, vector in (read.records if read else []) if vector is not None}
    return found


def processes_with(folder):
    """Processes that were started with this temporary folder."""
    mark, found = f"TMPDIR={folder / 'tmp'}".encode(), []
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else []:
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def assert_nothing_left(folder):
    end = time.monotonic() + 120
    while processes_with(folder) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes_with(folder) == []
    assert [p.name for p in (folder / "tmp").iterdir()] == []
    assert not [p.name for p in folder.iterdir() if "tmp" in p.name and p.name != "tmp"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The answer of the run that nobody kills."""
    folder = tmp_path_factory.mktemp("whole")
    finish(folder, "none")
    return answer(folder)


@pytest.mark.parametrize(
    ("workers", "every", "kills"), [("none", "1", 10), ("threads", "7", 6), ("2", "0.05", 4)]
)
def test_killed_at_any_instant_the_run_goes_on_with_the_same_bits_and_evaluates_nothing_again(
    tmp_path, whole, workers, every, kills
):
    instants, here = random.Random(workers), set()
    evaluated = tmp_path / "evaluated"
    evaluated.touch()
    for _ in range(kills):
        size = evaluated.stat().st_size
        # Of more than 500 bytes in all: no driver gets to the end, however late it is killed.
        driver = start(tmp_path, workers, every, size + 40)
        # From the first evaluation on: starting takes most of the time, and nothing can be lost in
        # it.
        while driver.poll() is None and evaluated.stat().st_size == size:
            time.sleep(0.002)
        time.sleep(instants.uniform(0.0, 0.06))
        driver.kill()
        driver.wait()
        assert driver.returncode == -signal.SIGKILL, (tmp_path / "errors").read_text()
        lines = collections.Counter(evaluated.read_text().split())
        again = {i for i in here if lines[str(i)] > 1}
        assert not again, f"these had arrived before they were evaluated again: {again}"
        here |= {i for i in arrived(tmp_path) if lines[str(i)] == 1}
    finish(tmp_path, workers, every)
    assert_same(answer(tmp_path), whole)
    lines = collections.Counter((tmp_path / "evaluated").read_text().split())
    assert not {i for i in here if lines[str(i)] > 1}
    # at most what was running when the driver was killed
    assert sum(lines.values()) - len(lines) <= 3 * kills
    assert_nothing_left(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("run*")) == [
        "run.npz",
        "run.npz.previous",
        "run.npz.previous.journal",
    ]
