"""Where predicted points live: on arrays, or on coefficients where optimizer steps are affine.

On coefficients, predicted points, gradients and states are sums of the vectors of a
`SubspaceBasis`, and the optimizer's own step runs on their coefficients. `materialize` makes arrays
of what is evaluated, in one pass over the histories. Steps with true gradients are taken on arrays,
bit for bit those of the optimizer alone; their coefficients are tracked beside.

Notes
-----
With rho = 1e-12 rounding grows by 1e5 and more an iteration, so runs on coefficients and on arrays
part: Rosenbrock, d = 5, `paper` by values, Nesterov, 12 iterations: 8e-9; moving each gradient by
one unit in the last place moves a run on arrays by 1.8e-8. Iterations to a goal stay the same: 12
quadratics (d = 300 and 3,000, condition 1e2 and 1e3, SGD and Nesterov, N = 5), three strategies,
three goals each, are equal in all of float64 but one, and within three iterations in float32.

A scale D of the parameters has no simple counterpart: in y = theta / D an SGD step is
y - rate D^-2 (D g), so that D^-2 g_i, D^-4 g_i, ... enter the span with each step.
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
from optex_core.model.subspace.basis import SubspaceBasis
from optex_core.model.subspace.vectors import SubspaceVector, Vector
from optex_core.optimizers._bound import BoundOptimizer, bind_optimizer
from optex_core.strategies._subspace.rollout import SubspaceRollout
from optex_core.strategies._subspace.tracker import CoefficientTracker, SubspaceState
from optex_core.strategies.rollout import PlainRollout, Rollout
from optex_core.types import Array

#: From so many numbers in the parameter rows of the history on (T0 d) predictions run on
#: coefficients. Measured (NumPy, 2 cores, N = 5, SGD, ms an iteration on arrays and coefficients):
#: 15,000: paper 2.3, 4.5, auto 5.1, 5.9; 30,000: 1.9, 2.6, 7.2, 6.0; 60,000: 3.6, 3.0, 13, 5.6.
SUBSPACE_MIN_SIZE = 40_000


@final
class PredictionSpace:
    """Predicted points, gradients and optimizer states of a run, and what is done with them.

    They are coefficients for optimizers that declare `affine` (bounds add a projection, which is
    not), with a large history that one iteration cannot empty and no scale of the parameters. What
    has no known coefficients is an array.

    Parameters
    ----------
    optimizer : BoundOptimizer
    backend : Backend
    history : History, optional
    scale : array, shape (d,), optional
        Units of the parameters.
    parallelism : int, default 1

    Attributes
    ----------
    tracker : CoefficientTracker or None
        None where everything is an array.
    """

    def __init__(
        self,
        optimizer: BoundOptimizer,
        backend: Backend,
        history: History | None = None,
        scale: Array | None = None,
        parallelism: int = 1,
    ) -> None:
        self._optimizer, self.backend, self.history, self._scale = (
            optimizer,
            backend,
            history,
            scale,
        )
        self.tracker: CoefficientTracker | None = None
        if (
            history is not None
            and optimizer.affine
            and scale is None
            and history.capacity > parallelism
            and history.X.size >= SUBSPACE_MIN_SIZE
        ):
            self.tracker = CoefficientTracker(SubspaceBasis(history))
            self._small = bind_optimizer(optimizer.optimizer, get_backend("numpy"))

    @property
    def _basis(self) -> SubspaceBasis:
        assert self.tracker is not None
        return self.tracker.basis

    def prefetch_distances(self, x: Vector) -> None:
        """Compute the distances of `x`, from which steps will be predicted, with those of rows."""
        if self.tracker is None and self.history is not None:
            self.history.prefetch_distances(cast(Array, x))

    def start(self, x: Array, state: object) -> tuple[Vector, object]:
        """theta_t and the optimizer's state as a prediction starts from them."""
        if self.tracker is None or not self.tracker.rebase(x, state):
            return x, state
        return self.lift(x, state)

    def lift(self, x: Vector, state: object) -> tuple[Vector, object]:
        """The same for a point and state that an optimizer step led to."""
        t = self.tracker
        if t is None or t.coefficients(x) is None or t.tree(state) is None:
            return x, state
        return cast(SubspaceVector, t.vector(x)), t.state(state)

    def step(
        self, x: Vector, g: Vector, state: object, *, value: float = math.nan, trusted: bool = True
    ) -> tuple[Vector, object]:
        """One optimizer step: on coefficients from coefficients, else on arrays."""
        t = self.tracker
        result: Any = None
        if t is not None:
            given: list[Any] = [t.coefficients(x), t.coefficients(g), t.tree(state)]
            if all(part is not None for part in given):
                result = self._small.step(*given, value=value, trusted=trusted)
                if isinstance(x, SubspaceVector):
                    c, tree = result
                    return SubspaceVector(c, t.basis.epoch), SubspaceState(tree, t.basis.epoch)
            (x, g), (state,) = self.materialize([x, g], [state])
        x, state = self._optimizer.step(
            cast(Array, x), cast(Array, g), state, value=value, trusted=trusted
        )
        if t is not None and result is not None:
            t.track(x, result[0])
            t.track_state(state, result[1])
        return x, state

    def estimate(self, posterior: Posterior, x: Vector) -> tuple[Vector, float]:
        """mu(x) and |w|^2."""
        if not isinstance(x, SubspaceVector):
            return posterior.mean_and_noise_factor(x)
        basis = self._basis
        c, w = basis.to_current_basis(x), posterior.weights_at(basis.distances(x))
        assert c is not None
        mean = basis.metric.mean(w, c, posterior.curvature, posterior.constant)
        return SubspaceVector(mean, basis.epoch), float(w.dot(w))

    def materialize(
        self, points: Sequence[Vector], states: Sequence[object]
    ) -> tuple[list[Array], list[object]]:
        """Points and states as arrays, made in one pass."""
        if self.tracker is not None:
            self.tracker.materialize(points, states)
        return (
            [cast(Array, p.array) if isinstance(p, SubspaceVector) else p for p in points],
            [s.array_state if isinstance(s, SubspaceState) else s for s in states],
        )

    def is_finite(self, x: Vector) -> bool:
        """True if every entry of the point is a finite number."""
        if isinstance(x, SubspaceVector):
            return self._basis.is_finite(x)
        return self.backend.all_finite(x)

    def squared_norm(self, g: Vector) -> float:
        """|scale g|^2."""
        if isinstance(g, SubspaceVector):
            return self._basis.squared_norm(self._basis.to_current_basis(g))
        scaled = g if self._scale is None else g * self._scale
        return self.backend.dot(scaled, scaled)

    def distance(self, a: Vector, b: Vector) -> float:
        """|(a - b) / scale|; nan where it can no longer be known."""
        if not isinstance(a, SubspaceVector) and not isinstance(b, SubspaceVector):
            return math.sqrt(self.backend.squared_distance(a, b, self._scale))
        assert self.tracker is not None
        c, e = self.tracker.coefficients(a), self.tracker.coefficients(b)
        return math.nan if c is None or e is None else math.sqrt(self._basis.squared_norm(c - e))

    def average(self, gradients: Sequence[Array]) -> Array:
        """The mean of observed gradients."""
        mean = self.backend.average(gradients)
        if self.tracker is not None:
            known = [c for g in gradients if (c := self.tracker.coefficients(g)) is not None]
            if len(known) == len(gradients):
                self.tracker.track(mean, np.mean(known, axis=0))
        return mean

    def prediction_error(self, mean: Vector, gradient: Array) -> float:
        """|mean - gradient|; nan where it can no longer be known."""
        if isinstance(mean, SubspaceVector):
            assert self.tracker is not None
            if self._basis.n_appended or self.tracker.vector(gradient) is not None:
                return self.distance(mean, gradient)
            (mean,), _ = self.materialize([mean], [])
        return math.sqrt(self.backend.squared_distance(mean, gradient))

    def products(self, mean: Vector, gradient: Array) -> tuple[float, float]:
        """|mean|^2 and mean . gradient; nan where they can no longer be known."""
        if not isinstance(mean, SubspaceVector):
            return self.backend.dot(mean, mean), self.backend.dot(mean, gradient)
        square, error = self.squared_norm(mean), self.prediction_error(mean, gradient)
        other = self.backend.dot(gradient, gradient)
        return square, 0.5 * (square + other - error * error)

    def rollout(
        self, posterior: Posterior, x: Vector, state: object, steps: int, path: Sequence[Vector]
    ) -> Rollout:
        """Steps from a point and state that `start` or `lift` gave."""
        fused = None
        if isinstance(x, SubspaceVector) and isinstance(state, SubspaceState):
            found = self._subspace_rollout(posterior, x, state, steps, path)
            if found is not None:
                return found
        elif self.tracker is None:
            fused = self._optimizer.fused_steps(
                posterior, cast(Array, x), state, steps, sure=not path
            )
        return PlainRollout(self, posterior, x, state, steps, path, fused)

    def _subspace_rollout(
        self,
        posterior: Posterior,
        x: SubspaceVector,
        state: SubspaceState,
        steps: int,
        path: Sequence[Vector],
    ) -> SubspaceRollout | None:
        """None where something is not known, or a step takes more than small matrices."""
        t, basis = self.tracker, self._basis
        assert t is not None
        if posterior.system is None or posterior.n == 1 or basis.history.dims is not None:
            return None
        tree, track = t.tree(state), t.path(path)
        unrolled = None if tree is None or track is None else self._small.unroll(tree, steps)
        if unrolled is None or track is None or t.coefficients(x) is None:
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
