"""Stopping criteria as one frozen record, and their tests as pure functions of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from optex_core._validation import integer, nonnegative, real, reject_unknown_fields
from optex_core.engine.status import Status

#: Taken without any limit, and without any criterion of convergence.
DEFAULT_MAXITER, DEFAULT_GTOL = 1000, 1e-6


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
