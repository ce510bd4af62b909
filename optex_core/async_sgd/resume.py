"""The master of a run that goes on from the files of an earlier one, or that is done again from
its log, to the bit.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from optex_core._validation import boolean, integer, short_repr
from optex_core.async_sgd.burst_executors import BurstRunner
from optex_core.async_sgd.checkpoint import apply_records, is_opaque, logged_start
from optex_core.async_sgd.master import Master
from optex_core.async_sgd.push_log import LogRecord, PushLog, PushLogReader, PushRecord
from optex_core.async_sgd.records import Pull
from optex_core.async_sgd.state import MasterState, as_push
from optex_core.engine.file_lock import FileLock
from optex_core.engine.npz_file import check_filename
from optex_core.engine.settings import resolve_seed
from optex_core.engine.settings_spec import compare_specs
from optex_core.errors import ArgumentError, CheckpointError

#: What files of earlier versions stand for where they lack an entry.
_FORMER_METADATA = {"order": "replacement"}


@contextlib.contextmanager
def open_master(
    x0: Any, files: tuple[Any, ...], rng: Any, metadata: dict[str, Any], settings: dict[str, Any]
) -> Iterator[Master]:
    """A master with these settings, continued from its log, else from its checkpoint, if one
    exists. Its files are locked meanwhile.

    `files` are the arguments checkpoint, checkpoint_every, log, resume of `async_sgd.minimize`;
    `metadata` are settings of the driver that a continued run must share; `settings` are further
    arguments of `Master`.
    """
    checkpoint, checkpoint_every, log, resume = files
    if checkpoint is not None:  # names of temporary files beside it are 14 characters longer
        check_filename("checkpoint", checkpoint, "." * 14)
    if checkpoint_every is not None:
        integer("checkpoint_every", checkpoint_every, low=1)
        if checkpoint is None:
            raise ArgumentError("checkpoint_every needs checkpoint=, the file of the run")
    if boolean("resume", resume) and checkpoint is None and log is None:
        raise ArgumentError("resume=True needs log= or checkpoint=, the file of the run")
    if log is not None and not isinstance(log, PushLog):
        log = PushLog(log)
    new = Master(x0, rng=rng, **settings)  # checks all settings before any file is touched
    new.state.metadata = metadata
    lock = contextlib.nullcontext() if checkpoint is None else FileLock(checkpoint)
    with lock, _new_or_continued(new, checkpoint, log, resume, rng, settings) as master:
        yield master


def _new_or_continued(
    new: Master, checkpoint: Any, log: PushLog | None, resume: bool, rng: Any, settings: Any
) -> Master:
    if log is not None and log.exists:
        source = log.path
    elif checkpoint is not None and PushLog(checkpoint).exists:
        source = checkpoint
    else:
        if log is not None:
            new.start_log(log)
        return new
    if not resume:
        raise CheckpointError(
            f"{source} exists already; pass resume=True to continue it, or another file name"
        )
    if log is None:
        old = Master.load(source, **settings)
    elif source is log.path:
        old = Master.resume(source, sync=log.sync, **settings)
    else:
        raise CheckpointError(
            f"{source} can be continued, but the log {log.path} does not exist: leave log out, or "
            "begin anew with other files"
        )
    try:
        _check_same_run(old, new, source, rng)
    except BaseException:
        old.close()
        raise
    return old


def _check_same_run(old: Master, new: Master, source: object, rng: object) -> None:
    for name, value in new.state.metadata.items():
        # Files of earlier versions do not say.
        kept = old.state.metadata.setdefault(name, _FORMER_METADATA.get(name, value))
        if kept != value:
            there, here = compare_specs(kept, value)
            raise CheckpointError(
                f"{source} was made with {name}={there}, here it is {here}; pass the same, or use "
                "other files"
            )
    if rng is not None and old.settings.seed != resolve_seed(rng):
        raise CheckpointError(
            f"{source} was made with rng={old.settings.seed}, here it is {short_repr(rng)}; leave "
            "rng out to continue it"
        )
    if new.x.shape != old.x.shape:
        raise CheckpointError(
            f"{source} holds {len(old.x)} parameters, x0 has shape {np.shape(new.x)}"
        )


def replay(
    path: str | os.PathLike[str],
    burst: Callable[..., object] | None = None,
    *,
    until: int | None = None,
    step: object = 1.0,
) -> Master:
    """Apply a log again, in the recorded order with the recorded steps: a `Master` without a log.

    Parameters
    ----------
    path : path-like
        The log; only read. CheckpointError for a file that is no whole log.
    burst : callable, optional
        Run every burst again, from its version and with its seed, in place of the arrays in the
        log. The bits are the same if bursts are deterministic: not with lock-free cores. Spawned
        bursts see the pushed bursts of their worker, not the lost ones.
    until : int, optional
        Updates after which to stop.
    step : float or callable, default 1.0
        The step rule for further use of the master, where the log holds one that no file can hold.

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
    master = Master.restore(saved, {"step": step} if opaque else {}, check=False)
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
            record = record._replace(push=as_push(result.push, state.v, context))
        yield record
