"""What the checks of optimizers are given: an optimizer, what it declares, and its path."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from optex_core._validation import short_repr
from optex_core.errors import ArgumentTypeError
from optex_core.optimizers._on_backend import bind_optimizer
from optex_core.optimizers.base import OPTIMIZERS, ElementwiseOptimizer, Optimizer
from optex_core.testing import hypothesis_strategies as st
from optex_core.testing.check_suite import CheckSuite
from optex_core.testing.reference import steps as reference_steps
from optex_core.types import Array, FirstOrderOptimizer

#: A rate for classes that have no default.
RATE = 0.05
#: Steps of a path: the first alone would hide what the state does; beyond five RAdam takes its
#: second moment in.
STEPS = 8

#: x0 and gradients -> the points that follow.
Reference = Callable[[Array, np.ndarray], ArrayLike]


@dataclass(frozen=True)
class OptimizerSubject:
    """An optimizer and what it declares."""

    make: Callable[[], FirstOrderOptimizer]
    reference: Reference | None
    d: int | None

    @property
    def optimizer(self) -> Any:
        return self.make()

    @property
    def length(self) -> int:
        return self.d or 5

    @property
    def sizes(self) -> st.Strategy[int]:
        return st.just(self.d) if self.d else st.integers(1, 5)

    @property
    def elementwise(self) -> bool:
        declared = bool(getattr(self.optimizer, "elementwise", False))
        return isinstance(self.optimizer, ElementwiseOptimizer) or declared

    @property
    def decays(self) -> bool:
        return any(bool(getattr(part, "decay", 0.0)) for part in _nested(self.optimizer))

    @property
    def scheduled(self) -> bool:
        fields = getattr(self.optimizer, "__dataclass_fields__", {})
        return "learning_rate" in fields

    def formula(self, optimizer: FirstOrderOptimizer) -> Reference | None:
        """The reference implementation of `optimizer`, where one is known."""
        if self.reference or getattr(optimizer, "name", None) not in reference_steps.RULES:
            return self.reference
        return lambda x0, gradients: reference_steps.optimizer_path(optimizer, x0, gradients)


def _nested(optimizer: object) -> list[object]:
    inner = getattr(optimizer, "optimizer", None)
    return [optimizer, *([] if inner is None else _nested(inner))]


def prepare_optimizer(
    factory: str | Callable[..., Any] | FirstOrderOptimizer,
    *,
    reference: Reference | None = None,
    d: int | None = None,
) -> tuple[str, OptimizerSubject]:
    """Check an optimizer, built in or one's own.

    Parameters
    ----------
    factory : str, class, object or callable
        A registered name, an optimizer class, an optimizer, or a function that makes one. Anything
        with ``init(x)`` and ``step(x, g, state)``.
    reference : callable, optional
        ``reference(x0, gradients) -> points``, shapes (d,), (steps, d), (steps, d): the formula
        written plainly, to follow. Built-in optimizers have theirs in
        `optex_core.testing.reference.steps`.
    d : int, optional
        The number of parameters, for optimizers that work with one only; by default 1 to 5.

    Examples
    --------
    >>> from optex_core.testing import check_optimizer
    >>> class Descent:
    ...     def init(self, x):
    ...         return None
    ...     def step(self, x, g, state):
    ...         return x - 0.1 * g, state
    >>> check_optimizer(Descent()).ok
    True
    """
    kind = OPTIMIZERS[factory] if isinstance(factory, str) else factory
    make: Callable[[], Any]
    if isinstance(kind, type):
        make = lambda: _with_rate(kind)  # noqa: E731
    elif isinstance(kind, FirstOrderOptimizer):
        make = lambda: kind  # noqa: E731
    elif callable(kind):
        make = kind
    else:
        raise ArgumentTypeError(
            f"check_optimizer takes an optimizer, its class, its name or a function "
            f"that makes one, got {short_repr(factory)}"
        )
    made = make()
    if not isinstance(made, FirstOrderOptimizer):
        raise ArgumentTypeError(
            f"an optimizer has init(x) and step(x, g, state), got {short_repr(made)}"
        )
    label = repr(made) if isinstance(made, Optimizer) else type(made).__name__
    return factory if isinstance(factory, str) else label, OptimizerSubject(make, reference, d)


def _with_rate(kind: Callable[..., Any]) -> Any:
    try:
        return kind()
    except TypeError:
        return kind(RATE)


SUITE = CheckSuite("optimizer", prepare_optimizer, lambda: list(OPTIMIZERS))


def sample_gradients(d: int, steps: int = STEPS, seed: int = 0) -> list[np.ndarray]:
    """Gradients of shape (d,), the same for the same seed."""
    return list(np.random.default_rng(seed).normal(size=(steps, d)))


def sample_start(d: int, dtype: DTypeLike = np.float64) -> Array:
    """Parameters of both signs."""
    return np.linspace(-1.0, 2.0, d).astype(dtype) if d > 1 else np.array([1.5], dtype)


def step_path(
    optimizer: FirstOrderOptimizer, x: Array, gradients: Iterable[np.ndarray]
) -> list[tuple[Array, object]]:
    """Points and states after 0, 1, ... steps."""
    bound = bind_optimizer(optimizer)
    path = [(x, bound.init(x))]
    for g in gradients:
        x, state = path[-1]
        path.append(bound.step(x, g, state))
    return path
