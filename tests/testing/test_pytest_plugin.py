"""The pytest plugin counts check suites, and is loaded without optex_core."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import entry_points
from pathlib import Path

from fresh_python import python

import optex_core

ROOT = Path(optex_core.__file__).parents[1]
#: Once installed, pytest loads it by itself.
LOAD = (
    ()
    if any(ep.name == "optex_core" for ep in entry_points(group="pytest11"))
    else ("-p", "_optex_core_pytest")
)
ENTRY = ROOT / "optex_core" / "testing" / "entry"

MINE = """
from optex_core.testing import parametrize_with_checks
from optex_core.testing.check_suite import CheckSkipped
from optex_core.testing.suites.kernel import SUITE

@parametrize_with_checks("kernel", ["rbf"])
def test_kernel(check):
    check()
"""
SKIPPED = (
    MINE
    + """
def nothing(prepared):
    raise CheckSkipped("X is not installed")

for definition in SUITE.definitions.values():
    object.__setattr__(definition, "function", nothing)

@parametrize_with_checks("kernel", ["matern32"])
def test_missing(check):
    check()
"""
)


def pytest_on(text: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(text, encoding="utf-8")
    options = ("-q", "-p", "no:cacheprovider", *LOAD, *options)
    found = os.pathsep.join((str(ROOT), str(ENTRY)))
    return python("-m", "pytest", *options, "test_it.py", cwd=folder, PYTHONPATH=found)


def test_a_line_for_every_suite(tmp_path: Path) -> None:
    done = pytest_on(MINE, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kernel: 9 passed in 1 subjects" in done.stdout


def test_a_suite_skipped_as_a_whole_is_not_green(tmp_path: Path) -> None:
    done = pytest_on(SKIPPED, tmp_path)
    assert done.returncode == 1, done.stdout
    assert "kernel matern32: every check was skipped, so nothing is known about it" in done.stdout
    assert pytest_on(SKIPPED, tmp_path, "--allow-skipped-suites").returncode == 0


def test_it_loads_nothing_where_nobody_uses_it(tmp_path: Path) -> None:
    text = (
        "import sys\ndef test_it():\n    assert '_optex_core_pytest' in sys.modules\n    "
        "assert not {'optex_core', 'numpy'} & set(sys.modules)\n"
    )
    done = pytest_on(text, tmp_path)
    assert done.returncode == 0, done.stdout
    assert "check suites" not in done.stdout
