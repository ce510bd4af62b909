"""State machines: evaluators that lose, double and delay nothing, whatever is asked of them in
whatever order, by points that fail.

Each function returns a Hypothesis ``RuleBasedStateMachine``: run it with
``hypothesis.stateful.run_state_machine_as_test``, or take its ``TestCase``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from optex_core.adapters.objective import make_objective
from optex_core.backends import get_backend
from optex_core.errors import ProtocolError
from optex_core.execution.base import Evaluator, Outcome
from optex_core.model.history import History
from optex_core.testing.assertions import EPS, assert_same_bits, assert_within
from optex_core.testing.check_suite import CheckFailed, require
from optex_core.testing.suites.evaluator import echo_context
from optex_core.types import Candidate, ObjectiveProtocol


def evaluator_machine(
    make: Callable[[ObjectiveProtocol], Evaluator],
) -> type[RuleBasedStateMachine]:
    """The machine for evaluators that ``make(objective)`` gives; its model is the set of points
    that are out.

    Points succeed, raise, or take 20 ms; portions, waiting, cancelling and draining come in any
    order. Whatever comes back is one of the points that are out, once, with its own answer or its
    own error; nothing is out after a drain.
    """

    class EvaluatorMachine(RuleBasedStateMachine):
        """`self.out`: candidate id -> (what it does, attempt)."""

        @initialize()
        def begin(self) -> None:
            """Start with nothing."""
            self.evaluator = make(make_objective(echo_context, x0=np.zeros(4)))
            self.out: dict[int, tuple[float, int]] = {}
            self.number = 0
            # out when cancel() was called: they may never come back
            self.doubtful: set[int] = set()

        def teardown(self) -> None:
            """Close."""
            if hasattr(self, "evaluator"):
                self.evaluator.close()

        @rule(
            does=st.lists(st.sampled_from((0.0, -1.0, 0.02)), min_size=1, max_size=4),
            attempt=st.integers(0, 2),
        )
        def submit(self, does: list[float], attempt: int) -> None:
            """Some points, which may fail or take long."""
            points = []
            for what in does:
                x = np.array([what, float(self.number), 0.0, 0.0])
                x.flags.writeable = False
                points.append(Candidate(self.number, x, 1000 + self.number, 0, 0))
                self.out[self.number] = (what, attempt)
                self.number += 1
            self.evaluator.submit(points, attempt=attempt)

        def _take(self, outcomes: list[Outcome]) -> None:
            for o in outcomes:
                require(
                    o.candidate.id in self.out,
                    f"point {o.candidate.id} came back without being out: twice, or never asked",
                )
                what, attempt = self.out.pop(o.candidate.id)
                self.doubtful.discard(o.candidate.id)
                require(
                    o.attempt == attempt,
                    f"point {o.candidate.id} was attempt {attempt}, came back as {o.attempt}",
                )
                if what == -1.0:
                    require(
                        isinstance(o.error, ValueError)
                        and f"no mesh at {float(o.candidate.id)}" in str(o.error),
                        f"another's error: {o.error!r}",
                    )
                else:
                    require(
                        o.evaluation is not None and o.error is None,
                        f"point {o.candidate.id} failed: {o.error!r}",
                    )
                    assert o.evaluation is not None
                    expected = np.array([o.candidate.seed, o.candidate.id, attempt, -1.0])
                    assert_same_bits(
                        np.asarray(o.evaluation.gradient),
                        expected,
                        f"point {o.candidate.id} has another's answer",
                    )

        # No preconditions: what is pending depends on the clock, and data must not.
        @rule(timeout=st.sampled_from((None, 0.0, 0.005)))
        def wait(self, timeout: float | None) -> None:
            """For the next outcomes; for nothing, it is an error."""
            if not self.evaluator.pending:
                self._wait_for_nothing()
                return
            outcomes = self.evaluator.next(timeout)
            require(
                outcomes or timeout is not None or self.doubtful,
                "next() without a timeout returned nothing although something is pending",
            )
            self._take(outcomes)

        def _wait_for_nothing(self) -> None:
            try:
                self.evaluator.next(0.0)
            except ProtocolError:
                return
            raise CheckFailed("next() returned although nothing was pending")

        @rule()
        def cancel(self) -> None:
            """What has not started is gone; what runs stays."""
            self.evaluator.cancel()
            self.doubtful = set(self.out)

        @rule()
        def drain(self) -> None:
            """Nothing is out afterwards."""
            self._take(self.evaluator.drain())
            require(
                self.evaluator.pending == 0, f"{self.evaluator.pending} are pending after drain()"
            )
            self.out.clear()
            self.doubtful.clear()

        @invariant()
        def pending_is_what_is_out(self) -> None:
            """Less only after a cancel."""
            if hasattr(self, "evaluator"):
                pending, most = self.evaluator.pending, len(self.out)
                require(
                    most - len(self.doubtful) <= pending <= most,
                    f"{most} points are out ({len(self.doubtful)} cancelled), pending "
                    f"says {pending}",
                )

    return EvaluatorMachine


def history_machine(kind: Callable[..., Any] = History) -> type[RuleBasedStateMachine]:
    """The machine for histories with the constructor of `optex_core.model.history.History`; its
    model is a list of the newest pairs.
    """

    class HistoryMachine(RuleBasedStateMachine):
        """`self.rows` is all that is known."""

        @initialize(
            capacity=st.integers(2, 8), d=st.integers(1, 5), dtype=st.sampled_from((np.float64, np.float32)), scaled=st.booleans(),
            subset=st.booleans(), seed=st.integers(0, 2**32 - 1),
        )  # fmt: skip
        def begin(
            self, capacity: int, d: int, dtype: Any, scaled: bool, subset: bool, seed: int
        ) -> None:
            """An empty history of any form."""
            self.rng = np.random.default_rng(seed)
            scale = np.exp(self.rng.normal(size=d)).astype(dtype) if scaled else None
            dims = (
                np.sort(self.rng.permutation(d)[: self.rng.integers(1, d + 1)]) if subset else None
            )
            self.make = lambda: kind(
                capacity, d, dtype, get_backend("numpy"), scale=scale, dims=dims
            )
            self.capacity, self.d, self.dtype, self.dims = capacity, d, dtype, dims
            self.scale: Any = 1.0 if scale is None else scale.astype(np.float64)
            self.history = self.make()
            self.rows: list[tuple[np.ndarray, np.ndarray]] = []
            self.total = 0

        def _added(self, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
            self.rows = [*self.rows, *pairs][-self.capacity :]
            self.total += len(pairs)

        @rule(
            offset=st.sampled_from((0.0, 1e3)),
            step=st.sampled_from((0.0, 1e-4, 1.0)),
            times=st.integers(1, 12),
            together=st.booleans(),
        )
        def append(self, offset: float, step: float, times: int, together: bool) -> None:
            """Pairs, one by one or in one go, close or far."""
            pairs: Any = [
                tuple(
                    (offset + step * self.rng.normal(size=self.d)).astype(self.dtype)
                    for _ in range(2)
                )
                for _ in range(times)
            ]
            if together and hasattr(self.history, "extend"):
                self.history.extend(pairs)
            else:
                for x, g in pairs:
                    self.history.append(x, g)
            self._added(pairs)

        @precondition(lambda self: self.rows)
        @rule()
        def append_the_newest_again(self) -> None:
            """A repeated row."""
            self.history.append(*self.rows[-1])
            self._added([self.rows[-1]])

        @rule(stale=st.integers(0, 9))
        def restore_into_another(self, stale: int) -> None:
            """What that held before must not show."""
            state = {
                name: np.array(value, copy=True) for name, value in self.history.dump().items()
            }
            self.history = self.make()
            for _ in range(stale):
                self.history.append(self.rng.normal(size=self.d), self.rng.normal(size=self.d))
            self.history.restore(state)

        @rule()
        def restore_itself(self) -> None:
            """Nothing changes."""
            self.history.restore(self.history.dump())

        @invariant()
        def rows_are_those_of_the_list(self) -> None:
            """Count, total, order, newest, and every bit."""
            if not hasattr(self, "history"):
                return
            h, n = self.history, len(self.rows)
            require(
                (h.n, h.total) == (n, self.total),
                f"n, total are {h.n}, {h.total}, of the list {n}, {self.total}",
            )
            order = h.chronological_order()
            require(sorted(order) == list(range(n)), f"order() is {order} of {n} rows")
            require(h.newest == (order[-1] if n else -1), "newest is not the last of order()")
            for i, (x, g) in zip(order, self.rows, strict=True):
                assert_same_bits((np.array(h.X[i]), np.array(h.G[i])), (x, g), "a row is another")

        @invariant()
        def pair_matrices_are_those_of_the_list(self) -> None:
            """D, E, M, S and sizes from the rows themselves."""
            if not getattr(self, "rows", None):
                return
            h, n = self.history, len(self.rows)
            order = np.ix_(h.chronological_order(), h.chronological_order())
            X, G = (np.array(side, dtype=np.float64) for side in zip(*self.rows, strict=True))
            dx, dg = X[:, None] - X[None], G[:, None] - G[None]
            dims = slice(None) if self.dims is None else self.dims
            expected = {
                "D": ((dx / self.scale) ** 2).sum(2), "E": ((dg * self.scale) ** 2).sum(2), "M": (dx * dg).sum(2),
                "S": ((dx / self.scale)[:, :, dims] ** 2).sum(2),
            }  # fmt: skip
            # Sums of at most five terms in another order; M may cancel, so relative to its largest
            # possible size.
            sizes = {"M": np.sqrt(expected["D"] * expected["E"])}
            for name, right in expected.items():
                matrix = getattr(h, name)[:n, :n]
                assert_within(matrix[order], right, 20 * EPS * sizes.get(name, right), name)
                assert_same_bits(
                    np.array(matrix), np.ascontiguousarray(matrix.T), f"{name} is not symmetric"
                )
            squares = ((G * self.scale) ** 2).sum(1)
            assert_within(
                h.squared_norms[h.chronological_order()],
                squares,
                8 * float(np.finfo(self.dtype).eps) * squares,
                "sizes",
            )
            near = h.distances(self.rows[0][0])
            assert_within(
                near,
                h.S[h.chronological_order()[0], :n],
                20 * EPS * near + math.ulp(0.0),
                "distances of the oldest row",
            )

    return HistoryMachine
