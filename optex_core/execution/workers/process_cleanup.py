"""Termination of what a process leaves behind when it is killed: programs, temporary folders.

Every worker process of ours, and every program that an evaluation runs, is started with a token
in the environment variable `TOKEN_VARIABLE`. All that it starts inherits the token, in whatever
process group or session, so nothing has to be registered. Three parties look for it:

- The driver, when a worker dies or is terminated: `kill_tagged`.
- A worker's watchdog thread, when the driver is killed: `start_parent_watchdog`.
- The guardian, when a process that runs programs is killed: a small process (this file, run as a
  script) at the other end of a pipe; see `execution.programs`. It also kills the process groups and
  removes the folders that it was told of, for systems other than Linux, where environments of
  other processes cannot be read.

Notes
-----
PR_SET_PDEATHSIG alone would not do: it reaches a program but not what the program has started, it
fires when the starting thread ends, and it needs Python code between fork and exec, which is not
safe beside threads and rules out vfork.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time

#: Holds the token of the process that started a process.
TOKEN_VARIABLE = "OPTEX_CORE_WORKER"
#: Begins the names of temporary folders; the process id of their owner follows.
FOLDER_PREFIX = "optex-core-"
#: Seconds between two looks whether a parent lives.
POLL_SECONDS = 0.5
#: Scans for processes that were started while the last ones were killed; ten seconds in all.
_MAX_SCANS = 100

#: Token of this process, and the process it was made for: a fork needs another one.
_own = (0, "")


def new_token() -> str:
    """Return a new token; it begins with the process id of whoever makes it."""
    return f"{os.getpid()}-{os.urandom(6).hex()}"


def own_token() -> str:
    """Token of what this process starts: in a worker of ours its own, else made on first use."""
    global _own  # noqa: PLW0603  a process has one
    if _own[0] != os.getpid():
        _own = os.getpid(), new_token()
    return _own[1]


def temp_prefix() -> str:
    """Begin the names of temporary folders with this, for them to be removed with this process."""
    return f"{FOLDER_PREFIX}{own_token()}-"


def tagged_processes(token: str) -> tuple[list[int], bool]:
    """Ids of the living processes with `token`, and whether there may be more since a program is
    being loaded. An empty list where environments cannot be read.
    """
    mark, found, loading = f"{TOKEN_VARIABLE}={token}".encode(), [], False
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            # It has ended meanwhile, or is somebody else's.
            with contextlib.suppress(OSError):
                environment = _read_environment(name)
                loading |= environment is None
                if mark in (environment or b"").split(b"\0"):
                    found.append(int(name))
    return found, loading


def _read_environment(pid: str) -> bytes | None:
    """The environment of a process; None between its exec and the end of loading.

    Linux shows no environment in between, although whoever started the program goes on from the
    exec: 1 to 10 % of the programs looked for right after `subprocess.Popen` were not found.
    """
    loaded = False
    while True:
        with open(f"/proc/{pid}/environ", "rb") as file:
            content = file.read()
        if content or loaded:
            return content
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()  # from the third field on
        # The address of the code is set after the environment; a zombie has no memory (vsize 0).
        vsize, start_code = int(fields[20]), int(fields[23])
        if vsize and not start_code:
            return None
        loaded = True  # perhaps since the environment was read


def kill_tagged(token: str, *, spare: int | None = None) -> None:
    """Kill the processes with `token`, except `spare`, and remove its temporary folders."""
    import tempfile  # here: the guardian starts without it

    for scan in range(_MAX_SCANS):
        time.sleep(0.002 * scan)  # what was killed, or is being loaded, needs a core
        found, loading = tagged_processes(token)
        left = [pid for pid in found if pid != spare]
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not left and not loading:
            break
    with contextlib.suppress(OSError):  # without a temporary directory nothing is in it
        home = tempfile.gettempdir()
        for name in os.listdir(home):
            if name.startswith(f"{FOLDER_PREFIX}{token}-"):
                shutil.rmtree(os.path.join(home, name), ignore_errors=True)


def remove_stale(parent: str, ending: str) -> None:
    """Remove the folders of ours in `parent` with that ending whose process is no more."""
    for name in os.listdir(parent):
        owner = name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if name.startswith(FOLDER_PREFIX) and name.endswith(ending) and owner.isdigit():
            try:
                os.kill(int(owner), 0)
            except ProcessLookupError:
                shutil.rmtree(os.path.join(parent, name), ignore_errors=True)
            except (OSError, OverflowError):  # somebody else's, or a system that does not tell
                continue


def start_parent_watchdog() -> None:
    """In a worker: end with the driver, and kill what was started here."""
    global _own  # noqa: PLW0603  as above
    import threading

    token = os.environ[TOKEN_VARIABLE]
    _own = os.getpid(), token
    driver = int(token.partition("-")[0])  # not getppid(): the driver may be dead already

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(POLL_SECONDS)
        kill_tagged(token, spare=os.getpid())
        os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)

    threading.Thread(target=watch, name="optex-core-watchdog", daemon=True).start()


def kill_group(group: int) -> None:
    """Kill a process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def guard(parent: int, token: str) -> None:
    """Wait until `parent` is gone, then kill and remove what it has left.

    On standard input come messages that end with a null byte: ``+g123`` and ``-g123`` (a process
    group that runs, that has ended), ``+d/path`` and ``-d/path`` (a folder), ``q`` (none is left).
    """
    import select

    groups, folders, text = set[bytes](), set[bytes](), b""
    while True:
        # By its process id too: a fork may hold the other end of the pipe. What it has sent before
        # is read in any case.
        alive = os.getppid() == parent
        if select.select([0], [], [], POLL_SECONDS if alive else 0.0)[0]:
            data = os.read(0, 1 << 16)
            if not data:
                break
            *messages, text = (text + data).split(b"\0")
            for message in messages:
                if message == b"q":
                    return
                held = groups if message[1:2] == b"g" else folders
                (held.add if message[:1] == b"+" else held.discard)(message[2:])
        elif not alive:
            break
    for group in groups:
        kill_group(int(group))
    kill_tagged(token)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    # Ctrl-C and the like are for the process that is watched.
    for _ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(_ignored, signal.SIG_IGN)
    guard(int(sys.argv[1]), sys.argv[2])
