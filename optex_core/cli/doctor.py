"""Show which backends, executors and optional libraries work here, and why the others do not. Each
is really tried, in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from optex_core import __version__

SUMMARY = "show what works here, and why not"
EXAMPLES = """  optex-core doctor
  optex-core doctor --timeout 120     on a slow machine"""


@dataclass(frozen=True, slots=True)
class EnvironmentCheck:
    """One thing to try."""

    group: str
    name: str
    library: str  # a module it needs
    #: Runs in a fresh interpreter; what it prints is shown, what it raises is the reason why not.
    code: str
    install: str  # what installs it
    required: bool = False  # everything is broken without it


#: For what comes with the package.
REINSTALL = "python -m pip install optex_core"


def _extra(name: str) -> str:
    return f"python -m pip install 'optex_core[{name}]'"


_NUMBA = """
import numba, numpy
@numba.njit(parallel=True)
def total(x):
    s = 0.0
    for i in numba.prange(len(x)):
        s += x[i]
    return s
assert total(numpy.ones(1000)) == 1000.0
print(f"threading layer {numba.threading_layer()}, {numba.get_num_threads()} threads")
"""
_CUPY = """
import cupy
n = cupy.cuda.runtime.getDeviceCount()
assert float((cupy.ones(1000) * 2).sum()) == 2000.0
p = cupy.cuda.runtime.getDeviceProperties(0)
print(f"{n} x {p['name'].decode()}, {p['totalGlobalMem'] / 2**30:.0f} GiB")
"""
_THREADS = """
import optex_core as ox
settings = dict(workers="threads", parallelism=2, maxiter=1, backend="numpy")
ox.minimize(lambda x: (x @ x, 2 * x), [1.0], **settings)
print("two threads answered")
"""
_PROCESSES = """
import numpy, optex_core as ox
from optex_core.execution.workers import shared_memory
x0 = numpy.ones(shared_memory.MIN_BYTES // 8)
settings = dict(workers=1, parallelism=1, maxiter=1, backend="numpy")
ox.minimize(lambda x: (x @ x, 2 * x), x0, **settings)
where = "anonymous shared memory" if shared_memory.has_memfd() else "memory-mapped files"
print("a process answered; large vectors in " + where)
"""
_PROGRAMS = """
import sys, pathlib
from optex_core.execution import programs
with programs.work_directory() as folder:
    command, files = [sys.executable, "-c", "pass"], dict(out=folder / "out", err=folder / "err")
    ended = programs.run_program(command, cwd=folder, timeout=60, **files)
assert ended.status == 0, ended
bound = ", and cannot outlive its evaluation"
unbound = "; it outlives a Python process that is killed"
print("a program ran" + (bound if programs.POSIX else unbound))
"""
_DASK = """
from distributed import Client
with Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=':0') as client:
    import optex_core as ox
    assert ox.executors.dask(client).submit(abs, -7).result(60) == 7
print("a worker answered")
"""
_MPI = """
import shutil, subprocess, sys
from mpi4py import MPI
name = MPI.Get_library_version().split(chr(10))[0].strip(chr(0) + ' ')[:40]
launcher = shutil.which("mpiexec")
assert launcher, "there is no mpiexec on the PATH; run: python -m pip install mpich"
code = "import optex_core as ox; pool = ox.executors.mpi(main=False); "
code += "print(pool.submit(abs, -7).result())"
command = [launcher, "-n", "2", sys.executable, "-m", "mpi4py.futures", "-c", code]
done = subprocess.run(command, capture_output=True, text=True)
said = done.stderr.strip().splitlines() or ["mpiexec said nothing"]
assert done.stdout.strip() == "7", said[-1]
print(f"a process of a job answered; {name}")
"""
_RAY = """
import optex_core as ox
with ox.executors.ray() as pool:
    assert pool.submit(abs, -7).result(60) == 7
