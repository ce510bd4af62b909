"""One way to call any optimizer: built-in ones, wrappers, and users' objects that have only
``init(x)`` and ``step(x, g, state)``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import FunctionType, MethodType
from typing import Protocol

from optex_core.backends import for_array
from optex_core.backends.base import Backend
from optex_core.backends.types import FusedSteps, PosteriorArrays
from optex_core.errors import ArgumentTypeError
from optex_core.optimizers.base import Optimizer, UnrolledSteps
from optex_core.types import Array, FirstOrderOptimizer


class HasPosteriorArrays(Protocol):
    """A surrogate of the gradient that may be known as arrays."""

    def export_arrays(self) -> PosteriorArrays | None:
        """The arrays; None where they do not say all."""


_OPTIONAL = ("value", "trusted", "backend")


@dataclass(frozen=True, slots=True)
class OptimizerOnBackend:
    """An optimizer with the array library that its steps are computed with."""

    optimizer: FirstOrderOptimizer
    backend: Backend | None  # None: the plain one of the library of x
    init_keywords: frozenset[str]  # which of `_OPTIONAL` the methods declare
    step_keywords: frozenset[str]

    @property
    def affine(self) -> bool:
        """True if the step declares that it is affine in x, g and the state vectors."""
        return bool(getattr(self.optimizer, "affine", False))

    def unroll(self, state: object, steps: int) -> UnrolledSteps | None:
        """As `Optimizer.unroll`; None for a user's object."""
        if not isinstance(self.optimizer, Optimizer):
            return None
        return self.optimizer.unroll(state, steps)

    def init(self, x: Array) -> object:
        """The state before the first step; `x` has shape (d,)."""
        if isinstance(self.optimizer, Optimizer):
            return self.optimizer.init(x, backend=self.backend)
        backend = self.backend or for_array(x)
        keywords = {"backend": backend} if "backend" in self.init_keywords else {}
        return self.optimizer.init(backend.read_only(x), **keywords)

    def step(
        self, x: Array, g: Array, state: object, *, value: float = math.nan, trusted: bool = True
    ) -> tuple[Array, object]:
        """The next parameters, shape (d,), dtype of `x`, and the next state.

        A user's object gets read-only views. What it returns is checked and copied: it may keep its
        buffer for the next step.

        Raises
        ------
        ArgumentTypeError
            If a user's object returns something else than (parameters of the shape of `x`, state).
        """
        if isinstance(self.optimizer, Optimizer):
            return self.optimizer.step(
                x, g, state, value=value, trusted=trusted, backend=self.backend
            )
        backend = self.backend or for_array(x)
        given = {"value": value, "trusted": trusted, "backend": backend}
        keywords = {name: given[name] for name in self.step_keywords}
        result = self.optimizer.step(backend.read_only(x), backend.read_only(g), state, **keywords)
        name = type(self.optimizer).__name__
        if not isinstance(result, tuple) or len(result) != 2:
            raise ArgumentTypeError(
                f"{name}.step must return (x, state), got {type(result).__name__}"
            )
        new, state = result
        if getattr(new, "shape", None) != x.shape:
            found = f"shape {new.shape}" if hasattr(new, "shape") else type(new).__name__
            raise ArgumentTypeError(
                f"{name}.step must return parameters of shape {x.shape}, got {found}"
            )
        return backend.copy_in(new, x.dtype), state

    def fused_steps(
        self, estimate: HasPosteriorArrays, x: Array, state: object, steps: int
    ) -> tuple[FusedSteps, Callable[[int, tuple[Array, ...]], object]] | None:
        """At most `steps` predicted steps as `Backend.fused_steps` takes them, and
        `UnrolledSteps.state_after`; None where they have to be taken one by one.
        """
        backend = self.backend
        if backend is None or type(backend).fused_steps is Backend.fused_steps or steps < 1:
            return None
        posterior = estimate.export_arrays()
        ahead = None if posterior is None else self.unroll(state, steps)
        if posterior is None or ahead is None:
            return None
        fused = backend.fused_steps(ahead.rule, posterior, x, ahead.slots, ahead.scalars)
        return None if fused is None else (fused, ahead.state_after)


def bind_optimizer(
    optimizer: FirstOrderOptimizer, backend: Backend | None = None
) -> OptimizerOnBackend:
    """Bind `optimizer` to `backend`."""
    init, step = _optional_keywords(optimizer.init), _optional_keywords(optimizer.step)
    return OptimizerOnBackend(optimizer, backend, init, step)


def _optional_keywords(method: Callable[..., object]) -> frozenset[str]:
    # Wrappers bind in every step, and reading a signature takes 10 us: functions are looked up.
    if isinstance(method, MethodType):
        method = method.__func__
    return _cached_keywords(method) if isinstance(method, FunctionType) else _read_keywords(method)


def _read_keywords(function: Callable[..., object]) -> frozenset[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # compiled code may have no signature
        return frozenset()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return frozenset(_OPTIONAL)
    named = [p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY]
    return frozenset(_OPTIONAL).intersection(named)


_cached_keywords = lru_cache(maxsize=256)(_read_keywords)
