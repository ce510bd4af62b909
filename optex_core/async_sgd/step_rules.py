"""Step rules of the master: the outer step eta of a push, from the version and the staleness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optex_core._validation import callable_, nonnegative, positive, real, short_repr
from optex_core.engine.settings_spec import REGISTRIES
from optex_core.errors import ArgumentError, ArgumentTypeError

#: A rule gives eta >= 0 for a push of the given staleness at the given version.
StepRule = Callable[[int, int], float]


@dataclass(frozen=True)
class ConstantStep:
    """eta = `eta` > 0: with 1 the master moves as the worker did."""

    eta: float = 1.0

    def __post_init__(self) -> None:
        positive("eta", self.eta)

    def __call__(self, version: int, delay: int) -> float:
        return float(self.eta)


@dataclass(frozen=True)
class DecayingStep:
    """eta = first (1 + version / tau0)^(-kappa), the Robbins-Monro steps of stochastic variational
    inference.

    Hoffman, Blei, Wang, Paisley, JMLR 2013, equation 26, has the form (t + tau)^(-kappa). Sums of
    eta diverge and of eta^2 converge for kappa in (0.5, 1].
    """

    first: float = 1.0  # at version 0
    tau0: float = 1.0  # versions during which little changes, above 0
    kappa: float = 0.5  # in [0, 1]

    def __post_init__(self) -> None:
        positive("first", self.first)
        positive("tau0", self.tau0)
        real("kappa", self.kappa, low=0.0, high=1.0)

    def __call__(self, version: int, delay: int) -> float:
        return float(self.first * (1.0 + version / self.tau0) ** -self.kappa)


@dataclass(frozen=True)
class DelayAdaptiveStep:
    """eta = rule(version, delay) min(1, c / (delay + 1)): a stale push moves the master less.

    The form is the common one of delay-adaptive asynchronous SGD. With c = D + 1 nothing changes up
    to the staleness D. `rule` is a number or a callable, too.
    """

    c: float = 1.0
    rule: Any = 1.0

    def __post_init__(self) -> None:
        positive("c", self.c)
        object.__setattr__(self, "rule", as_step_rule(self.rule, "rule"))

    def __call__(self, version: int, delay: int) -> float:
        return float(self.rule(version, delay)) * min(1.0, self.c / (delay + 1.0))


#: The rules that a file can hold by name.
REGISTRIES["step_rule"] = {
    "constant": ConstantStep,
    "decaying": DecayingStep,
    "delay_adaptive": DelayAdaptiveStep,
}


def as_step_rule(step: Any, name: str = "step") -> StepRule:
    """A rule from a number, a `StepRule`, or any callable (version, delay) -> eta."""
    if isinstance(step, type):
        raise ArgumentTypeError(
            f"{name} must be a number or a rule, got the class {step.__name__}; write "
            f"{step.__name__}(...)"
        )
    if callable(step):
        rule: StepRule = callable_(name, step, "version", "delay")
        return rule
    try:
        return ConstantStep(float(positive(name, step)))
    except ArgumentTypeError as error:
        raise ArgumentTypeError(
            f"{name} must be a number or a callable (version, delay) -> eta, got {short_repr(step)}"
        ) from error


def evaluate_step(rule: StepRule, version: int, delay: int) -> float:
    """The checked value of `rule`."""
    try:
        return nonnegative("eta", rule(version, delay))
    except (ArgumentError, ArgumentTypeError) as error:
        raise ArgumentError(
            f"the step rule gave no step for version {version} and delay {delay}: {error}"
        ) from error
