"""The view of a run whose optimizer is affine: strategies take their steps on coefficients, and
only what they hand out is made.

Strategies do not know: they call the same methods of a `EngineView`. Points, estimated gradients
and states are then `SubspaceVector` objects over the basis of basis.py, the optimizer's own step
runs on the coefficients (what is affine does not care what its vectors stand for), and
`materialize` makes all arrays that are asked for in one pass over the histories. Steps with true
gradients are taken on arrays as ever, bit for bit; what they are as coefficients is kept beside.

How far points on coefficients and on arrays lie apart was looked into, since runs at d = 5 differed
by 1e-8 to 1e-5. With rho = 1e-12 the system has a condition of 1e11 to 2e13 and |w|_1 is 50 to 3e3,
so rounding grows by 1e5 and more a round. Moving each gradient by one unit in the last place moves
runs on arrays by as much or more: Rosenbrock, d = 5, `paper` by values, Nesterov, 12 rounds: 8e-9
apart, 1.8e-8 by such a move; quadratic of condition 1e3, d = 5, `auto`: 2.2e-9 and 4.0e-9. Only
where n > d and steps are 1e-8 of the parameters coefficients lose more (`corrected`, the same
quadratic: 8e-9 and 5e-11): theta_t as an array is rounded to eps |theta|, which e = theta_t -
theta_r as coefficients does not know, so that small distances are off by eps |theta| / |e| (1e-9 to
1e-7 seen). Over many parameters that averages out as 1 / sqrt(d): at d = 300 exact distances in its
place changed nothing (2.1e-6 and 2.0e-6 after 12 rounds). Rounds to a goal are the same: 12
quadratics (d = 300 and 3,000, condition 1e2 and 1e3, SGD and Nesterov, float64 and float32, N = 5)
with `auto`, `verified` and `corrected`, three goals each, equal in all of float64 but one round in
one of them, and within three rounds either way in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from optex_core.backends import get_backend
from optex_core.backends._tracing import TracingError
from optex_core.errors import ArgumentTypeError
from optex_core.model.estimator import Posterior
from optex_core.model.history import History
from optex_core.model.kernels.base import traced_kernel
from optex_core.model.subspace.basis import SubspaceBasis
from optex_core.model.subspace.vectors import N_FIXED, SubspaceVector
from optex_core.optimizers._bound import BoundOptimizer, bind_optimizer
from optex_core.optimizers._pytree import tree_leaves, tree_map, tree_unflatten
from optex_core.strategies._subspace.rollout import (
    CompiledSubspaceRollout,
    SubspaceRollout,
    SubspaceState,
)
from optex_core.strategies.base import EngineView, Rollout
from optex_core.types import Array

#: From so many numbers in the parameter rows of the history on, T0 d: below, the vectors themselves
#: are hardly longer than coefficients over them. Measured (NumPy, two cores, ms of a round with
#: `anticipate` between ask and tell, arrays against coefficients):
#:   T0 d = 15,000 (d = 500, N = 5)     paper 2.3, 4.5; 1.6, 2.9 with Nesterov     auto 5.1, 5.9; 2.5, 3.7
#:   30,000 (1,000, 5)                  paper 1.9, 2.6; 1.7, 3.0                   auto 7.2, 6.0; 2.9, 5.1
#:   48,000 (1,000, 8)                                                             auto 11.7, 9.1; 6.2, 7.0
#:   60,000 (2,000, 5)                  paper 3.6, 3.0; 3.6, 3.1                   auto 13, 5.6; 5.7, 4.4
#:   96,000 (2,000, 8)                                                             auto 16, 7.5; 15, 9.6
#: Where nobody calls `anticipate` (NumPy, N = 5, T0 = 30, Nesterov, usual ms): d = 1,500 paper 7.9,
#: 8.8, auto 24, 17; d = 3,000 paper 7.0, 9.2, corrected 9.4, 12, auto 37, 15; d = 10,000 paper 14,
#: 15, corrected 22, 19, auto 105, 25: `paper` and `corrected` lose 1 to 2 ms, long windows win.
SUBSPACE_MIN_SIZE = 40_000


def make_tracker(
    bound: BoundOptimizer, history: History | None, parallelism: int
) -> CoefficientTracker | None:
    """The tracker of a run; None where its steps have to be taken on arrays.

    That is so for optimizers that do not declare `affine` (bounds add a projection, which is not),
    without a history, where a round may push theta_t out of the history, for small d, and with a
    scale D of the parameters. There is no simple mapping for the last: in y = theta / D an SGD step
    is y - rate D^-2 (D g), which multiplies the gradient's coordinates by D^-2, as the linear mean
    gamma D^-2 (theta - sum w_i theta_i) does in theta; so D^-2 g_i, D^-4 g_i, ... enter the span
    with each step. With a constant mean the span is closed in theta, but distances need the Gram
    matrix in D^-2 and the sizes of gradients that in D^2: three passes in place of one, for the
    strategies that need coefficients least.
    """
    if (
        history is None
        or not bound.affine
        or history.scale is not None
        or history.capacity <= parallelism
        or history.X.size < SUBSPACE_MIN_SIZE
    ):
        return None
    return CoefficientTracker(
        SubspaceBasis(history), bound, bind_optimizer(bound.optimizer, get_backend("numpy"))
    )


class CoefficientTracker:
    """Which arrays are known as coefficients: points and states that were made from them, and
    gradients that are rows.

    Parameters
    ----------
    basis : SubspaceBasis
    bound : Stepper
        The optimizer on the run's backend, for arrays.
    small : Stepper
        The optimizer on the plain NumPy backend, for coefficients.
    """

    def __init__(self, basis: SubspaceBasis, bound: BoundOptimizer, small: BoundOptimizer) -> None:
        self.basis, self.bound, self.small = basis, bound, small
        # the array is kept: an id is unique among the living only
        self._vectors: dict[int, tuple[Array, SubspaceVector]] = {}
        self._states: dict[int, tuple[Any, SubspaceState]] = {}
        self._restored: tuple[Any, Any] | None = None

    # -- the round ---------------------------------------------------------------------------------

    def rebase(self, x: Array, state: Any) -> bool:
        """Start a basis at theta_t; False where it has none."""
        basis = self.basis
        vectors = _vectors_of(state, len(x))
        if vectors is None:
            return False
        known = self._restored is not None and self._restored[0] is x and self._restored[1] is state
        if not known:
            known = (here := self._current(x, state)) is not None
            if here is not None:
                basis.current = here
        self._restored = None
        self._vectors.clear()
        self._states.clear()
        if not basis.rebase(x, vectors, known):
            return False
        assert basis.current is not None
        self.track(x, basis.current[0])
        rows = iter(basis.current[1:])
        tree = tree_map(state, lambda leaf: next(rows) if hasattr(leaf, "shape") else leaf)
        self._states[id(state)] = (state, SubspaceState(tree, basis.epoch, state))
        return True

    def _current(self, x: Array, state: Any) -> np.ndarray | None:
        """The coefficients of theta_t and of the optimizer's vectors there, shape (1 + vectors, m),
        if they are known.
        """
        p, s = self.point(x), self.state(state)
        c, tree = (
            None if p is None else self.basis.to_current_basis(p),
            None if s is None else self.to_current_basis(s),
        )
        if c is None or tree is None:
            return None
        return np.array([c, *(leaf for leaf in tree_leaves(tree) if hasattr(leaf, "shape"))])

    def extend(self, pairs: Sequence[tuple[Array, Array]]) -> None:
        """Append rows to the history and to the basis, in one pass."""
        basis = self.basis
        basis.extend([x for x, _ in pairs], [g for _, g in pairs])
        if basis.K is not None and basis.total == basis.history.total:
            for back, (_, g) in enumerate(reversed(pairs)):
                self.track(g, basis.gradient_row(back))

    def distances_after(self, xs: Sequence[Array]) -> np.ndarray | None:
        """What `SubspaceBasis.prefetch` says of rows to come at `xs`."""
        return self.basis.prefetch(xs)

    def track(self, array: Array, c: np.ndarray) -> SubspaceVector:
        """Keep the coefficients of an array."""
        p = SubspaceVector(c, self.basis.epoch, array)
        self._vectors[id(array)] = (array, p)
        return p

    def point(self, x: Any) -> SubspaceVector | None:
        """A vector as coefficients, None if they are not known."""
        if isinstance(x, SubspaceVector):
            return x
        found = self._vectors.get(id(x))
        return None if found is None or found[0] is not x else found[1]

    def state(self, state: Any) -> SubspaceState | None:
        """A state as coefficients, None if they are not known."""
        if isinstance(state, SubspaceState):
            return state
        found = self._states.get(id(state))
        return None if found is None or found[0] is not state else found[1]

    def to_current_basis(self, state: SubspaceState) -> Any:
        """The tree of a state in the present basis; None if it is of another round."""
        basis = self.basis
        if state.epoch == basis.epoch:
            return state.tree
        if not basis.is_compatible(state.epoch):
            return None
        state.tree = tree_map(
            state.tree, lambda leaf: basis.shift_basis(leaf) if hasattr(leaf, "shape") else leaf
        )
        state.epoch = basis.epoch
        return state.tree

    def step(
        self, x: Any, g: Any, state: Any, value: float = math.nan, trusted: bool = True
    ) -> tuple[Any, Any]:
        """The optimizer's step: on coefficients from coefficients, on arrays from arrays, whose
        coefficients are then known if all of theirs are.
        """
        found, epoch = self._coefficient_step(x, g, state, value, trusted), self.basis.epoch
        if found is not None and isinstance(x, SubspaceVector):
            return SubspaceVector(found[0], epoch), SubspaceState(found[1], epoch)
        # Where an array that is no sum of the basis comes in, the step is taken on arrays.
        self.materialize([x, g], [state])
        x, g = (p.array if isinstance(p, SubspaceVector) else p for p in (x, g))
        new, after = self.bound.step(
            x,
            g,
            state.array_state if isinstance(state, SubspaceState) else state,
            value=value,
            trusted=trusted,
        )
        if found is not None:
            self.track(new, found[0])
            self._states[id(after)] = (after, SubspaceState(found[1], epoch, after))
        return new, after

    def _coefficient_step(
        self, x: Any, g: Any, state: Any, value: float, trusted: bool
    ) -> tuple[np.ndarray, Any] | None:
        """The step on coefficients; None where something in it is not known."""
        p, q, s = self.point(x), self.point(g), self.state(state)
        if p is None or q is None or s is None:
            return None
        a, b, tree = (
            self.basis.to_current_basis(p),
            self.basis.to_current_basis(q),
            self.to_current_basis(s),
        )
        if a is None or b is None or tree is None:
            return None
        return self.small.step(a, b, tree, value=value, trusted=trusted)

    # -- arrays ------------------------------------------------------------------------------------

    def rollout(
        self,
        view: EngineView,
        posterior: Posterior,
        x: SubspaceVector,
        state: SubspaceState,
        steps: int,
        reference_path: Sequence[Any],
    ) -> Rollout | None:
        """A walk by one class of _combined.py; None where something is not known, or it takes more
        than small matrices.
        """
        basis, system = self.basis, posterior.system
        if (
            system is None
            or posterior.n == 1
            or basis.history.dims is not None
            or basis.to_current_basis(x) is None
        ):
            return None
        tree, track = self.to_current_basis(state), self._path_coefficients(reference_path)
        ahead = None if tree is None else self.small.unroll(tree, steps)
        if ahead is None or track is None:
            return None
        given = (basis.metric, posterior, x, state, ahead, _limit(view.x), track)
        formula = traced_kernel(system.factors[0], posterior.constant)
        if formula is not None and steps:
            sizes = len(ahead.slots), len(ahead.scalars[0])
            chain = basis.backend.subspace_rollout(
                formula.lines, formula.result, posterior.constant, ahead.rule, *sizes
            )
            if chain is not None:
                with suppress(TracingError):
                    return CompiledSubspaceRollout(chain, *given)
        return SubspaceRollout(*given)

    def _path_coefficients(self, path: Sequence[Any]) -> np.ndarray | None:
        """The coefficients of a path, shape (k, m); None if they are not known."""
        basis, points = self.basis, [self.point(z) for z in path]
        track, behind = np.empty((len(path), basis.size)), []
        for j, p in enumerate(points):
            if p is None or not basis.is_compatible(p.epoch):
                return None
            if p.epoch == basis.epoch:
                track[j] = p.c
            else:
                behind.append(j)
        if behind:
            track[behind] = basis.shift_basis(np.array([points[j].c for j in behind]))  # type: ignore[union-attr]
        return track

    def materialize(self, points: Sequence[Any], states: Sequence[Any]) -> None:
        """Make the arrays of all that have none yet, in one pass."""
        basis = self.basis
        fresh = {id(p): p for p in points if isinstance(p, SubspaceVector) and p.array is None}
        made = {id(s): s for s in states if isinstance(s, SubspaceState) and s.array_state is None}
        wanted: list[np.ndarray | None] = [basis.to_current_basis(p) for p in fresh.values()]
        parts = []
        for s in made.values():
            tree, found = self.to_current_basis(s), []
            for leaf in tree_leaves(tree):
                same = self._basis_vector(leaf) if hasattr(leaf, "shape") else leaf
                if hasattr(leaf, "shape") and same is None:
                    same = _BasisIndex(len(wanted))
                    wanted.append(leaf)
                found.append(same)
            parts.append((s, tree, found))
        if any(c is None or basis.is_lost(c) for c in wanted):
            raise ArgumentTypeError(
                "a predicted point was asked for when its rows had left the history; "
                "use view.materialize in plan or filter_observations"
            )
        arrays = basis.materialize(wanted) if wanted else []  # type: ignore[arg-type]
        for p, array in zip(fresh.values(), arrays, strict=False):
            p.array = array
            self._vectors[id(array)] = (array, p)
        for s, tree, found in parts:
            s.array_state = tree_unflatten(
                tree,
                [arrays[leaf.index] if isinstance(leaf, _BasisIndex) else leaf for leaf in found],
            )
            self._states[id(s.array_state)] = (s.array_state, s)

    def _basis_vector(self, c: np.ndarray) -> Array | None:
        """The optimizer's vector that `c` is, None if it is a sum."""
        i = int(c.argmax())
        own = (
            N_FIXED <= i < N_FIXED + self.basis.n_slots and c[i] == 1.0 and np.count_nonzero(c) == 1
        )
        return self.basis.vectors[i - N_FIXED] if own else None

    # -- files -------------------------------------------------------------------------------------

    def dump(self, x: Array, state: Any) -> dict[str, Any]:
        """The state as arrays; `x` and `state` are the engine's."""
        if self._restored is None:
            self.basis.current = self._current(x, state)
        return self.basis.dump()

    def restore(self, saved: dict[str, Any], x: Array, state: Any) -> None:
        """Take over what `dump` gave; `x` and `state` are the engine's."""
        self.basis.restore(saved)
        self._restored = (x, state) if self.basis.current is not None else None


