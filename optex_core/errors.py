"""The exceptions of the package, one tree, every message a sentence that says what to do."""

from __future__ import annotations

import threading
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


class OptexError(Exception):
    """Base of every exception that this package raises on purpose.

    ``partial_result`` holds the result so far when a run was under way, else None.
    """

    partial_result: Any = None


class ArgumentError(OptexError, ValueError):
    """An argument has a value that cannot work: the message names it, what was expected and what
    came.
    """


class ArgumentTypeError(OptexError, TypeError):
    """An argument has a type that cannot work."""


class ProtocolError(OptexError, RuntimeError):
    """``ask`` and ``tell`` were used out of order; the engine's state is unchanged."""


class CapabilityError(OptexError, ValueError):
    """Two parts do not fit together; the message names both and the missing thing."""


class EvaluationError(OptexError, RuntimeError):
    """A gradient could not be evaluated.

    A simulator that knows that a point cannot be evaluated raises it itself.

    Parameters
    ----------
    message : str
        One sentence.
    detail : object, optional
        Anything that helps: a log, an exit status, the point.
    """

    def __init__(self, message: str, detail: object = None) -> None:
        super().__init__(message)
        self.detail = detail

    def __reduce__(self) -> tuple[object, ...]:
        # The default reduction forgets `detail`, which then is lost on the way back from a worker
        # process.
        return type(self), (str(self), self.detail)


class ObjectiveError(OptexError, TypeError):
    """The user's callable gave back something that no evaluation can be: a wrong shape, a complex
    number, no pair.

    A bug and not a failed evaluation, so it ends the run whatever ``on_error`` says.
    """


class CheckpointError(OptexError, ValueError):
    """A saved run is damaged, foreign, or does not belong to this problem."""


class LaterVersionError(CheckpointError):
    """A saved run was written by a later version of this package."""


class DamagedFileError(CheckpointError):
    """The contents of a file are not those of a saved run: an older save may be good."""


class BackendError(OptexError, RuntimeError):
    """An array backend is not usable here; the message says why and what to install."""


class MissingExtraError(OptexError, ImportError):
    """An optional library is not installed; the message gives the command that installs it."""

    @classmethod
    def of(cls, library: str, extra: str, purpose: str) -> MissingExtraError:
        """Name the library, what needs it, and the command that installs it."""
        return cls(
            f"{purpose} needs {library}, which is not installed; run: python -m pip "
            f"install 'optex_core[{extra}]'"
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to `name`, or the list of all
    names.
    """
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"


def format_traceback(error: BaseException) -> str:
    """The traceback of `error` as text, with its causes; outside the main thread without carets.

    It is formatted where the error was caught: tracebacks do not travel between threads that go on
    and processes that end.

    Notes
    -----
    To place carets below lines `traceback` parses them. CPython 3.11 counts the depth of syntax
    trees in one place for all threads, so that one thread's parse ends another's in "SystemError:
    AST constructor recursion depth mismatch" (40 of 40 parses of a file failed beside two threads
    that formatted tracebacks, none without carets). A worker must not break what the main thread
    happens to parse: pytest, hypothesis and `inspect.getsource` all do.
    """
    try:
        formatted = traceback.TracebackException.from_exception(error)
        if threading.current_thread() is not threading.main_thread():
            _remove_carets(formatted, set())
        return "".join(formatted.format())
    except BaseException as second:  # of a class of the user's, whose attributes may raise
        frames = "".join(traceback.format_tb(error.__traceback__))
        why = f"formatting it raises {type(second).__name__}"
        return f"Traceback (most recent call last):\n{frames}{describe(error)} ({why})\n"


def _remove_carets(formatted: traceback.TracebackException, seen: set[int]) -> None:
    """Forget where in their lines the frames stood, causes and members of groups included."""
    if id(formatted) in seen:
        return
    seen.add(id(formatted))
    for frame in formatted.stack:
        frame.colno = None
    members = getattr(formatted, "exceptions", None) or ()
    for other in (formatted.__cause__, formatted.__context__, *members):
        if other is not None:
            _remove_carets(other, seen)


def message_of(error: BaseException | None) -> str:
    """Return the message of an exception, or its type; a user's ``__str__`` may itself raise."""
    if error is None:
        return ""
    try:
        return str(error) or type(error).__name__
    except BaseException as second:
        return f"{type(error).__name__} (str() of it raises {type(second).__name__})"


def describe(error: BaseException) -> str:
    """Return ``Type: message`` of an exception."""
    name, message = type(error).__name__, message_of(error)
    return message if message.startswith(name) else f"{name}: {message}"
