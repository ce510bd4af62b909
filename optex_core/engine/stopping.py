"""Ends of a run: the criteria as one frozen record, and the status with its sentence."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

from optex_core._validation import integer, nonnegative, real, reject_unknown_fields

#: Taken without any limit, and without any criterion of convergence.
DEFAULT_MAXITER, DEFAULT_GTOL = 1000, 1e-6


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


@reject_unknown_fields
@dataclass(frozen=True, slots=True)
class Criteria:
    """The settings that may end a run; None means not asked for."""

    maxiter: int | None = None  # most iterations
    gtol: float | None = None  # max |g| <= gtol at theta_t (of the projected gradient)
    ftol: float | None = None  # |f_t - f_{t-1}| <= ftol max(|f_t|, |f_{t-1}|, 1)
    #: |theta_t - theta_{t-1}| <= xtol (xtol + |theta_t|), in units of x / x_scale.
    xtol: float | None = None
    target: float | None = None  # f_t <= target
    max_time: float | None = None  # seconds, on the driver's clock
    max_evals: int | None = None  # most gradient evaluations

    def __post_init__(self) -> None:
        if self.maxiter is not None:
            integer("maxiter", self.maxiter, low=0)
        if self.max_evals is not None:
            integer("max_evals", self.max_evals, low=1)
        for name in ("gtol", "ftol", "xtol", "max_time"):
            if getattr(self, name) is not None:
                nonnegative(name, getattr(self, name))
        if self.target is not None:
            real("target", self.target)

    def completed(self) -> Criteria:
        """Itself with the defaults of what was not given.

        Without gtol, ftol, xtol and target: gtol = 1e-6, whatever limits are given, as in SciPy.
        Without maxiter, max_time and max_evals: maxiter = 1000.
        """
        converges = (self.gtol, self.ftol, self.xtol, self.target)
        limits = (self.maxiter, self.max_time, self.max_evals)
        gtol = DEFAULT_GTOL if all(one is None for one in converges) else self.gtol
        maxiter = DEFAULT_MAXITER if all(one is None for one in limits) else self.maxiter
        return replace(self, gtol=gtol, maxiter=maxiter)

    def at_iterate(self, value: float, previous: float, gradient_norm: float) -> dict[str, float]:
        """The criteria that fire at an evaluated theta_t; nan values fire nothing."""
        fired: dict[str, float] = {}
        if self.gtol is not None and gradient_norm <= self.gtol:
            fired["gtol"] = self.gtol
        if self.ftol is not None and abs(value - previous) <= self.ftol * max(
            abs(value), abs(previous), 1.0
        ):
            fired["ftol"] = self.ftol
        if self.target is not None and value <= self.target:
            fired["target"] = self.target
        return fired

    def at_step(self, step: float, size: float, iterations: int) -> dict[str, float]:
        """The criteria that fire when theta has advanced by `step` = |theta_t - theta_{t-1}| to
        `size` = |theta_t|.
        """
        fired: dict[str, float] = {}
        if self.xtol is not None and step <= self.xtol * (self.xtol + size):
            fired["xtol"] = self.xtol
        if self.maxiter is not None and iterations >= self.maxiter:
            fired["maxiter"] = self.maxiter
        return fired


def status_of(reasons: Mapping[str, object]) -> Status:
    """The status for the reasons that ended a run: a convergence before a budget, in the order of
    the enumeration.
    """
    members = [Status[name.upper()] for name in reasons]
    return min(members) if members else Status.RUNNING
