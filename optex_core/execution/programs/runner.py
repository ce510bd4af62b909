"""External programs, run so that none outlives its evaluation, its time limit, or the process that
asked for it.

On POSIX systems each process that evaluates has a `keeper`, started with its first program: the
programs' parent, which ends them when this process is no more. Elsewhere (Windows) programs are
started directly: time limits work, but a program whose Python process is killed runs to its end.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
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
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optex_core.errors import EvaluationError
from optex_core.execution.programs import supervisor

#: Begins the names of work directories. The rest is the process, a random part and the machine:
#: ``optex-core-<pid>-<random>@<host>``.
PREFIX = "optex-core-"
#: Seconds that a killed program may take to be gone.
KILL_TIMEOUT = 30.0

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class ProgramExit:
    """How a program ended.

    Attributes
    ----------
    status : int or None
        Its exit status, negative for the signal that killed it; None if it could not be started.
    error : str
        Why it could not be started.
    expired : bool
        It was killed because its time was over.
    stopped : bool
        It was killed because its evaluation was given up.
    seconds : float
    """

    status: int | None
    error: str
    expired: bool
    stopped: bool
    seconds: float


class _SupervisorClient:
    """The connection to the keeper of this process."""

    def __init__(self) -> None:
        mine, its = socket.socketpair()
        with its:
            os.set_inheritable(its.fileno(), True)
            # A session of its own: Ctrl-C reaches it no more than its programs.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", supervisor.__file__, str(its.fileno())],
                pass_fds=(its.fileno(),), start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self.process = os.getpid()
        self.alive = True
        self._socket = mine
        self._sending, self._waiting = threading.Lock(), dict[int, Future[dict[str, Any]]]()
        self._groups: dict[int, int] = {}
        self._held: set[str] = set()
        self._detached = False
        threading.Thread(target=self._read, name="optex-core-programs", daemon=True).start()

    def say(self, message: dict[str, Any]) -> None:
        with self._sending:
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def start(self, message: dict[str, Any]) -> Future[dict[str, Any]]:
        future = self._waiting[message["run"]] = Future()
        try:
            self.say(message)
        except OSError as error:
            self._waiting.pop(message["run"], None)
            self.alive = False
            raise EvaluationError(
                "the process that watches over programs is gone; was it killed?"
            ) from error
        return future

    def hold_dir(self, folder: str) -> None:
        """Have `folder` removed when this process ends before it lets go."""
        self._held.add(folder)
        try:
            self.say({"hold": folder})
        except OSError:
            self._held.discard(folder)
            raise

    def release_dir(self, folder: str) -> None:
        """Let go of a folder that is removed."""
        self._held.discard(folder)
        with contextlib.suppress(OSError):  # the keeper is gone
            self.say({"drop": folder})
        self.detach(self._detached)

    def detach(self, leaving: bool = True) -> None:
        """Close as soon as nothing is kept any more."""
        self._detached = leaving
        if leaving and not self._waiting and not self._held:
            self.close()

    def close(self) -> None:
        """End the keeper, with all that it keeps."""
        atexit.unregister(self.close)
        self.alive = False
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._process.wait()

    def _read(self) -> None:
        text = b""
        with contextlib.suppress(OSError):
            while data := self._socket.recv(1 << 16):
                *lines, text = (text + data).split(b"\n")
                for line in lines:
                    message = json.loads(line)
                    if "group" in message:
                        self._groups[message["run"]] = message["group"]
                        continue
                    self._groups.pop(message["run"], None)
                    future = self._waiting.pop(message["run"], None)
                    if future is not None:
                        future.set_result(message)
        self.alive = False
        for group in self._groups.values():  # the keeper was killed: what it would have ended
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        for future in list(self._waiting.values()):
            future.set_result(
                {"error": "the process that watches over programs is gone; was it killed?"}
            )
        self._waiting.clear()
        self._socket.close()


_client: _SupervisorClient | None = None
_making = threading.Lock()
#: What ends the program that a thread waits for.
_kill_by_thread: dict[int, Callable[[], None]] = {}


def _get_client() -> _SupervisorClient:
    global _client  # noqa: PLW0603  one keeper per process
    with _making:
        # after a fork the keeper is the parent's
        if _client is None or not _client.alive or _client.process != os.getpid():
            _client = _SupervisorClient()
            atexit.register(_client.close)
        return _client


def _hold_dir(path: Path) -> _SupervisorClient:
    """Tell the keeper of a folder that is about to be made."""
    client = _get_client()
    try:
        client.hold_dir(str(path))
    except OSError:  # killed, and not noticed yet
        client.alive = False
        client = _get_client()
        client.hold_dir(str(path))
    return client


def detach_supervisor() -> None:
    """Let the keeper of this process go when nothing runs any more: the next program gets a new
    one.
    """
    global _client  # noqa: PLW0603  one keeper per process
    with _making:
        client, _client = _client, None
    if client is not None and client.process == os.getpid():
        client.detach()


def kill_for_thread(thread: int) -> None:
    """Kill the program that a thread (``threading.get_ident()``) waits for: its evaluation was
    given up.
    """
    ends = _kill_by_thread.get(thread)
    if ends is not None:
        ends()


@contextlib.contextmanager
def work_directory(parent: str | None = None) -> Iterator[Path]:
    """A folder of its own for one evaluation, removed at the end, also if this process is killed
    before.
    """
    home = Path(parent or tempfile.gettempdir())
    # The worker's mark is part of the name, by which whoever replaces a killed worker finds what it
    # has left.
    path = home / f"{_prefix()}{uuid.uuid4().hex[:12]}@{socket.gethostname()}"
    client = _hold_dir(path) if is_supervised() else None
    try:
        path.mkdir(parents=True, mode=0o700)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if client is not None:
            client.release_dir(str(path))


def remove_stale_dirs(parent: str | None = None) -> None:
    """Remove the folders of evaluations of this machine whose process is no more: what was left
    when process and keeper were killed together.
    """
    home, mine = Path(parent or tempfile.gettempdir()), f"@{socket.gethostname()}"
    for path in home.glob(f"{PREFIX}*{mine}"):
        owner = path.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and int(owner) != os.getpid():
            try:
                os.kill(int(owner), 0)
            except ProcessLookupError:
                shutil.rmtree(path, ignore_errors=True)
            except OSError:  # somebody else's process, or a system that does not tell
                continue


def run_program(
    command: Sequence[str],
    *,
    cwd: Path,
    out: Path,
    err: Path,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> ProgramExit:
    """Run a program to its end, which comes at the latest after `timeout` seconds; whatever
    interrupts this, ends it and all of its group.

    Parameters
    ----------
    command : sequence of str
        The program and its arguments; no shell reads them.
    cwd, out, err : Path
        Its working directory; the files that get what it writes to standard output and error.
    env : mapping, optional
        Its environment; that of this process by default.
    timeout : float, optional
        Seconds.
    """
    start = time.perf_counter()
    number = next(_numbers)
    message = {
        "run": number,
        "argv": list(command),
        "cwd": str(cwd),
        "env": dict(os.environ if env is None else env),
        "out": str(out),
        "err": str(err),
    }
    if is_supervised():
        client = _get_client()
        answer = client.start(message)
        kill: Callable[[], None] = lambda: client.say({"kill": number})  # noqa: E731  two ways to do one thing
    else:
        answer, kill = _start_directly(message)
    given_up = threading.Event()

    def give_up() -> None:
        given_up.set()
        with contextlib.suppress(OSError):
            kill()

    here, expired = threading.get_ident(), False
    _kill_by_thread[here] = give_up
    try:
        try:
            said = answer.result(timeout)
        except FutureTimeoutError:
            expired = True
            with contextlib.suppress(OSError):
                kill()
            said = answer.result(KILL_TIMEOUT)
    except BaseException:
        with contextlib.suppress(OSError, FutureTimeoutError):
            kill()
            answer.result(KILL_TIMEOUT)
        raise
    finally:
        _kill_by_thread.pop(here, None)
    return ProgramExit(
        said.get("status"),
        said.get("error", ""),
        expired,
        given_up.is_set(),
        time.perf_counter() - start,
    )


def is_supervised() -> bool:
    """True where a keeper sees to it that programs end with the process that asked for them: on
    POSIX systems.
    """
    return hasattr(os, "killpg") and hasattr(os, "waitid")


def _prefix() -> str:
    return f"{PREFIX}{os.environ.get('OPTEX_CORE_WORKER') or os.getpid()}-"


def _start_directly(message: dict[str, Any]) -> tuple[Future[dict[str, Any]], Callable[[], None]]:
    """Without a keeper: `subprocess` in a thread."""
    future: Future[dict[str, Any]] = Future()
    try:
        with open(message["out"], "wb") as out, open(message["err"], "wb") as err:
            program = subprocess.Popen(
                message["argv"], cwd=message["cwd"], env=message["env"], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip
    except (OSError, ValueError) as error:
        future.set_result({"error": str(error)})
        return future, lambda: None
    threading.Thread(
        target=lambda: future.set_result({"status": program.wait()}), daemon=True
    ).start()
    return future, program.kill
