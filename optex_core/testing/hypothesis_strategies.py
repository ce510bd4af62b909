"""Hypothesis strategies that shrink to what a person can read."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Literal, TypeVar

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import DTypeLike

from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.model.kernels.base import KERNELS, Kernel
from optex_core.optimizers.base import OPTIMIZERS
from optex_core.optimizers.schedules import SCHEDULES, StatefulSchedule
from optex_core.testing.sample_objectives import (
    FAULTS,
    FaultyObjective,
    NoisyObjective,
    SmoothObjective,
)

Strategy = st.SearchStrategy
T = TypeVar("T")
#: Hypothesis' own, for what needs no more than numbers.
booleans, integers, floats, sampled_from = st.booleans, st.integers, st.floats, st.sampled_from
just, lists, one_of, sets, tuples = st.just, st.lists, st.one_of, st.sets, st.tuples

SIZES, COUNTS, RATES = st.integers(1, 6), st.integers(1, 8), st.floats(2.0**-10, 0.25)


def _drawn(draw: st.DrawFn, value: T | Strategy[T]) -> T:
    """`value`, drawn if it is a strategy."""
    return draw(value) if isinstance(value, Strategy) else value


def numbers(
    magnitude: float = 1e3, *, smallest: float = 0.0, dtype: DTypeLike = np.float64
) -> Strategy[float]:
    """Finite floats of `dtype` up to `magnitude`; zero, or at least `smallest` in size, which keeps
    squares from underflowing. No subnormal ones: devices that flush them to zero would fail for no
    fault of theirs.
    """
    width: Literal[32, 64] = 32 if np.dtype(dtype) == np.float32 else 64
    low, high = (float(np.array(size, dtype)) for size in (smallest, magnitude))
    if not smallest:
        return st.floats(-high, high, allow_subnormal=False, width=width)
    sizes = st.floats(low, high, width=width)
    return st.one_of(st.just(0.0), sizes, sizes.map(lambda v: -v))


@st.composite
def vectors(
    draw: st.DrawFn,
    d: int | Strategy[int] = SIZES,
    *,
    dtype: type | Strategy[type] = np.float64,
    magnitude: float = 1e3,
    smallest: float = 1e-6,
) -> np.ndarray:
    """Vectors of length `d` with entries as `numbers`, shrinking entry by entry to zeros."""
    d, dtype = _drawn(draw, d), _drawn(draw, dtype)
    x: np.ndarray = draw(
        arrays(dtype, d, elements=numbers(magnitude, smallest=smallest, dtype=dtype))
    )
    return x


@st.composite
def quadratics(
    draw: st.DrawFn, d: int | Strategy[int] = SIZES, *, condition: float = 100.0
) -> SmoothObjective:
    """Quadratics with eigenvalues in [1 / condition, 1] and a centre, by choice reflected."""
    d = int(_drawn(draw, d))
    weights = draw(arrays(np.float64, d, elements=st.floats(1 / condition, 1.0)))
    centre = draw(arrays(np.float64, d, elements=st.integers(-3, 3).map(float)))
    mirrors = arrays(np.float64, d, elements=st.integers(-2, 2).map(float)).filter(np.any)
    mirror = draw(st.none() | mirrors) if d > 1 else None
    return SmoothObjective("quadratic", weights, centre, mirror)


@st.composite
def smooth_objectives(
    draw: st.DrawFn, d: int | Strategy[int] = SIZES, *, condition: float = 100.0
) -> SmoothObjective:
    """`SmoothObjective`: convex, with known gradient, minimum and Lipschitz constant."""
    base = draw(quadratics(d, condition=condition))
    return dataclasses.replace(base, shape=draw(st.sampled_from(SmoothObjective.SHAPES)))


@st.composite
def noisy_objectives(
    draw: st.DrawFn, d: int | Strategy[int] = SIZES, *, level: float = 1.0
) -> NoisyObjective:
    """A smooth objective whose gradient has noise of up to `level`, drawn from ``seed``."""
    return NoisyObjective(draw(smooth_objectives(d)), draw(st.floats(0.0, level)))


@st.composite
def faulty_objectives(
    draw: st.DrawFn, d: int | Strategy[int] = SIZES, *, kinds: tuple[str, ...] = FAULTS
) -> FaultyObjective:
    """A smooth objective that misbehaves at some calls in one of `kinds`."""
    calls = tuple(sorted(draw(st.sets(st.integers(0, 12), min_size=1, max_size=4))))
    return FaultyObjective(draw(smooth_objectives(d)), draw(st.sampled_from(kinds)), calls)


@st.composite
def histories(
    draw: st.DrawFn,
    rows: int | Strategy[int] = COUNTS,
    d: int | Strategy[int] = SIZES,
    *,
    dtype: DTypeLike = np.float64,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (X, G) of shape (n, d): close, repeated, on a line, far from the origin, or any."""
    n, d = int(_drawn(draw, rows)), int(_drawn(draw, d))
    elements = numbers(8.0, smallest=2.0**-10, dtype=dtype)
    X, G = (draw(arrays(dtype, (n, d), elements=elements)) for _ in range(2))
    kind = draw(st.sampled_from(("any", "close", "repeated", "collinear", "far")))
    if kind == "close":
        X = X[:1] + 2.0**-20 * X
    elif kind == "repeated" and n > 1:
        i, j = draw(st.integers(0, n - 1)), draw(st.integers(0, n - 1))
        X[i], G[i] = X[j], G[j]
    elif kind == "collinear":
        X = X[:1] + np.arange(n)[:, None] * X[-1:]
    elif kind == "far":
        X = X + 1e3
    return X.astype(dtype), G.astype(dtype)


