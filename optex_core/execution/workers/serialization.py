"""Serialization of objectives and results: by value, once per worker, never breaking a pool.

cloudpickle is used through `dumps` alone; its output is read by the standard `pickle`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import io
import marshal
import pickle
import types
from collections import ChainMap
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from optex_core import errors
from optex_core.execution.base import run_evaluation
from optex_core.execution.workers.shared_memory import SharedArrayHandle, open_vector, store_result
from optex_core.types import Array, Context, ObjectiveProtocol, Perturbation

#: What workers run: ``run(objective, x, *rest)``, a function of a module.
Run: TypeAlias = "Callable[..., SerializedResult]"

#: Objectives that this process has loaded, by the token of their content. A worker of a long-lived
#: pool may serve several runs.
_loaded: dict[str, object] = {}
_MAX_LOADED = 8
#: True while this process, a worker, imports what an objective needs.
_loading = False
#: What `install_objective` left for this worker: the function, and name, token and bytes of the
#: objective.
_installed: tuple[Run, str, str, bytes] | None = None


def dumps(thing: object) -> bytes:
    """Pickle by value, closures and classes of ``__main__`` included.

    Code objects keep the names of their files, by which tracebacks show source lines: cloudpickle
    replaces them (3.1.3: by "<dynamic-code>"), so they are written by `marshal`. Both ends must
    run the same minor version of Python, as cloudpickle asks too.
    """
    file = io.BytesIO()
    _pickler()(file).dump(thing)
    return file.getvalue()


@functools.cache
def _pickler() -> Any:
    import cloudpickle  # here: loading it is for those who use processes

    def reduce_code(code: types.CodeType) -> tuple[object, ...]:
        return marshal.loads, (marshal.dumps(code),)

    # Read when a pickler is made, so that it must be the class that has it.
    table = ChainMap({types.CodeType: reduce_code}, cloudpickle.Pickler.dispatch_table)
    return type("Pickler", (cloudpickle.Pickler,), {"dispatch_table": table})


class SerializedResult:
    """Result, a dataclass with the fields ``error`` and ``traceback``, whose error survives the way
    back through any pickler. In threads, where nothing is pickled, it is unchanged.

    An exception that pickles but does not unpickle (its ``__init__`` takes other arguments than
    its message) kills the thread that reads the results, and the whole pool with it. Such a one
    arrives as an `EvaluationError` with its name and message; what is no Exception arrives as the
    builtin exception that it is derived from.
    """

    def __init__(self, result: Any) -> None:
        self.result = result

    def __reduce__(self) -> tuple[object, ...]:
        error = self.result.error
        if error is None:
            return SerializedResult, (self.result,)
        interrupts = (KeyboardInterrupt, SystemExit, GeneratorExit, BaseException)
        kind: type[BaseException] = errors.EvaluationError
        if not isinstance(error, Exception):
            kind = next(k for k in interrupts if isinstance(error, k))
        plain = dataclasses.replace(self.result, error=kind(errors.describe(error)))
        try:
            return _open_result, (dumps(error), plain)
        except BaseException:  # a user's class may raise anything; the replacement says enough
            return SerializedResult, (plain,)


def _open_result(payload: bytes, plain: Any) -> SerializedResult:
    try:
        error = pickle.loads(payload)
    except BaseException:  # as above
        error = None
    if not isinstance(error, BaseException):
        return SerializedResult(plain)
    if isinstance(error, SystemExit) and error.args:  # tblib, which Dask uses, calls no __init__
        status: Any = error.args[0] if len(error.args) == 1 else error.args
        error.code = status
    if plain.traceback:
        with contextlib.suppress(Exception):  # a frozen exception takes no note
            error.add_note(f"Raised in a worker process:\n{plain.traceback}")
    return SerializedResult(dataclasses.replace(plain, error=error))


class SerializedObjective:
    """Objective that pickles itself by value, whatever pickler the pool uses.

    The bytes are made once. A worker loads equal bytes once and keeps the result: loading a large
    closure for every point costs more than sending it. Where it cannot be pickled, an
    `ArgumentTypeError` names the part that cannot.
    """

    def __init__(self, objective: Any) -> None:
        self.objective = objective  # anything that has a name for error messages
        self._serialized: tuple[str, bytes] | None = None

    def serialize(self) -> tuple[str, bytes]:
        """Return the token of its content, and the bytes."""
        if self._serialized is None:
            try:
                payload = dumps(self.objective)
            except Exception as error:  # a user's class may raise anything
                part, text = _unpicklable_part(self.objective), errors.describe(error)
                raise errors.ArgumentTypeError(
                    f"{self.objective.name} cannot be sent to worker processes: cloudpickle cannot "
                    f"pickle {part} ({text}); make what it needs inside the function, or use "
                    "workers='threads'"
                ) from error
            self._serialized = hashlib.blake2b(payload, digest_size=16).hexdigest(), payload
        return self._serialized

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_objective, self.serialize()


def _open_objective(token: str, payload: bytes) -> SerializedObjective:
    return SerializedObjective(load_objective(token, payload))


def load_objective(token: str, payload: bytes) -> Any:
    """Return the objective in `payload`, loaded once per process."""
    global _loading  # noqa: PLW0603  what is imported meanwhile has no other way to know
    objective = _loaded.get(token)
    if objective is None:
        if len(_loaded) >= _MAX_LOADED:
            _loaded.clear()
        _loading = True
        try:
            objective = _loaded[token] = pickle.loads(payload)
        finally:
            _loading = False
    return objective


def forbid_during_import() -> None:
    """Refuse to start workers in a worker that imports the function's module: each of those would
    import it too, and start workers, without end.
    """
    if _loading:
        raise errors.CapabilityError(
            "a module that starts worker processes when it is imported cannot hold the function "
            "they evaluate, since each of them imports it again; put what starts them under "
            "`if __name__ == '__main__':`, or into a function"
        )


def install_objective(run: Run, name: str, token: str, payload: bytes) -> None:
    """Keep in this worker what `run_installed` needs, and load the objective. An error, of imports
    on the way for example, is reported by the first call.
    """
    global _installed  # noqa: PLW0603  a worker has nothing but its modules to keep it in
    _installed = run, name, token, payload
    with contextlib.suppress(BaseException):
        load_objective(token, payload)


def run_installed(*args: Any) -> SerializedResult:
    """``run(objective, *args)`` in a process of ours; ObjectiveError if it cannot be loaded."""
    if _installed is None:
        raise RuntimeError("a worker was asked to evaluate before it was given an objective")
    run, name, token, payload = _installed
    try:
        objective = load_objective(token, payload)
    except BaseException as error:  # imports on the way may raise anything
        text = f"{name} cannot be loaded in a worker process: {errors.describe(error)}"
        raise errors.ObjectiveError(text) from error
    return run(objective, *args)


def run_serialized(run: Run, objective: SerializedObjective, *args: Any) -> object:
    """``run(objective, *args)`` in a pool of the user's."""
    return run(objective.objective, *args)


