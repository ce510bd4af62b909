"""Append-only log of checksummed frames: the journal of a run, the push log of asynchronous SGD.

=========  ==================================================================================
magic      one line of text
frame      head, JSON object, payload: the first describes the log, the others are its records
head       ``<IQII``: bytes of the JSON, bytes of the payload, CRC-32 of both, CRC-32 of the rest
           of the head, so that a flipped bit in a length does not hide what follows
payload    raw little-endian arrays, one after the other
=========  ==================================================================================

A log is created under its name with its first frame whole. Frames are written in order, and one
that a kill or a full disk has cut is the last: it counts as never written. Space that was reserved
reads as zeros. No pickle. The driver that writes holds a `FileLock`; readers need none.

Killing the process loses no record that was appended; a power cut those of the last
`sync_interval`: waiting for the disk at each record costs 5 to 20 ms.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optex_core.engine.npz_file import open_regular_file, parse_json, sync_folder
from optex_core.errors import CheckpointError, DamagedFileError, LaterVersionError
from optex_core.types import Array

MAGIC = b"optex_core framed log\n"
_SIZES, _CHECKSUM = struct.Struct("<IQI"), struct.Struct("<I")
#: Bytes of a frame besides its JSON and payload.
HEAD_BYTES = _SIZES.size + _CHECKSUM.size
#: How a file system says that it cannot reserve space.
_UNSUPPORTED_ERRNOS = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV}

Record = dict[str, Any]


class FramedLog:
    """Writer of a log, made by `create` or `append_to`; `records` counts what it has written."""

    def __init__(self, path: Path, file: int, end: int, sync_interval: float | None) -> None:
        self.path, self.records = path, 0
        self._file: int | None = file
        self._end = self._reserved = end
        self._sync_interval, self._last_sync = sync_interval, time.monotonic()
        self._pending: list[bytes] = []

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        header: Record,
        *arrays: Array,
        format: str,  # noqa: A002
        version: int,
        sync_interval: float | None = None,
    ) -> FramedLog:
        """Create a log in place of any file of that name, which stays until the new one is whole.

        `header` and `arrays` are the first frame. `sync_interval` are the seconds between two waits
        for the disk: 0.0 waits at every record, None at `close` alone.
        """
        path = Path(path)
        temporary = path.with_name(f".{path.name}.log.tmp")
        temporary.unlink(missing_ok=True)
        file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        log = cls(path, file, 0, sync_interval)
        try:
            log._write([MAGIC, *_frame({**header, "format": format, "version": version}, arrays)])
            os.replace(temporary, path)
            if sync_interval == 0.0:
                sync_folder(path.parent)
        except BaseException:
            os.close(file)
            temporary.unlink(missing_ok=True)
            raise
        return log

    @classmethod
    def append_to(
        cls, path: str | os.PathLike[str], end: int, *, sync_interval: float | None = None
    ) -> FramedLog:
        """Continue a log after its first `end` bytes (`FramedLogReader.end`), cut off the rest."""
        file = os.open(path, os.O_RDWR)
        try:
            os.ftruncate(file, end)
        except BaseException:
            os.close(file)
            raise
        return cls(Path(path), file, end, sync_interval)

    def reserve(self, size: int) -> None:
        """Allocate `size` bytes, so that a full disk is found before there are records."""
        if self._end + size > self._reserved and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._open_file(), self._end, size)
            except OSError as error:
                if error.errno not in _UNSUPPORTED_ERRNOS:
                    error.filename = str(self.path)
                    raise
            self._reserved = self._end + size

    def append(self, record: Record, *arrays: Array, flush: bool = True) -> None:
        """Add a record of JSON and its payload; OSError leaves the log as if it had not been tried.

        Without `flush` the record is written together with the next one, or by `flush`.
        """
        self._open_file()
        frame = _frame(record, arrays)
        if flush:
            self._write([*self._pending, *frame])
            self._pending.clear()
        else:
            self._pending += [bytes(part) for part in frame]
        self.records += 1

    def flush(self) -> None:
        """Write the records that wait."""
        if self._pending:
            self._write(self._pending)
            self._pending.clear()

    def close(self, *, sync: bool = True) -> None:
        """Write what waits, give back reserved space and, with `sync`, wait for the disk."""
        if self._file is None:
            return
        file = self._file
        try:
            self.flush()
            if self._reserved > self._end:
                os.ftruncate(file, self._end)
            if sync:
                os.fsync(file)
        finally:
            self._file = None
            os.close(file)

    def _open_file(self) -> int:
        if self._file is None:
            raise CheckpointError(f"the log {self.path} is closed")
        return self._file

    def _write(self, parts: Sequence[bytes | memoryview]) -> None:
        file, end = self._open_file(), self._end
        try:
            os.lseek(file, end, os.SEEK_SET)
            for part in parts:
                view = memoryview(part)
                while view:
                    count = os.write(file, view)
                    end, view = end + count, view[count:]
            if self._sync_interval is not None:
                now = time.monotonic()
                if now - self._last_sync >= self._sync_interval:
                    os.fsync(file)
                    self._last_sync = now
        except BaseException as error:
            if isinstance(error, OSError):
                error.filename = str(self.path)
            with contextlib.suppress(OSError):  # half a frame would hide all that follow
                os.ftruncate(file, self._end)
                self._reserved = self._end
            raise
        self._end = end


def _frame(record: Record, arrays: tuple[Array, ...]) -> list[bytes | memoryview]:
    text = json.dumps(record).encode()
    payload = [
        np.ascontiguousarray(a, a.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
        for a in arrays
    ]
    checksum = zlib.crc32(text)
    for part in payload:
        checksum = zlib.crc32(part, checksum)
    sizes = _SIZES.pack(len(text), sum(len(part) for part in payload), checksum)
    return [sizes + _CHECKSUM.pack(zlib.crc32(sizes)), text, *payload]


class FramedLogReader:
    """Reader of a log, from its first frame to the end of its whole frames.

    Iterating gives ``(record, payload)`` with the payload as bytes; it stops at the first frame
    that is not whole and says so in `damage`. The first frame, `header` and `payload`, must say
    `format` and a version up to `version`: CheckpointError for a file that is missing, foreign or
    of a later version, `DamagedFileError` for one that is damaged there.
    """

    def __init__(self, path: str | os.PathLike[str], *, format: str, version: int) -> None:  # noqa: A002
        self.path = Path(path)
        self._file = open_regular_file(self.path, "the log")
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._begin(format, version)
        except BaseException:
            self.close()
            raise

    def _begin(self, format: str, version: int) -> None:  # noqa: A002
        self.end, self.records = len(MAGIC), -1  # bytes of whole frames, and records, read so far
        self.damage = ""  # or why reading ended before the end of the file
        self.torn = False  # `damage` is what a kill may have left: nothing follows the frame
        magic = self._file.read(len(MAGIC))
        first = self._next() if magic == MAGIC else None
        if self.damage or not any(magic):
            raise DamagedFileError(
                f"{self.path} is damaged in its first frame; move it away to begin anew"
            )
        self.header, self.payload = first or ({}, b"")
        number = self.header.get("version")
        if self.header.get("format") != format or type(number) is not int:
            raise CheckpointError(
                f"{self.path} was not written by optex_core as {format!r}; move it away"
            )
        if number > version:
            raise LaterVersionError(
                f"{self.path} has version {number}, this optex_core reads up to {version}; update"
                " optex_core"
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __iter__(self) -> Iterator[tuple[Record, bytes]]:
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> tuple[Record, bytes] | None:
        """The next frame; None at the end of the whole frames."""
        head = self._file.read(HEAD_BYTES)
        if not any(head):  # the end, or reserved space
            return self._stop("is damaged", torn=False) if self._has_more() else None
        if len(head) < HEAD_BYTES:
            return self._stop("is cut off")
        if zlib.crc32(head[: _SIZES.size]) != _CHECKSUM.unpack(head[_SIZES.size :])[0]:
            return self._stop("is damaged")
        text_size, payload_size, checksum = _SIZES.unpack(head[: _SIZES.size])
        if self.end + HEAD_BYTES + text_size + payload_size > self._size:
            return self._stop("is cut off", torn=True)
        text, payload = self._file.read(text_size), self._file.read(payload_size)
        if zlib.crc32(payload, zlib.crc32(text)) != checksum:
            return self._stop("is damaged")
        try:
            record = parse_json(text)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            return self._stop("is damaged", torn=False)
        self.end += HEAD_BYTES + text_size + payload_size
        self.records += 1
        return record, payload

    def _stop(self, what: str, *, torn: bool | None = None) -> tuple[Record, bytes] | None:
        self.torn = not self._has_more() if torn is None else torn
        self.damage = f"{self.path} {what} after {max(self.records, 0)} records"
        return None

    def _has_more(self) -> bool:
        """True if a byte that is not zero follows."""
        while block := self._file.read(1 << 20):
            if any(block):
                return True
        return False
