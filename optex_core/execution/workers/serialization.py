"""How an objective travels to workers and its errors travel back: by value, once per worker, and
never breaking a pool.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import io
import marshal
import traceback
import types
from collections import ChainMap
from collections.abc import Iterator
from typing import Any

from optex_core.errors import ArgumentTypeError, CapabilityError, EvaluationError, ObjectiveError
from optex_core.execution.base import Report, run_evaluation
from optex_core.execution.workers.shared_memory import SharedArrayHandle, open_vector, store_result
from optex_core.types import Array, Context, ObjectiveProtocol

#: True while this process, a worker, imports what an objective needs.
_loading = False
#: Objectives that this process has unpacked, by the token of their content. A worker of a
#: long-lived pool may serve several runs.
_loaded: dict[str, ObjectiveProtocol] = {}
_MAX_LOADED = 8


def dumps(thing: Any) -> bytes:
    """Pickle by value, closures and classes of ``__main__`` included, with the file names of code
    objects kept.

    Tracebacks show source lines by those names. cloudpickle replaces them (3.1.3: by
    "<dynamic-code>"), so code objects are written by `marshal`: whatever cloudpickle does to them,
    they arrive as they were. Both ends must run the same minor version of Python, as cloudpickle
    asks too.
    """
    file = io.BytesIO()
    _pickler()(file).dump(thing)
    return file.getvalue()


@functools.cache
def _pickler() -> Any:
    import cloudpickle  # here: loading it is for those who use processes

    # Read when a pickler is made, so that it must be the class that has it.
    table = ChainMap({types.CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)
    return type("Pickler", (cloudpickle.Pickler,), {"dispatch_table": table})


def _reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    return marshal.loads, (marshal.dumps(code),)


class SerializedReport:
    """A report whose error survives the way back, through any pickler.

    An exception that pickles but does not unpickle (its ``__init__`` takes other arguments than its
    message) kills the thread that reads the results, and with it the whole pool. Here such a one
    arrives as an EvaluationError with its name and message.

    Parameters
    ----------
    report : Report
        What to send; left as it is where nothing is pickled, in threads.
    """

    def __init__(self, report: Report) -> None:
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        error = self.report.error
        if error is None:
            return SerializedReport, (self.report,)
        plain = dataclasses.replace(
            self.report, error=EvaluationError(traceback.format_exception_only(error)[-1].strip())
        )
        try:
            return _open_report, (dumps(error), plain)
        except Exception:
            # user classes may raise anything when they are pickled; what matters is told in the
            # replacement
            return SerializedReport, (plain,)


def _open_report(payload: bytes, plain: Report) -> SerializedReport:
    import cloudpickle

    try:
        error = cloudpickle.loads(payload)
    except Exception:  # as above
        return SerializedReport(plain)
    if not isinstance(error, BaseException):
        return SerializedReport(plain)
    if plain.traceback:
        error.add_note(f"Raised in a worker process:\n{plain.traceback}")
    return SerializedReport(dataclasses.replace(plain, error=error))  # type: ignore[arg-type]


class SerializedObjective:
    """An objective that pickles itself by value, closures and lambdas included, whatever pickler
    the pool uses.

    The bytes are made once. A worker unpacks equal bytes once and keeps the result, since unpacking
    a large closure for every point costs more than sending it.

    Parameters
    ----------
    objective : Evaluable
        What to send.

    Raises
    ------
    ArgumentTypeError
        When it is pickled and cannot be; the message names the part that cannot.
    """

    def __init__(self, objective: ObjectiveProtocol) -> None:
        self.objective = objective
        self._serialized: tuple[str, bytes] | None = None

    def serialize(self) -> tuple[str, bytes]:
        """The content token and the bytes."""
        if self._serialized is None:
            try:
                payload = dumps(self.objective)
            except Exception as error:  # user classes may raise anything when they are pickled
                raise ArgumentTypeError(
                    f"{self.objective.name} cannot be sent to worker processes: "
                    f"cloudpickle cannot pickle {_unpicklable_part(self.objective)} ({error}); "
                    "make what it needs inside the function, or use workers='threads'"
                ) from error
            self._serialized = hashlib.blake2b(payload, digest_size=16).hexdigest(), payload
        return self._serialized

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_serialized, self.serialize()


def load_objective(token: str, payload: bytes) -> ObjectiveProtocol:
    """The objective in `payload`, unpacked once per process."""
    global _loading  # noqa: PLW0603  what is imported meanwhile has no other way to know
    objective = _loaded.get(token)
    if objective is None:
        import cloudpickle

        if len(_loaded) >= _MAX_LOADED:
            _loaded.clear()
        _loading = True
        try:
            objective = _loaded[token] = cloudpickle.loads(payload)
        finally:
            _loading = False
    return objective


def forbid_during_import() -> None:
    """Refuse to start workers in a worker that imports the function's module: each of those would
    import it too, and start workers, without end.

    Raises
    ------
    CapabilityError
        This is such a process.
    """
    if _loading:
        raise CapabilityError(
            "a module that starts worker processes when it is imported cannot hold the "
            "function they evaluate, since each of them imports it again; "
            "put what starts them under `if __name__ == '__main__':`, or into a function"
        )


def _open_serialized(token: str, payload: bytes) -> SerializedObjective:
    return SerializedObjective(load_objective(token, payload))


def run_serialized(
    parcel: SerializedObjective, x: Array | SharedArrayHandle, context: Context
) -> SerializedReport:
    """What a user's pool runs."""
    return _run(parcel.objective, x, context)


