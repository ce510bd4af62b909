"""What a run hands to user code: the result to a callback, and to the exception that ends it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optex_core.engine.result import RunResult


def attach_result(error: BaseException, result: RunResult) -> None:
    """Attach the result so far to what ends the run.

    An exception with slots cannot carry it and says so in a note; a frozen one takes no note either
    and must not be hidden by that.
    """
    try:
        error.partial_result = result  # type: ignore[attr-defined]
    except Exception:  # AttributeError, or what a __setattr__ of the user's raises
        with contextlib.suppress(Exception):
            error.add_note(
                f"optex_core: the run had reached {result.best_fun} after {result.nit} iterations;"
                " this exception cannot carry the result"
            )


def with_keyword_result(callback: Callable[..., object]) -> Callable[[object], object]:
    """A callback that gets the result by name if it has a parameter ``intermediate_result``.

    As in SciPy; any other gets it as its one argument.
    """
    try:
        named = "intermediate_result" in inspect.signature(callback).parameters
    except (TypeError, ValueError):  # a compiled callable without a signature
        named = False
    return (lambda result: callback(intermediate_result=result)) if named else callback
