"""The wall-clock benchmark runs real workers and tells what it saw."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from optex_core.bench.wallclock.cell import ALONE, goal, start
from optex_core.bench.wallclock.sleeping_objective import Slow
from optex_core.cli import main
from optex_core.types import Context


def test_a_small_benchmark(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (
        main(
            [
                "bench",
                "wallclock",
                "--kinds",
                "sleep,compute",
                "-N",
                "2",
                "--ms",
                "2",
                "-d",
                "20",
                "--executors",
                "threads,processes",
                "--backend",
                "numpy",
            ]
        )
        == 0
    )
    said = capsys.readouterr()
    folder = tmp_path / "optex-runs" / "wallclock"
    assert (folder / "wallclock.txt").read_text() in said.out
    cells = json.loads((folder / "wallclock.json").read_text())["cells"]
    assert [(c["kind"], c["executor"]) for c in cells] == [
        (k, e) for k in ("sleep", "compute") for e in ("threads", "processes")
    ]
    for c in cells:
        assert c["backend"] == "numpy"
        assert c["reached"]
        assert c["rounds"] < ALONE
        assert len(c["timeline"]) == c["gradients"]
        workers = {row[0] for row in c["timeline"]}
        assert len(workers) == 2, "both worked"
        for row in c["timeline"]:
            assert row[4] - row[3] >= 0.0019
        assert 0 < c["utilisation"] <= 1
        assert c["slowest_ms"] >= 2
    assert (folder / "wallclock.png").stat().st_size > 5_000


def test_one_that_is_terminated_leaves_nothing(tmp_path):
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp)}
    words = ["--kinds", "sleep", "-N", "1", "--ms", "1000", "-d", "20", "--executors", "processes"]
    with (tmp_path / "said").open("w") as said:
        command = [sys.executable, "-m", "optex_core", "bench", "wallclock", *words]
        bench = subprocess.Popen(
            command, cwd=tmp_path, env=env, stderr=said, stdout=said, start_new_session=True
        )
    end = time.monotonic() + 300
    # a worker has noted its first call
    while not list(tmp.glob("optex-core-bench-*/*")) and time.monotonic() < end:
        time.sleep(0.05)
    assert list(tmp.iterdir()), (tmp_path / "said").read_text()
    bench.terminate()
    os.killpg(bench.pid, signal.SIGTERM)  # as `timeout` does
    assert bench.wait(600) == 128 + signal.SIGTERM, (tmp_path / "said").read_text()
    assert list(tmp.iterdir()) == []


def test_the_goal_is_what_the_optimizer_alone_reaches(tmp_path):
    slow, x = Slow(7, 0.0, False, str(tmp_path)), start(7)
    for k in range(ALONE):
        _, gradient = slow.value_and_grad(x, Context(k, 0, k, 0))
        x = x - gradient
    assert slow.value_and_grad(x, Context(0, 0, 0, 0))[0] == pytest.approx(goal(7), rel=1e-12)


def test_misuse_is_explained(capsys):
    for words, says in (
        (["--executors", "thread"], "unknown executor 'thread'; did you mean 'threads'"),
        (["--kinds", "sleeping"], "did you mean 'sleep'"),
        (["-N", "two"], "takes whole numbers"),
        (["--ms", "0"], "above 0"),
        (["--backend", "numpa"], "did you mean 'numpy'"),
    ):
        assert main(["bench", "wallclock", *words]) == 2
        assert says in capsys.readouterr().err
