"""Optimizer steps with estimated gradients, z_s = FO-OPT(z_{s-1}, mu(z_{s-1})), and the view of a
run that strategies take them through.

To read: `EngineView.predict` takes the steps of a `PlainRollout`; its `step` asks `ArraySpace` for
mu(x) and for the optimizer's step. Other rollouts and spaces give the same faster: `_subspace/` has
coefficients over the rows of the history in the place of arrays, for large momentum runs, and a
backend may fuse estimate and step. `EngineView.step`, `Rollout.x` and `Rollout.state` take and give
arrays in any case.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast, final

import numpy as np

from optex_core.backends.base import Backend
from optex_core.backends.types import FusedSteps, PredictedStep
from optex_core.model.history import History
from optex_core.model.posterior import Posterior
from optex_core.model.subspace import Vector
from optex_core.optimizers._on_backend import OptimizerOnBackend
from optex_core.types import Array

if TYPE_CHECKING:
    from optex_core.strategies._subspace.space import CoefficientSpace

    #: Where predicted points live, and what is done with them.
    PredictionSpace: TypeAlias = "ArraySpace | CoefficientSpace"


@final
@dataclass(frozen=True, slots=True)
class EngineView:
    """What a strategy sees of a run. Nothing in it may be written."""

    parallelism: int  # N, the most points of an iteration
    x: Array  # theta_t, shape (d,)
    state: object  # the optimizer's state at theta_t
    #: The estimator fitted to the history as it is now; None where nothing can be predicted.
    posterior: Callable[[], Posterior | None]
    space: PredictionSpace  # where predicted points live
    #: A point projected onto the bounds; the point itself without any.
    project: Callable[[Array], Array]
    #: Overhead over the gradients' time in the last iteration, where it was measured; else 0.
    overhead: float = 0.0

    @property
    def backend(self) -> Backend:
        """The array library of the run."""
        return self.space.backend

    def step(
        self, x: Array, g: Array, state: object, *, value: float = math.nan, trusted: bool = True
    ) -> tuple[Array, object]:
        """One optimizer step (FO-OPT): the next point and the optimizer's state there.

        `trusted` is False for a gradient that was predicted, not observed.
        """
        end, state = self.space.step(x, g, state, value=value, trusted=trusted)
        return cast(Array, end), state

    def average(self, gradients: Sequence[Array]) -> Array:
        """The mean of observed gradients."""
        return self.space.average(gradients)

    def refit(self, x: Vector) -> Posterior | None:
        """`posterior()`, to predict steps from `x`."""
        self.space.prefetch_distances(x)
        return self.posterior()

    def smoothed_step(self, posterior: Posterior, value: float) -> tuple[Any, object]:
        """The step from theta_t with mu(theta_t), which is made of true gradients."""
        x, state = self.space.lift(self.x, self.state)
        return self.space.step(x, self.space.estimate(posterior, x), state, value=value)

    def rollout(
        self,
        steps: int,
        x: Vector | None = None,
        state: object = None,
        *,
        posterior: Posterior | None = None,
        path: Sequence[Vector] = (),
    ) -> Rollout:
        """At most `steps` optimizer steps with the gradients that the posterior (by default
        ``self.posterior()``; without one none) estimates.

        They begin at `x` and the optimizer's `state` there, by default theta_t; `path` has points
        of a `Path` to measure distances from.
        """
        space, z = self.space, self.x if x is None else x
        if steps > 0 and posterior is None:
            posterior = self.refit(z)
        state = self.state if x is None else state
        if steps < 1 or posterior is None:
            return PlainRollout(space, posterior, z, state, 0, path)
        z, state = space.start(self.x, state) if x is None else space.lift(z, state)
        return space.rollout(posterior, z, state, steps, path)

    def predict(
        self, steps: int, *, posterior: Posterior | None = None, states: bool = False
    ) -> Path:
        """The points that `steps` steps from theta_t with estimated gradients pass.

        With `states` the optimizer's states there are kept, too, for `Proposal.state`.
        """
        rollout = self.rollout(steps, posterior=posterior)
        path = Path(rollout)
        on_arrays = path.states[0] is self.state
        evaluated = equally_spaced(rollout.steps + 1, self.parallelism)
        while True:
            # mu is compared with the gradient where there will be one.
            compared = len(path) - 1 in evaluated and rollout.taken < rollout.steps
            mean = rollout.estimate() if compared else None
            if not rollout.step():
                return path
            path.append(rollout, mean, evaluated=len(path) in evaluated)
            if states:
                path.keep_state(rollout.point_state, last_alone=on_arrays)


@final
class Path:
    """Predicted points z_0, z_1, ... with what is needed of them later."""

    def __init__(self, start: Rollout) -> None:
        self._space, self._posterior = start.space, start.posterior
        self.points = [start.point]  # as the prediction space holds them
        self.states = {0: start.point_state}  # index -> the optimizer's state there, where kept
        self.means: list[Vector | None] = []  # None where they were not kept
        self.at: Sequence[int] = ()  # indices of the points that are evaluated, in slot order

    def __len__(self) -> int:
        return len(self.points)

    def append(self, rollout: Rollout, mean: Vector | None, evaluated: bool) -> None:
        """Add the point that a step of `rollout` led to, and mu at the point before."""
        if evaluated and rollout.distances is not None:
            assert rollout.posterior is not None
            rollout.posterior.history.cache_distances(cast(Array, rollout.point), rollout.distances)
        self.means.append(mean)
        self.points.append(rollout.point)

    def keep_state(self, state: object, last_alone: bool) -> None:
        """Keep the optimizer's state at the last point; of states on arrays, large, that alone."""
        j = len(self) - 1
        self.states[j] = state
        if last_alone and j > 1:
            del self.states[j - 1]

    def evaluate(self, at: Sequence[int]) -> tuple[list[Array], list[Vector | None]]:
        """The points at the indices `at` as arrays, and mu there (None where it is unknown).

        The path gives its means away, so that each can be released when its gradient is there.
        """
        self.at, means, self.means = at, self.means, []
        predictions = [means[i] if i < len(means) else None for i in at]
        for slot, i in enumerate(at):
            if i < len(means) and means[i] is None:  # the path became shorter than planned
                assert self._posterior is not None
                predictions[slot] = self._space.estimate(self._posterior, self.points[i])
        last = [self.states[i] for i in at[-1:] if i in self.states]  # made in the same pass
        points, _ = self._space.materialize([self.points[i] for i in at], last)
        return points, predictions

    def retain_state(self, slot: int) -> None:
        """Make the optimizer's state at an evaluated point while its rows are in the history."""
        i = self.at[slot]
        if i not in self.states:  # the same steps again give the same bits
            assert self._posterior is not None
            start = self.points[0], self.states[0]
            rollout = self._space.rollout(self._posterior, *start, i, ())
            rollout.run()
            self.states[i] = rollout.point_state
        _, (self.states[i],) = self._space.materialize([], [self.states[i]])


