"""What a driver does to an engine, as records: done at once, written to the journal, and done again
when the run is continued.

Done and done again by the same function, and the engine is deterministic given what it is told: so
an engine that was saved, and then has the records since that save done to it again, is bit for bit
the engine that was killed. What ended a run from outside (a clock, a callback, an interrupt) is no
record: a continued run goes on as if it had not been.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from optex_core.engine.optex import OptEx
from optex_core.errors import CheckpointError, EvaluationError, OptexError
from optex_core.runs.journal import MAX_TRACEBACK
from optex_core.types import Array, Candidate


def apply_record(
    engine: OptEx,
    record: dict[str, Any],
    gradient: Array | None = None,
    error: BaseException | None = None,
) -> None:
    """Do what `record` says.

    Parameters
    ----------
    engine : OptEx
    record : dict
        Of JSON. "do" is one of: tell, attempt (a failed one, tried again), close (the round,
        without its stragglers), closing and shorten (`OptEx`), count (calls whose outcome nobody
        waits for), time (`OptEx.note_time`).
    gradient : array, shape (d,), or None
        That of a tell.
    error : BaseException or None
        That of a tell or an attempt.
    """
    deed, calls = record["do"], {name: record[name] for name in ("nfev", "njev") if name in record}
    if record.get("timed"):
        engine.state.deterministic = False
    if deed == "tell":
        engine.tell(
            record["id"],
            gradient=gradient,
            value=record.get("value"),
            error=error,
            seconds=record.get("seconds"),
            traceback=record.get("traceback"),
            **calls,
        )
    elif deed == "attempt":
        engine.report_attempt(
            record["id"],
            error,
            record["message"],
            attempt=record["attempt"],
            traceback=record.get("traceback"),
            **calls,
        )
    elif deed == "close":
        engine.close_round()
    elif deed == "closing":
        engine.make_closing()
    elif deed == "shorten":
        engine.shorten()
    elif deed == "count":
        engine.state.nfev += record["nfev"]
        engine.state.njev += record["njev"]
    elif deed == "time":
        engine.note_time(record["spent"], record["own"])
    else:
        raise CheckpointError(
            f"the journal says to {deed!r}, which is not known here; update optex_core"
        )


def encode_record(
    record: dict[str, Any],
    engine: OptEx,
    c: Candidate | None,
    gradient: Array | None,
    error: BaseException | None,
) -> dict[str, Any]:
    """The record as it goes to the journal: with the error as text, and marks of the point and of
    the gradient's type.
    """
    more: dict[str, Any] = {}
    if c is not None:
        more["at"] = point_checksum(engine, c)
    if gradient is not None:
        more["dtype"] = engine.state.x.dtype.str
    if error is not None:
        more["error"] = (str(error) or type(error).__name__)[:MAX_TRACEBACK]
    if len(record.get("traceback") or "") > MAX_TRACEBACK:
        more["traceback"] = record["traceback"][-MAX_TRACEBACK:]
    return {**record, **more}


def point_checksum(engine: OptEx, c: Candidate) -> int:
    """Tells points apart."""
    return zlib.crc32(np.ascontiguousarray(engine.backend.to_host(c.x)).view(np.uint8).data)


def replay_records(
    engine: OptEx, records: Iterable[tuple[dict[str, Any], np.ndarray | None]]
) -> str:
    """Do the records again to `engine`; "" or why the rest of them is left.

    A gradient of another point than the one asked for is not taken: another version of a library,
    or another machine, may give other bits; the points are then evaluated again.
    """
    for i, (record, vector) in enumerate(records):
        if "id" in record:
            if engine.round is None or all(engine.round.done):
                engine.ask()
            candidates = [
                *(engine.round.candidates if engine.round is not None else []),
                *engine.late.values(),
            ]
            c = next((c for c in candidates if c.id == record["id"]), None)
            if c is None or point_checksum(engine, c) != record["at"]:
                return (
                    f"record {i} of the journal was evaluated at another point than the "
                    f"run comes to here; it and what follows are evaluated again"
                )
        gradient = None if vector is None else engine.backend.copy_in(vector, engine.state.x.dtype)
        text = record.get("error")
        try:
            apply_record(engine, record, gradient, None if text is None else EvaluationError(text))
        except OptexError as error:
            raise CheckpointError(
                f"the journal does not fit the saved run at record {i}: {error}"
            ) from error
    return ""


def gradient_nbytes(engine: OptEx) -> int:
    """Bytes of one gradient in the journal, without its text."""
    return math.prod((len(engine.state.x), engine.state.x.dtype.itemsize))
