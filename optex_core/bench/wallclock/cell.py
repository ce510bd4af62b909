"""One cell of `wallclock`: a run on real workers whose gradients take a set time, reduced to a few
numbers and its timeline.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from optex_core.adapters.objective import make_objective
from optex_core.bench._runner import Row
from optex_core.bench.wallclock.sleeping_objective import WARM, Slow
from optex_core.engine.optex import OptEx
from optex_core.engine.result import Result
from optex_core.errors import CapabilityError
from optex_core.execution.base import Evaluator
from optex_core.execution.factory import dask, make_evaluator, mpi, ray
from optex_core.optimizers.sgd import SGD
from optex_core.runs.evaluation_loop import EvaluationLoop
from optex_core.runs.failure_policy import FailurePolicy
from optex_core.runs.progress import Progress
from optex_core.types import Candidate

#: Rounds of the optimizer alone to the value that all runs go to.
ALONE = 60
EXECUTORS = ("threads", "processes", "dask", "ray", "mpi")
#: Milliseconds of a gradient from which a run is made once.
LONG = 500.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured."""

    #: {"sleep", "compute"}: what a gradient does with its time: it waits, or keeps a core busy.
    kind: str
    milliseconds: float  # that time
    executor: str  # one of EXECUTORS
    workers: int  # N: workers, and gradients at once
    d: int  # parameters
    #: Of all runs; what it compiles or loads from disk is done before anything is measured, as
    #: `optex_core.warm_up` does it.
    backend: str = "auto"

    @property
    def key(self) -> str:
        """All of it as one text."""
        return "/".join(str(value) for value in asdict(self).values())


def start(d: int) -> np.ndarray:
    """Where all runs begin."""
    return np.random.default_rng(0).standard_normal(d)


def goal(d: int) -> float:
    """The optimizer's own value after ALONE rounds, in each of which x_i shrinks by 1 - h_i."""
    h = np.geomspace(1.0, 0.01, d)
    return float(0.5 * np.sum(h * (start(d) * (1 - h) ** ALONE) ** 2))


def run(setting: Setting) -> Row:
    """Measure one setting.

    Returns
    -------
    dict
        The setting; seconds of one worker and of data parallel to the goal (from the median of some
        of their rounds), and of `auto`; its rounds; per round, medians in milliseconds: slowest
        gradient, engine, and transport and scheduling, which is the rest; utilisation of the
        workers; the timeline, rows of (worker, iteration, slot, begin, end).
    """
    if setting.executor == "mpi" and "OPTEX_BENCH_MPI" not in os.environ:
        return _within_mpi(setting)
    _dry_run(setting)
    # Workers are started once for all four runs: eight processes take ten seconds on two cores.
    with (
        tempfile.TemporaryDirectory(prefix="optex-core-bench-") as folder,
        _evaluator(setting, setting.workers, folder) as evaluator,
    ):
        place = (evaluator, folder)
        # At least five rounds and about two seconds tell the time of ALONE of them.
        some = min(ALONE, max(5, math.ceil(2000 / setting.milliseconds)))
        alone = _run(setting, "sequential", 1, some, *place)[0]
        parallel = _run(setting, "data_parallel", setting.workers, some, *place)[0]
        # The faster of two, since a shared machine has bad moments; which are short beside runs of
        # many seconds.
        runs = 2 if setting.milliseconds < LONG else 1
        result, wall, timeline = min(
            (_run(setting, "auto", setting.workers, ALONE, *place) for _ in range(runs)),
            key=lambda run: run[1],
        )
    trace = result.history
    # the first round is one cold gradient; the last row is the final evaluation
    inside = slice(1, int(result.nit))
    slowest, engine = trace.slowest[inside], trace.overhead[inside]
    rest = trace.seconds[inside] - slowest - engine
    busy = sum(end - begin for _, _, _, begin, end in timeline)
    return {
        **asdict(setting),
        "one_worker_s": float(np.nanmedian(alone.history.seconds)) * (ALONE + 1),
        "data_parallel_s": float(np.nanmedian(parallel.history.seconds)) * (ALONE + 1),
        "seconds": wall,
        "reached": bool(result.success),
        "rounds": int(result.nit),
        "gradients": int(result.njev),
        "slowest_ms": _median(slowest),
        "engine_ms": _median(engine),
        "transport_ms": _median(rest),
        "utilisation": busy / (setting.workers * wall),
        "timeline": timeline,
    }


def _dry_run(setting: Setting) -> None:
    """The engine alone, so that what is compiled or loaded once is no part of a measurement."""
    h = np.geomspace(1.0, 0.01, setting.d)
    objective = make_objective(lambda x: (0.5 * (h * x) @ x, h * x), x0=start(setting.d))
    with make_evaluator(objective) as evaluator:
        _loop(setting, "auto", setting.workers, 6, evaluator)


