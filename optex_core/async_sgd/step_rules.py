"""Step rules of the master: the part eta of the way that a push moves it, from the version and the
delay.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optex_core._validation import callable_, nonnegative, positive, real, short_repr
from optex_core.errors import ArgumentError, ArgumentTypeError


class StepRule(ABC):
    """eta = rule(version, delay) for one push; frozen settings, no state. Any callable of the two
    integers is one.
    """

    @abstractmethod
    def __call__(self, version: int, delay: int) -> float:
        """The outer step for a push of the given delay, applied at the given version; 0 or more."""


@dataclass(frozen=True)
class ConstantStep(StepRule):
    """eta = `eta`: with 1 the master moves as the worker did.

    Parameters
    ----------
    eta : float, default 1.0
        Above 0.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        positive("eta", self.eta)

    def __call__(self, version: int, delay: int) -> float:
        return float(self.eta)


@dataclass(frozen=True)
class DecayingStep(StepRule):
    """eta = first (1 + version / tau0)^(-kappa), the Robbins-Monro steps of stochastic variational
    inference.

    Parameters
    ----------
    first : float, default 1.0
        At version 0.
    tau0 : float, default 1.0
        Versions during which little changes, above 0.
    kappa : float, default 0.5
        In [0, 1]; sums of eta diverge and of eta^2 converge for kappa in (0.5, 1].

    References
    ----------
    Hoffman, Blei, Wang, Paisley, Stochastic variational inference, JMLR 2013, equation 26 has the
    form (t + tau)^(-kappa).
    """

    first: float = 1.0
    tau0: float = 1.0
    kappa: float = 0.5

    def __post_init__(self) -> None:
        positive("first", self.first)
        positive("tau0", self.tau0)
        real("kappa", self.kappa, low=0.0, high=1.0)

    def __call__(self, version: int, delay: int) -> float:
        return float(self.first * (1.0 + version / self.tau0) ** -self.kappa)


@dataclass(frozen=True)
class DelayAdaptiveStep(StepRule):
    """eta = rule(version, delay) min(1, c / (delay + 1)): a push that is late moves the master
    less.

    Parameters
    ----------
    c : float, default 1.0
        Delays up to c - 1 change nothing.
    rule : float or callable, default 1.0
        What is adapted.

    Notes
    -----
    The form is the common one of delay-adaptive asynchronous SGD; its choice of c is ours: with c =
    D + 1 nothing changes up to the delay D that a run was tuned for.
    """

    c: float = 1.0
    rule: Any = 1.0

    def __post_init__(self) -> None:
        positive("c", self.c)
        object.__setattr__(self, "rule", as_step_rule(self.rule, "rule"))

    def __call__(self, version: int, delay: int) -> float:
        return float(self.rule(version, delay)) * min(1.0, self.c / (delay + 1.0))


def as_step_rule(step: Any, name: str = "step") -> Callable[[int, int], float]:
    """A rule from what users write: a number, a `StepRule`, or any callable (version, delay) ->
    eta.
    """
    if isinstance(step, type):
        raise ArgumentTypeError(
            f"{name} must be a number or a rule, got the class {step.__name__}; write "
            f"{step.__name__}(...)"
        )
    if callable(step):
        rule: Callable[[int, int], float] = callable_(name, step, "version", "delay")
        return rule
    try:
        return ConstantStep(float(positive(name, step)))
    except ArgumentTypeError as error:
        raise ArgumentTypeError(
            f"{name} must be a number or a callable (version, delay) -> eta, got {short_repr(step)}"
        ) from error


def evaluate_step(rule: Callable[[int, int], float], version: int, delay: int) -> float:
    """The checked value of `rule`."""
    try:
        return nonnegative("eta", rule(version, delay))
    except (ArgumentError, ArgumentTypeError) as error:
        raise ArgumentError(
            f"the step rule gave no step for version {version} and delay {delay}: {error}"
        ) from error
