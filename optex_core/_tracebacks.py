"""Tracebacks as text, written where they were caught: they do not travel between threads that go on
and processes that end.
"""

from __future__ import annotations

import threading
import traceback


def format_traceback(error: BaseException) -> str:
    """The traceback of `error` as text, with its causes; outside the main thread without the carets
    below the lines.

    To place carets `traceback` parses the lines. CPython 3.11 counts the depth of the trees that it
    builds in one place for all threads, so that one thread's parse ends another's in "SystemError:
    AST constructor recursion depth mismatch" whenever the threads change in its midst (a callback
    of the garbage collector is enough: 40 of 40 parses of a file failed beside two threads that
    wrote tracebacks, none with this). A worker must not break what the program's main thread
    happens to parse: pytest, hypothesis and `inspect.getsource` all do.
    """
    written = traceback.TracebackException.from_exception(error)
    if threading.current_thread() is not threading.main_thread():
        _remove_carets(written, set())
    return "".join(written.format())


def _remove_carets(written: traceback.TracebackException, seen: set[int]) -> None:
    """Forget where in their lines the frames stood, causes and members of groups included."""
    if id(written) in seen:
        return
    seen.add(id(written))
    for frame in written.stack:
        frame.colno = None
    for other in (
        written.__cause__,
        written.__context__,
        *(getattr(written, "exceptions", None) or ()),
    ):
        if other is not None:
            _remove_carets(other, seen)
