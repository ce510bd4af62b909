"""Predicted steps on coefficients: a few products of small matrices each, or one compiled call for
all of them.

One call of a walk of S steps is (S + 1) (m + n)^2 numbers or so, 4 us a step at T0 = 48 where
NumPy's calls take 40.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from optex_core.backends.base import SubspaceRolloutFunction
from optex_core.model.estimator import Posterior
from optex_core.model.subspace.vectors import GramMetric, SubspaceVector
from optex_core.optimizers.base import UnrolledSteps
from optex_core.strategies.base import Rollout


class SubspaceState:
    """A state of the optimizer whose vectors are coefficients at `epoch`; `array_state` is the
    state itself once it has been made.
    """

    __slots__ = ("array_state", "epoch", "tree")

    def __init__(self, tree: Any, epoch: int, array_state: Any = None) -> None:
        self.tree, self.epoch, self.array_state = tree, epoch, array_state


class SubspaceRollout(Rollout):
    """Predicted steps on coefficients, one by one.

    Parameters
    ----------
    metric : Reading
        Of the basis that all coefficients are in.
    posterior : Posterior
        With a system of at least two rows, and distances over all coordinates.
    x, state : Combination and CombinedState
        In that basis.
    ahead : Unrolled
        The steps to come.
    limit : float
        Points farther from the newest row than this are not finite.
    track : float64 array, shape (k, m)
        The coefficients of the path that the walk goes along.
    """

    def __init__(
        self,
        metric: GramMetric,
        posterior: Posterior,
        x: SubspaceVector,
        state: SubspaceState,
        ahead: UnrolledSteps,
        limit: float,
        track: np.ndarray,
    ) -> None:
        assert posterior.system is not None
        self._metric, self._system, self._ahead, self._limit, self._track = (
            metric,
            posterior.system,
            ahead,
            limit,
            track,
        )
        self._prior = posterior.hyper.curvature, posterior.constant
        self._c, self._slots, self._taken = x.c, ahead.slots, 0
        self._x: SubspaceVector | None = x
        self._state: SubspaceState | None = state
        self._path_lengths: list[float] | None = None
        self._begin()

    def _begin(self) -> None:
        self._rule = self._ahead.rule(np)
        self._row_products = self._metric.row_products(self._c)
        self._m: np.ndarray | None = None
        self._left = math.nan

    @property
    def x(self) -> SubspaceVector:
        if self._x is None:
            self._x = SubspaceVector(self._c, self._metric.epoch)
        return self._x

    @property
    def state(self) -> SubspaceState:
        if self._state is None:
            self._state = SubspaceState(
                self._ahead.state_after(self._taken, self._slots), self._metric.epoch
            )
        return self._state

    def mean(self) -> SubspaceVector:
        return SubspaceVector(self._estimate(), self._metric.epoch)

    def mean_and_noise_factor(self) -> tuple[SubspaceVector, float]:
        return self.mean(), self._left

    def _estimate(self) -> np.ndarray:
        """The coefficients of mu, and |w|^2."""
        if self._m is None:
            w = self._system.weights(self._metric.distances(*self._row_products))
            self._m, self._left = self._metric.mean(w, self._c, *self._prior), float(w.dot(w))
        return self._m

    def step(self) -> bool:
        new, *slots = self._rule(
            self._c, self._estimate(), *self._slots, *self._ahead.scalars[self._taken]
        )
        products = self._metric.row_products(new)
        # a coefficient that is not finite leaves no finite length
        if not math.sqrt(max(products[0], 0.0)) < self._limit:
            return False
        self._c, self._slots, self._row_products, self._m = new, tuple(slots), products, None
        self._x = self._state = None
        self._taken += 1
        return True

    def path_length(self, j: int) -> float:
        if self._path_lengths is None:
            self._path_lengths = self._metric.norms(self._track - self._track[0]).tolist()
        return self._path_lengths[j]

    def distance_to_path(self, j: int) -> float:
        return math.sqrt(self._metric.squared_norm(self._c - self._track[j]))


class CompiledSubspaceRollout(SubspaceRollout):
    """The same steps, all taken at once when the walk begins.

    Parameters
    ----------
    chain : CoefficientChain
        The compiled function.
    *others
        As those of `SubspaceRollout`.
    """

    def __init__(self, chain: SubspaceRolloutFunction, *others: Any) -> None:
        self._chain = chain
        super().__init__(*others)

    def _begin(self) -> None:
        ahead, system, metric = self._ahead, self._system, self._metric
        scalars = np.array(ahead.scalars)
        points, means = np.empty((2, len(scalars) + 1, len(self._c)))
        slots, lefts = (
            np.empty((len(points), len(ahead.slots), len(self._c))),
            np.empty(len(points)),
        )
        points[0] = self._c
        for i, slot in enumerate(ahead.slots):
            slots[0, i] = slot
        _, inverse, centre, transposed, h0 = system.factors
        curvature, _ = self._prior
        numbers = np.array(
            [inverse, 1.0 / h0, curvature, self._limit**2 if self._limit < 1e150 else math.inf]
        )
        system_ = centre, np.ascontiguousarray(transposed)
        self._steps = self._chain(
            metric.K,
            metric.rows,
            *metric.row_layout,
            *system_,
            numbers,
            scalars,
            points,
            slots,
            means,
            lefts,
        )
        self._points, self._means, self._lefts, self._all = points, means, lefts.tolist(), slots
        self._m, self._left = means[0], self._lefts[0]
        self._path_distances: list[float] | None = None

    def step(self) -> bool:
        j = self._taken + 1
        if j > self._steps:
            return False
        self._c, self._slots, self._m, self._left, self._taken = (
            self._points[j],
            tuple(self._all[j]),
            self._means[j],
            self._lefts[j],
            j,
        )
        self._x = self._state = None
        return True

    def distance_to_path(self, j: int) -> float:
        if j != self._taken + 1:
            return super().distance_to_path(j)
        # A replay asks for y_j beside z_j, where y_1 is where it began: all of them in one product.
        if self._path_distances is None:
            k = min(self._steps + 1, len(self._track) - 1)
            self._path_distances = self._metric.norms(
                self._points[:k] - self._track[1 : k + 1]
            ).tolist()
        return self._path_distances[j - 1]
