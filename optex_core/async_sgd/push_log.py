"""Push log: every accepted push, written before it is acknowledged.

Enough to resume a run, and to replay it to the bit. The file is a `FramedLog`; its first frame
describes the run and holds x0. A frame that a kill has cut belongs to a push that was not
acknowledged: it is dropped.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from optex_core.async_sgd.records import BurstContext, LostBurst, Push
from optex_core.engine.file_lock import FileLock
from optex_core.engine.framed_log import FramedLog, FramedLogReader, Record
from optex_core.engine.npz_file import check_filename
from optex_core.errors import CheckpointError
from optex_core.types import Array

FORMAT, VERSION = "optex_core push log", 3


class PushRecord(NamedTuple):
    """An accepted push."""

    context: BurstContext
    push: Push


class UpdateRecord(NamedTuple):
    """An update: the pushes in their order, with their steps."""

    ids: list[int]
    etas: list[float]


LogRecord = PushRecord | UpdateRecord | LostBurst


class PushLog:
    """Writer of a push log; `Master` makes one from a path.

    Parameters
    ----------
    path : path-like
        The file. It must not exist, except for `Master.resume`; an empty one counts as none. One
        process writes to it, which holds ``<path>.lock``.
    sync : bool, default False
        True: every push is on disk before it is acknowledged, which survives a power cut and costs
        milliseconds. False: it is handed to the system, which survives the end of this process.
    """

    def __init__(self, path: str | os.PathLike[str], *, sync: bool = False) -> None:
        check_filename("log", path, ".log.tmp")
        self.path, self.sync = Path(path), sync
        self._interval = 0.0 if sync else None
        self._lock: FileLock | None = None
        self._log: FramedLog | None = None

    @property
    def exists(self) -> bool:
        """True if there is something at the path; an empty file is a log without a first frame."""
        empty = self.path.is_file() and not self.path.stat().st_size
        return os.path.lexists(self.path) and not empty

    def create(self, header: dict[str, object], x0: Array) -> None:
        """Create the file with the description of the run."""
        if not self.path.parent.is_dir():
            raise CheckpointError(
                f"cannot log to {self.path}: the folder {self.path.parent} does not exist; create "
                "it first"
            )
        with self._locked():
            if self.exists:
                raise CheckpointError(
                    f"{self.path} exists already; resume it (Master.resume, or resume=True), or "
                    "log to another file"
                )
            self._log = FramedLog.create(
                self.path, header, x0, format=FORMAT, version=VERSION, sync_interval=self._interval
            )

    @contextlib.contextmanager
    def reopen(self) -> Iterator[PushLogReader]:
        """A reader of the log, which is continued after the last record that was read from it."""
        with self._locked():
            with PushLogReader(self.path) as reader:
                yield reader
            end, interval = reader.end, self._interval
            self._log = FramedLog.append_to(self.path, end, sync_interval=interval)

    def write_push(self, context: BurstContext, push: Push) -> None:
        """Write a push, and the records that wait; when this raises, nothing was written."""
        a, arrays = push.a, [push.b]
        if isinstance(a, np.ndarray) and a.ndim:
            arrays.append(a)
        record = {
            "accepted": context.to_record(),
            "gradients": push.gradients,
            "value": _to_json(push.value),
            "report": {str(k): _to_json(float(v)) for k, v in push.report.items()},
            "a": "array" if len(arrays) == 2 else None if a is None else float(a),
        }
        with self._open_log() as log:
            log.append(record, *arrays)

    def write_update(self, ids: list[int], etas: list[float]) -> None:
        """Add an update; written with the next push, since a run that resumes applies pushes
        without their update anew.
        """
        with self._open_log() as log:
            log.append({"applied": ids, "eta": etas}, flush=False)

    def write_loss(self, lost: LostBurst) -> None:
        """Add a lost burst; written with the next push."""
        with self._open_log() as log:
            log.append({"lost": lost.to_record()}, flush=False)

    def commit(self) -> None:
        """Write the records that wait."""
        with self._open_log() as log:
            log.flush()

    def close(self) -> None:
        """Write the records that wait, and release the file."""
        try:
            if self._log is not None:
                end = "the updates since its last push are taken anew when it is resumed"
                with self._system_errors("cannot write to the log", end):
                    self._log.close()
        finally:
            self._log = None
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def __del__(self) -> None:
        if getattr(self, "_lock", None) is not None:  # a master that nobody has closed
            self.close()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._lock = FileLock(self.path, "push log")
        try:
            with self._system_errors("cannot log to", "use another file"):
                yield
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def _open_log(self) -> Iterator[FramedLog]:
        if self._log is None:
            raise CheckpointError(f"the log {self.path} is closed")
        with self._system_errors("cannot write to the log", "the push was not accepted"):
            yield self._log

    @contextlib.contextmanager
    def _system_errors(self, what: str, end: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = error.strerror or error
            raise CheckpointError(f"{what} {self.path}: {why}; {end}") from error


class PushLogReader:
    """Reader of a push log: `header`, `x0`, and by iterating its records.

    Raises CheckpointError for a file that is missing, foreign, of a later version, or damaged
    before its last frame.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        check_filename("path", path)
        self._reader = FramedLogReader(path, format=FORMAT, version=VERSION)
        self.path, self.header = self._reader.path, self._reader.header
        with self._decoding():
            self.dtype = np.dtype(self.header["identity"]["dtype"])
            self.x0 = self._array(self._reader.payload)

    @property
    def end(self) -> int:
        """Bytes of whole frames read so far."""
        return self._reader.end

    def __enter__(self) -> PushLogReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def __iter__(self) -> Iterator[LogRecord]:
        for record, payload in self._reader:
            with self._decoding():
                decoded = self._decode(record, payload)
            yield decoded
        if self._reader.damage and not self._reader.torn:
            raise CheckpointError(
                f"{self._reader.damage}; replay(path, until=...) gives the parameters of an update "
                "before that"
            )

    def _decode(self, record: Record, payload: bytes) -> LogRecord:
        if "applied" in record:
            return UpdateRecord(record["applied"], record["eta"])
        if "lost" in record:
            return LostBurst.from_record(record["lost"])
        b, a, d = self._array(payload), record["a"], len(self.x0)
        if a == "array":
            b, a = b[:d], b[d:]
        elif a is not None:
            a = self.dtype.type(a)
        if b.shape != (d,) or (isinstance(a, np.ndarray) and a.shape != (d,)):
            raise ValueError(f"a push of {len(payload)} bytes")
        report = {k: float(v) for k, v in record["report"].items()}
        push = Push(b, a, record["gradients"], float(record["value"]), report)
        context = BurstContext.from_record(record["accepted"], self.header["seed"])
        return PushRecord(context, push)

    def _array(self, payload: bytes) -> Array:
        return np.frombuffer(payload, self.dtype.newbyteorder("<")).astype(self.dtype)

    @contextlib.contextmanager
    def _decoding(self) -> Iterator[None]:
        # A file that another program has written may hold anything in any place.
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"{type(error).__name__}: {error}"
            raise CheckpointError(f"{self.path} is damaged ({why}); start anew") from error


def _to_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
