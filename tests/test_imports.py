"""Importing starts nothing, prints nothing, and loads nothing that is slow or optional."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest
from fresh_python import python

import optex_core

ROOT = Path(optex_core.__file__).parent
MODULES = sorted(
    ".".join(("optex_core", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    )
    for path in ROOT.rglob("*.py")
    if path.name != "__main__.py"
)
#: Modules that are nothing but a door to an optional library, and the error that says so.
OPTIONAL = {"optex_core.backends.cupy_": "cupy"}
HEAVY = (
    "numba", "cupy", "matplotlib", "hypothesis", "pytest", "scipy.optimize", "tqdm", "torch", "jax",
    "dask", "distributed", "mpi4py", "ray", "loky",
)  # fmt: skip

#: Seconds that importing the package may add to importing NumPy. It takes about 0.03 s.
BUDGET = 0.1


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new interpreter that finds the same package, warnings being errors."""
    return python("-W", "error", "-c", code)


def test_import_has_no_effects() -> None:
    done = fresh(
        "import json, logging, os, sys, threading, warnings, numpy\n"
        "def world():\n"
        "    root = logging.root\n"
        "    return len(root.handlers), root.level, dict(os.environ), "
        "list(warnings.filters), numpy.geterr(), threading.active_count()\n"
        "before = world()\n"
        "import optex_core\n"
        "own = [n for n, l in logging.Logger.manager.loggerDict.items() if "
        "n.startswith('optex_core') and getattr(l, 'handlers', [])]\n"
        f"sys.__stdout__.write(json.dumps([before == world(), own, [m for m in {HEAVY} "
        f"if m in sys.modules]]))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    unchanged, handlers, loaded = json.loads(done.stdout)
    assert unchanged, (
        "logging, the environment, warnings, NumPy's error state or the number of threads changed"
    )
    assert handlers == []
    assert loaded == [], f"import optex_core loads {loaded}"


def importing(modules: list[str], *, alone: bool) -> None:
    """Import `modules`; `alone`: each as the first of the package, the others are taken out of
    sys.modules before. NumPy and its kind stay, which keeps this fast. Beside the modules of the
    package there is no state to carry over, as the test above shows.
    """
    missing = {
        module: library
        for module, library in OPTIONAL.items()
        if importlib.util.find_spec(library) is None
    }
    done = fresh(
        "import importlib, sys\n"
        "import numpy\n"
        "from optex_core.errors import OptexError\n"
        f"for name in {modules}:\n"
        f"    ours = [m for m in sys.modules if {alone} and m.split('.')[0] == 'optex_core']\n"
        "    for loaded in ours:\n"
        "        del sys.modules[loaded]\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except Exception as error:\n"
        f"        if name not in {missing} or type(error).__name__ not in "
        f"('BackendError', 'MissingExtraError'): raise\n"
        "        sys.stdout.write(name + ' ')\n"
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {name for name in modules if name in missing}, done.stdout
    assert done.stderr == ""


def test_every_module_imports() -> None:
    # In any order, since there is no import circle (test_architecture): alone too.
    importing(MODULES, alone=False)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_every_module_imports_alone(part: int) -> None:
    importing(MODULES[part::4], alone=True)


def test_import_is_quick() -> None:
    # Pairs within one process, numpy first: the difference is ours alone. The best of five leaves
    # the noise of a shared machine out. Of the processor's time: how long it waits for a core says
    # nothing about us.
    code = (
        "import time, numpy\na = time.process_time()\nimport optex_core\nimport sys; "
        "sys.stdout.write(str(time.process_time() - a))"
    )
    best = min(float(fresh(code).stdout) for _ in range(5))
    assert best < BUDGET, f"import optex_core takes {best:.3f} s beyond NumPy"
