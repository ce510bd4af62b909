"""The settings of a run, checked once at the door, and the forms in which users may give them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from optex_core._validation import integer, reals, short_repr
from optex_core.backends import float_array, is_cupy
from optex_core.backends.base import Backend
from optex_core.backends.blas_threads import MAX_ROWS_UNTHREADED
from optex_core.engine.stopping import Criteria
from optex_core.errors import ArgumentError, ArgumentTypeError, CapabilityError
from optex_core.model.estimator import GradientEstimator
from optex_core.model.history import History
from optex_core.model.kriging import lapack
from optex_core.optimizers.lbfgs import LBFGS
from optex_core.optimizers.schedules import StatefulSchedule
from optex_core.strategies.auto import Auto
from optex_core.strategies.base import Strategy, get_strategy
from optex_core.strategies.lookahead import Lookahead
from optex_core.types import Array, FirstOrderOptimizer


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides a run besides the gradients."""

    optimizer: FirstOrderOptimizer  # as the user gave it, without the projection that bounds add
    parallelism: int
    strategy: Strategy
    estimator: GradientEstimator  # with `history` and `mean` filled in
    criteria: Criteria
    seed: int  # the run's seed
    #: shape (d,), or None: bounds.
    low: Array | None = None
    high: Array | None = None
    scale: Array | None = None  # shape (d,), or None: units of the parameters
    tag: str | None = None  # the user's name of the problem; a saved run of another tag is refused


@dataclass(frozen=True, slots=True)
class BoxConstraints:
    """low <= x <= high, or no bounds at all."""

    low: Array | None  # shape (d,), or None
    high: Array | None
    backend: Backend

    def project(self, x: Array) -> Array:
        """P(x), the point of the box that is nearest to `x`; `x` itself without bounds."""
        if self.low is None or self.high is None:
            return x
        return self.backend.clip(x, self.low, self.high)

    def gradient_norm(self, x: Array, g: Array) -> float:
        """max |g|; under bounds that of the projected gradient x - P(x - g)."""
        return self.backend.max_abs(g if self.low is None else x - self.project(x - g))


def make_history(settings: Settings, d: int, dtype: np.dtype, backend: Backend) -> History:
    """An empty history as these settings want it, for `d` parameters; ArgumentError where it does
    not fit into memory.
    """
    e = settings.estimator
    dims = None
    if e.kernel_dims is not None:
        # A stream of its own: no (iteration, slot) of an evaluation has three entries.
        rng = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(0, 0, 1)))
        dims = np.sort(rng.choice(d, e.kernel_dims, replace=False))
    assert e.history is not None
    if e.history > MAX_ROWS_UNTHREADED:
        lapack()  # before BLAS libraries are held at one thread
    eager_pairs = e.tune == "likelihood" and e.mean == "linear" and e.every == 1
    try:
        return History(
            e.history, d, dtype, backend, scale=settings.scale, dims=dims, eager_pairs=eager_pairs
        )
    except (MemoryError, ValueError, OverflowError) as error:
        # ValueError: NumPy's, for sizes beyond any address; Decimal: integers of any length.
        size = Decimal(2 * e.history * d * dtype.itemsize + 24 * e.history**2) / 10**9
        raise ArgumentError(
            f"a history of {short_repr(e.history)} rows takes {size:.3g} GB, more than there is; "
            "pass a smaller parallelism, or estimator=GradientEstimator(history=...)"
        ) from error


def as_x0(x0: Any) -> Array:
    """`x0` as a finite vector of float32 or float64, shape (d,), d >= 1, not copied; scalars become
    length 1, integers float64.
    """
    if x0 is None:
        raise ArgumentTypeError("x0 must be a vector of numbers, got None")
    x = float_array("x0", x0)
    x = x.reshape(1) if x.ndim == 0 else x
    if x.ndim != 1 or not x.size:
        raise ArgumentError(
            f"x0 must have shape (d,) with d >= 1, got shape {x.shape}; pass "
            f"x0.ravel(), or see optex_core.flatten for trees of arrays"
        )
    if not bool(np.isfinite(x).all()):
        bad = int((~np.isfinite(x)).argmax())
        raise ArgumentError(f"x0 must be finite, got {float(x[bad])} at index {bad}")
    return x


def choose_strategy(strategy: str | Strategy, optimizer: FirstOrderOptimizer) -> Strategy:
    """The strategy that is given; for "auto" with `LBFGS` as it is, `Lookahead`."""
    chosen = get_strategy(strategy)
    if not callable(chosen.averages_gradients):
        raise ArgumentTypeError(
            f"averages_gradients of strategy {chosen.name!r} must be a method of the strategy's"
            f" state that returns a bool, got {chosen.averages_gradients!r}"
        )
    if isinstance(chosen, Auto) and optimizer == LBFGS():
        return Lookahead()
    if not (chosen.any_optimizer or optimizer == LBFGS()):
        raise CapabilityError(
            f"strategy {chosen.name!r} takes L-BFGS steps of its own, not those of "
            f"{optimizer!r}; leave out optimizer=, or take another strategy"
        )
    return chosen


