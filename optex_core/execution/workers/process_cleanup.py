"""What a worker process leaves behind when it is killed, found by a mark: programs it has started,
and its temporary folders.

Every worker process of ours is started with a token of its own in the environment variable
`TOKEN_VARIABLE`, which all that it starts inherits, in whatever process group or session. So
nothing has to be registered: when a worker is killed, or dies, the driver ends whatever carries its
token (`kill_tagged`), also a solver that user code had started by itself; when the driver is
killed, the worker's own watch (`start_parent_watchdog`) does the same and then ends the worker.
Whoever starts programs or makes temporary folders has two things to heed: keep `TOKEN_VARIABLE`
where the environment is replaced, and begin the names of folders with `temp_prefix`.

Environments of other processes can be read on Linux, by ``/proc``. Elsewhere a killed worker takes
with it those of its programs that are its descendants at that moment, and one that dies by itself
leaves them. When worker and driver are killed in the same instant nobody is left to look.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
import uuid
from pathlib import Path

#: Names the worker to all that it starts.
TOKEN_VARIABLE = "OPTEX_CORE_WORKER"
#: Seconds between two looks of a worker whether its driver lives.
POLL_SECONDS = 0.5
#: Scans for processes that were started while the last ones were killed.
_SCANS = 20


def new_worker_token() -> str:
    """A token for one worker; begins with the process id of its driver."""
    return f"{os.getpid()}-{uuid.uuid4().hex[:12]}"


def temp_prefix() -> str:
    """With what the names of temporary folders begin that belong to the evaluations of this
    process.
    """
    return f"optex-core-{os.environ.get(TOKEN_VARIABLE) or os.getpid()}-"


def tagged_processes(token: str) -> list[int]:
    """The living processes that carry `token`; none where environments cannot be read."""
    mark, found = f"{TOKEN_VARIABLE}={token}".encode(), []
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for name in names:
        if name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile, or is somebody else's
                if mark in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                    found.append(int(name))
    return found


def kill_tagged(token: str, *, spare: int | None = None) -> None:
    """Kill what carries `token`, but for the process `spare`, and remove its temporary folders."""
    for scan in range(_SCANS):
        # what was killed needs a core to be gone: on a loaded machine twenty scans were over before
        time.sleep(0.002 * scan)
        left = [pid for pid in tagged_processes(token) if pid != spare]
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            break
    for folder in Path(tempfile.gettempdir()).glob(f"optex-core-{token}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def start_parent_watchdog() -> None:
    """In a worker: end with the driver, and take along what was started here."""
    # not getppid(): it may have been killed while this process started
    driver = int(os.environ[TOKEN_VARIABLE].partition("-")[0])

    def look() -> None:
        while os.getppid() == driver:
            time.sleep(POLL_SECONDS)
        kill_tagged(os.environ[TOKEN_VARIABLE], spare=os.getpid())
        os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)

    threading.Thread(target=look, name="optex-core-watch", daemon=True).start()
