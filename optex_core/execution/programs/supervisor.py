"""A small process that starts programs for another one and never lets them outlive it; `programs`
is its client.

It is the parent of the programs, each in a process group of its own, and holds one end of a socket.
When the other end closes, because the process there ended or was killed, it kills all groups,
removes the folders it was told to hold, and ends. So neither a program nor its folder can be left
behind, whatever happens to the process that asked for it; on Linux the programs are killed too if
this process is.

Run by ``python -I -S keeper.py FD``; it uses the standard library alone, and starts in 20 ms.

Messages are lines of JSON. To here: ``{"run": n, "argv", "cwd", "env", "out", "err"}``, ``{"kill":
n}``, ``{"hold": folder}``, ``{"drop": folder}``. From here: ``{"run": n, "group"}`` when a program
has started, ``{"run": n, "status"}`` when it has ended (negative: by that signal), or ``{"run": n,
"error"}`` when it cannot be started.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

#: Seconds between two looks whether the parent lives: for a socket whose other end was inherited by
#: somebody else.
POLL_SECONDS = 1.0


class ProgramSupervisor:
    """The programs that run, by their number, and the folders that are held."""

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self.programs: dict[int, subprocess.Popen[bytes]] = {}
        self.folders: set[str] = set()
        self.with_parent = _end_with_parent()

    def serve(self) -> None:
        """Until the other end is gone."""
        wake, wakes = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(wakes, False)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # wakes the select below
        parent, text = os.getppid(), b""
        try:
            while os.getppid() == parent:
                ready, _, _ = select.select([self.line.fileno(), wake], [], [], POLL_SECONDS)
                if wake in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 4096)
                self.reap()
                if self.line.fileno() in ready:
                    data = self.line.recv(1 << 16)
                    if not data:
                        return
                    *lines, text = (text + data).split(b"\n")
                    for line in lines:
                        self.handle(json.loads(line))
        except OSError:  # the line is broken: the other end is gone
            return
        finally:
            self.end()

    def handle(self, message: dict[str, Any]) -> None:
        """Do what a message says."""
        if "kill" in message:
            if message["kill"] in self.programs:
                _kill_group(self.programs[message["kill"]].pid)
        elif "hold" in message:
            self.folders.add(message["hold"])
        elif "drop" in message:
            self.folders.discard(message["drop"])
        else:
            self.start(message)

    def start(self, message: dict[str, Any]) -> None:
        """Start a program."""
        number = message["run"]
        try:
            with open(message["out"], "wb") as out, open(message["err"], "wb") as err:
                self.programs[number] = subprocess.Popen(
                    message["argv"], cwd=message["cwd"], env=message["env"], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                    start_new_session=True, preexec_fn=self.with_parent,  # noqa: PLW1509  this process has one thread
                )  # fmt: skip
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self.reply({"run": number, "error": str(error)})
        else:
            self.reply({"run": number, "group": self.programs[number].pid})

    def reap(self) -> None:
        """Report the programs that have ended; what they have started and left running ends with
        them.
        """
        for number, program in list(self.programs.items()):
            # Looked at before it is reaped: its group cannot be anybody else's as long as its
            # leader is not.
            if os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                _kill_group(program.pid)
                del self.programs[number]
                self.reply({"run": number, "status": program.wait()})

    def reply(self, message: dict[str, Any]) -> None:
        """Answer."""
        self.line.sendall(json.dumps(message).encode() + b"\n")

    def end(self) -> None:
        """Kill everything, and remove what is held."""
        for program in self.programs.values():
            _kill_group(program.pid)
        for program in self.programs.values():
            program.wait()
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _end_with_parent() -> Callable[[], None] | None:
    """What makes a program die with this process, where the system can do that (Linux:
    PR_SET_PDEATHSIG).
    """
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(1, signal.SIGKILL)

    return ask


if __name__ == "__main__":
    # Ctrl-C and the like are for the process at the other end, which decides what becomes of its
    # programs.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, lambda _number, _frame: None)
    handle = int(sys.argv[1])
    os.set_inheritable(handle, False)
    ProgramSupervisor(socket.socket(fileno=handle)).serve()