def _loop(
    setting: Setting, strategy: str, parallelism: int, rounds: int, evaluator: Evaluator
) -> Result:
    engine = OptEx(
        start(setting.d), optimizer=SGD(1.0), parallelism=parallelism, strategy=strategy,
        backend=setting.backend, rng=0, maxiter=rounds, target=goal(setting.d),
    )  # fmt: skip
    policy = FailurePolicy("raise", 0, None, None, None, None)
    return EvaluationLoop(engine, evaluator, policy, None, Progress(False), None).run()


def why_not(executor: str) -> str:
    """ "" or why an executor cannot be measured here."""
    library = {"dask": "distributed", "ray": "ray", "mpi": "mpi4py"}.get(executor)
    if library is not None and importlib.util.find_spec(library) is None:
        return f"there is no {library}; run: python -m pip install 'optex_core[{executor}]'"
    if executor == "mpi" and shutil.which("mpiexec") is None:
        return "there is no mpiexec on the PATH; run: python -m pip install mpich"
    return ""


def _run(
    setting: Setting,
    strategy: str,
    parallelism: int,
    rounds: int,
    evaluator: Evaluator,
    folder: str,
) -> tuple[Result, float, list[list[float]]]:
    """One run on workers that are up: result, seconds, timeline."""
    for path in Path(folder).iterdir():
        path.write_text("", encoding="utf-8")
    begin = time.perf_counter()
    result = _loop(setting, strategy, parallelism, rounds, evaluator)
    wall = time.perf_counter() - begin
    _wake(evaluator, setting, lambda: len(_timeline(folder)) >= result.njev)
    return result, wall, _timeline(folder)


@contextmanager
def _evaluator(setting: Setting, workers: int, folder: str) -> Iterator[Evaluator]:
    """An evaluator whose workers are up: all of them have been asked once."""
    fun = Slow(setting.d, setting.milliseconds / 1e3, setting.kind == "compute", folder)
    objective = make_objective(fun, x0=start(setting.d))
    with ExitStack() as stack:
        pool = _pool(setting.executor, workers, stack)
        evaluator = stack.enter_context(make_evaluator(objective, pool, parallelism=workers))
        _wake(evaluator, setting, lambda: len(os.listdir(folder)) >= workers)
        yield evaluator


def _wake(evaluator: Evaluator, setting: Setting, enough: Callable[[], bool]) -> None:
    """Ask all workers for something short, until it has been enough."""
    end = time.monotonic() + 60
    while not enough():
        if time.monotonic() > end:
            raise CapabilityError(
                f"{setting.key}: of {setting.workers} workers not all have answered "
                f"within a minute; run with fewer (-N)"
            )
        evaluator.submit(
            [Candidate(-1 - i, start(setting.d), 0, WARM, i) for i in range(setting.workers)]
        )
        evaluator.drain() if not evaluator.asynchronous else _collect(evaluator)


def _collect(evaluator: Evaluator) -> None:
    while evaluator.pending:
        for outcome in evaluator.next():
            if outcome.error is not None:
                raise outcome.error


def _pool(executor: str, workers: int, stack: ExitStack) -> object:
    """What `workers` is for an executor."""
    if executor == "threads":
        return "threads"
    if executor == "processes":
        return workers
    if executor == "dask":
        from distributed import LocalCluster

        cluster = LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=":0", memory_limit=0
        )
        return stack.enter_context(dask(stack.enter_context(cluster)))
    if executor == "ray":
        import ray as library

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        library.init(
            num_cpus=workers, include_dashboard=False, log_to_driver=False, configure_logging=False
        )
        stack.callback(library.shutdown)
        return stack.enter_context(ray())
    return stack.enter_context(mpi(workers))


def _within_mpi(setting: Setting) -> Row:
    """Measure in an MPI job of its own, whose first process does what this one would."""
    script = ["-m", "mpi4py.futures", "-m", "optex_core", "bench", "wallclock", "--cell"]
    processes, cell = str(setting.workers + 1), json.dumps(asdict(setting))
    words = ["mpiexec", "-n", processes, sys.executable, *script, cell]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "OPTEX_BENCH_MPI": "1"},
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("cell ")]
    if not lines:
        raise CapabilityError(
            f"the MPI job ended with status {done.returncode}: "
            f"{(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}"
        )
    found: Row = json.loads(lines[-1].removeprefix("cell "))
    return found


def _timeline(folder: str) -> list[list[float]]:
    """What the workers have noted, without the warm-up: (worker, iteration, slot, begin, end),
    seconds since the first.
    """
    rows = []
    for worker, path in enumerate(sorted(Path(folder).iterdir())):
        for line in path.read_text(encoding="utf-8").splitlines():
            iteration, slot, begin, end = json.loads(line)
            if iteration != WARM:
                rows.append([worker, iteration, slot, begin, end])
    first = min((row[3] for row in rows), default=0.0)
    return [[*row[:3], round(row[3] - first, 5), round(row[4] - first, 5)] for row in rows]


def _median(values: np.ndarray) -> float:
    return round(1e3 * float(np.median(values)), 3) if len(values) else math.nan
