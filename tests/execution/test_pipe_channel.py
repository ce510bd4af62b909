"""The death of a worker is noticed whoever else holds its ends of the pipes; real processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor
from types import SimpleNamespace

import pytest

from optex_core.execution.workers.pipe_channel import PipeChannel
from optex_core.execution.workers.pool import TaskFuture
from optex_core.execution.workers.process import WorkerProcess

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")


def call(process, *args):
    task = TaskFuture(args)
    process.start(task, process.serialize(args))
    return task


@pytest.fixture
def foreign(monkeypatch):
    """Forks a process that lives on, holding all that is open, at the moment a worker starts; as
    another thread of the driver may.
    """
    from loky.backend import fork_exec

    start, children = fork_exec.fork_exec, []

    def started(*args, **keywords):
        pid = start(*args, **keywords)
        child = os.fork()
        if not child:
            time.sleep(600)
            os._exit(0)
        children.append(child)
        return pid

    monkeypatch.setattr(fork_exec, "fork_exec", started)
    yield children
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# Python 3.12 on forks beside threads, which users do all the same
@pytest.mark.filterwarnings("ignore:This process")
@pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="a process can be waited for on Linux only"
)
def test_although_another_process_holds_its_pipes(foreign):
    process = WorkerProcess(os.getpid)
    try:
        process.ready().result(60)
        pid = call(process, os.getpid).result(60)
        assert len(foreign) == 1
        running = call(process, time.sleep, 600)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(BrokenExecutor, match="a worker process died"):
            running.result(60)
        # less and more than a pipe holds: nobody will ever read either
        for size in (10, 5_000_000):
            with pytest.raises(BrokenExecutor, match="a worker process died"):
                call(process, len, bytes(size)).result(60)
    finally:
        process.terminate()


def test_where_only_the_pipe_of_its_end_can_be_waited_for(monkeypatch):
    def missing(pid):
        raise OSError(38, "Function not implemented")  # Linux before 5.3

    monkeypatch.setattr(os, "pidfd_open", missing, raising=False)
    process = WorkerProcess(os.getpid)
    try:
        process.ready().result(60)
        running = call(process, time.sleep, 600)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(BrokenExecutor, match="a worker process died"):
            running.result(60)
    finally:
        process.terminate()


def test_in_the_middle_of_a_message():
    reading, theirs = multiprocessing.Pipe(duplex=False)
    unread, writing = multiprocessing.Pipe(duplex=False)
    # A whole message, then half of one; this process keeps the other side of the pipe open.
    code = (
        "import os, struct, time\n"
        f"fd = {theirs.fileno()}\n"
        "os.write(fd, struct.pack('!Q', 5) + b'whole' + struct.pack('!Q', 100) + b'half')\n"
        "print(flush=True)\n"
        "time.sleep(600)\n"
    )
    with (
        subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=[theirs.fileno()], stdout=subprocess.PIPE
        ) as worker,
        reading,
        theirs,
        unread,
        writing,
    ):
        sentinel, alive = os.pipe()
        try:
            line = PipeChannel(reading, writing, SimpleNamespace(pid=worker.pid, sentinel=sentinel))
            worker.stdout.readline()
            worker.kill()
            assert bytes(line.receive()) == b"whole"
            os.close(alive)  # what tells of the end where processes cannot be waited for
            with pytest.raises(EOFError):
                line.receive()
        finally:
            os.close(sentinel)


def test_messages_of_any_length_arrive_whole():
    process = WorkerProcess(os.getpid)
    try:
        process.ready().result(60)
        for size in (0, 1, 4_096, 65_536, 65_537, 3_000_000):
            content = os.urandom(size)
            assert call(process, bytes, content).result(60) == content
    finally:
        process.terminate()