class Rollout(ABC):
    """At most `steps` optimizer steps one after the other: the estimated gradient at x, then the
    step with it.

    `x` and `state` are where they begin, as the space holds them; `path` has z_0, z_1, ... to
    measure distances from. Without a posterior no step can be taken.
    """

    def __init__(
        self,
        space: PredictionSpace,
        posterior: Posterior | None,
        x: Vector,
        state: object,
        steps: int,
        path: Sequence[Vector] = (),
    ) -> None:
        self.space, self.posterior, self.steps, self.taken = space, posterior, steps, 0
        #: Squared kernel distances of x to the rows, shape (n,), where the last step computed them.
        self.distances: np.ndarray | None = None
        self._x: Any = x
        self._state, self._path = state, path
        self._estimate: Vector | None = None

    @property
    def point(self) -> Vector:
        """The present point as the space holds it."""
        return self._x

    @property
    def point_state(self) -> object:
        """The optimizer's state there as the space holds it."""
        return self._state

    def estimate(self) -> Vector:
        """mu(x) as the space holds it."""
        if self._estimate is None:
            assert self.posterior is not None
            self._estimate = self.space.estimate(self.posterior, self._x)
        return self._estimate

    @abstractmethod
    def step(self) -> bool:
        """Take a step; False, and no step, at the end or where it leaves the finite numbers."""

    def path_length(self, j: int) -> float:
        """|(z_j - z_0) / scale| on the given path."""
        return self.space.distance(self._path[j], self._path[0])

    def distance_to_path(self, j: int) -> float:
        """|(x - z_j) / scale|; nan where it can no longer be known."""
        return self.space.distance(self.point, self._path[j])

    @property
    def x(self) -> Array:
        """The present point, shape (d,)."""
        return self.space.materialize([self.point], [self.point_state])[0][0]

    @property
    def state(self) -> object:
        """The optimizer's state there."""
        return self.space.materialize([self.point], [self.point_state])[1][0]

    def run(self) -> None:
        """Take all steps."""
        while self.step():
            pass


