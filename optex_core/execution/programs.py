"""External programs, run so that none outlives its evaluation, its time limit, or the process that
asked for it.

Each program is the leader of a process group, which ends with it. On POSIX systems a process that
runs programs has a guardian (`workers.process_cleanup.guard`), started with its first program,
which ends them when the process is killed. On Windows time limits work, but a program whose Python
process is killed runs to its end.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from optex_core.errors import EvaluationError
from optex_core.execution.workers import process_cleanup
from optex_core.execution.workers.process_cleanup import TOKEN_VARIABLE, kill_group

#: Process groups and guardians: everywhere but on Windows.
POSIX = hasattr(os, "killpg")
#: Seconds that a killed program may take to be gone.
KILL_TIMEOUT = 30.0
#: The longest that one call waits; the C library counts milliseconds in 32 bits.
_MAX_POLL_SECONDS = 1e6


@dataclass(frozen=True, slots=True)
class ProgramExit:
    """End of a program."""

    #: Exit status, negative for the signal that killed it; None if it could not be started.
    status: int | None
    error: str  # why it could not be started
    expired: bool  # it was killed because its time was over
    stopped: bool  # it was killed because its evaluation was abandoned
    seconds: float


class _Guardian:
    """Connection to the guardian of this process, which is replaced if somebody kills it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: set[bytes] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._released = False

    def hold(self, thing: bytes) -> None:
        """Have a group (``b"g123"``) or a folder (``b"d/path"``) ended with this process."""
        if not POSIX:
            return
        with self._lock:
            self._released = False
            self._held.add(thing)
            self._tell(b"+" + thing)

    def drop(self, thing: bytes) -> None:
        """Let go of what is gone."""
        with self._lock:
            self._held.discard(thing)
            if self._process is not None:
                self._tell(b"-" + thing)
            self._close_if_released()

    def release(self) -> None:
        """End the guardian as soon as nothing is held; the next program gets a new one."""
        with self._lock:
            self._released = True
            self._close_if_released()

    def close(self) -> None:
        """End the guardian, and all that it holds."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            atexit.unregister(self.close)
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.wait()

    def forget(self) -> None:
        """After a fork: it is the parent's."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.returncode = 0  # not ours to wait for
        self.__dict__.update(_Guardian().__dict__)

    def _close_if_released(self) -> None:
        if self._released and not self._held and self._process is not None:
            with contextlib.suppress(OSError):
                self._write(b"q")  # nothing to look for
            self.close()

    def _tell(self, message: bytes) -> None:
        if self._process is not None:
            try:
                self._write(message)
                return
            except OSError:  # it was killed
                self.close()
        self._start()
        for thing in self._held:
            self._write(b"+" + thing)

    def _write(self, message: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(message + b"\0")
        self._process.stdin.flush()

    def _start(self) -> None:
        # Without the token of whoever started this process: it would be killed together with it.
        environment = {k: v for k, v in os.environ.items() if k != TOKEN_VARIABLE}
        words = [sys.executable, "-I", "-S", process_cleanup.__file__]
        self._process = subprocess.Popen(  # in a session of its own, where Ctrl-C does not reach it
            [*words, str(os.getpid()), process_cleanup.own_token()],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=environment, start_new_session=True,
        )  # fmt: skip
        atexit.register(self.close)


_guardian = _Guardian()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_guardian.forget)
#: Ends the program that a thread waits for.
_kill_by_thread: dict[int, Callable[[], None]] = {}
#: Threads whose call was abandoned: a program that one of them is about to start is ended too.
_abandoned_threads: set[int] = set()


def release_guardian() -> None:
    """Let the guardian of this process go once no program runs any more."""
    _guardian.release()


def kill_for_thread(thread: int) -> None:
    """Kill the program that a thread waits for, and what it starts until `forget_thread`."""
    _abandoned_threads.add(thread)
    kill = _kill_by_thread.get(thread)
    if kill is not None:
        kill()


def forget_thread(thread: int) -> None:
    """A thread ends: another one may get its number."""
    _abandoned_threads.discard(thread)


