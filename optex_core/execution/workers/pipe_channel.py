"""Messages between the driver and one worker process through two pipes, until the worker is gone.

The end of a pipe says that nobody holds its other side any more, not that the worker is dead: a
fork in another thread of the driver (`os.fork`, a pool of the standard library) while a worker
starts copies the worker's sides into a process that neither reads nor writes. The pipe by which
loky's processes tell of their end can be copied in the same moment. So the process is watched too.
"""

from __future__ import annotations

import os
import select
import struct
from multiprocessing.connection import Connection, wait
from typing import Any

_LENGTH = struct.Struct("!Q")


class PipeChannel:
    """Driver's side of two pipes to a process; one thread may send while another receives."""

    def __init__(self, reading: Connection, writing: Connection, process: object) -> None:
        self._reading, self._writing = reading, writing
        self._exit = _exit_handle(process)
        self._exit_fd = self._exit if isinstance(self._exit, int) else self._exit.fileno()
        if os.name == "posix":
            # A write would wait for ever if the pipe is full and the worker dead, but its side
            # held by another process.
            os.set_blocking(writing.fileno(), False)
            self._readable, self._writable = select.poll(), select.poll()
            self._readable.register(reading.fileno(), select.POLLIN)
            self._writable.register(writing.fileno(), select.POLLOUT)
            for poll in (self._readable, self._writable):
                poll.register(self._exit, select.POLLIN)

    def send(self, message: bytes) -> None:
        """Send a message; OSError if the worker is gone."""
        if os.name != "posix":  # where nothing forks
            self._writing.send_bytes(message)
            return
        pipe = self._writing.fileno()
        rest = memoryview(_LENGTH.pack(len(message)) + message)
        while rest:
            if any(fd == self._exit_fd for fd, _ in self._writable.poll()):
                raise BrokenPipeError("the process at the other end is gone")
            rest = rest[os.write(pipe, rest) :]

    def receive(self) -> bytes | bytearray:
        """Return the next message. EOFError if the worker is gone, even in the middle of one; what
        it had sent as a whole is returned before.
        """
        if os.name != "posix":
            if self._reading not in wait([self._reading, self._exit]):
                raise EOFError
            return self._reading.recv_bytes()
        return _message(self._reading, self._readable)

    def close(self) -> None:
        """Read no more. The other pipe stays open: a thread may be writing, and gets its error."""
        self._reading.close()


def send(writing: Connection, message: bytes) -> None:
    """In the worker: send what `PipeChannel.receive` returns."""
    if os.name != "posix":
        writing.send_bytes(message)
        return
    rest = memoryview(_LENGTH.pack(len(message)) + message)
    while rest:
        rest = rest[os.write(writing.fileno(), rest) :]


def receive(reading: Connection) -> bytes | bytearray:
    """In the worker: return what `PipeChannel.send` sends; EOFError if the driver is gone."""
    return reading.recv_bytes() if os.name != "posix" else _message(reading, None)


def _message(reading: Connection, poll: select.poll | None) -> bytearray:
    (length,) = _LENGTH.unpack(_read(reading.fileno(), _LENGTH.size, poll))
    return _read(reading.fileno(), length, poll)


def _read(pipe: int, size: int, poll: select.poll | None) -> bytearray:
    content, at = bytearray(size), 0
    while at < size:
        # The dead write nothing: what is not there now never comes.
        if poll is not None and not any(fd == pipe for fd, _ in poll.poll()):
            raise EOFError
        with memoryview(content)[at:] as rest:
            read = os.readv(pipe, [rest])
        if not read:
            raise EOFError
        at += read
    return content


def _exit_handle(process: Any) -> Connection | int:
    """Something that becomes readable when the process is gone."""
    if hasattr(os, "pidfd_open"):
        try:
            # A Connection closes it in the end, and not while a thread waits for it.
            return Connection(os.pidfd_open(process.pid), writable=False)
        except OSError:  # Linux before 5.3, or where it is forbidden
            pass
    return process.sentinel
