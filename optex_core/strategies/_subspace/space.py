"""Predictions on coefficients, where optimizer steps are affine and the history is large.

Predicted points, gradients and states are sums of the vectors of a `SubspaceBasis`, and the
optimizer's own step runs on their coefficients. `materialize` makes arrays of what is evaluated, in
one pass over the histories. Steps with true gradients are taken on arrays, bit for bit those of the
optimizer alone; their coefficients are tracked beside.

With rho = 1e-12 rounding grows by 1e5 and more an iteration, so runs on coefficients and on arrays
part; iterations to a goal stay the same. A scale D of the parameters has no simple counterpart:
D^-2 g_i, D^-4 g_i, ... enter the span with each step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast, final

import numpy as np

from optex_core.backends import get_backend
from optex_core.backends._tracing import TracingError
from optex_core.backends.base import Backend
from optex_core.model.history import History
from optex_core.model.kernels.base import traced_kernel
from optex_core.model.posterior import Posterior
from optex_core.model.subspace import SubspaceBasis, SubspaceVector, Vector
from optex_core.optimizers._on_backend import OptimizerOnBackend, bind_optimizer
from optex_core.strategies._subspace.rollout import SubspaceRollout
from optex_core.strategies._subspace.tracker import CoefficientTracker, SubspaceState
from optex_core.strategies.rollout import ArraySpace, PlainRollout, Rollout
from optex_core.types import Array

#: From so many numbers in the parameter rows of the history on (T0 d) predictions run on
#: coefficients. Measured (NumPy, 2 cores, N = 5, SGD, ms an iteration on arrays and coefficients):
#: 15,000: paper 2.3, 4.5, auto 5.1, 5.9; 30,000: 1.9, 2.6, 7.2, 6.0; 60,000: 3.6, 3.0, 13, 5.6.
SUBSPACE_MIN_SIZE = 40_000


def make_space(
    optimizer: OptimizerOnBackend,
    backend: Backend,
    history: History | None,
    scale: Array | None,
    parallelism: int,
) -> ArraySpace | CoefficientSpace:
    """Coefficients for optimizers that declare `affine` (bounds add a projection, which is not),
    with a large history that one iteration cannot empty and no scale of the parameters; else
    arrays.
    """
    arrays = ArraySpace(optimizer, backend, history, scale)
    if (
        history is not None
        and optimizer.affine
        and scale is None
        and history.capacity > parallelism
        and history.X.size >= SUBSPACE_MIN_SIZE
    ):
        return CoefficientSpace(arrays, history)
    return arrays


@final
class CoefficientSpace:
    """`ArraySpace` on coefficients; what has no known coefficients is an array."""

    def __init__(self, arrays: ArraySpace, history: History) -> None:
        self._arrays, self.backend = arrays, arrays.backend
        self.basis = SubspaceBasis(history)
        self.tracker = CoefficientTracker(self.basis)
        self._small = bind_optimizer(arrays.optimizer.optimizer, get_backend("numpy"))

    def prefetch_distances(self, x: Vector) -> None:
        """Nothing: distances are made of the coefficients."""

    def start(self, x: Array, state: object) -> tuple[Vector, object]:
        if not self.tracker.rebase(x, state):
            return x, state
        return self.lift(x, state)

    def lift(self, x: Vector, state: object) -> tuple[Vector, object]:
        t = self.tracker
        if t.coefficients(x) is None or t.tree(state) is None:
            return x, state
        return cast(SubspaceVector, t.vector(x)), t.state(state)

    def step(
        self, x: Vector, g: Vector, state: object, *, value: float = math.nan, trusted: bool = True
    ) -> tuple[Vector, object]:
        t = self.tracker
        result: Any = None
        given: list[Any] = [t.coefficients(x), t.coefficients(g), t.tree(state)]
        if all(part is not None for part in given):
            result = self._small.step(*given, value=value, trusted=trusted)
            if isinstance(x, SubspaceVector):
                c, tree = result
                return SubspaceVector(c, self.basis.epoch), SubspaceState(tree, self.basis.epoch)
        (x, g), (state,) = self.materialize([x, g], [state])
        x, state = self._arrays.step(x, g, state, value=value, trusted=trusted)
        if result is not None:
            t.track(cast(Array, x), result[0])
            t.track_state(state, result[1])
        return x, state

    def estimate(self, posterior: Posterior, x: Vector) -> Vector:
        if not isinstance(x, SubspaceVector):
            return self._arrays.estimate(posterior, x)
        basis = self.basis
        c, w = basis.to_current_basis(x), posterior.weights_at(basis.distances(x))
        assert c is not None
        mean = basis.metric.mean(w, c, posterior.curvature, posterior.constant)
        return SubspaceVector(mean, basis.epoch)

    def materialize(
        self, points: Sequence[Vector], states: Sequence[object]
    ) -> tuple[list[Array], list[object]]:
        self.tracker.materialize(points, states)
        return (
            [cast(Array, p.array) if isinstance(p, SubspaceVector) else p for p in points],
            [s.array_state if isinstance(s, SubspaceState) else s for s in states],
        )

    def is_finite(self, x: Vector) -> bool:
        if isinstance(x, SubspaceVector):
            return self.basis.is_finite(x)
        return self._arrays.is_finite(x)

    def squared_norm(self, g: Vector) -> float:
        if isinstance(g, SubspaceVector):
            c = self.basis.to_current_basis(g)
            return math.nan if c is None else self.basis.metric.squared_norm(c)
        return self._arrays.squared_norm(g)

    def distance(self, a: Vector, b: Vector) -> float:
        if not isinstance(a, SubspaceVector) and not isinstance(b, SubspaceVector):
            return self._arrays.distance(a, b)
        c, e = self.tracker.coefficients(a), self.tracker.coefficients(b)
        return (
            math.nan if c is None or e is None else math.sqrt(self.basis.metric.squared_norm(c - e))
        )

    def average(self, gradients: Sequence[Array]) -> Array:
        mean = self.backend.average(gradients)
        known = [c for g in gradients if (c := self.tracker.coefficients(g)) is not None]
        if len(known) == len(gradients):
            self.tracker.track(mean, np.mean(known, axis=0))
        return mean

    def prediction_error(self, mean: Vector, gradient: Array) -> float:
        if isinstance(mean, SubspaceVector):
            if self.basis.n_appended or self.tracker.vector(gradient) is not None:
                return self.distance(mean, gradient)
            (mean,), _ = self.materialize([mean], [])
        return self._arrays.prediction_error(mean, gradient)

    def rollout(
        self, posterior: Posterior, x: Vector, state: object, steps: int, path: Sequence[Vector]
    ) -> Rollout:
        found = None
        if isinstance(x, SubspaceVector) and isinstance(state, SubspaceState):
            found = self._subspace_rollout(posterior, x, state, steps, path)
        return found or PlainRollout(self, posterior, x, state, steps, path)

    def _subspace_rollout(
        self,
        posterior: Posterior,
        x: SubspaceVector,
        state: SubspaceState,
        steps: int,
        path: Sequence[Vector],
    ) -> SubspaceRollout | None:
        """None where something is not known, or a step takes more than small matrices."""
        t, basis = self.tracker, self.basis
        if posterior.system is None or posterior.n == 1 or basis.history.dims is not None:
            return None
        tree, track = t.tree(state), t.path(path)
        if tree is None or track is None or t.coefficients(x) is None:
            return None
        unrolled = self._small.unroll(tree, steps)
        if unrolled is None:
            return None
        given = self, posterior, x, state, path, unrolled, track
        formula = traced_kernel(posterior.kernel, posterior.constant)
        if formula is not None:
            sizes = len(unrolled.slots), len(unrolled.scalars[0])
            lines, constant = (formula.lines, formula.result), posterior.constant
            compiled = self.backend.subspace_rollout(*lines, constant, unrolled.rule, *sizes)
            if compiled is not None:
                try:
                    return SubspaceRollout(*given, basis, compiled)
                except TracingError:  # it does not compile, which was said
                    pass
        return SubspaceRollout(*given, basis)
