"""Compiled code on disk: kept once for all processes, whatever starts at once, is cut short or
cannot be written.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed")

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
    return sorted(path for path in folder.rglob("*") if path.is_file())


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


def test_old_folders_are_removed(tmp_path, monkeypatch):
    import numba

    from optex_core.backends.numba import _jit as _compiled

    for i in range(_compiled.MAX_CACHE_VERSIONS + 3):
        old = tmp_path / "optex_core" / f"old{i:02d}"
        old.mkdir(parents=True)
        os.utime(old, (i, i))
    monkeypatch.setattr(numba.core.config, "CACHE_DIR", str(tmp_path))
    folder = _compiled.cache_folder.__wrapped__()
    kept = {path.name for path in (tmp_path / "optex_core").iterdir()}
    assert kept == {
        Path(folder).name,
        *(f"old{i:02d}" for i in range(3, _compiled.MAX_CACHE_VERSIONS + 3)),
    }


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
