"""The push log: every accepted push, written before it is acknowledged; enough to resume a run, and
to replay it to the bit.

A file of frames. Each is a head (length of the JSON, length of the payload, CRC-32 of both, CRC-32
of the head), a JSON record and raw little-endian arrays. The head has a sum of its own: a flipped
bit in a length would else look like a cut, and hide all that was acknowledged after it. The first
frame describes the run and holds x0. A frame that a kill has cut, always the last, belongs to a
push that nobody was told about: it is dropped.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optex_core.async_sgd.records import BurstContext, LostBurst, Push
from optex_core.engine.npz_file import check_filename
from optex_core.errors import CheckpointError
from optex_core.types import Array

MAGIC = b"optex_core push log\n"
VERSION = 1
HEAD = struct.Struct("<IQI")
HEAD_CRC = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class PushRecord:
    """A push, as it came."""

    context: BurstContext
    push: Push


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """An update: which pushes, in which order, with which steps."""

    jobs: list[int]
    etas: list[float]


LogRecord = PushRecord | UpdateRecord | LostBurst


class PushLog:
    """Appends to a log; `Master` makes one from a path.

    Parameters
    ----------
    path : path-like
        The file. It must not exist: `resume` continues one that does.
    sync : bool, default False
        True: every push is forced to the disk before it is acknowledged, which survives a power cut
        and costs milliseconds. False: it is handed to the system, which survives everything that
        happens to this process.
    """

    def __init__(self, path: str | os.PathLike[str], *, sync: bool = False) -> None:
        check_filename("log", path)
        self.path, self.sync = Path(path), sync
        self._file: int | None = None
        self._buffer = bytearray()
        self._end = 0

    def create(self, header: dict[str, Any], x0: Array) -> None:
        """Create the file."""
        if not self.path.parent.is_dir():
            raise CheckpointError(
                f"cannot log to {self.path}: the folder {self.path.parent} does not "
                f"exist; create it first"
            )
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError as error:
            raise CheckpointError(
                f"{self.path} exists already; resume it (Master.resume, or "
                f"resume=True), or log to another file"
            ) from error
        except OSError as error:
            raise CheckpointError(
                f"cannot log to {self.path}: {error.strerror or error}"
            ) from error
        self._buffer += MAGIC
        self._append_frame({"version": VERSION, **header}, x0)
        self.commit()

    def append_to(self, end: int) -> None:
        """Continue the file after its first `end` bytes; what follows them is dropped."""
        try:
            self._file = os.open(self.path, os.O_RDWR)
            os.ftruncate(self._file, end)
            os.lseek(self._file, end, os.SEEK_SET)
        except OSError as error:
            raise CheckpointError(
                f"cannot continue the log {self.path}: {error.strerror or error}"
            ) from error
        self._end = end

    def accepted(self, context: BurstContext, push: Push) -> None:
        """Write a push, and what waits; on disk when this returns, or, when it raises, as if it had
        not been tried.
        """
        array = isinstance(push.a, np.ndarray) and push.a.ndim > 0
        record = {
            "accepted": asdict(context),
            "gradients": push.gradients,
            "value": _number(push.value),
            "report": {str(k): _number(float(v)) for k, v in push.report.items()},
            "a": "array" if array else None if push.a is None else float(push.a),
        }
        length = len(self._buffer)
        try:
            self._append_frame(record, push.b, *((push.a,) if array else ()))
            self.commit()
        except BaseException:
            del self._buffer[length:]
            raise

    def applied(self, jobs: list[int], etas: list[float]) -> None:
        """Note an update; written with the next push, since pushes without it are applied anew by a
        run that resumes.
        """
        self._append_frame({"applied": jobs, "eta": etas})

    def lost(self, lost: LostBurst) -> None:
        """Note a lost burst; written with the next push."""
        self._append_frame({"lost": asdict(lost)})

    def commit(self) -> None:
        """Write what waits."""
        if self._file is None:
            raise CheckpointError(f"the log {self.path} is closed")
        if not self._buffer:
            return
        data = memoryview(bytes(self._buffer))
        try:
            while data:
                data = data[os.write(self._file, data) :]
            if self.sync:
                os.fsync(self._file)
        except OSError as error:
            # Half a frame would hide all that follow.
            os.ftruncate(self._file, self._end)
            os.lseek(self._file, self._end, os.SEEK_SET)
            raise CheckpointError(
                f"cannot write to the log {self.path}: {error.strerror or error}; the "
                f"push was not accepted"
            ) from error
        self._end += len(self._buffer)
        self._buffer.clear()

    def close(self) -> None:
        """Write what waits, and let go of the file."""
        if self._file is not None:
            try:
                self.commit()
                os.fsync(self._file)
            finally:
                os.close(self._file)
                self._file = None

    def _append_frame(self, record: dict[str, Any], *arrays: Array) -> None:
        text = json.dumps(record, allow_nan=False).encode()
        payload = b"".join(
            np.ascontiguousarray(a).astype(a.dtype.newbyteorder("<"), copy=False).tobytes()
            for a in arrays
        )
        head = HEAD.pack(len(text), len(payload), zlib.crc32(payload, zlib.crc32(text)))
        self._buffer += head + HEAD_CRC.pack(zlib.crc32(head))
        self._buffer += text
        self._buffer += payload


class PushLogReader:
    """Reads a log from its beginning.

    Attributes
    ----------
    header : dict
        What the run was begun with.
    x0 : array, shape (d,)
    end : int
        Bytes of whole frames read so far.

    Raises
    ------
    CheckpointError
        For a file that is missing, foreign, of a later version, or damaged before its last frame.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        check_filename("path", path)
        self.path = Path(path)
        try:
            self._file = self.path.open("rb")
        except OSError as error:
            raise CheckpointError(
                f"cannot read the log {self.path}: {error.strerror or error}"
            ) from error
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        if self._file.read(len(MAGIC)) != MAGIC:
            raise CheckpointError(f"{self.path} is no push log; use another file or start anew")
        self.end = len(MAGIC)
        found = self._frame()
        if found is None:
            raise CheckpointError(
                f"{self.path} holds not even its beginning; delete it and start anew"
            )
        self.header, payload = found
        if self.header["version"] > VERSION:
            raise CheckpointError(
                f"{self.path} has version {self.header['version']}, this optex_core "
                f"reads up to {VERSION}; update optex_core"
            )
        self.dtype = np.dtype(self.header["identity"]["dtype"])
        self.x0 = self._array(payload)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> PushLogReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[LogRecord]:
        while (found := self._frame()) is not None:
            record, payload = found
            if "accepted" in record:
                yield self._accepted(record, payload)
            elif "applied" in record:
                yield UpdateRecord(record["applied"], record["eta"])
            elif "lost" in record:
                yield LostBurst(**record["lost"])
            else:
                raise CheckpointError(
                    f"{self.path} holds a record of an unknown kind: {sorted(record)}; "
                    f"update optex_core"
                )

    def _frame(self) -> tuple[dict[str, Any], bytes] | None:
        """The next record and its arrays; None at the end, and at a last frame that was cut."""
        head = self._file.read(HEAD.size + HEAD_CRC.size)
        if len(head) < HEAD.size + HEAD_CRC.size:
            return None
        if zlib.crc32(head[: HEAD.size]) != HEAD_CRC.unpack(head[HEAD.size :])[0]:
            # space that the file system had given when the power went
            if not any(head) and not any(self._file.read()):
                return None
            raise self._damaged()
        text_length, payload_length, crc = HEAD.unpack(head[: HEAD.size])
        if self.end + len(head) + text_length + payload_length > self._size:
            return None
        text, payload = self._file.read(text_length), self._file.read(payload_length)
        if zlib.crc32(payload, zlib.crc32(text)) != crc:
            # the last one, whose bytes were not all on the disk
            if self._file.tell() == self._size:
                return None
            raise self._damaged()
        self.end = self._file.tell()
        return json.loads(text), payload

    def _damaged(self) -> CheckpointError:
        return CheckpointError(
            f"{self.path} is damaged at byte {self.end}; replay(path, until=...) gives "
            f"the parameters of an update before that"
        )

    def _array(self, payload: bytes) -> Array:
        return np.frombuffer(payload, self.dtype.newbyteorder("<")).astype(self.dtype)

    def _accepted(self, record: dict[str, Any], payload: bytes) -> PushRecord:
        numbers, a = self._array(payload), record["a"]
        if a == "array":
            half = len(numbers) // 2
            a, numbers = numbers[half:], numbers[:half]
        elif a is not None:
            a = self.dtype.type(a)
        report = {k: _float(v) for k, v in record["report"].items()}
        return PushRecord(
            BurstContext(**record["accepted"]),
            Push(numbers, a, record["gradients"], _float(record["value"]), report),
        )


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _float(value: float | str) -> float:
    return float(value)