def evaluate_point(
    objective: ObjectiveProtocol,
    x: Array | SharedArrayHandle,
    context: Context,
    shift: Perturbation | None,
) -> SerializedResult:
    """Evaluate in a worker; a large gradient goes back the way its x has come."""
    result = run_evaluation(objective, open_vector(x), context, shift)
    # A part of a finite difference has no gradient of that length.
    if isinstance(x, SharedArrayHandle) and shift is None and result.gradient is not None:
        result = dataclasses.replace(result, gradient=store_result(x, result.gradient))
    return SerializedResult(result)


def _unpicklable_part(thing: object, depth: int = 6) -> str:
    """Name of the innermost part of `thing` that cannot be pickled."""
    for name, part in _parts(thing) if depth else ():
        try:
            dumps(part)
        except Exception:  # this is the question, and the answer is the name
            inner = _unpicklable_part(part, depth - 1)
            return inner if " of " in inner or not name else f"{name} of {inner}"
    return f"{type(thing).__name__} {getattr(thing, '__qualname__', '')}".strip()


def _parts(thing: object) -> Iterator[tuple[str, object]]:
    """Parts of an object, with names where they have one."""
    if inspect.isfunction(thing):
        variables = inspect.getclosurevars(thing)
        named = {**variables.globals, **variables.nonlocals}
        yield from ((f"the variable {name!r}", part) for name, part in named.items())
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
