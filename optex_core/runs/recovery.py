"""Recovery of a run from its files: the last good save, and the journals of what followed it."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from optex_core.engine import checkpoint, checkpoint_file
from optex_core.engine.optex import OptEx
from optex_core.errors import CheckpointError, DamagedFileError
from optex_core.runs.journal import JournalContents, Record, read_journal, replay_records

logger = logging.getLogger("optex_core")


def sibling(path: Path, ending: str) -> Path:
    """The file beside `path` whose name has this ending."""
    return path.with_name(path.name + ending)


@dataclass(slots=True)
class RecoveredRun:
    """What was found of a run: its last good save, and what the engine was told since.

    A run that was killed before its first save has the header of its journal and no arrays. The
    newest file has the number `saves`; the next save is one more.
    """

    path: Path
    header: Record
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    records: list[tuple[Record, np.ndarray | None]] = field(default_factory=list)
    saves: int = 0

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.header["seed"])

    @property
    def backend(self) -> str:
        """The name of the run's backend."""
        return str(self.header["identity"]["backend"])

    def apply_to(self, engine: OptEx) -> None:
        """Put what was found into a fresh engine of equal settings; another run's is refused."""
        machine = engine.machine
        if engine.settings.seed != self.seed:
            raise CheckpointError(
                f"{self.path} was made with rng={self.seed}, here it is {engine.settings.seed};"
                " leave rng out to continue it"
            )
        if self.arrays:
            checkpoint.restore(machine, self.header, self.arrays, str(self.path))
        else:
            checkpoint.check_compatible(machine, self.header, str(self.path))
        if self.records:
            unused = replay_records(engine, self.records)
            if unused:
                logger.warning("%s: %s", self.path, unused)
            # As through a file: what ended the run from outside is taken back, and what ended it
            # by a budget if that now allows more.
            header, arrays = checkpoint.dump(machine)
            checkpoint.restore(machine, json.loads(json.dumps(header)), arrays, str(self.path))

    def _extend(self, journals: dict[int, JournalContents]) -> RecoveredRun:
        """Add what was told since the save."""
        number = self.saves
        # 0 beside a save: it was saved by hand, no journal belongs to it
        while (contents := journals.get(number)) is not None and (number or not self.arrays):
            if contents.header["seed"] != self.seed:
                break
            self.records += [r for r in contents.records if r[0]["do"] != "end"]
            if contents.damage:
                logger.warning("%s; what follows is evaluated again", contents.damage)
            if not contents.complete:
                break
            number += 1
        self.saves = max([self.saves, *journals])
        return self


def run_exists(path: Path) -> bool:
    """True if there is a run, be it only the journal of one killed before its first save."""
    if os.path.lexists(path):
        return True
    found = read_journal(sibling(path, ".journal"))
    return found is not None and found.header["saves"] == 0 and bool(found.records)


def recover(path: Path) -> RecoveredRun | None:
    """The run at `path`; None if there is none. The caller holds its lock.

    A damaged save is moved to ``<path>.damaged`` and the one before it used; a damaged journal is
    moved likewise. CheckpointError if there is a run, but none of its saves can be read.
    """
    journals, damaged = _read_journals(path)
    if not os.path.lexists(path):
        if 0 in journals:
            return RecoveredRun(path, journals[0].header)._extend(journals)
        if damaged is not None:
            raise damaged
        return None
    try:
        run = _read_save(path, path)
    except DamagedFileError as error:
        run = _recover_previous(path, error, journals)
    if damaged is not None:
        kept = sibling(path, ".journal.damaged")
        os.replace(sibling(path, ".journal"), kept)
        logger.warning(
            "%s; it is kept as %s, and what it held is evaluated again", _reason(damaged), kept
        )
    return run._extend(journals)


def _read_save(path: Path, file: Path) -> RecoveredRun:
    """The run at `path` from a file of it."""
    header, arrays = checkpoint_file.read_checkpoint(file)
    return RecoveredRun(path, header, arrays, saves=header.get("saves", 0))


def _read_journals(path: Path) -> tuple[dict[int, JournalContents], DamagedFileError | None]:
    """The journals of a run by the number of the save that each follows; what is wrong with the
    newest. The one before it is needed where the last save is damaged, and then left out.
    """
    found, damaged = {}, None
    for ending in (".previous.journal", ".journal"):
        try:
            contents = read_journal(sibling(path, ending))
        except DamagedFileError as error:
            damaged = error if ending == ".journal" else None
        else:
            if contents is not None:
                found[int(contents.header["saves"])] = contents
    return found, damaged


def _recover_previous(
    path: Path, error: CheckpointError, journals: dict[int, JournalContents]
) -> RecoveredRun:
    """The run from the save before the one that cannot be read."""
    previous, damaged = sibling(path, ".previous"), sibling(path, ".damaged")
    if previous.exists():
        try:
            run = _read_save(path, previous)
        except CheckpointError as second:
            raise CheckpointError(
                f"{error}; nor can the save before it be used: {second}"
            ) from error
        # First, so that there is a good save under the name at any instant.
        link_or_copy(path, damaged)
        link_or_copy(previous, path)
    elif 0 in journals:
        run = RecoveredRun(path, journals[0].header)
        os.replace(path, damaged)
    else:
        raise error
    iterations = run.header["state"]["nit"] if run.arrays else 0
    logger.warning(
        "%s; it is kept as %s, and the run goes on from the last good save (%d iterations) and the"
        " journals of what followed",
        _reason(error), damaged, iterations,
    )  # fmt: skip
    return run


def _reason(error: CheckpointError) -> str:
    """What is wrong, without the advice of who finds nothing to fall back on."""
    return str(error).partition("; ")[0]


def link_or_copy(path: Path, other: Path) -> None:
    """Let `other`, at once, name what `path` names too; a copy where files have one name only."""
    spare = path.with_name(f".{path.name}.link.tmp")
    spare.unlink(missing_ok=True)
    try:
        try:
            os.link(path, spare)
        except OSError:
            shutil.copyfile(path, spare)
        os.replace(spare, other)
    finally:
        # Renaming one name of a file to another one of the same file does nothing.
        spare.unlink(missing_ok=True)
