"""The history against a list, under any sequence of appending and of saving and restoring."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from optex_core.backends import get_backend
from optex_core.history import History

EPS = np.finfo(np.float64).eps
BACKEND = get_backend("numpy")


class HistoryMachine(RuleBasedStateMachine):
    """`self.rows` is all that is known: the pairs, oldest first, the newest `capacity` of them."""

    @initialize(
        capacity=st.integers(2, 8),
        d=st.integers(1, 5),
        dtype=st.sampled_from((np.float32, np.float64)),
        scaled=st.booleans(),
        subset=st.booleans(),
        seed=st.integers(0, 2**32 - 1),
    )
    def start(self, capacity, d, dtype, scaled, subset, seed):
        self.rng = np.random.default_rng(seed)
        scale = np.exp(self.rng.normal(size=d)).astype(dtype) if scaled else None
        dims = np.sort(self.rng.permutation(d)[: self.rng.integers(1, d + 1)]) if subset else None
        self.make = lambda: History(capacity, d, dtype, BACKEND, scale=scale, dims=dims)
        self.capacity, self.d, self.dtype, self.scale, self.dims = capacity, d, dtype, 1.0 if scale is None else scale.astype(np.float64), dims
        self.history = self.make()
        self.rows, self.total = [], 0

    @rule(offset=st.sampled_from((0.0, 1e3)), step=st.sampled_from((0.0, 1e-4, 1.0)), times=st.integers(1, 5))
    def append(self, offset, step, times):
        for _ in range(times):
            x, g = ((offset + step * self.rng.normal(size=self.d)).astype(self.dtype) for _ in range(2))
            self.history.append(x, g)
            self.rows = [*self.rows, (x, g)][-self.capacity :]
            self.total += 1

    @rule()
    def append_the_newest_again(self):
        if self.rows:
            self.history.append(*self.rows[-1])
            self.rows = [*self.rows, self.rows[-1]][-self.capacity :]
            self.total += 1

    @rule(stale=st.integers(0, 9))
    def restore_into_another(self, stale):
        state = {name: np.array(value, copy=True) for name, value in self.history.dump().items()}
        self.history = self.make()
        for _ in range(stale):  # what it held before must not show
            self.history.append(self.rng.normal(size=self.d), self.rng.normal(size=self.d))
        self.history.restore(state)

    @rule()
    def restore_itself(self):
        self.history.restore(self.history.dump())

    @invariant()
    def rows_are_those_of_the_list(self):
        h, n = self.history, len(self.rows)
        assert (h.n, h.total) == (n, self.total)
        order = h.order()
        assert sorted(order) == list(range(n))
        if n:
            assert order[-1] == h.newest
            assert all(np.array_equal(h.X[i], x) and np.array_equal(h.G[i], g) for i, (x, g) in zip(order, self.rows, strict=True))
        else:
            assert h.newest == -1

    @invariant()
    def pair_matrices_are_those_of_the_list(self):
        if not self.rows:
            return
        h, n = self.history, len(self.rows)
        order = np.ix_(h.order(), h.order())
        X, G = (np.array(side, dtype=np.float64) for side in zip(*self.rows, strict=True))
        dx, dg = X[:, None] - X[None], G[:, None] - G[None]
        dims = slice(None) if self.dims is None else self.dims
        expected = {
            "D": ((dx / self.scale) ** 2).sum(2),
            "E": ((dg * self.scale) ** 2).sum(2),
            "M": (dx * dg).sum(2),
            "S": ((dx / self.scale)[:, :, dims] ** 2).sum(2),
        }
        # Sums of at most five terms in another order; M may cancel, so relative to its largest possible size.
        sizes = {"M": np.sqrt(expected["D"] * expected["E"])}
        for name, right in expected.items():
            matrix = getattr(h, name)[:n, :n]
            assert np.all(np.abs(matrix[order] - right) <= 20 * EPS * sizes.get(name, right))
            assert np.array_equal(matrix, matrix.T)
        # A float32 gradient is scaled in float32 before it is squared.
        eps = np.finfo(self.dtype).eps
        assert np.allclose(h.sizes[h.order()], ((G * self.scale) ** 2).sum(1), rtol=8 * eps, atol=0.0)

    @invariant()
    def distances_of_a_row_are_stored(self):
        if self.rows:
            x = self.rows[0][0]
            assert np.allclose(self.history.distances(x), self.history.S[self.history.order()[0], : self.history.n], rtol=20 * EPS, atol=0.0)


TestHistory = HistoryMachine.TestCase
TestHistory.settings = settings(max_examples=60, stateful_step_count=25)
