"""A run on disk: the last save, the one before it, and the journal of what followed each.

============================  ======================================================================
``run.npz``                   the last save, number k, written whole and then renamed
``run.npz.journal``           what the engine was told since save k
``run.npz.previous``          save k - 1 (a second name of the old file where the system has those)
``run.npz.previous.journal``  what it was told between the two
``run.npz.lock``              held while the run goes on: a second driver is refused
============================  ======================================================================

A save that is damaged is named, moved to ``run.npz.damaged``, and the run goes on from the one
before it. At the end of a run the journal of the last save, being empty, and the lock are removed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from optex_core._validation import integer, positive
from optex_core.engine import checkpoint, checkpoint_file
from optex_core.engine.file_lock import FileLock
from optex_core.engine.framed_log import FramedLog
from optex_core.engine.npz_file import check_writable
from optex_core.engine.optex import OptEx
from optex_core.errors import CheckpointError
from optex_core.runs.journal import (
    RECORD_RESERVE_BYTES,
    Record,
    apply_record,
    create_journal,
    encode_record,
    find_pending,
)
from optex_core.runs.recovery import link_or_copy, recover, run_exists, sibling
from optex_core.types import Array

logger = logging.getLogger("optex_core")


class CheckpointManager:
    """Keeps a run on disk while it goes on; a context that holds the run's lock.

    `save_interval` counts iterations (int, None: 1) or seconds (float). With `resume` the run at
    `path`, if there is one, is `recovered` and goes on; else an existing one is refused.
    """

    def __init__(
        self, path: str | os.PathLike[str], save_interval: Any = None, *, resume: bool = False
    ) -> None:
        if isinstance(save_interval, float):
            positive("checkpoint_every", save_interval)
        elif save_interval is not None:
            integer("checkpoint_every", save_interval, low=1)
        check_writable("checkpoint", path, ".previous.journal")  # before anything is evaluated
        self.path = Path(path)
        self.save_interval = 1 if save_interval is None else save_interval
        self.last_saved_iteration, self._last_save_time = 0, time.monotonic()
        self._journal: FramedLog | None = None
        self._save_failed = self._has_new_records = self._finished_at_save = False
        self._lock = FileLock(path)
        try:
            if not resume and run_exists(self.path):
                raise CheckpointError(
                    f"{path} exists already; pass resume=True to continue it, or another file name"
                )
            self.recovered = recover(self.path) if resume else None
        except BaseException:
            self._lock.release()
            raise
        self._saves = 0 if self.recovered is None else self.recovered.saves

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        finally:
            self._lock.release()

    def restore(self, engine: OptEx) -> None:
        """Put the run that was found, if any, into a fresh engine of equal settings."""
        x0 = np.ascontiguousarray(engine.backend.to_host(engine.state.x))
        self._x0_checksum = zlib.crc32(x0.view(np.uint8).data)
        run = self.recovered
        if run is None:
            return
        began = run.header.get("began")  # files of earlier versions do not say it
        if began not in (None, self._x0_checksum):
            logger.warning(
                "%s goes on where it was: it was begun at another x0 than the one that is given"
                " now, which is not used",
                self.path,
            )
            self._x0_checksum = began
        run.apply_to(engine)

    def start(self, engine: OptEx) -> None:
        """Begin to keep `engine`, after `restore`."""
        self.engine = engine
        self.last_saved_iteration = engine.state.nit
        self._gradient_bytes = len(engine.state.x) * engine.state.x.dtype.itemsize
        self._settings: Record = {
            "seed": engine.settings.seed,
            "identity": checkpoint.fingerprint(engine.machine),
            "summaries": checkpoint.summaries(engine.machine),
            "began": self._x0_checksum,
        }
        self._finished_at_save = engine.state.finished
        try:
            if self.recovered is None:  # of a run whose save was removed
                for ending in (".previous", ".previous.journal"):
                    sibling(self.path, ending).unlink(missing_ok=True)
            if self.recovered is not None and self.recovered.records:
                self.save()  # what was replayed, before its journal gives way to the next
            else:
                self._open_journal()
            for unfinished in self.path.parent.glob(f".{self.path.name}.*.tmp"):
                unfinished.unlink(missing_ok=True)  # of a process that was killed while it saved
        except OSError as error:
            raise CheckpointError(
                f"cannot save to {self.path}: {error.strerror or error}; use another file"
            ) from error
        self.recovered = None  # its arrays are in the engine now

    @property
    def save_due(self) -> bool:
        """True if it is time to save."""
        if isinstance(self.save_interval, int):
            return self.engine.state.nit - self.last_saved_iteration >= self.save_interval
        return time.monotonic() - self._last_save_time >= self.save_interval

    @property
    def has_unsaved_changes(self) -> bool:
        """True if the engine is not as it was saved last."""
        finished = self.engine.state.finished
        return self._has_new_records or finished != self._finished_at_save or not self.path.exists()

    def reserve(self, number: int) -> None:
        """Allocate space for so many gradients, before they are evaluated."""
        journal = self._journal or self._open_journal()  # after a save that left no space for it
        journal.reserve(number * (self._gradient_bytes + RECORD_RESERVE_BYTES))

    def apply(
        self, record: Record, gradient: Array | None = None, error: BaseException | None = None
    ) -> None:
        """Write a record down and apply it to the engine.

        What cannot be written is applied all the same, so that a save may keep it.
        """
        self._has_new_records = True
        engine = self.engine
        try:
            if self._journal is not None:
                c = find_pending(engine, record["id"]) if "id" in record else None
                vector = [] if gradient is None else [engine.backend.to_host(gradient)]
                self._journal.append(encode_record(record, engine, c, gradient, error), *vector)
        finally:
            apply_record(engine, record, gradient, error)

    def save(self) -> None:
        """Save the engine, and begin a new journal; after an error the last save is as it was."""
        state = self.engine.state
        header, arrays = checkpoint.dump(self.engine.machine)
        if self.path.exists():
            link_or_copy(self.path, sibling(self.path, ".previous"))
        more = {"saves": self._saves + 1, "began": self._x0_checksum}
        checkpoint_file.write_checkpoint(self.path, header | more, arrays)
        self._saves += 1
        self.last_saved_iteration, self._last_save_time = state.nit, time.monotonic()
        self._save_failed = self._has_new_records = False
        self._finished_at_save = state.finished
        self._rotate_journal()

    def try_save(self) -> None:
        """Save between two iterations; a full disk is told once and does not end the run.

        The last save and its journal are whole all the while.
        """
        try:
            self.save()
        except OSError as error:
            self.last_saved_iteration = self.engine.state.nit
            self._last_save_time = time.monotonic()
            if not self._save_failed:
                logger.warning(
                    "%s could not be saved (%s): the run goes on, and nothing is lost as long as"
                    " its journal can be written; it is tried again",
                    self.path, error,
                )  # fmt: skip
            self._save_failed = True

    def close(self) -> None:
        """Close the journal; one without records is removed."""
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close(sync=False)
            if not journal.records and self.path.exists():
                journal.path.unlink(missing_ok=True)

    def _rotate_journal(self) -> None:
        """Make the journal that of the save before, and begin a new one."""
        journal, self._journal = self._journal, None
        path = sibling(self.path, ".journal")
        if journal is not None:
            with contextlib.suppress(OSError):  # without the mark it still ends where it ends
                journal.append({"do": "end"})
            journal.close(sync=False)
        if path.exists():
            os.replace(path, sibling(self.path, ".previous.journal"))
        self._open_journal()

    def _open_journal(self) -> FramedLog:
        header = {"saves": self._saves, **self._settings}
        self._journal = create_journal(sibling(self.path, ".journal"), header)
        return self._journal
