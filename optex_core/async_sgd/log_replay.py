"""Replay of a push log: the same parameters to the bit."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace as with_fields

from optex_core.async_sgd.checkpoint import apply_records, is_opaque, logged_start
from optex_core.async_sgd.master import Master
from optex_core.async_sgd.push_log import LogRecord, PushLogReader, PushRecord
from optex_core.async_sgd.records import Pull
from optex_core.async_sgd.state import MasterState, as_push
from optex_core.async_sgd.workers.base import BurstRunner
from optex_core.errors import CheckpointError


def replay(
    path: str | os.PathLike[str],
    burst: Callable[..., object] | None = None,
    *,
    until: int | None = None,
    step: object = 1.0,
) -> Master:
    """Apply a log again, in the recorded order with the recorded steps.

    Parameters
    ----------
    path : path-like
        The log; only read.
    burst : callable, optional
        Run every burst again, from its version and with its seed, in place of the arrays in the
        log. The bits are the same if bursts are deterministic: not with lock-free cores. Spawned
        bursts see the pushed bursts of their worker, not the lost ones.
    until : int, optional
        Updates after which to stop.
    step : float or callable, default 1.0
        The step rule for further use of the master, where the log holds one that no file can hold.

    Returns
    -------
    Master
        Without a log.

    Raises
    ------
    CheckpointError
        For a file that is no whole log, or a burst that fails when it is run again.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from optex_core.async_sgd import Master, Push, replay, run
    >>> path = os.path.join(tempfile.mkdtemp(), "run.log")
    >>> with Master(np.ones(3), rng=0, log=path) as master:
    ...     report = run(master, lambda v, ctx: Push.steps(0.1 * v), maxiter=20)
    >>> bool(np.array_equal(replay(path).x, master.x))
    True
    """
    with PushLogReader(path) as reader:
        saved = logged_start(reader)
        records: Iterator[LogRecord] = iter(reader)
        if burst is not None:
            records = _rerun(records, BurstRunner(burst), saved.state, _bursts_by_version(path))
        apply_records(saved, records, until)
    # A user's own rule is not needed here: the log holds the steps that it gave.
    opaque = is_opaque(saved.fingerprint["step"])
    master = Master(
        saved.state.v, rng=saved.seed, **saved.arguments({"step": step} if opaque else {})
    )
    master.state = saved.state
    if until is None:
        master.update()  # a kill between a push and its update leaves the update to the next reader
    return master


def _bursts_by_version(path: str | os.PathLike[str]) -> Counter[int]:
    with PushLogReader(path) as reader:
        return Counter(r.context.version for r in reader if isinstance(r, PushRecord))


def _rerun(
    records: Iterator[LogRecord], runner: BurstRunner, state: MasterState, left: Counter[int]
) -> Iterator[LogRecord]:
    """The records with pushes computed again. `state` follows them between two of them; parameters
    of a version are kept while bursts that start from it are `left`.
    """
    past = {}
    for record in records:
        past[state.version] = state.v
        if isinstance(record, PushRecord):
            context = record.context
            result = runner.run(Pull(past[context.version], context))
            if result.push is None:
                raise CheckpointError(
                    f"burst {context.id} failed when it was run again: {result.error}"
                ) from result.error
            left[context.version] -= 1
            for version in [v for v in past if v != state.version and not left[v]]:
                del past[version]
            record = with_fields(record, push=as_push(result.push, state.v, context))
        yield record
