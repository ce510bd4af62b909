"""A run on disk: saves, journal and lock, on good disks and full ones."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from saved_runs import X0, Counted, exact

import optex_core as ox
from optex_core.engine import checkpoint_file
from optex_core.errors import CheckpointError

RUN = dict(
    optimizer=ox.SGD(2e-3, momentum=0.5), parallelism=3, strategy="verified", rng=5, maxiter=12
)


@contextlib.contextmanager
def disk_of(size):
    """Let no file grow beyond `size` bytes: the system itself refuses, as on a full disk."""
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


def test_a_failed_write_leaves_the_old_file(saved_run, monkeypatch):
    path = saved_run["checkpoint"]
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        ox.minimize(exact, X0, resume=True, maxiter=9, **saved_run)
    assert caught.value.partial_result.nit > 3
    assert path.read_bytes() == before
    assert {p.name for p in path.parent.iterdir()} == {
        "run",
        "run.previous",
        "run.journal",
        "run.previous.journal",
    }
    monkeypatch.undo()
    whole = ox.minimize(
        exact, X0, **{**saved_run, "checkpoint": path.with_name("whole")}, maxiter=9
    )

    def never(x):
        raise AssertionError("evaluated again")

    np.testing.assert_array_equal(
        ox.minimize(never, X0, resume=True, maxiter=9, **saved_run).x, whole.x
    )


def test_a_missing_folder_is_found_out_before_anything_is_evaluated(tmp_path):
    def never(x):
        raise AssertionError("called")

    with pytest.raises(CheckpointError, match="folder .* does not exist"):
        ox.minimize(never, X0, checkpoint=tmp_path / "no" / "run")
    with pytest.raises(CheckpointError, match="folder .* does not exist"):
        ox.OptEx(X0).save(tmp_path / "no" / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "says"), [("", "name of a file"), (".", "it is a folder; give the name")]
)
def test_a_checkpoint_that_names_no_file_is_refused_at_the_door(name: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        ox.minimize(lambda x: (x @ x, 2 * x), [1.0], checkpoint=name)


def test_checkpoints_are_written_every_so_many_iterations_and_at_the_end(tmp_path, monkeypatch):
    saved, write = [], checkpoint_file.write_checkpoint

    def noted(path, header, arrays):
        saved.append(header["state"]["nit"])
        write(path, header, arrays)

    monkeypatch.setattr(checkpoint_file, "write_checkpoint", noted)
    ox.minimize(exact, X0, maxiter=7, checkpoint=tmp_path / "run", checkpoint_every=3, rng=0)
    assert saved == [3, 6, 7]


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


SECOND = """
import sys
import numpy as np, optex_core as ox
def never(x):
    raise AssertionError("evaluated")
refused = 0
while sys.stdin.readline():
    try:
        ox.minimize(never, np.array([-1.2, 1.0, 0.7, 2.0]), checkpoint=sys.argv[1], resume=True)
    except ox.errors.CheckpointError as error:
        refused += "another process is running with this checkpoint" in str(error)
    print(refused, flush=True)
"""


def test_a_second_driver_is_refused_and_never_harms_the_first(tmp_path):
    """It tries at every instant of a save and of the change of journals."""
    path, asked = tmp_path / "run.npz", []
    with subprocess.Popen(
        [sys.executable, "-c", SECOND, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as second:  # fmt: skip

        def tries(*_):
            second.stdin.write("\n")
            second.stdin.flush()
            asked.append(int(second.stdout.readline()))

        replace = os.replace

        def slow(source, target):
            tries()
            replace(source, target)
            tries()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", slow)
            result = ox.minimize(exact, X0, checkpoint=path, callback=tries, **RUN)
        second.stdin.close()
    assert result.nit == 12
    assert asked == list(range(1, len(asked) + 1))
    assert len(asked) > 12 * 5
    np.testing.assert_array_equal(result.x, ox.minimize(exact, X0, **RUN).x)
    assert not path.with_name("run.npz.lock").exists()


def test_two_runs_do_not_write_one_file(tmp_path):
    path = tmp_path / "run.npz"

    def second(result):
        with pytest.raises(
            CheckpointError, match="another process is running with this checkpoint"
        ):
            ox.minimize(exact, X0, checkpoint=path, resume=True, **RUN)

    assert ox.minimize(exact, X0, checkpoint=path, callback=second, **RUN).nit == 12