def _field(hint: object, default: object) -> Strategy | None:
    """Plausible values of a setting, from its type and default; None where nobody can guess."""
    if isinstance(default, bool):
        return st.booleans()
    if isinstance(default, float) and 0.0 < default < 0.5:  # a small number such as eps
        return st.just(default)
    if isinstance(default, float):
        # a decay rate or a momentum; from one half on, since a variance of one sample is zero and
        # divides
        others = st.floats(0.5, 0.96875) if default < 1.0 else st.floats(2.0**-4, 16.0)
        return st.one_of(st.just(default), others)
    kinds = {part for part in (*typing.get_args(hint), hint) if isinstance(part, type)}
    if isinstance(default, int) or (int in kinds and float not in kinds):
        return st.integers(1, 8)
    return RATES if float in kinds or "rate" in str(hint).lower() else None


@st.composite
def _made(draw: st.DrawFn, kind: type[T], given: Mapping[str, Strategy]) -> T:
    """An object of a registered class with settings that it takes."""
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    hints = typing.get_type_hints(kind) if fields else {}
    values = {}
    for f in fields:
        default = f.default if f.default is not dataclasses.MISSING else None
        value = given[f.name] if f.name in given else _field(hints.get(f.name), default)
        if f.init and value is not None:
            values[f.name] = value
    try:
        return kind(**{name: draw(value) for name, value in values.items()})
    except (ArgumentError, ArgumentTypeError, TypeError):
        assume(False)  # noqa: PT015  (Hypothesis' word for: draw another)


def kernels() -> Strategy[Kernel]:
    """Every registered kernel, with its settings."""
    return st.sampled_from(list(KERNELS)).flatmap(lambda name: _made(KERNELS[name], {}))


def schedules() -> Strategy:
    """Every registered schedule that a rate and numbers make."""
    inner = {"schedule": RATES, "rates": st.lists(RATES, min_size=2, max_size=2).map(tuple)}
    made = st.sampled_from(list(SCHEDULES)).flatmap(lambda name: _made(SCHEDULES[name], inner))
    return made.filter(lambda s: callable(s) or isinstance(s, StatefulSchedule))


def optimizers(*, names: tuple[str, ...] | None = None, rates: Strategy = RATES) -> Strategy:
    """Every registered optimizer (or those of `names`) with its settings."""
    given = {"learning_rate": rates}
    kinds = st.sampled_from(list(names or OPTIMIZERS))
    return kinds.flatmap(lambda name: _made(OPTIMIZERS[name], given))


def optimizer_settings(kind: type) -> Strategy:
    """Objects of one optimizer class, with its settings."""
    return _made(kind, {"learning_rate": RATES})


def orders(n: int | Strategy[int] = COUNTS) -> Strategy[tuple[int, ...]]:
    """Orders in which n evaluations may complete, shrinking to 0, 1, 2, ..."""
    if isinstance(n, Strategy):
        return n.flatmap(orders)
    return st.permutations(range(n)).map(tuple)