def _run(
    objective: ObjectiveProtocol, x: Array | SharedArrayHandle, context: Context
) -> SerializedReport:
    """Evaluate; a large gradient goes back the way its x has come."""
    report = run_evaluation(objective, open_vector(x), context)
    evaluation = report.evaluation
    # a part of a difference has none
    if (
        isinstance(x, SharedArrayHandle)
        and evaluation is not None
        and len(evaluation.gradient) == x.d
    ):
        report = dataclasses.replace(
            report,
            evaluation=dataclasses.replace(
                evaluation, gradient=store_result(x, evaluation.gradient)
            ),
        )
    return SerializedReport(report)


#: What `install_objective` left for this worker: the name of the objective, its token, its bytes.
_installed: tuple[str, str, bytes] | None = None


def install_objective(name: str, token: str, payload: bytes) -> None:
    """Keep an objective for `run_installed_objective`; unpacked there, where an error has a way
    back (here it would only kill the worker).
    """
    global _installed  # noqa: PLW0603  one pool serves one objective, and a worker has nothing but its module to keep it in
    _installed = name, token, payload


def preload_objective() -> None:
    """Unpack what `install_objective` left, imports and all, before the first evaluation; an error
    is told by that one.
    """
    if _installed is not None:
        with contextlib.suppress(Exception):
            load_objective(*_installed[1:])


def run_installed_objective(x: Array | SharedArrayHandle, context: Context) -> SerializedReport:
    """What our own worker processes run."""
    if _installed is None:
        raise RuntimeError("a worker was asked to evaluate before it was given an objective")
    name, token, payload = _installed
    try:
        objective = load_objective(token, payload)
    except Exception as error:  # imports on the way may raise anything
        wrong = ObjectiveError(
            f"{name} cannot be loaded in a worker process: {type(error).__name__}: {error}"
        )
        return SerializedReport(Report(None, wrong, "", 0, 0, 0.0))
    return _run(objective, x, context)


def _unpicklable_part(thing: Any, depth: int = 6) -> str:
    """The innermost named part of `thing` that cannot be pickled."""
    if depth:
        for name, part in _parts(thing):
            try:
                dumps(part)
            except Exception:  # this is the question asked here, and the answer is the name
                inner = _unpicklable_part(part, depth - 1)
                return inner if " of " in inner or not name else f"{name} of {inner}"
    return f"{type(thing).__name__} {getattr(thing, '__qualname__', '')}".strip()


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """The parts of an object, with names where they have one."""
    if inspect.isfunction(thing):
        variables = inspect.getclosurevars(thing)
        yield from (
            (f"the variable {k!r}", v)
            for k, v in {**variables.globals, **variables.nonlocals}.items()
        )
    elif isinstance(thing, functools.partial):
        yield from (("", v) for v in (thing.func, *thing.args))
        yield from ((f"the argument {k!r}", v) for k, v in thing.keywords.items())
    elif inspect.ismethod(thing):
        yield "", thing.__self__
    elif isinstance(thing, (list, tuple)):
        yield from (("", v) for v in thing)
    elif dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        yield from (("", getattr(thing, f.name)) for f in dataclasses.fields(thing))
    elif not isinstance(thing, type) and hasattr(thing, "__dict__"):
        yield from ((f"the attribute {k!r}", v) for k, v in vars(thing).items())