@final
class PlainRollout(Rollout):
    """x <- FO-OPT(x, mu(x)), for any posterior and optimizer."""

    def step(self) -> bool:
        if self.taken >= self.steps:
            return False
        mean, self._estimate = self.estimate(), None
        x, state = self.space.step(self._x, mean, self._state, trusted=False)
        if not self.space.is_finite(x):
            return False
        self._x, self._state = x, state
        self.taken += 1
        return True


@final
class FusedRollout(Rollout):
    """The same where a backend takes estimate and step in fewer calls: `fused`, and what makes the
    optimizer's state of their vectors.
    """

    def __init__(
        self, *given: Any, fused: tuple[FusedSteps, Callable[[int, tuple[Array, ...]], object]]
    ) -> None:
        super().__init__(*given)
        self._fused, self._state_after = fused
        self._next: PredictedStep | None = None

    def _look(self, mean: bool) -> PredictedStep | None:
        """The step from here, with its estimate if `mean`; None where there is none."""
        if self._next is None and self.taken < self.steps:
            self._next = self._fused(mean)
            if self._next is None:
                self.steps = self.taken
        return self._next

    def estimate(self) -> Vector:
        found = self._look(True)
        if found is not None and found.mean is not None:
            return found.mean
        return super().estimate()

    def step(self) -> bool:
        found = self._look(False)
        if found is None:
            return False
        self._x, self._state = found.x, self._state_after(self.taken + 1, found.slots)
        self.distances, self._next, self._estimate = found.distances, None, None
        self.taken += 1
        return True


@final
@dataclass(frozen=True, slots=True)
class ArraySpace:
    """Predicted points, gradients and optimizer states as arrays, and what is done with them;
    `scale`, shape (d,), are the units of the parameters.
    """

    optimizer: OptimizerOnBackend
    backend: Backend
    history: History | None = None
    scale: Array | None = None

    def estimate(self, posterior: Posterior, x: Any) -> Vector:
        """mu(x)."""
        return posterior.mean(x)

    def step(
        self, x: Any, g: Any, state: object, *, value: float = math.nan, trusted: bool = True
    ) -> tuple[Vector, object]:
        """One optimizer step."""
        return self.optimizer.step(x, g, state, value=value, trusted=trusted)

    def rollout(
        self, posterior: Posterior, x: Any, state: object, steps: int, path: Sequence[Vector]
    ) -> Rollout:
        """Steps from a point and state that `start` or `lift` gave."""
        fused = self.optimizer.fused_steps(posterior, x, state, steps)
        if fused is not None:
            return FusedRollout(self, posterior, x, state, steps, path, fused=fused)
        return PlainRollout(self, posterior, x, state, steps, path)

    def start(self, x: Array, state: object) -> tuple[Vector, object]:
        """theta_t and the optimizer's state as a prediction starts from them."""
        return x, state

    def lift(self, x: Vector, state: object) -> tuple[Vector, object]:
        """The same for a point and state that an optimizer step led to."""
        return x, state

    def materialize(
        self, points: Sequence[Any], states: Sequence[object]
    ) -> tuple[list[Array], list[object]]:
        """Points and states as arrays, made in one pass."""
        return list(points), list(states)

    def prefetch_distances(self, x: Any) -> None:
        """Compute the distances of `x`, from which steps will be predicted, with those of rows."""
        if self.history is not None:
            self.history.prefetch_distances(x)

    def is_finite(self, x: Any) -> bool:
        """True if every entry of the point is a finite number."""
        return self.backend.all_finite(x)

    def squared_norm(self, g: Any) -> float:
        """|scale g|^2."""
        scaled = g if self.scale is None else g * self.scale
        return self.backend.dot(scaled, scaled)

    def distance(self, a: Any, b: Any) -> float:
        """|(a - b) / scale|; nan where it can no longer be known."""
        return math.sqrt(self.backend.squared_distance(a, b, self.scale))

    def average(self, gradients: Sequence[Array]) -> Array:
        """The mean of observed gradients."""
        return self.backend.average(gradients)

    def prediction_error(self, mean: Any, gradient: Array) -> float:
        """|mean - gradient|; nan where it can no longer be known."""
        return math.sqrt(self.backend.squared_distance(mean, gradient))


def equally_spaced(length: int, count: int) -> list[int]:
    """At most `count` different indices of ``range(length)``, 0 and the last included."""
    n = min(count, length)
    step = (length - 1) / max(n - 1, 1)
    return sorted({round(i * step) for i in range(n)})
