"""A file to which records are appended one by one, each there for good when `append` returns: what
is finished survives the process.

A record is a JSON object and perhaps a vector. Layout: one line of JSON (format, version, what the
records belong to), then per record the two lengths, a checksum (CRC-32), the JSON and the bytes of
the vector. Reading ends at the first record that is not whole: one that was being written when the
process was killed, or the zeros of space that was reserved. No pickle.

Killing the process loses no record that was appended; a power cut at most those of the last second,
as waiting for the disk at each record would cost more (5 to 20 ms) than many gradients.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optex_core.errors import CheckpointError, LaterVersionError

FORMAT, VERSION = "optex_core journal", 1
#: Lengths of the JSON and of the vector, and the checksum of both.
_HEAD = struct.Struct("<IQI")
#: How a file system says that it cannot reserve.
_UNSUPPORTED_ERRNOS = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV}
#: Seconds between two waits for the disk.
_SYNC_SECONDS = 1.0
#: Bytes kept for the JSON of a record, with a traceback of this length at most.
RECORD_RESERVE_BYTES, MAX_TRACEBACK = 1 << 15, 1 << 14


@dataclass(slots=True)
class JournalContents:
    """What a journal holds.

    Attributes
    ----------
    header : dict
    records : list of (dict, vector or None)
    damage : str
        "" or why the records end where they end.
    """

    header: dict[str, Any]
    records: list[tuple[dict[str, Any], np.ndarray | None]]
    damage: str = ""


class Journal:
    """A journal that is written; a new file, in place of one of that name.

    Parameters
    ----------
    path : path-like
    header : dict
        Of JSON: what the records belong to.

    Raises
    ------
    CheckpointError
        Another process writes it.
    OSError
        It cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], header: dict[str, Any]) -> None:
        self.path = Path(path)
        self._file = _open_locked(self.path)
        self._end = self._reserved = self.records = 0
        self._synced = time.monotonic()
        try:
            self._file.truncate(0)
            self._write(
                json.dumps({**header, "format": FORMAT, "version": VERSION}).encode() + b"\n"
            )
        except BaseException:
            self._file.close()
            raise

    def reserve(self, size: int) -> None:
        """Take the space for records of `size` bytes in all, so that a full disk is found out
        before they exist and not after.
        """
        end = self._end + size
        if end > self._reserved and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._file.fileno(), self._end, size)
            except OSError as error:
                if error.errno not in _UNSUPPORTED_ERRNOS:
                    raise
            self._reserved = end

    def append(self, record: dict[str, Any], vector: np.ndarray | None = None) -> None:
        """Add one record."""
        text = json.dumps(record).encode()
        body = b"" if vector is None else np.ascontiguousarray(vector).view(np.uint8).data
        start = self._end
        try:
            # The head is written last, in place of zeros: a record that was cut off is none.
            self._write(bytes(_HEAD.size) + text)
            self._write(body)
            end, self._end = self._end, start
            self._write(_HEAD.pack(len(text), len(body), zlib.crc32(body, zlib.crc32(text))))
            self._end = end
        except BaseException:
            self._end = start
            raise
        self.records += 1
        if time.monotonic() - self._synced >= _SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Give back the space that was reserved; the records stay."""
        with contextlib.suppress(OSError):
            self._file.truncate(self._end)
        self._file.close()

    def _write(self, data: Any) -> None:
        view = memoryview(data)
        self._file.seek(self._end)
        while view:
            n = self._file.write(view)
            self._end += n
            view = view[n:]


def read_journal(path: str | os.PathLike[str]) -> JournalContents | None:
    """The whole records of a journal; None where there is none, or nothing in it yet.

    Raises
    ------
    CheckpointError
        It is of another program or of a later version, or another process writes it.
    """
    path = Path(path)
    if not path.exists():
        return None
    with _open_locked(path) as file:
        data = file.read()
    line, newline, data = data.partition(b"\n")
    if not newline:
        return None
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if (
        not isinstance(header, dict)
        or header.get("format") != FORMAT
        or not isinstance(header.get("version"), int)
    ):
        raise CheckpointError(f"{path} was not written by optex_core as {FORMAT!r}; move it away")
    if header["version"] > VERSION:
        raise LaterVersionError(
            f"{path} has version {header['version']}, this optex_core reads up to "
            f"{VERSION}; update optex_core"
        )
    found, position = JournalContents(header, []), 0
    while position + _HEAD.size <= len(data):
        size, length, crc = _HEAD.unpack_from(data, position)
        if not size:  # the end, or a record that was being written
            return found
        begin, position = position + _HEAD.size, position + _HEAD.size + size + length
        text, body = data[begin : begin + size], data[begin + size : position]
        if len(body) < length or zlib.crc32(body, zlib.crc32(text)) != crc:
            found.damage = (
                f"{path} is {'cut off' if len(body) < length else 'damaged'} after "
                f"{len(found.records)} records"
            )
            return found
        record = json.loads(text)
        found.records.append((record, np.frombuffer(body, record["dtype"]) if length else None))
    if len(data) > position:
        found.damage = f"{path} is cut off after {len(found.records)} records"
    return found


def _open_locked(path: Path) -> io.FileIO:
    """The file, made if there is none, held against other processes that write it until it is
    closed.
    """
    file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
    try:
        import fcntl
    except ImportError:  # Windows
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise CheckpointError(
            f"another process is running with this checkpoint: it holds {path}; wait "
            f"for it, or use another file"
        ) from error
    except OSError:  # a file system without locks
        return file
    return file
