"""Compiled code on disk: kept once for all processes, whatever starts at once, is cut short or
cannot be written.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed")

from optex_core.backends.numba import _disk_cache  # noqa: E402
from optex_core.backends.numba._disk_cache import _MARK_TEXT, MARK, MAX_CACHE_VERSIONS  # noqa: E402

#: One reduction and one rule, for the dtype named first; says how often the compiler ran.
SCRIPT = """
import sys
import numpy as np
from numba.core import event
import optex_core as ox
from optex_core.backends import get_backend
with event.install_recorder("numba:compile") as seen:
    b, x = get_backend("numba"), np.linspace(-1, 1, 9_001).astype(sys.argv[1])
    assert abs(b.dot(x, x) - float(np.dot(x.astype(float), x))) < 1e-9
    optimizer = ox.Adam(0.1)
    y, _ = optimizer.step(x, x, optimizer.init(x, backend=b), backend=b)
    z, _ = optimizer.step(x, x, optimizer.init(x))
    assert y.dtype == x.dtype and np.allclose(y, z, atol=1e-6)
print(len([e for _, e in seen.buffer if e.is_start]))
"""


def start(folder: Path, dtype: str = "float32") -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "NUMBA_CACHE_DIR": str(folder),
    }
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, dtype],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def compilations(process: subprocess.Popen[str]) -> int:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return int(out)


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARK)


def test_processes_that_start_at_once_share_one_cache(tmp_path):
    processes = [start(tmp_path, dtype) for dtype in ("float32", "float64", "float32")]
    assert sum(compilations(p) for p in processes) >= 4
    whole = entries(tmp_path)
    # a reduction and a rule for each dtype: no temporary file stays, no entry exists twice
    assert len(whole) == 4
    assert compilations(start(tmp_path)) == 0
    # Entries cut by a full disk, or empty, are compiled again and repaired.
    for path, left in zip(whole, (100, 0, 31, 33), strict=True):
        path.write_bytes(path.read_bytes()[:left])
    assert compilations(start(tmp_path)) >= 2
    assert compilations(start(tmp_path)) == 0


def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert compilations(start(blocked)) >= 2


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(_disk_cache._internals.config, "CACHE_DIR", str(tmp_path))
    return tmp_path / "optex_core"


def version(place: Path, name: str, age: int, mark: bytes | None = _MARK_TEXT) -> Path:
    """A folder of an earlier version with one entry."""
    folder = place / name
    folder.mkdir(parents=True, mode=0o700)
    (folder / ("0" * 32)).write_bytes(b"entry")
    if mark is not None:
        (folder / MARK).write_bytes(mark)
        (folder / MARK).chmod(0o600)
    os.utime(folder, (age, age))
    return folder


def test_the_oldest_versions_are_removed(place):
    made = [version(place, f"{i:016x}", i) for i in range(MAX_CACHE_VERSIONS + 3)]
    folder = _disk_cache.cache_folder.__wrapped__()
    assert Path(folder).parent == place
    assert [path.exists() for path in made] == [False] * 3 + [True] * MAX_CACHE_VERSIONS
    assert (Path(folder) / MARK).read_bytes() == _MARK_TEXT


def test_only_marked_folders_of_ours_are_touched(place, tmp_path):
    for i in range(MAX_CACHE_VERSIONS):
        version(place, f"{i + 100:016x}", 100 + i)
    elsewhere = version(tmp_path / "elsewhere", "f" * 16, 1)
    foreign = {
        "another name": version(place, "backends", 1),
        "no mark": version(place, "1" * 16, 1, mark=None),
        "another's mark": version(place, "2" * 16, 1, mark=b"mine"),
        "others may write it": version(place, "3" * 16, 1),
        "a link": place / ("4" * 16),
        "a user's file beside the entries": version(place, "5" * 16, 1),
    }
    foreign["others may write it"].chmod(0o770)
    foreign["a link"].symlink_to(elsewhere)
    notes = foreign["a user's file beside the entries"] / "notes.txt"
    notes.write_text("keep")
    os.utime(notes.parent, (1, 1))
    ours = version(place, "6" * 16, 2)
    assert _disk_cache.cache_folder.__wrapped__() is not None
    assert not ours.exists()
    for why, folder in foreign.items():
        assert folder.exists(), why
        if folder != notes.parent:
            assert (folder / ("0" * 32)).exists(), why
    assert notes.read_text() == "keep"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What a run leaves whose files others might write by default."""
    place = tmp_path_factory.mktemp("compiled")
    old = os.umask(0)
    try:
        assert compilations(start(place)) >= 2
    finally:
        os.umask(old)
    return place


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
class TestForeignCode:
    """Compiled code runs when it is read: it is read only from what this user alone can write."""

    def test_folders_and_entries_are_private(self, compiled):
        (folder,) = (compiled / "optex_core").iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}

    @pytest.mark.parametrize("way", ["folder 770", "folder 702", "entries 666", "links"])
    def test_what_others_may_write_is_not_read(self, compiled, tmp_path, way):
        place = tmp_path / "cache"
        shutil.copytree(compiled, place)
        (folder,) = (place / "optex_core").iterdir()
        what, _, mode = way.partition(" ")
        if what == "folder":
            folder.chmod(int(mode, 8))
        for path in entries(folder) if what != "folder" else ():
            if what == "entries":
                path.chmod(int(mode, 8))
            else:
                path.rename(tmp_path / path.name)
                path.symlink_to(tmp_path / path.name)
        assert compilations(start(place)) >= 2

    def test_a_folder_of_another_user_is_said_once_and_not_read(self, place, monkeypatch, caplog):
        assert _disk_cache.cache_folder.__wrapped__() is not None
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert _disk_cache.cache_folder.__wrapped__() is None
        (said,) = caplog.messages
        assert "is not yours alone" in said
        assert "NUMBA_CACHE_DIR" in said


def test_a_rule_of_other_numbers_is_another_entry():
    # The byte code of both is the same: only their constants differ.
    from optex_core.backends import get_backend

    b, x = get_backend("numba"), np.ones(3, np.float32)
    for factor in (2, 3):
        (y,) = b.apply(_scaled(factor), (x,), ())
        np.testing.assert_array_equal(y, factor * x)
        assert y.dtype == np.float32


def _scaled(factor):
    return lambda xp: lambda x: (x * factor,)