@contextlib.contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Hold Ctrl-C back: within `subprocess.Popen` it leaves a program that nobody knows."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    seen: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if seen:
            handler(*seen[0])


@contextlib.contextmanager
def work_directory(parent: str | None = None) -> Iterator[Path]:
    """Folder of its own for one evaluation, removed at the end, also if this process is killed."""
    # The token is part of the name, by which whoever replaces a killed worker finds it.
    name = f"{process_cleanup.temp_prefix()}{uuid.uuid4().hex[:12]}@{socket.gethostname()}"
    path = Path(parent or tempfile.gettempdir(), name)
    held = b"d" + os.fsencode(path)
    _guardian.hold(held)
    try:
        path.mkdir(parents=True, mode=0o700)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        _guardian.drop(held)


def remove_stale_dirs(parent: str | None = None) -> None:
    """Remove work directories of processes that were killed together with their guardian."""
    process_cleanup.remove_stale(parent or tempfile.gettempdir(), f"@{socket.gethostname()}")


def run_program(
    command: Sequence[str],
    *,
    cwd: Path,
    out: Path,
    err: Path,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> ProgramExit:
    """Run a program to its end in the directory `cwd`, its output in the new files `out` and `err`.

    No shell reads the command. Whatever interrupts this ends the program and all of its group, and
    so do `timeout` seconds. `env` is that of this process by default.
    """
    start = time.perf_counter()
    environment = {**(os.environ if env is None else env)}
    environment[TOKEN_VARIABLE] = process_cleanup.own_token()
    here, running = threading.get_ident(), None
    try:
        with _interrupt_held_back(), open(out, "xb") as said, open(err, "xb") as complained:
            running = _RunningProgram(
                subprocess.Popen(
                    list(command), cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=said,
                    stderr=complained, start_new_session=POSIX,
                )
            )  # fmt: skip
            _kill_by_thread[here] = running.stop
        if here in _abandoned_threads:
            running.stop()
        expired = not running.wait(timeout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        if running is not None:
            raise
        return ProgramExit(None, str(error), False, False, time.perf_counter() - start)
    finally:
        if running is not None:
            _kill_by_thread.pop(here, None)
            status = running.end()
    return ProgramExit(status, "", expired, running.stopped, time.perf_counter() - start)


class _RunningProgram:
    """Leader of a process group. On Linux, where a process can be waited for without reaping it,
    it is reaped after its group was killed: until then its number cannot be anybody else's.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._lock = threading.Lock()
        self._reaped = self.stopped = False
        self._held = b"g%d" % process.pid

    def wait(self, timeout: float | None) -> bool:
        """Wait for its end; False after `timeout` seconds."""
        _guardian.hold(self._held)
        try:
            handle = os.pidfd_open(self._process.pid)
        except (AttributeError, OSError):  # not Linux, or before 5.3, or forbidden
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
            return self._process.returncode is not None
        poll, end = select.poll(), time.monotonic() + (math.inf if timeout is None else timeout)
        poll.register(handle, select.POLLIN)
        try:
            while True:
                left = max(0.0, end - time.monotonic())
                if poll.poll(1000 * min(left, _MAX_POLL_SECONDS)):
                    return True
                if not left:
                    return False
        finally:
            os.close(handle)

    def stop(self) -> None:
        """Kill it from another thread: its evaluation was abandoned."""
        with self._lock:
            self.stopped = True
            self._kill()

    def end(self) -> int:
        """Kill what is left of its group; return its exit status."""
        with self._lock:
            self._kill()
            try:
                status = self._process.wait(KILL_TIMEOUT)
            except subprocess.TimeoutExpired as error:
                text = f"process {self._process.pid} is not gone {KILL_TIMEOUT:g} s after its kill"
                raise EvaluationError(text) from error
            self._reaped = True
        _guardian.drop(self._held)
        return status

    def _kill(self) -> None:
        if self._reaped:
            return
        if POSIX:
            kill_group(self._process.pid)
        else:
            self._process.kill()
