"""Why a run ended: an enumeration whose members carry their sentence."""

from __future__ import annotations

import enum


class Status(enum.IntEnum):
    """The status of a result; ``success`` is True for the four that mean convergence.

    The integer is stable, so that scripts may compare it; the sentence is ``member.message``.
    """

    message: str

    def __new__(cls, code: int, message: str) -> Status:  # noqa: D102
        member = int.__new__(cls, code)
        member._value_ = code
        member.message = message
        return member

    RUNNING = (-1, "The run is not finished.")
    GTOL = (0, "The largest gradient component is below gtol.")
    FTOL = (1, "The relative change of the value is below ftol.")
    XTOL = (2, "The relative change of the parameters is below xtol.")
    TARGET = (3, "The target value was reached.")
    MAXITER = (10, "The largest number of iterations was reached.")
    MAX_EVALS = (11, "The largest number of gradient evaluations was reached.")
    MAX_TIME = (12, "The time limit was reached.")
    STALLED = (13, "No lower value was found, however short the step.")
    CALLBACK = (20, "The callback asked to stop.")
    INTERRUPTED = (21, "The run was interrupted from the keyboard.")
    DIVERGED = (30, "The run diverged: the value or the gradient is not finite.")
    FAILED = (31, "The evaluation at the current iterate failed.")
    TOO_MANY_FAILURES = (32, "More evaluations failed than max_failures allows.")

    @property
    def success(self) -> bool:
        """True for gtol, ftol, xtol and target."""
        return 0 <= int(self) <= 3

    @property
    def key(self) -> str:
        """The key under which this status stands in ``result.stop``."""
        return self.name.lower()
