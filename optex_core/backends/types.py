"""Records that backends, optimizers and the model hand to each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from optex_core.types import Array

#: ``rule(xp)`` returns an elementwise function ``step(x, g, *slots, *scalars) -> (x, *slots)``
#: made of arithmetic and xp ufuncs only.
Rule: TypeAlias = Callable[[Any], Callable[..., tuple[Any, ...]]]
#: As `Backend.subspace_rollout` gives it.
SubspaceRolloutFunction: TypeAlias = Callable[..., int]


class Formula(NamedTuple):
    """A function of one number ``s`` as lines of Python."""

    lines: tuple[str, ...]  # assignments, in order
    result: str  # the name of the value
    scope: dict[str, object]  # the functions that the lines call, and `T`, float64
    name: str  # of the function


class PosteriorArrays(NamedTuple):
    """The surrogate of the gradient as arrays: all that compiled steps need of it.

    mu(x) is `Backend.predict` with w = base_weights + inverse_h0 B'B (center + sign kappa) and
    kappa_i = formula(inverse s_i), s_i the squared distance from x to row i.
    """

    X: Array  # (n, d)
    G: Array  # (n, d)
    anchor: int | None
    linear: bool  # the curvature may differ from 0
    curvature: float
    scale: Array | None  # (d,)
    distances_fn: Callable[[Array], np.ndarray] | None  # where only some coordinates count
    formula: Formula  # kappa
    inverse: float
    sign: float
    inverse_h0: float
    base_weights: np.ndarray  # float64, (n,)
    center: np.ndarray  # float64, (n,)
    eigen_factor: np.ndarray  # B: float64, (m, n)
    #: The squared distances at the first point, where they are cached.
    initial_distances_fn: Callable[[Array], np.ndarray] | None = None


class PredictedStep(NamedTuple):
    """One predicted step: mu where it began; the new point, the new state vectors and, if
    known, the squared distances from the new point to the rows.
    """

    mean: Array | None
    x: Array
    slots: tuple[Array, ...]
    distances: np.ndarray | None = None


#: Takes the next predicted step from where the one before ended; None where it leaves the finite
#: numbers. Called with True where mu is wanted; else it may be None. The arrays belong to the
#: caller: they are never written again, but the next step reads them.
FusedSteps: TypeAlias = Callable[[bool], PredictedStep | None]
