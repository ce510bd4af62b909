"""Worker process at the other end of two pipes.

loky starts it, as a new interpreter, and no more is used of loky. A fork would inherit locks, CUDA
contexts and OpenMP pools that do not survive it, and the spawn of the standard library needs a
guard around the caller's main program.

Notes
-----
A call is written to the pipe by the thread that makes it, and its answer is read by a thread that
waits for nothing else. An executor of one process, as loky and the standard library have them,
passes both through two more threads: with eight processes on two cores the last of eight gradients
began 5.8 ms after the first was sent, with pipes 2.1 ms.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Future
from multiprocessing import util
from multiprocessing.connection import Connection
from typing import Any

from optex_core._validation import working_directory
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
#: glibc keeps freed memory for the next evaluation: 1.9 ms a round in place of 3.1 for vectors of
#: 800 kB and four processes on two busy cores.
MALLOC_SETTINGS = {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 28)}

_DIED = "a worker process died"


class WorkerProcess(PoolWorker):
    """Process that waits for calls of module-level functions.

    ``initializer(*args)``, such a function too, runs in it before the first call. Of `environment`
    variables are set, and what the user has not set of `THREAD_LIMITS` and `MALLOC_SETTINGS`.
    """

    def __init__(
        self,
        initializer: Callable[..., object] | None = None,
        *args: object,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        from loky.backend import get_context  # here: 0.1 s, for those who use processes

        self._token = process_cleanup.new_token()
        defaults = dict.fromkeys(THREAD_LIMITS, "1") | MALLOC_SETTINGS
        variables = {name: os.environ.get(name, value) for name, value in defaults.items()}
        variables |= {**(environment or {}), process_cleanup.TOKEN_VARIABLE: self._token}
        self._ready = TaskFuture()
        self._answer: TaskFuture | None = None
        context = get_context("loky")
        working_directory()  # a new process begins in it
        with _standard_streams():
            # One way each: a write to a socket takes 0.1 to 1.2 ms, since the reader is woken on
            # the writer's core, to a pipe 0.03 ms.
            calls, writing = context.Pipe(duplex=False)
            reading, answers = context.Pipe(duplex=False)
            with calls, answers:
                call = (calls, answers, initializer, args)
                self._process = context.Process(target=_worker_main, args=call, env=variables)
                self._process.start()
        self._channel = PipeChannel(reading, writing, self._process)
        # At the end of the program, before multiprocessing waits for its children.
        self._finalizer = util.Finalize(self, _kill, (self._token, self._process), exitpriority=10)
        threading.Thread(target=self._read_answers, name="optex-core-answers", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id."""
        return int(self._process.pid)

    def ready(self) -> Future[object]:
        # Starting an interpreter and importing what the objective needs takes a second or ten: no
        # part of an evaluation's `timeout`.
        return self._ready

    def serialize(self, call: tuple[object, ...]) -> bytes:
        return pickle.dumps(call, pickle.HIGHEST_PROTOCOL)

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
        """Read until the process is gone."""
        with contextlib.suppress(EOFError, OSError):
            self._channel.receive()
            self._ready.resolve()
            while True:
                message = self._channel.receive()
                task, self._answer = self._answer, None
                try:
                    result, error = pickle.loads(message)
                except BaseException as wrong:  # a user's class may raise anything
                    result, error = None, wrong
                del message
                if task is not None:
                    task.resolve(error=error, result=result)
                del task, result, error  # not to be kept while this waits
        self._finalizer()  # it may have left programs and folders
        for waiting in (self._ready, self._answer):
            if waiting is not None:
                waiting.resolve(error=WorkerLostError(_DIED))
        self._channel.close()


def _kill(token: str, process: Any) -> None:
    """End a process and what it has started."""
    process_cleanup.kill_tagged(token)
    with contextlib.suppress(ProcessLookupError):
        if process.is_alive():  # where environments cannot be read
            os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))


@contextlib.contextmanager
def _standard_streams() -> Iterator[None]:
    """Let a process be started without standard streams (services, pythonw, ``>&-``).

    loky flushes `sys.stdout` and `sys.stderr`, and a pipe that got the number of a closed standard
    stream would be taken for it in the worker.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number
    missing = [name for name in ("stdout", "stderr") if getattr(sys, name) is None]
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        for name in missing:
            setattr(sys, name, nowhere)
        try:
            yield
        finally:
            for name in missing:
                setattr(sys, name, None)


def _worker_main(
    calls: Connection,
    answers: Connection,
    initializer: Callable[..., object] | None,
    args: tuple[object, ...],
) -> None:
    """Serve calls until the other end of the pipe is gone, or the process is killed."""
    if os.name == "posix":
        for end in (calls, answers):
            os.set_inheritable(end.fileno(), False)
            # While a fork holds it, the driver does not see this process die.
            os.register_at_fork(after_in_child=end.close)
    # Ctrl-C reaches every process of the terminal's group; the driver ends the workers. A function
    # and not SIG_IGN: programs that the worker starts would inherit the latter.
    signal.signal(signal.SIGINT, lambda *_: None)
    process_cleanup.start_parent_watchdog()
    if initializer is not None:
        initializer(*args)
    send(answers, b"")
    while True:
        try:
            function, *rest = pickle.loads(receive(calls))
        except EOFError:
            return
        try:
            answer: tuple[object, object] = function(*rest), None
        except BaseException as error:
            answer = None, error
        try:
            message = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
        except BaseException as error:  # a result that cannot travel must not cost the worker
            kind = type(error).__name__
            message = pickle.dumps((None, RuntimeError(f"its answer cannot be pickled: {kind}")))
        send(answers, message)
        del function, rest, answer, message  # not to be kept while this waits
