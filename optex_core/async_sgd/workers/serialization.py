"""Functions that workers run: bursts travel by value, large vectors through shared memory."""

from __future__ import annotations

import dataclasses

from optex_core.async_sgd.records import BurstResult, Pull, Push
from optex_core.async_sgd.status import BurstStatus
from optex_core.async_sgd.workers.base import BurstRunner
from optex_core.errors import ObjectiveError
from optex_core.execution.workers.serialization import (
    SerializedObjective,
    SerializedResult,
    installed_objective,
)
from optex_core.execution.workers.shared_memory import (
    SharedArrayHandle,
    open_vector,
    store_result,
)
from optex_core.types import Array


def run_installed(v: Array | SharedArrayHandle, pull: Pull) -> SerializedResult:
    """Run a burst in a worker process of ours. The parameters travel as `v`, outside of `pull`."""
    try:
        runner: BurstRunner = installed_objective()
    except ObjectiveError as error:
        return SerializedResult(BurstResult(pull.id, error=error, failure=BurstStatus.ERROR))
    return _run(runner, v, pull)


def run_serialized_runner(
    runner: SerializedObjective, v: Array | SharedArrayHandle, pull: Pull
) -> SerializedResult:
    """Run a burst in a pool of the user's."""
    return _run(runner.objective, v, pull)


def _run(runner: BurstRunner, v: Array | SharedArrayHandle, pull: Pull) -> SerializedResult:
    vector = open_vector(v)
    if vector.flags.writeable:  # unpickled arrays are
        vector.flags.writeable = False
    result = runner.run(dataclasses.replace(pull, v=vector))
    push = result.push
    fits = isinstance(push, Push) and getattr(push.b, "shape", None) == vector.shape
    if fits and push is not None and push.b.dtype == vector.dtype:
        push = dataclasses.replace(push, b=store_result(v, push.b))
        result = dataclasses.replace(result, push=push)
    return SerializedResult(result)
