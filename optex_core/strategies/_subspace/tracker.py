"""Arrays and optimizer states whose coefficients over a basis are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from optex_core.errors import ArgumentTypeError
from optex_core.model.subspace import SubspaceBasis, SubspaceVector
from optex_core.optimizers._pytree import tree_leaves, tree_map
from optex_core.types import Array


@final
@dataclass(slots=True, eq=False)
class SubspaceState:
    """An optimizer state whose vectors are coefficients over the basis at `epoch`."""

    tree: object
    epoch: int
    array_state: object = None  # the state itself once it was made


def _is_vector(leaf: object) -> bool:
    return hasattr(leaf, "shape")


@final
class CoefficientTracker:
    """Points and states that were made from coefficients, and gradients that are rows."""

    def __init__(self, basis: SubspaceBasis) -> None:
        self.basis = basis
        # By id; each record holds its array, as an id is unique among living objects only.
        self._vectors: dict[int, SubspaceVector] = {}
        self._states: dict[int, SubspaceState] = {}
        # theta_t, its state and their coefficients as a file had them.
        self._restored: tuple[object, object, np.ndarray | None] | None = None

    def extend(self, pairs: Sequence[tuple[Array, Array]]) -> None:
        """Append observed (x, g) pairs to the history and to the basis, in one pass."""
        basis, self._restored = self.basis, None
        basis.extend([x for x, _ in pairs], [g for _, g in pairs])
        if basis.K is not None and basis.total == basis.history.total:
            for back, (_, g) in enumerate(reversed(pairs)):
                self.track(g, basis.gradient_row(back))

    def rebase(self, x: Array, state: object) -> bool:
        """Begin a basis at theta_t; False where it has none."""
        try:
            vectors = [leaf for leaf in tree_leaves(state) if _is_vector(leaf)]
        except ArgumentTypeError:
            return False
        if any(v.shape != x.shape for v in vectors):
            return False
        current, self._restored = self._current(x, state), None
        self._vectors.clear()
        self._states.clear()
        rows = self.basis.rebase(x, vectors, current)
        if rows is None:
            return False
        self.track(x, rows[0])
        slots = iter(rows[1:])
        tree = tree_map(state, lambda leaf: next(slots) if _is_vector(leaf) else leaf)
        self.track_state(state, tree)
        return True

    def _current(self, x: Array, state: object) -> np.ndarray | None:
        """Coefficients of a point and of its state's vectors, shape (1 + vectors, m), if known."""
        if self._restored is not None and self._restored[0] is x and self._restored[1] is state:
            return self._restored[2]
        c, tree = self.coefficients(x), self.tree(state)
        if c is None or tree is None:
            return None
        return np.array([c, *(leaf for leaf in tree_leaves(tree) if _is_vector(leaf))])

    def track(self, array: Array, c: np.ndarray) -> None:
        """Keep the coefficients of an array over the present basis."""
        self._vectors[id(array)] = SubspaceVector(c, self.basis.epoch, array)

    def track_state(self, state: object, tree: object) -> None:
        """Keep an optimizer state as coefficients over the present basis."""
        self._states[id(state)] = SubspaceState(tree, self.basis.epoch, state)

    def vector(self, x: object) -> SubspaceVector | None:
        """A vector as coefficients, None if they are not known."""
        if isinstance(x, SubspaceVector):
            return x
        found = self._vectors.get(id(x))
        return found if found is not None and found.array is x else None

    def state(self, state: object) -> SubspaceState | None:
        """A state as coefficients, None if they are not known."""
        if isinstance(state, SubspaceState):
            return state
        found = self._states.get(id(state))
        return found if found is not None and found.array_state is state else None

    def coefficients(self, x: object) -> np.ndarray | None:
        """The coefficients of a vector over the present basis, None if they are not known."""
        p = self.vector(x)
        return None if p is None else self.basis.to_current_basis(p)

    def tree(self, state: object) -> object:
        """The tree of a state over the present basis, None if it is not known."""
        s, basis = self.state(state), self.basis
        if s is None or s.epoch == basis.epoch:
            return None if s is None else s.tree
        if not basis.is_compatible(s.epoch):
            return None
        s.tree = tree_map(s.tree, lambda c: basis.shift_basis(c) if _is_vector(c) else c)
        s.epoch = basis.epoch
        return s.tree

    def path(self, points: Sequence[object]) -> np.ndarray | None:
        """The coefficients of points, shape (k, m); None if they are not known."""
        basis, vectors = self.basis, [self.vector(z) for z in points]
        found, old = np.empty((len(points), basis.size)), []
        for j, p in enumerate(vectors):
            if p is None or not basis.is_compatible(p.epoch):
                return None
            if p.epoch == basis.epoch:
                found[j] = p.c
            else:
                old.append((j, p.c))
        if old:
            at, coefficients = zip(*old, strict=True)
            found[list(at)] = basis.shift_basis(np.array(coefficients))
        return found

    def materialize(self, points: Sequence[object], states: Sequence[object]) -> None:
        """Make the arrays of all that have none yet, in one pass."""
        basis = self.basis
        new = {id(p): p for p in points if isinstance(p, SubspaceVector) and p.array is None}
        made = {id(s): s for s in states if isinstance(s, SubspaceState) and s.array_state is None}
        trees = [self.tree(s) for s in made.values()]
        wanted: list[Any] = [basis.to_current_basis(p) for p in new.values()]
        wanted += [leaf for tree in trees for leaf in tree_leaves(tree) if _is_vector(leaf)]
        if any(tree is None for tree in trees) or any(
            c is None or basis.is_lost(c) for c in wanted
        ):
            raise ArgumentTypeError(
                "the rows that a predicted point is a sum of have left the history; "
                "make it before the observations are recorded"
            )
        arrays = iter(basis.materialize(wanted) if wanted else [])
        for p in new.values():
            p.array = next(arrays)
            self._vectors[id(p.array)] = p
        for s, tree in zip(made.values(), trees, strict=True):
            s.array_state = tree_map(tree, lambda c: next(arrays) if _is_vector(c) else c)
            self._states[id(s.array_state)] = s

    def dump(self, x: Array, state: object) -> dict[str, np.ndarray]:
        """What a saved run holds of it; `x` and `state` are those of theta_t."""
        current = self._current(x, state)
        return {**self.basis.dump(), "here": np.zeros((0, 0)) if current is None else current}

    def restore(self, saved: dict[str, np.ndarray], x: Array, state: object) -> None:
        """Take over what `dump` gave."""
        self.basis.restore(saved)
        self._restored = x, state, saved["here"] if saved["here"].size else None
