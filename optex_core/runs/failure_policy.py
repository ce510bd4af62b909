"""What is done about failed, slow and straggling evaluations, checked once at the door."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from optex_core._validation import callable_, integer, nonnegative, one_of, positive, short_repr
from optex_core.engine.records import FailedEvaluation
from optex_core.errors import ArgumentError, CapabilityError
from optex_core.execution.base import Evaluator

if TYPE_CHECKING:
    pass

logger = logging.getLogger("optex_core")


class FailurePolicy:
    """What to do with failures and stragglers, checked once."""

    def __init__(
        self,
        on_error: Any,
        max_retries: Any,
        max_failures: Any,
        timeout: Any,
        quorum: Any,
        grace: Any,
    ) -> None:
        if callable(on_error):
            callable_("on_error", on_error, "the failure")
        else:
            one_of("on_error", on_error, ("raise", "drop", "retry"))
        self.on_error = on_error
        self.max_retries = integer("max_retries", max_retries, low=0)
        self.max_failures = (
            None if max_failures is None else integer("max_failures", max_failures, low=0)
        )
        self.timeout = None if timeout is None else positive("timeout", timeout)
        self.quorum = None if quorum is None else integer("quorum", quorum, low=1)
        if grace is not None and quorum is None:
            raise ArgumentError(
                "grace needs quorum: it is the time to wait for the rest once the "
                "quorum is in; pass quorum="
            )
        self.grace = 0.0 if grace is None else nonnegative("grace", grace)

    def check_evaluator(self, evaluator: Evaluator, workers: Any, vectorized: bool) -> None:
        """Refuse clocks that the evaluator could not obey."""
        clocks = [
            f"{name}={short_repr(v)}"
            for name, v in (("timeout", self.timeout), ("quorum", self.quorum))
            if v is not None
        ]
        if clocks and not evaluator.asynchronous:
            how = (
                "vectorized=True evaluates a round in one call"
                if vectorized
                else f"workers={short_repr(workers)} evaluates while the run waits"
            )
            raise CapabilityError(
                f"{' and '.join(clocks)} can act only on evaluations that run in the "
                f"background, but {how}; "
                "pass workers='threads', a number of processes or an executor, or leave it out"
            )

    def decide(self, failure: FailedEvaluation) -> str:
        """raise, drop or retry."""
        if not callable(self.on_error):
            return self.on_error
        return one_of("the answer of on_error", self.on_error(failure), ("raise", "drop", "retry"))