@dataclass(frozen=True, slots=True)
class _BasisIndex:
    """Where in a list of arrays a vector of a state will be found."""

    index: int


@dataclass(frozen=True, slots=True)
class SubspaceView(EngineView):
    """A view whose points may be coefficients.

    Attributes
    ----------
    ledger : Ledger
    """

    tracker: CoefficientTracker | None = None

    @property
    def _tracker(self) -> CoefficientTracker:
        assert self.tracker is not None
        return self.tracker

    def rollout_start(self) -> tuple[Any, Any]:
        """theta_t and the state there, as what predicted steps start from."""
        if not self._tracker.rebase(self.x, self.state):
            return self.x, self.state
        return self.lift(self.x, self.state)

    def lift(self, x: Any, state: Any) -> tuple[Any, Any]:
        """A point and a state as coefficients where both are known."""
        p, s = self._tracker.point(x), self._tracker.state(state)
        if (
            p is None
            or s is None
            or self._tracker.basis.to_current_basis(p) is None
            or self._tracker.to_current_basis(s) is None
        ):
            return x, state
        return p, s

    def is_finite(self, x: Any) -> bool:
        """True if every entry of the point is a finite number."""
        if not isinstance(x, SubspaceVector):
            return self.backend.all_finite(x)
        # a coefficient that is not finite leaves no finite length
        seen = self._tracker.basis.row_products(x)
        return seen is not None and math.sqrt(max(seen[0], 0.0)) < _limit(self.x)  # False for nan

    def rollout(
        self,
        posterior: Posterior,
        x: Any,
        state: Any,
        steps: int,
        reference_path: Sequence[Any] = (),
    ) -> Rollout:
        if isinstance(x, SubspaceVector) and isinstance(state, SubspaceState):
            found = self._tracker.rollout(self, posterior, x, state, steps, reference_path)
            if found is not None:
                return found
        return EngineView.rollout(self, posterior, x, state, steps, reference_path)

    def materialize(
        self, points: Sequence[Any], states: Sequence[Any] = ()
    ) -> tuple[list[Any], list[Any]]:
        """Points, gradients and states as arrays, made in one pass."""
        self._tracker.materialize(points, states)
        return [p.array if isinstance(p, SubspaceVector) else p for p in points], [
            s.array_state if isinstance(s, SubspaceState) else s for s in states
        ]

    def squared_norm(self, g: Any) -> float:
        if not isinstance(g, SubspaceVector):
            return EngineView.squared_norm(self, g)
        c = self._tracker.basis.to_current_basis(g)
        return math.nan if c is None else self._tracker.basis.metric.squared_norm(c)

    def distance(self, a: Any, b: Any) -> float:
        if not isinstance(a, SubspaceVector) and not isinstance(b, SubspaceVector):
            return EngineView.distance(self, a, b)
        basis, p, q = self._tracker.basis, self._tracker.point(a), self._tracker.point(b)
        c, e = (
            None if p is None else basis.to_current_basis(p),
            None if q is None else basis.to_current_basis(q),
        )
        return math.nan if c is None or e is None else math.sqrt(basis.metric.squared_norm(c - e))

    def average(self, gradients: Sequence[Array]) -> Array:
        mean = EngineView.average(self, gradients)
        known = [self._tracker.point(g) for g in gradients]
        if all(p is not None for p in known):
            lifted = [self._tracker.basis.to_current_basis(p) for p in known if p is not None]
            if all(c is not None for c in lifted):
                self._tracker.track(mean, np.mean(lifted, axis=0))  # type: ignore[arg-type]
        return mean

    def prediction_error(self, mean: Any, gradient: Array) -> float:
        """|mean - gradient|; nan where the estimate can no longer be made."""
        if not isinstance(mean, SubspaceVector):
            return EngineView.prediction_error(self, mean, gradient)
        if not self._tracker.basis.n_appended and self._tracker.point(gradient) is None:
            return EngineView.prediction_error(self, self.materialize([mean])[0][0], gradient)
        return self.distance(mean, gradient)