def resolve_seed(rng: object) -> int:
    """The run's seed from None (drawn), an int, a SeedSequence or a Generator (drawn from it)."""
    if rng is None:
        # 63 bits: fits every file format, and two runs in a thousand million share one with a
        # chance of 1e-10.
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0] >> 1)
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**63 - 1))
    if isinstance(rng, np.random.SeedSequence):
        return int(rng.generate_state(1, np.uint64)[0] >> 1)
    return integer("rng", rng, low=0)


def resolve_rng(rng: object) -> np.random.Generator:
    """The given generator, or one with the seed that `resolve_seed` makes of anything else."""
    return rng if isinstance(rng, np.random.Generator) else np.random.default_rng(resolve_seed(rng))


def as_bounds(bounds: Any, x: Array, backend: Backend) -> tuple[Array | None, Array | None]:
    """(low, high), each of shape (d,) and dtype of x, from `scipy.optimize.Bounds` or pairs (low,
    high) with None for no bound.

    In float32 they lie within the bounds given; where no number of float32 does, each is the one
    nearest to what was given.
    """
    if bounds is None:
        return None, None
    d = len(x)
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        low, high = bounds.lb, bounds.ub
    else:
        try:
            pairs = list(bounds)
            low = [-np.inf if a is None else a for a, _ in pairs]
            high = [np.inf if b is None else b for _, b in pairs]
        except (TypeError, ValueError) as error:
            raise ArgumentTypeError(
                f"bounds must be scipy.optimize.Bounds or {d} pairs (low, high), got "
                f"{short_repr(bounds)}"
            ) from error
        if len(low) != d:
            raise ArgumentError(
                f"bounds must be {d} pairs (low, high), one for each parameter, got {len(low)}"
            )
    try:
        low, high = (np.broadcast_to(reals(side), (d,)) for side in (low, high))
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"bounds must be numbers that fit {d} parameters: {error}") from error
    crossed = ~(low <= high)
    if crossed.any():
        i = int(crossed.argmax())
        raise ArgumentError(
            f"bounds must have low <= high, got ({low[i]}, {high[i]}) for parameter {i}"
        )
    low, high = _within(low, high, x.dtype)
    start = backend.to_host(x)
    outside = (low > start) | (high < start)
    if outside.any():
        warnings.warn(
            f"x0 lies outside the bounds in {int(outside.sum())} of {d} parameters "
            f"(first: {int(outside.argmax())}); it is clipped to them",
            RuntimeWarning,
            stacklevel=4,
        )
    return backend.copy_in(low, x.dtype), backend.copy_in(high, x.dtype)


def _within(low: np.ndarray, high: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Bounds in `dtype`, moved inwards by one number where the cast went outwards."""
    if dtype == low.dtype:
        return low, high
    up, down = dtype.type(np.inf), dtype.type(-np.inf)
    # 1e300 becomes inf, which is moved back to the largest number
    with np.errstate(over="ignore", under="ignore"):
        near, far = low.astype(dtype), high.astype(dtype)
        inside = (
            np.where(near < low, np.nextafter(near, up), near),
            np.where(far > high, np.nextafter(far, down), far),
        )
    empty = inside[0] > inside[1]
    return np.where(empty, near, inside[0]), np.where(empty, far, inside[1])


def as_scale(x_scale: Any, x: Array, backend: Backend) -> Array | None:
    """x_scale as an array of shape (d,), dtype of x0, or None; a number is the same for all."""
    if x_scale is None:
        return None
    try:
        scale = np.broadcast_to(
            reals(backend.to_host(x_scale) if is_cupy(x_scale) else x_scale), (len(x),)
        )
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"x_scale must be a positive number or {len(x)} of them, got {short_repr(x_scale)}"
        ) from error
    wrong = ~(np.isfinite(scale) & (scale > 0))
    if wrong.any():
        raise ArgumentError(f"x_scale must be positive and finite, got {float(scale[wrong][0])}")
    return backend.copy_in(scale, x.dtype)


def value_consumers(settings: Settings) -> list[str]:
    """What in these settings reads values, so that a gradient-only oracle is refused."""
    needs = [name for name in ("ftol", "target") if getattr(settings.criteria, name) is not None]
    if settings.strategy.needs_values:
        needs.append(f"strategy {settings.strategy.name!r}")
    for part in iter_parts(settings.optimizer, set()):
        if getattr(part, "needs_value", False):
            needs.append(f"optimizer {type(part).__name__}")
        if isinstance(part, StatefulSchedule):
            needs.append(f"schedule {type(part).__name__}")
    return needs


def iter_parts(part: object, seen: set[int]) -> Iterator[object]:
    """`part`, and the optimizers and schedules in its fields or attributes, at any depth."""
    if id(part) in seen:
        return
    seen.add(id(part))
    yield part
    held = (
        [getattr(part, f.name) for f in fields(part)]
        if is_dataclass(part)
        else list(getattr(part, "__dict__", {}).values())
    )
    for inner in held:
        if isinstance(inner, (StatefulSchedule, FirstOrderOptimizer)) or (
            is_dataclass(inner) and callable(inner)
        ):
            yield from iter_parts(inner, seen)
