"""Locks of runs: one driver at a time, whoever ends and however."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from optex_core.engine.file_lock import FileLock
from optex_core.errors import CheckpointError

HOLDER = """
import sys
from optex_core.engine.file_lock import FileLock
lock = FileLock(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_lock_is_refused_and_the_file_goes_with_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    with FileLock(path):
        with pytest.raises(CheckpointError, match="another process is running with this log"):
            FileLock(path, "log")
        assert [p.name for p in tmp_path.iterdir()] == ["run.npz.lock"]
        FileLock(tmp_path / "other").release()
    assert list(tmp_path.iterdir()) == []
    FileLock(path).release()


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    with holder(path) as process:
        with pytest.raises(CheckpointError, match="another process is running"):
            FileLock(path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz.lock"]
    with FileLock(path):
        pass


def test_a_forked_child_inherits_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    lock = FileLock(path)
    done, go_on = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go_on)
        os.read(done, 1)  # outlives the lock of its parent
        os._exit(0)
    os.close(done)
    lock.release()
    with FileLock(path):
        pass
    os.close(go_on)
    os.waitpid(child, 0)


def test_who_opens_a_lock_that_is_being_removed_takes_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.npz"
    first, opened = FileLock(path), []
    really = os.open

    def late(*args, **options):  # type: ignore[no-untyped-def]
        file = really(*args, **options)
        if not opened:
            first.release()
        opened.append(file)
        return file

    monkeypatch.setattr(os, "open", late)
    with FileLock(path) as second:
        assert len(opened) == 2
        assert second.path.exists()


def test_a_lock_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot save to .*run\.npz: .* cannot be made"):
        FileLock(tmp_path / "none" / "run.npz")
    target = tmp_path / "notes"
    (tmp_path / "run.npz.lock").symlink_to(target)
    with pytest.raises(CheckpointError, match="cannot be made"):
        FileLock(tmp_path / "run.npz")
    assert not target.exists()
