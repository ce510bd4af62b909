"""One worker process at the other end of a pipe, which takes one call at a time.

A call is written to the pipe by the thread that makes it, and its answer is read by a thread that
waits for nothing else. An executor of one process, as loky and the standard library have them,
hands a call from that thread to a manager to a feeder to the pipe, and the answer back through the
manager. With eight processes on two cores the last of eight gradients began 5.8 ms after the first
was sent, and was seen up to 4.5 ms after its end; with pipes 2.1 and 2.7 ms (d = 1000, gradients
that sleep for 50 ms).

Tried for eight processes on two cores, gradients that sleep for 50 ms: workers under SCHED_BATCH,
which do not take the core from a driver that wakes the others (whole runs in turn: 0.88 to 0.93 s
with it and without); one thread that reads all pipes (on a busy machine, twice ten runs, best 57.3
and 59.5 ms a round against 58.0 and 61.8 with a thread each, medians 61.9 and 63.3 against 59.1 and
65.9: not decided). What remains is sixteen wake-ups, each in a process whose memory has left the
caches: the slowest gradient takes 50.8 to 52.6 ms.

The process is one of loky's: a new interpreter. A fork would inherit locks, CUDA contexts and
OpenMP pools that do not survive it, and the spawn of the standard library needs a guard around the
caller's main program.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from multiprocessing import util
from multiprocessing.connection import Connection
from typing import Any

from optex_core.execution.workers import process_cleanup
from optex_core.execution.workers.pipe_channel import PipeChannel, receive, send
from optex_core.execution.workers.pool import PoolWorker, TaskFuture, WorkerLostError

#: One thread each: N workers with all cores each are slower than one, and the bits of a sum depend
#: on the number of threads.
THREAD_LIMITS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


class WorkerProcess(PoolWorker):
    """A process that waits for calls.

    Parameters
    ----------
    begin : callable
        ``begin(*args)`` is called in it, before the first call; a module's own function, as those
        of the calls.
    args : tuple
    """

    def __init__(self, begin: Callable[..., Any], *args: Any) -> None:
        from loky.backend import get_context  # here: 0.1 s, for those who use processes

        self._token = process_cleanup.new_worker_token()
        # a user who has set one knows better
        limits = {name: os.environ.get(name, "1") for name in THREAD_LIMITS}
        context = get_context("loky")
        # Two pipes of one way each: to write to a socket takes 0.1 to 1.2 ms, since the reader is
        # woken on the writer's core, to a pipe 0.03.
        calls, writing = context.Pipe(duplex=False)
        reading, answers = context.Pipe(duplex=False)
        self._ready = TaskFuture(())
        self._answer: TaskFuture | None = None
        with calls, answers:
            environment = {**limits, process_cleanup.TOKEN_VARIABLE: self._token}
            self._process = context.Process(
                target=_worker_main, args=(calls, answers, begin, args), env=environment
            )
            self._process.start()
            self._channel = PipeChannel(reading, writing, self._process)
        # At the end of the program, before multiprocessing waits for its children: for what nobody
        # has closed.
        self._finalizer = util.Finalize(self, _kill, (self._token, self._process), exitpriority=10)
        threading.Thread(target=self._read_answers, name="optex-core-answers", daemon=True).start()

    def ready(self) -> Future[Any]:
        # Starting an interpreter and importing what the objective needs takes a second or ten: no
        # part of an evaluation's `timeout`.
        return self._ready

    def serialize(self, args: tuple[Any, ...]) -> bytes:
        return pickle.dumps(args, pickle.HIGHEST_PROTOCOL)

    def start(self, task: TaskFuture, payload: bytes) -> None:
        self._answer = task
        try:
            self._channel.send(payload)
        except OSError as error:
            raise BrokenExecutor(_DIED) from error

    def terminate(self, *, wait: bool = True) -> bool:
        self._finalizer()
        if wait:
            self._process.join()
        return True

    def _read_answers(self) -> None:
        """Take what comes until the process is gone."""
        with contextlib.suppress(EOFError, OSError):
            self._channel.receive()
            self._ready.resolve()
            while True:
                message = self._channel.receive()
                answer, self._answer = self._answer, None
                try:
                    result, error = pickle.loads(message)
                except Exception as wrong:
                    # classes of the user's may raise anything when they are unpickled
                    result, error = None, wrong
                del message
                if answer is not None:
                    answer.resolve(error=error, result=result)
                del answer, result, error  # not to be kept while this waits
        for waiting in (self._ready, self._answer):
            if waiting is not None:
                waiting.resolve(error=WorkerLostError(_DIED))
        self._channel.close()


_DIED = "a worker process died"


def _kill(token: str, process: Any) -> None:
    """End a process and what it has started."""
    process_cleanup.kill_tagged(token)
    if process.is_alive():  # where marks cannot be read
        os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))


def _worker_main(
    calls: Connection, answers: Connection, begin: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    """What the process does until the other end of the pipe is gone, or it is killed."""
    if os.name == "posix":
        for end in (calls, answers):
            os.set_inheritable(end.fileno(), False)
            # while another process holds it, the driver does not see this one die
            os.register_at_fork(after_in_child=end.close)
    # Ctrl-C reaches every process of the terminal's group; the driver ends the workers itself. A
    # function and not SIG_IGN: programs that the worker starts would inherit the latter.
    signal.signal(signal.SIGINT, _ignore_interrupt)
    process_cleanup.start_parent_watchdog()
    begin(*args)
    send(answers, b"")
    while True:
        try:
            function, *rest = pickle.loads(receive(calls))
        except EOFError:
            return
        try:
            answer: tuple[Any, Any] = function(*rest), None
        except BaseException as error:
            # KeyboardInterrupt and SystemExit of user code are the driver's to raise
            answer = None, error
        send(answers, _serialize_answer(answer))
        del function, rest, answer  # not to be kept while this waits


def _serialize_answer(answer: tuple[Any, Any]) -> bytes:
    try:
        return pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # a result that cannot travel must not cost the worker
        return pickle.dumps((None, RuntimeError(f"its answer cannot be pickled: {error}")))


def _ignore_interrupt(_signal: int, _frame: Any) -> None:
    """Leave the interrupt to the driver."""
