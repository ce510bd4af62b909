"""A run on disk: the last save, the one before it, and the journals of what has been told since
each.

=======================  ==============================================================================================
``run.npz``              the last save, number k, written whole and then renamed
``run.npz.journal``      what the engine was told since save k
``run.npz.previous``     save k - 1 (a second name of the old file, where the file system has those: it is not copied)
``run.npz.previous.journal``  what it was told between the two
=======================  ==============================================================================================

So a process that is killed at any instant loses no gradient that has arrived, and a save that is
damaged later loses nothing either: it is named, moved to ``run.npz.damaged``, and the run goes on
from the one before it. At the end of a run only the journal of the last save goes, being empty.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from optex_core.engine import checkpoint
from optex_core.engine.optex import OptEx
from optex_core.errors import CheckpointError, LaterVersionError
from optex_core.runs import journal
from optex_core.runs.journal import Journal, read_journal
from optex_core.runs.recovery import apply_record, encode_record, gradient_nbytes, replay_records
from optex_core.types import Array, Candidate

logger = logging.getLogger("optex_core")


def _sibling(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


@dataclass(slots=True)
class RecoveredRun:
    """What was found of a run.

    Attributes
    ----------
    path : Path
    header, arrays : dict or None
        Of the last good save; None if the run was killed before the first.
    seed : int
        The run's.
    records : list
        What it was told since.
    saves : int
        The number of the newest file; the next save is one more.
    began : int or None
        Mark of the x0 that it began at; None in files of earlier versions.
    """

    path: Path
    header: dict[str, Any] | None
    arrays: dict[str, np.ndarray]
    seed: int
    fingerprint: dict[str, Any]
    records: list[tuple[dict[str, Any], np.ndarray | None]] = field(default_factory=list)
    saves: int = 0
    x0_checksum: int | None = None

    def apply_to(self, engine: OptEx) -> None:
        """Put what was found into a fresh engine of equal settings.

        Raises
        ------
        CheckpointError
            It belongs to another run.
        """
        if engine.settings.seed != self.seed:
            raise CheckpointError(
                f"{self.path} was made with rng={self.seed}, here it is "
                f"{engine.settings.seed}; leave rng out to continue it"
            )
        if self.x0_checksum is not None and self.x0_checksum != engine.x0_checksum:
            logger.warning(
                "%s goes on where it was: it was begun at another x0 than the one that "
                "is given now, which is not used",
                self.path,
            )
            engine.x0_checksum = self.x0_checksum
        if self.header is not None:
            checkpoint.restore_engine(engine, self.header, self.arrays, str(self.path))
        else:
            checkpoint.check_compatible(engine, {"identity": self.fingerprint}, str(self.path))
        if self.records:
            left = replay_records(engine, self.records)
            if left:
                logger.warning("%s: %s", self.path, left)
            # As through a file: what ended the run from outside is taken back, what ended it by a
            # budget if that now allows more.
            header, arrays = checkpoint.dump_engine(engine)
            checkpoint.restore_engine(
                engine, json.loads(json.dumps(header)), arrays, str(self.path)
            )
        engine.saves = self.saves


def recover(path: str | os.PathLike[str]) -> RecoveredRun | None:
    """The run at `path`; None if there is none.

    Raises
    ------
    CheckpointError
        There is one, but none of its saves can be read; or another process is running it.
    """
    path = Path(path)
    journals = _journals(path)
    if not path.exists():
        first = journals.get(0)
        return (
            None if first is None else _with_journal_records(_journal_only(path, first), journals)
        )
    try:
        header, arrays = checkpoint.read_checkpoint(path)
    except CheckpointError as error:
        # not damaged: not for us, or not for now
        if isinstance(error, LaterVersionError) or isinstance(error.__cause__, OSError):
            raise
        return _recover_previous(path, error, journals)
    return _with_journal_records(_recovered(path, header, arrays), journals)


def _recovered(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> RecoveredRun:
    return RecoveredRun(
        path,
        header,
        arrays,
        header["seed"],
        header["identity"],
        saves=header.get("saves", 0),
        x0_checksum=header.get("began"),
    )


def _journal_only(path: Path, first: journal.JournalContents) -> RecoveredRun:
    """A run of which there is only the journal from before its first save."""
    return RecoveredRun(
        path,
        None,
        {},
        first.header["seed"],
        first.header["identity"],
        x0_checksum=first.header.get("began"),
    )


def run_exists(path: str | os.PathLike[str]) -> bool:
    """True if there is a run at `path`, be it only the journal of one that was killed before its
    first save.
    """
    path = Path(path)
    if path.exists():
        return True
    found = read_journal(_sibling(path, ".journal"))
    return found is not None and found.header.get("saves") == 0 and bool(found.records)


def _journals(path: Path) -> dict[int, journal.JournalContents]:
    """The journals of a run, by the number of the save that each goes on from."""
    found = {}
    for end in (".previous.journal", ".journal"):
        read = read_journal(_sibling(path, end))
        if read is not None:
            found[int(read.header["saves"])] = read
    return found


def _with_journal_records(
    saved: RecoveredRun, journals: dict[int, journal.JournalContents]
) -> RecoveredRun:
    """Add what was told since the save."""
    number = saved.saves
    # 0: saved by hand, to which no journal belongs
    while (read := journals.get(number)) is not None and (number or saved.header is None):
        if read.header["seed"] != saved.seed:
            break
        saved.records += [r for r in read.records if r[0]["do"] != "end"]
        if read.damage:
            logger.warning("%s; what follows is evaluated again", read.damage)
        if not read.records or read.records[-1][0]["do"] != "end":
            break
        number += 1
    saved.saves = max([saved.saves, *journals])
    return saved


def _recover_previous(
    path: Path, error: CheckpointError, journals: dict[int, journal.JournalContents]
) -> RecoveredRun:
    """The run from the save before the one that cannot be read."""
    previous = _sibling(path, ".previous")
    if previous.exists():
        try:
            header, arrays = checkpoint.read_checkpoint(previous)
        except CheckpointError as second:
            raise CheckpointError(
                f"{error}; nor can the save before it be used: {second}"
            ) from error
        saved = _recovered(path, header, arrays)
    elif 0 in journals:
        saved = _journal_only(path, journals[0])
    else:
        raise error
    damaged = _sibling(path, ".damaged")
    # first, so that there is a good save under the name at any instant
    if saved.header is not None:
        _link_or_copy(path, damaged)
        _link_or_copy(previous, path)
    else:
        os.replace(path, damaged)
    saved = _with_journal_records(saved, journals)
    logger.warning(
        "%s; it is kept as %s, and the run goes on from the last good save (%d "
            "iterations) and %d records of the journal",
        error, damaged, 0 if saved.header is None else saved.header["state"]["nit"], len(saved.records),
    )  # fmt: skip
    return saved


def _link_or_copy(path: Path, other: Path) -> None:
    """Let `other`, at once, name what `path` names too; a copy where the file system has no second
    names.
    """
    spare = path.with_name(f".{path.name}.link.tmp")
    spare.unlink(missing_ok=True)
    try:
        try:
            os.link(path, spare)
        except OSError:
            shutil.copyfile(path, spare)
        os.replace(spare, other)
    finally:
        # renaming one name of a file to another one of the same file does nothing
        spare.unlink(missing_ok=True)


class CheckpointManager:
    """Keeps a run on disk while it goes on.

    Parameters
    ----------
    path : path-like
        The save.
    engine : OptEx
    every : int or float, default 1
        A save after so many iterations (int) or seconds (float).
    new : bool
        False where the engine goes on from what is on disk.
    replayed : bool
        True if it goes on from the records of a journal: then it is saved at once.

    Raises
    ------
    OSError
        It cannot be written; CheckpointError if another process writes it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        engine: OptEx,
        every: float = 1,
        *,
        new: bool = True,
        replayed: bool = False,
    ) -> None:
        self.path, self.engine, self.save_interval = Path(path), engine, every
        self.last_saved_iteration, self.last_save_time = engine.state.nit, time.monotonic()
        self._journal: Journal | None = None
        self._record_nbytes, self._fingerprint = (
            gradient_nbytes(engine),
            checkpoint.fingerprint(engine),
        )
        self._save_failed = self._has_new_records = False
        if new:
            for end in (".previous", ".previous.journal"):
                _sibling(self.path, end).unlink(missing_ok=True)  # of a run whose save was removed
        self._finished_at_save = engine.state.finished
        if replayed:
            self.save()  # what was replayed, before the journal that holds it gives way to the next
        else:
            self._journal = self._open_journal()
        # of a process that was killed while it saved; we hold the journal
        for left in self.path.parent.glob(f".{self.path.name}.*.tmp"):
            left.unlink(missing_ok=True)

    def save_due(self) -> bool:
        """True if it is time to save."""
        if isinstance(self.save_interval, int):
            return self.engine.state.nit - self.last_saved_iteration >= self.save_interval
        return time.monotonic() - self.last_save_time >= self.save_interval

    @property
    def has_unsaved_changes(self) -> bool:
        """True if the engine is not as it was saved last."""
        return (
            self._has_new_records
            or self.engine.state.finished != self._finished_at_save
            or not self.path.exists()
        )

    def reserve(self, number: int) -> None:
        """Take the space for so many gradients, before they are evaluated."""
        if self._journal is None:  # after a save that left no space for it
            self._journal = self._open_journal()
        self._journal.reserve(number * (self._record_nbytes + journal.RECORD_RESERVE_BYTES))

    def record_call(
        self,
        record: dict[str, Any],
        c: Candidate | None,
        gradient: Array | None,
        error: BaseException | None,
    ) -> None:
        """Write down what the engine is about to be told."""
        self._has_new_records = True
        if self._journal is not None:
            vector = None if gradient is None else self.engine.backend.to_host(gradient)
            self._journal.append(encode_record(record, self.engine, c, gradient, error), vector)

    def save(self) -> None:
        """Save the engine, and begin a new journal."""
        engine = self.engine
        before, engine.saves = engine.saves, engine.saves + 1
        try:
            if self.path.exists():
                _link_or_copy(self.path, _sibling(self.path, ".previous"))
            engine.save(self.path)
        except BaseException:
            engine.saves = before
            raise
        self.last_saved_iteration, self.last_save_time, self._save_failed = (
            engine.state.nit,
            time.monotonic(),
            False,
        )
        self._has_new_records, self._finished_at_save = False, engine.state.finished
        self._rotate_journal()

    def try_save(self) -> None:
        """Save between two iterations: a full disk is told once and does not end the run, as the
        last save and its journal are whole.
        """
        try:
            self.save()
        except OSError as error:
            self.last_save_time, self.last_saved_iteration = time.monotonic(), self.engine.state.nit
            if not self._save_failed:
                logger.warning(
                    "%s could not be saved (%s): the run goes on, and nothing is lost "
                        "as long as its journal can be written; it is tried again",
                    self.path, error,
                )  # fmt: skip
            self._save_failed = True

    def close(self) -> None:
        """Let go of the files; a journal without records is removed."""
        held, self._journal = self._journal, None
        if held is not None:
            held.close()
            if not held.records and self.path.exists():
                held.path.unlink(missing_ok=True)

    def _rotate_journal(self) -> None:
        """The journal becomes that of the save before; a new one begins."""
        held, self._journal = self._journal, None
        path = _sibling(self.path, ".journal")
        if held is not None:
            with contextlib.suppress(OSError):  # without the mark it still ends where it ends
                held.append({"do": "end"})
            held.close()
        if path.exists():
            os.replace(path, _sibling(self.path, ".previous.journal"))
        self._journal = self._open_journal()

    def _open_journal(self) -> Journal:
        engine = self.engine
        header = {
            "saves": engine.saves,
            "seed": engine.settings.seed,
            "identity": self._fingerprint,
            "began": engine.x0_checksum,
        }
        return Journal(_sibling(self.path, ".journal"), header)


def apply_and_record(
    keep: CheckpointManager | None,
    engine: OptEx,
    record: dict[str, Any],
    gradient: Array | None = None,
    error: BaseException | None = None,
) -> None:
    """Write a record down, if the run is kept, and do it."""
    if keep is None:
        apply_record(engine, record, gradient, error)
        return
    c = None
    if "id" in record:
        r = engine.round
        c = next(
            (
                c
                for c in [*(r.candidates if r is not None else []), *engine.late.values()]
                if c.id == record["id"]
            ),
            None,
        )
    try:
        keep.record_call(record, c, gradient, error)
    finally:  # what could not be written down is still told, so that a save may keep it
        apply_record(engine, record, gradient, error)
