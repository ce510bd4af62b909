"""Functions that workers run: bursts travel by value, large vectors through shared memory."""

from __future__ import annotations

import dataclasses
from typing import Any

from optex_core.async_sgd.records import BurstResult, Pull, Push
from optex_core.async_sgd.workers.base import BurstRunner
from optex_core.errors import ObjectiveError, describe
from optex_core.execution.workers.serialization import (
    SerializedObjective,
    SerializedResult,
    load_objective,
)
from optex_core.execution.workers.shared_memory import SharedArrayHandle, open_vector, store_result
from optex_core.types import Array

#: The runner that `install_runner` left for this process: its name, its token, its bytes.
_installed: tuple[str, str, bytes] | None = None


def install_runner(name: str, token: str, payload: bytes) -> None:
    """Keep a runner in this worker process for `run_installed`, and load it.

    What it imports may take seconds, which are no part of a burst's time limit. An error is
    reported by the first burst.
    """
    global _installed  # noqa: PLW0603  a worker has nothing but its module to keep it in
    _installed = name, token, payload
    _load()


def _load() -> BurstRunner | ObjectiveError:
    if _installed is None:
        return ObjectiveError("a worker was asked for a burst before it was given one")
    name, token, payload = _installed
    try:
        runner: Any = load_objective(token, payload)
    except BaseException as error:  # imports on the way may raise anything
        return ObjectiveError(f"{name} cannot be loaded in a worker process: {describe(error)}")
    found: BurstRunner = runner
    return found


def run_installed(v: Array | SharedArrayHandle, pull: Pull) -> SerializedResult:
    """Run a burst in a worker process of ours. The parameters travel as `v`, outside of `pull`."""
    runner = _load()
    if isinstance(runner, ObjectiveError):
        return SerializedResult(BurstResult(pull.id, error=runner))
    return _run(runner, v, pull)


def run_serialized_runner(
    runner: SerializedObjective, v: Array | SharedArrayHandle, pull: Pull
) -> SerializedResult:
    """Run a burst in a pool of the user's."""
    burst_runner: Any = runner.objective
    return _run(burst_runner, v, pull)


def _run(runner: BurstRunner, v: Array | SharedArrayHandle, pull: Pull) -> SerializedResult:
    vector = open_vector(v)
    if vector.flags.writeable:  # unpickled arrays are
        vector.flags.writeable = False
    result = runner.run(dataclasses.replace(pull, v=vector))
    push: Any = result.push
    fits = isinstance(push, Push) and getattr(push.b, "shape", None) == vector.shape
    if fits and isinstance(v, SharedArrayHandle) and push.b.dtype == vector.dtype:
        push = dataclasses.replace(push, b=store_result(v, push.b))
        result = dataclasses.replace(result, push=push)
    return SerializedResult(result)