class SubspacePosterior(Posterior):
    """A posterior that takes points as coefficients too, and then gives the mean as coefficients."""

    def __init__(self, *args: Any, basis: SubspaceBasis) -> None:
        super().__init__(*args)
        self._basis = basis

    def _distances(self, x: Any) -> np.ndarray:
        if not isinstance(x, SubspaceVector):
            return super()._distances(x)
        found = self._basis.distances(x)
        return np.full(self.n, math.nan) if found is None else found

    def _mean(self, x: Any, w: np.ndarray) -> Any:
        if not isinstance(x, SubspaceVector):
            return super()._mean(x, w)
        c = self._basis.to_current_basis(x)
        assert c is not None
        curvature = 0.0 if self._system is None else self.hyper.curvature
        return SubspaceVector(
            self._basis.metric.mean(w, c, curvature, self.constant), self._basis.epoch
        )


def _limit(x: Array) -> float:
    """Points as far away as this are not finite numbers."""
    return 0.1 * float(np.finfo(x.dtype).max)


def _vectors_of(state: Any, d: int) -> list[Array] | None:
    """The arrays of a state; None if one of them is no vector of d numbers, or the state holds what
    cannot be walked.
    """
    try:
        arrays = [leaf for leaf in tree_leaves(state) if hasattr(leaf, "shape")]
    except ArgumentTypeError:
        return None
    return arrays if all(a.shape == (d,) for a in arrays) else None