print("a worker answered")
"""
_PLOT = """
import io
from matplotlib.figure import Figure
Figure().savefig(io.BytesIO())
print("drew a picture")
"""
_NUMPY = "import numpy; assert (numpy.ones(9) @ numpy.ones(9)) == 9; print('computes')"
_SCIPY = "import scipy.optimize; print('computes')"
_LIMITS = (
    "import numpy, threadpoolctl as t; print([p['internal_api'] for p in t.threadpool_info()])"
)
_TQDM = "import tqdm; print('loads')"
_TORCH = "import torch; print('GPU' if torch.cuda.is_available() else 'CPU')"
_JAX = "import jax; print(jax.default_backend())"
_HYPOTHESIS = "import hypothesis; print('loads')"
_GPU = f"{_extra('cuda12')}, or cuda13 (needs an NVIDIA GPU)"

ENVIRONMENT_CHECKS = (
    EnvironmentCheck("backends", "numpy", "numpy", _NUMPY, "", required=True),
    EnvironmentCheck("backends", "numba", "numba", _NUMBA, REINSTALL),
    EnvironmentCheck("backends", "cupy", "cupy", _CUPY, _GPU),
    EnvironmentCheck("executors", "threads", "numpy", _THREADS, REINSTALL),
    EnvironmentCheck("executors", "processes", "loky", _PROCESSES, REINSTALL),
    EnvironmentCheck("executors", "programs", "numpy", _PROGRAMS, REINSTALL),
    EnvironmentCheck("executors", "dask", "distributed", _DASK, _extra("dask")),
    EnvironmentCheck("executors", "mpi", "mpi4py", _MPI, _extra("mpi")),
    EnvironmentCheck("executors", "ray", "ray", _RAY, _extra("ray")),
    EnvironmentCheck("libraries", "scipy", "scipy", _SCIPY, "", required=True),
    EnvironmentCheck("libraries", "threadpoolctl", "threadpoolctl", _LIMITS, ""),
    EnvironmentCheck("libraries", "matplotlib", "matplotlib", _PLOT, _extra("cli")),
    EnvironmentCheck("libraries", "tqdm", "tqdm", _TQDM, _extra("cli")),
    EnvironmentCheck("libraries", "torch", "torch", _TORCH, _extra("torch")),
    EnvironmentCheck("libraries", "jax", "jax", _JAX, _extra("jax")),
    EnvironmentCheck("libraries", "hypothesis", "hypothesis", _HYPOTHESIS, _extra("testing")),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    seconds = "seconds that one trial may take (default 60)"
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help=seconds)


def run(args: argparse.Namespace) -> int:
    """Do it; 1 if something that everything needs does not work."""
    try:
        from loky import cpu_count
    except ImportError:  # the table says so
        cpu_count = os.cpu_count
    print(f"optex_core {__version__}, Python {platform.python_version()}, {platform.platform()}")
    cores, mine, size = os.cpu_count() or 1, cpu_count(), _memory()
    print(
        f"{mine if mine == cores else f'{mine} of {cores}'} cores, "
        f"{'unknown' if size is None else f'{size / 2**30:.1f} GiB'} memory\n"
    )
    # All at once: most of the time is spent loading libraries.
    started = [(trial, _start(trial)) for trial in ENVIRONMENT_CHECKS]
    sound, group = True, ""
    for trial, process in started:
        if trial.group != group:
            group = trial.group
            print(f"{group}:")
        works, text = _outcome(trial, process, args.timeout)
        sound = sound and (works or not trial.required)
        known = "yes" if works else "no"
        print(f"  {known:<4}{trial.name:<14}{_version(trial):<12}{text}", flush=True)
    if not sound:
        print("\nThe package cannot work here; install it anew in a fresh environment.")
    return 0 if sound else 1


def _memory() -> float | None:
    """Bytes of main memory; None where the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # not every system has these
        return None


def _start(trial: EnvironmentCheck) -> subprocess.Popen[str] | None:
    if importlib.util.find_spec(trial.library) is None:
        return None
    return subprocess.Popen(
        [sys.executable, "-c", trial.code], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _outcome(
    trial: EnvironmentCheck, process: subprocess.Popen[str] | None, timeout: float
) -> tuple[bool, str]:
    if process is None:
        return False, f"not installed{'; ' + trial.install if trial.install else ''}"
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False, f"did not answer within {timeout:g} s"
    if process.returncode == 0:
        return True, (out.strip().splitlines() or [""])[-1]
    reason = (err.strip().splitlines() or ["no message"])[-1]
    ended = f"ended by signal {-process.returncode}: " if process.returncode < 0 else ""
    return False, f"{ended}{reason}"


def _version(trial: EnvironmentCheck) -> str:
    for name in (trial.library, *(f"{trial.name}-cuda{n}x" for n in (12, 13))):
        try:
            return version(name)
        except PackageNotFoundError:  # a module need not be called as what installs it
            continue
    return ""
