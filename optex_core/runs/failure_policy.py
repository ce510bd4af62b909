"""Policy of a run for failed, slow and straggling evaluations; what the user's code is handed."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

from optex_core._validation import callable_, integer, nonnegative, one_of, positive, short_repr
from optex_core.engine.state import FailedEvaluation
from optex_core.errors import ArgumentError, CapabilityError
from optex_core.execution.base import Evaluator

if TYPE_CHECKING:
    from optex_core.engine.result import RunResult

_ANSWERS = ("raise", "drop", "retry")


class FailurePolicy:
    """What to do with failures and stragglers; arguments as `optex_core.minimize` takes them."""

    def __init__(
        self,
        on_error: object,
        max_retries: object,
        max_failures: object,
        timeout: object,
        quorum: object,
        grace: object,
    ) -> None:
        if callable(on_error):
            callable_("on_error", on_error, "the failure")
        else:
            one_of("on_error", on_error, _ANSWERS)
        self.on_error = on_error
        self.max_retries = integer("max_retries", max_retries, low=0)
        self.max_failures: int | None = None
        if max_failures is not None:
            self.max_failures = integer("max_failures", max_failures, low=0)
        self.timeout = None if timeout is None else positive("timeout", timeout)
        self.quorum = None if quorum is None else integer("quorum", quorum, low=1)
        if grace is not None and quorum is None:
            raise ArgumentError(
                "grace needs quorum: it is the time to wait for the rest once the quorum is in;"
                " pass quorum="
            )
        self.grace = 0.0 if grace is None else nonnegative("grace", grace)

    def check_evaluator(self, evaluator: Evaluator, workers: object, vectorized: bool) -> None:
        """Refuse a timeout or a quorum for evaluations that run while the run waits."""
        given = (("timeout", self.timeout), ("quorum", self.quorum))
        clocks = [f"{name}={short_repr(value)}" for name, value in given if value is not None]
        if clocks and not evaluator.asynchronous:
            how = f"workers={short_repr(workers)} evaluates while the run waits"
            if vectorized:
                how = "vectorized=True evaluates a round in one call"
            raise CapabilityError(
                f"{' and '.join(clocks)} can act only on evaluations that run in the background,"
                f" but {how}; pass workers='threads', a number of processes or an executor, or"
                " leave it out"
            )

    def decide(self, failure: FailedEvaluation) -> str:
        """One of "raise", "drop" and "retry"."""
        if not callable(self.on_error):
            return str(self.on_error)
        return one_of("the answer of on_error", self.on_error(failure), _ANSWERS)


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
