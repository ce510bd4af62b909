"""State machines: evaluators that lose, double and delay nothing, and histories that keep the
newest rows, whatever is asked of them in whatever order.

Each function returns a Hypothesis ``RuleBasedStateMachine``: run it with
``hypothesis.stateful.run_state_machine_as_test``, or take its ``TestCase``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from optex_core.adapters.objective import make_objective
from optex_core.backends import get_backend
from optex_core.errors import ProtocolError
from optex_core.execution.base import Evaluator
from optex_core.model.history import History
from optex_core.testing.assertions import EPS, assert_within
from optex_core.testing.check_suite import require, require_equal, require_raises
from optex_core.testing.sample_objectives import echo_context
from optex_core.testing.suites.evaluator import assert_answered, candidate
from optex_core.testing.suites.history import assert_matches_rows
from optex_core.types import EvaluationResult, ObjectiveProtocol


def evaluator_machine(
    make: Callable[[ObjectiveProtocol], Evaluator],
) -> type[RuleBasedStateMachine]:
    """The machine for evaluators that ``make(objective)`` gives; its model is the set of submitted
    points.

    Points succeed, raise, or take 20 ms; portions, waiting, cancelling and draining come in any
    order. Whatever comes back is one of the submitted points, once, with its own answer or its own
    error; nothing is pending after a drain.
    """

    class EvaluatorMachine(RuleBasedStateMachine):
        """`self.submitted`: candidate id -> (what it does, attempt)."""

        @initialize()
        def begin(self) -> None:
            """Start with nothing."""
            self.evaluator = make(make_objective(echo_context, x0=np.zeros(4)))
            self.submitted: dict[int, tuple[float, int]] = {}
            self.number = 0
            # submitted when cancel() was called: they may never come back
            self.cancelled: set[int] = set()

        def teardown(self) -> None:
            """Close."""
            if hasattr(self, "evaluator"):
                self.evaluator.close()

        @rule(
            actions=st.lists(st.sampled_from((0.0, -1.0, 0.02)), min_size=1, max_size=4),
            attempt=st.integers(0, 2),
        )
        def submit(self, actions: list[float], attempt: int) -> None:
            """Some points, which may fail or take long."""
            points = [candidate(self.number + i, action) for i, action in enumerate(actions)]
            self.submitted.update(
                {c.id: (action, attempt) for c, action in zip(points, actions, strict=True)}
            )
            self.number += len(points)
            self.evaluator.submit(points, attempt=attempt)

        def _take(self, outcomes: list[EvaluationResult]) -> None:
            for o in outcomes:
                number = o.candidate.id
                known = number in self.submitted
                require(known, f"point {number} came back twice, or was never submitted")
                action, attempt = self.submitted.pop(number)
                self.cancelled.discard(number)
                if action != -1.0:
                    assert_answered(o, attempt)
                    continue
                require_equal(o.attempt, attempt, f"attempt of point {number}")
                message = f"no mesh at {float(number)}"
                own = isinstance(o.error, ValueError) and message in str(o.error)
                require(own, f"another's error: {o.error!r}")

        # No preconditions: what is pending depends on the clock, and data must not.
        @rule(timeout=st.sampled_from((None, 0.0, 0.005)))
        def wait(self, timeout: float | None) -> None:
            """For the next outcomes; for nothing, it is an error."""
            if not self.evaluator.pending:
                with require_raises(ProtocolError, "next() returned although nothing was pending"):
                    self.evaluator.next(0.0)
                return
            outcomes = self.evaluator.next(timeout)
            text = "next() without a timeout returned nothing although something is pending"
            require(outcomes or timeout is not None or self.cancelled, text)
            self._take(outcomes)

        @rule()
        def cancel(self) -> None:
            """What has not started is dropped; what runs stays."""
            self.evaluator.cancel()
            self.cancelled = set(self.submitted)

        @rule()
        def drain(self) -> None:
            """Nothing is pending afterwards."""
            self._take(self.evaluator.drain())
            require_equal(self.evaluator.pending, 0, "pending after drain()")
            self.submitted.clear()
            self.cancelled.clear()

        @invariant()
        def pending_is_what_was_submitted(self) -> None:
            """Less only after a cancel."""
            if hasattr(self, "evaluator"):
                pending, most, less = self.evaluator.pending, len(self.submitted), self.cancelled
                text = f"{most} points are out ({len(less)} cancelled), pending says {pending}"
                require(most - len(less) <= pending <= most, text)

    return EvaluatorMachine


def history_machine(kind: Callable[..., History] = History) -> type[RuleBasedStateMachine]:
    """The machine for histories as `History`; its model is a list of the newest pairs."""

    class HistoryMachine(RuleBasedStateMachine):
        """`self.rows` is all that is known."""

        @initialize(
            capacity=st.integers(2, 8),
            d=st.integers(1, 5),
            dtype=st.sampled_from((np.float64, np.float32)),
            scaled=st.booleans(),
            subset=st.booleans(),
            seed=st.integers(0, 2**32 - 1),
        )
        def begin(
            self, capacity: int, d: int, dtype: type, scaled: bool, subset: bool, seed: int
        ) -> None:
            """An empty history of any form."""
            self.rng = rng = np.random.default_rng(seed)
            scale = np.exp(rng.normal(size=d)).astype(np.dtype(dtype)) if scaled else None
            dims = np.sort(rng.permutation(d)[: rng.integers(1, d + 1)]) if subset else None
            self.options: dict[str, np.ndarray | None] = {"scale": scale, "dims": dims}
            self.make = lambda: kind(capacity, d, dtype, get_backend("numpy"), **self.options)
            self.capacity, self.shape, self.dtype = capacity, (d,), dtype
            self.history = self.make()
            self.rows: list[tuple[np.ndarray, np.ndarray]] = []
            self.total = 0

        @rule(
            offset=st.sampled_from((0.0, 1e3)),
            step=st.sampled_from((0.0, 1e-4, 1.0)),
            times=st.integers(1, 12),
            together=st.booleans(),
        )
        def append(self, offset: float, step: float, times: int, together: bool) -> None:
            """Pairs, one by one or in one go, equal, close or far."""
            drawn: np.ndarray = offset + step * self.rng.normal(size=(times, 2, *self.shape))
            drawn = drawn.astype(self.dtype)
            pairs = [(x.copy(), g.copy()) for x, g in drawn]
            if together and hasattr(self.history, "extend"):
                self.history.extend(pairs)
            else:
                for x, g in pairs:
                    self.history.append(x, g)
            self.rows = [*self.rows, *pairs][-self.capacity :]
            self.total += len(pairs)

        @rule(stale=st.integers(0, 9))
        def restore_into_another(self, stale: int) -> None:
            """What that held before must not show."""
            dumped = self.history.dump()
            state = {name: np.array(value, copy=True) for name, value in dumped.items()}
            self.history = self.make()
            for _ in range(stale):
                self.history.append(*self.rng.normal(size=(2, *self.shape)))
            self.history.restore(state)

        @rule()
        def restore_itself(self) -> None:
            """Nothing changes."""
            self.history.restore(self.history.dump())

        @invariant()
        def rows_and_pair_matrices_are_those_of_the_list(self) -> None:
            """Count, total, order, newest, every bit, and the pair matrices to rounding."""
            if not hasattr(self, "history"):
                return
            h, n = self.history, len(self.rows)
            require_equal(h.total, self.total, "total")
            sides = (
                zip(*self.rows, strict=True) if n else [np.zeros((0, *self.shape), self.dtype)] * 2
            )
            X, G = (np.array(side) for side in sides)
            assert_matches_rows(h, X, G, **self.options)
            if n:
                order, near = h.chronological_order(), h.distances(X[0])
                bound = 20 * EPS * near + math.ulp(0.0)
                assert_within(near, h.S[order[0], :n], bound, "distances of the oldest row")

    return HistoryMachine
