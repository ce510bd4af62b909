"""The driver is killed, the disk fills up, files are damaged: the continued run has the bits of the
uninterrupted one, and nothing arrives twice.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import optex_core as ox
from optex_core.engine import checkpoint_file
from optex_core.errors import CheckpointError
from optex_core.runs import journal

X0 = np.array([-1.2, 1.0, 0.7, 2.0])
ROUNDS = 60

#: What the drivers run: an objective that notes each evaluation in a file before it returns, and
#: one in three of them first fails.
DRIVER = """
import os, sys, time
import numpy as np, optex_core as ox

def fun(x, *, ctx):
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
    res = ox.minimize(fun, np.array([-1.2, 1.0, 0.7, 2.0]), optimizer=ox.SGD(2e-3, momentum=0.5), parallelism=3, strategy="verified", maxiter=ROUNDS,
        rng=5, workers=workers, on_error="retry", checkpoint="run.npz", checkpoint_every=every, resume=True)
    h = res.history.to_arrays()
    np.savez("answer.npz", x=res.x, fun=res.fun, jac=res.jac, best_x=res.best_x, counts=[res.nit, res.nsteps, res.deterministic],
        **{k: h[k] for k in h if k not in ("seconds", "overhead", "slowest", "note")})
""".replace("ROUNDS", str(ROUNDS))


def start(folder, workers, every="1"):
    (folder / "driver.py").write_text(DRIVER)
    tmp = folder / "tmp"
    tmp.mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp)}
    # no pipe: workers hold it open for a moment longer than a killed driver
    with (folder / "errors").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "driver.py", workers, every], cwd=folder, env=env, stderr=errors
        )


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
    end = time.monotonic() + 20
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
    instants, here, killed = random.Random(workers), set(), 0
    for _ in range(kills):
        driver = start(tmp_path, workers, every)
        # From the first evaluation on: starting takes most of the time, and nothing can be lost in
        # it.
        evaluated = tmp_path / "evaluated"
        size = evaluated.stat().st_size if evaluated.exists() else 0
        while (
            driver.poll() is None
            and (evaluated.stat().st_size if evaluated.exists() else 0) == size
        ):
            time.sleep(0.002)
        time.sleep(instants.uniform(0.0, 0.06))
        driver.kill()
        driver.wait()
        killed += driver.returncode == -signal.SIGKILL
        lines = collections.Counter(evaluated.read_text().split())
        again = {i for i in here if lines[str(i)] > 1}
        assert not again, f"these had arrived before they were evaluated again: {again}"
        here |= {i for i in arrived(tmp_path) if lines[str(i)] == 1}
    finish(tmp_path, workers, every)
    assert killed >= kills // 2
    assert_same(answer(tmp_path), whole)
    lines = collections.Counter((tmp_path / "evaluated").read_text().split())
    assert not {i for i in here if lines[str(i)] > 1}
    # at most what was running when the driver was killed
    assert sum(lines.values()) - len(lines) <= 3 * killed
    assert_nothing_left(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("run*")) == [
        "run.npz",
        "run.npz.previous",
        "run.npz.previous.journal",
    ]


# -- the disk --------------------------------------------------------------------------------------


def exact(x):
    a, b = 1.0 - x[:-1], x[1:] - x[:-1] ** 2
    g = np.zeros_like(x)
    g[:-1] = -2.0 * a - 40.0 * x[:-1] * b
    g[1:] += 20.0 * b
    return float(a @ a + 10.0 * b @ b), g


RUN = dict(
    optimizer=ox.SGD(2e-3, momentum=0.5), parallelism=3, strategy="verified", rng=5, maxiter=12
)


class Counted:
    """Counts the evaluations of every point."""

    def __init__(self):
        self.seen = collections.Counter()

    def __call__(self, x, *, ctx):
        self.seen[ctx.id] += 1
        return exact(x)


@contextlib.contextmanager
def disk_of(size):
    """No file can grow beyond `size` bytes: the system itself refuses, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def untouched(folder):
    return not [p.name for p in folder.iterdir() if p.name.endswith(".tmp")]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte; None where this process may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    ).returncode:
        yield None
        return
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_on_a_full_disk_nothing_is_evaluated_that_could_not_be_kept(tmp_path, small_disk):
    f, folder = Counted(), small_disk or tmp_path
    path, filler, limit = (
        folder / "run.npz",
        folder / "filler",
        resource.getrlimit(resource.RLIMIT_FSIZE),
    )

    def fills(result):
        if result.nit == 4 and small_disk is None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
        elif result.nit == 4:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

    try:
        with pytest.raises(OSError, match="No space left|File too large") as caught:
            ox.minimize(f, X0, checkpoint=path, callback=fills, **RUN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        filler.unlink(missing_ok=True)
    assert caught.value.partial_result.nit >= 4
    assert "run again with resume=True" in str(caught.value.__notes__)
    assert untouched(folder)
    result = ox.minimize(f, X0, checkpoint=path, resume=True, **RUN)
    np.testing.assert_array_equal(result.x, ox.minimize(exact, X0, **RUN).x)
    # Space for a gradient is taken before it is evaluated; a limit on the size of files acts within
    # that space too.
    assert sum(f.seen.values()) - len(f.seen) <= (0 if small_disk else 3)
    assert untouched(folder)


def test_a_save_that_does_not_fit_is_tried_again_while_the_journal_holds_everything(
    tmp_path, caplog
):
    f, path = Counted(), tmp_path / "run.npz"
    run = RUN | dict(estimator=ox.GradientEstimator(history=150), maxiter=9)
    big = np.tile(X0, 400)  # 26 kB in a save per gradient, 13 kB in the journal
    with (
        disk_of(400_000),
        caplog.at_level(logging.WARNING, "optex_core"),
        pytest.raises(OSError, match="File too large") as caught,
    ):
        ox.minimize(f, big, checkpoint=path, **run)
    assert caplog.text.count("could not be saved") == 1
    assert caught.value.partial_result.nit == 9
    assert 0 < ox.OptEx.load(path).state.nit < 8
    result = ox.minimize(f, big, checkpoint=path, resume=True, **run)
    np.testing.assert_array_equal(result.x, ox.minimize(exact, big, **run).x)
    assert set(f.seen.values()) == {1}
    assert untouched(tmp_path)


# -- files -----------------------------------------------------------------------------------------


def cut_off(path, at=9, **options):
    """What a driver leaves that is killed after so many iterations: its files as they are at that
    instant.
    """
    there = path.parent / "there"
    there.mkdir()

    def copies(result):
        if result.nit == at:
            for file in there.iterdir():
                shutil.copyfile(file, path.parent / file.name)

    ox.minimize(exact, X0, checkpoint=there / path.name, callback=copies, **RUN | options)
    shutil.rmtree(there)


@pytest.mark.parametrize("how", ["truncated", "emptied", "foreign", "flipped"])
def test_a_damaged_save_is_named_and_the_one_before_it_used(tmp_path, caplog, how):
    path, f = tmp_path / "run.npz", Counted()
    cut_off(path, checkpoint_every=4)
    good = path.read_bytes()
    bad = {
        "truncated": good[: len(good) // 2],
        "emptied": b"",
        "foreign": b"my notes",
        "flipped": good[:-1000] + b"?" * 10 + good[-990:],
    }[how]
    path.write_bytes(bad)
    with caplog.at_level(logging.WARNING, "optex_core"):
        result = ox.minimize(f, X0, checkpoint=path, resume=True, **RUN)
    assert "the run goes on from the last good save (4 iterations)" in caplog.text
    assert str(path) in caplog.text
    assert (tmp_path / "run.npz.damaged").read_bytes() == bad
    np.testing.assert_array_equal(result.x, ox.minimize(exact, X0, **RUN).x)
    assert min(f.seen) >= 9 * 3  # what had been told since that save came from the journals
    assert ox.OptEx.load(path).state.nit == 12


def test_a_damaged_first_save_falls_back_on_the_journal(tmp_path):
    path, f = tmp_path / "run.npz", Counted()
    cut_off(path, at=5, checkpoint_every=4)
    path.write_bytes(b"")
    result = ox.minimize(f, X0, checkpoint=path, resume=True, **RUN)
    np.testing.assert_array_equal(result.x, ox.minimize(exact, X0, **RUN).x)
    assert min(f.seen) >= 5 * 3


def test_a_damaged_journal_is_used_as_far_as_it_is_whole(tmp_path, caplog):
    path, f = tmp_path / "run.npz", Counted()
    cut_off(path, checkpoint_every=6)
    end = tmp_path / "run.npz.journal"
    data = bytearray(end.read_bytes().rstrip(b"\0"))
    data[-300] ^= 1
    end.write_bytes(data)
    with caplog.at_level(logging.WARNING, "optex_core"):
        result = ox.minimize(f, X0, checkpoint=path, resume=True, **RUN)
    assert "run.npz.journal is damaged after" in caplog.text
    np.testing.assert_array_equal(result.x, ox.minimize(exact, X0, **RUN).x)
    assert 6 * 3 <= min(f.seen) < 10 * 3


def test_without_a_good_save_the_reason_is_told_and_nothing_is_touched(tmp_path):
    path = tmp_path / "run.npz"
    path.write_bytes(b"my notes")
    with pytest.raises(CheckpointError, match="not a saved run"):
        ox.minimize(exact, X0, checkpoint=path, resume=True, **RUN)
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]
    (tmp_path / "other.npz.journal").write_bytes(b"my notes\n")
    with pytest.raises(CheckpointError, match="was not written by optex_core"):
        ox.minimize(exact, X0, checkpoint=tmp_path / "other.npz", resume=True, **RUN)


def test_a_run_that_was_killed_before_its_first_save_is_not_overwritten(tmp_path):
    path, f = tmp_path / "run.npz", Counted()
    cut_off(path, at=3, checkpoint_every=100)
    assert not path.exists()
    with pytest.raises(CheckpointError, match="exists already; pass resume=True"):
        ox.minimize(exact, X0, checkpoint=path, **RUN)
    with pytest.raises(
        CheckpointError, match="belongs to another run: its parallelism is 3, here it is 2"
    ):
        ox.minimize(exact, X0, checkpoint=path, resume=True, **RUN | {"parallelism": 2})
    result = ox.minimize(f, X0, checkpoint=path, resume=True, **RUN)
    np.testing.assert_array_equal(result.x, ox.minimize(exact, X0, **RUN).x)
    assert min(f.seen) >= 3 * 3


def test_gradients_of_another_point_are_not_taken(tmp_path, monkeypatch, caplog):
    path, f = tmp_path / "run.npz", Counted()
    cut_off(path, at=6, checkpoint_every=100)
    with monkeypatch.context() as patch:  # another version of a library gives other bits
        patch.setattr("optex_core.runs.journal.point_checksum", lambda engine, c: 1)
        result = ox.minimize(f, X0, checkpoint=path, resume=True, **RUN)
    assert "evaluated at another point" in caplog.text
    np.testing.assert_array_equal(result.x, ox.minimize(exact, X0, **RUN).x)


def test_two_runs_do_not_write_one_file(tmp_path):
    path = tmp_path / "run.npz"

    def second(result):
        with pytest.raises(
            CheckpointError, match="another process is running with this checkpoint"
        ):
            ox.minimize(exact, X0, checkpoint=path, resume=True, **RUN)

    assert ox.minimize(exact, X0, checkpoint=path, callback=second, **RUN).nit == 12


def test_saves_may_be_so_many_seconds_apart(tmp_path, monkeypatch):
    saves, write, clock = [], checkpoint_file.write_checkpoint, [0.0]

    def noted(path, header, arrays):
        saves.append(header["state"]["nit"])
        write(path, header, arrays)

    monkeypatch.setattr(checkpoint_file, "write_checkpoint", noted)
    monkeypatch.setattr("optex_core.runs.checkpoint_manager.time.monotonic", lambda: clock[0])
    ox.minimize(
        exact,
        X0,
        checkpoint=tmp_path / "run.npz",
        checkpoint_every=2.5,
        callback=lambda r: clock.__setitem__(0, float(r.nit)),
        **RUN,
    )
    assert saves == [4, 7, 10, 12]
    with pytest.raises(ox.errors.ArgumentError, match="checkpoint_every"):
        ox.minimize(exact, X0, checkpoint=tmp_path / "other.npz", checkpoint_every=-1.0, **RUN)
