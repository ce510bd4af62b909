"""Journal of a run, a `FramedLog`: what a driver does to an engine, as records to be done again.

The engine is deterministic given what it is told: a save to which the records since are applied is
bitwise the engine that was killed. What ended a run from outside (a clock, a callback, an
interrupt) is no record, so a continued run goes on as if it had not been.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from optex_core.engine.framed_log import FramedLog, FramedLogReader, Record
from optex_core.engine.optex import OptEx
from optex_core.errors import (
    CheckpointError,
    DamagedFileError,
    EvaluationError,
    OptexError,
    message_of,
)
from optex_core.types import Array, Candidate

FORMAT, VERSION = "optex_core journal", 2
#: Seconds between two waits for the disk.
_SYNC_SECONDS = 1.0
#: Bytes reserved for the JSON of a record, and the longest traceback and message in it.
RECORD_RESERVE_BYTES, MAX_TRACEBACK = 1 << 15, 1 << 14


@dataclass(slots=True)
class JournalContents:
    """The whole records of a journal."""

    #: "saves": the number of the save that it follows; "seed", "identity", "summaries", "began".
    header: Record
    #: Calls, and the gradients of those that have one.
    records: list[tuple[Record, np.ndarray | None]]
    damage: str = ""  # "" or why the records end where they end

    @property
    def complete(self) -> bool:
        """True if the run went on with a save after the last record."""
        return bool(self.records) and self.records[-1][0]["do"] == "end"


def create_journal(path: Path, header: Record) -> FramedLog:
    """Begin an empty journal in place of one of that name."""
    return FramedLog.create(
        path, header, format=FORMAT, version=VERSION, sync_interval=_SYNC_SECONDS
    )


def read_journal(path: str | os.PathLike[str]) -> JournalContents | None:
    """The whole records of a journal; None where there is none, or nothing in it."""
    if not os.path.lexists(path) or (os.path.isfile(path) and not os.path.getsize(path)):
        return None
    with closing(FramedLogReader(path, format=FORMAT, version=VERSION)) as reader:
        header, records = reader.header, []
        try:
            for record, payload in reader:
                vector = np.frombuffer(payload, record["dtype"]) if payload else None
                records.append(({"do": record["do"], **record}, vector))
            sound = type(header["saves"]) is int and type(header["seed"]) is int
            sound = sound and isinstance(header["identity"]["backend"], str)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFileError(f"{path} holds what no journal holds ({error!r})") from error
    if not sound:
        raise DamagedFileError(f"{path} holds what no journal holds; move it away")
    return JournalContents(header, records, reader.damage)


def encode_record(
    record: Record,
    engine: OptEx,
    c: Candidate | None,
    gradient: Array | None,
    error: BaseException | None,
) -> Record:
    """The record as it is written: errors as text, with a checksum of the point."""
    more: Record = {}
    if c is not None:
        more["at"] = point_checksum(engine, c)
    if gradient is not None:
        more["dtype"] = engine.state.x.dtype.newbyteorder("<").str
    if error is not None:
        more["error"] = message_of(error)[:MAX_TRACEBACK]
    if len(record.get("traceback") or "") > MAX_TRACEBACK:
        more["traceback"] = record["traceback"][-MAX_TRACEBACK:]
    return {**record, **more}


def point_checksum(engine: OptEx, c: Candidate) -> int:
    """CRC-32 of a candidate's x."""
    return zlib.crc32(np.ascontiguousarray(engine.backend.to_host(c.x)).view(np.uint8).data)


def find_pending(engine: OptEx, id_: int | None) -> Candidate | None:
    """The candidate of the open round, or late, that a record is about."""
    asked = [] if engine.round is None else engine.round.candidates
    return next((c for c in [*asked, *engine.machine.late.values()] if c.id == id_), None)


def apply_record(
    engine: OptEx, record: Record, gradient: Array | None = None, error: BaseException | None = None
) -> None:
    """Do what `record` says with the gradient or error of its evaluation.

    "do" is one of: tell, attempt (a failed one, tried again), close (the round, without its
    stragglers), closing and shorten (`OptEx.make_final`, `OptEx.shorten`), count (calls whose
    result nobody waits for), time (`OptEx.note_time`).
    """
    calls = {name: record[name] for name in ("nfev", "njev") if name in record}
    if record.get("timed"):
        engine.state.deterministic = False
    match record["do"]:
        case "tell":
            engine.tell(
                record["id"], gradient=gradient, value=record.get("value"), error=error,
                seconds=record.get("seconds"), traceback=record.get("traceback"), **calls,
            )  # fmt: skip
        case "attempt":
            engine.report_attempt(
                record["id"], error, record["message"], attempt=record["attempt"],
                traceback=record.get("traceback"), **calls,
            )  # fmt: skip
        case "close":
            engine.close_round()
        case "closing":
            engine.make_final()
        case "shorten":
            engine.shorten()
        case "count":
            engine.state.nfev += record["nfev"]
            engine.state.njev += record["njev"]
        case "time":
            engine.note_time(record["spent"], record["own"])
        case unknown:
            raise CheckpointError(
                f"the journal says to {unknown!r}, which is not known here; update optex_core"
            )


def replay_records(engine: OptEx, records: Iterable[tuple[Record, np.ndarray | None]]) -> str:
    """Apply the records to `engine` again; "" or why the rest of them is left.

    A gradient of another point than the one asked for is not taken: another version of a library,
    or another machine, may compute other bits. Such points are evaluated again.
    """
    for i, (record, vector) in enumerate(records):
        try:
            if "id" in record:
                if engine.round is None or all(engine.round.done):
                    engine.ask()
                c = find_pending(engine, record["id"])
                if c is None or point_checksum(engine, c) != record["at"]:
                    return (
                        f"record {i} of the journal was evaluated at another point than the run"
                        " comes to here; it and what follows are evaluated again"
                    )
            dtype = engine.state.x.dtype
            gradient = None if vector is None else engine.backend.copy_in(vector, dtype)
            text = record.get("error")
            apply_record(engine, record, gradient, None if text is None else EvaluationError(text))
        except (OptexError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"the journal does not fit the saved run at record {i}: {error}"
            ) from error
    return ""
