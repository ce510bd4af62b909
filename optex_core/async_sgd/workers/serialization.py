"""How bursts travel to other processes and pushes travel back: by value, large vectors through
shared memory, errors in a form that survives.
"""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

from optex_core.async_sgd.records import BurstContext, Pull, Push
from optex_core.async_sgd.workers.burst_runner import BurstResult, BurstRunner
from optex_core.errors import ObjectiveError
from optex_core.execution.base import Report
from optex_core.execution.workers import process_cleanup
from optex_core.execution.workers.serialization import (
    SerializedObjective,
    SerializedReport,
    load_objective,
)
from optex_core.execution.workers.shared_memory import SharedArrayHandle, open_vector, store_result

logger = logging.getLogger("optex_core")

#: What `initialize_worker` left for this process: the name of the burst, its token, its bytes.
_installed: tuple[str, str, bytes] | None = None


def serialize_runner(runner: BurstRunner) -> SerializedObjective:
    """The team as something that pickles itself by value and is unpacked once per process, so that
    spawned bursts stay where they are.
    """
    return SerializedObjective(runner)  # type: ignore[arg-type]  # of its Evaluable a parcel uses the name alone


def initialize_worker(name: str, token: str, payload: bytes) -> None:
    """Make this process a worker: it ignores Ctrl-C, which its driver answers, keeps the burst, and
    ends, with what it started, after the driver.
    """
    global _installed  # noqa: PLW0603  a worker has nothing but its module to keep it in
    signal.signal(signal.SIGINT, _wait_for_driver)
    _installed = name, token, payload
    process_cleanup.start_parent_watchdog()


def _wait_for_driver(_signal: int, _frame: Any) -> None:
    """Leave the interrupt to the driver."""


def report_ready() -> int:
    """The worker's process id, once the burst is unpacked: what it imports may take seconds, which
    are no part of a burst's time limit.
    """
    if _installed is not None:
        try:
            load_objective(*_installed[1:])
        except Exception as error:
            # told with the first burst, where an error has a way back to the driver
            logger.debug("the burst cannot be loaded here: %s", error)
    return os.getpid()


def run_installed(v: Any, context: BurstContext) -> SerializedReport:
    """What our own worker processes run."""
    if _installed is None:
        raise RuntimeError("a worker was asked for a burst before it was given one")
    name, token, payload = _installed
    try:
        runner: Any = load_objective(token, payload)
    except Exception as error:  # imports on the way may raise anything
        wrong = ObjectiveError(
            f"{name} cannot be loaded in a worker process: {type(error).__name__}: {error}"
        )
        return SerializedReport(Report(None, wrong, "", 0, 0, 0.0))
    return _run_here(runner, v, context)


def run_sent(parcel: SerializedObjective, v: Any, context: BurstContext) -> SerializedReport:
    """What pools of the user run."""
    runner: Any = parcel.objective
    return _run_here(runner, v, context)


def _run_here(runner: BurstRunner, v: Any, context: BurstContext) -> SerializedReport:
    vector = open_vector(v)
    if vector.flags.writeable:  # unpickled arrays are
        vector.flags.writeable = False
    done = runner.run(Pull(vector, context))
    push: Any = done.push
    if (
        isinstance(v, SharedArrayHandle)
        and isinstance(push, Push)
        and getattr(push.b, "shape", None) == (v.d,)
        and push.b.dtype == vector.dtype
    ):
        push = Push(store_result(v, push.b), push.a, push.gradients, push.value, push.report)
    return SerializedReport(Report(push, done.error, done.traceback, 0, 0, done.seconds))


def as_burst_result(job: int, sealed: SerializedReport) -> BurstResult:
    """What came back, in the driver."""
    report = sealed.report
    push: Any = report.evaluation
    return BurstResult(job, push, report.error, report.traceback, False, report.seconds)
