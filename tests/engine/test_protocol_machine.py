"""Ask and tell in every order that a user can think of, against a model that knows only the
contract.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from strategy_names import STRATEGY_NAMES

import optex_core as ox
from optex_core.engine.stopping import Status
from optex_core.errors import CapabilityError, OptexError, ProtocolError

D = 3
WEIGHTS = np.array([1.0, 2.0, 3.0])


def value(x):
    return float(WEIGHTS @ x**2)


def gradient(x):
    return 2.0 * WEIGHTS * x


class Protocol(RuleBasedStateMachine):
    """The model: which ids wait, which are late, what was told, and what the counters must be."""

    strategy = "auto"

    @initialize(
        parallelism=st.integers(1, 4),
        optimizer=st.sampled_from([ox.SGD(0.05, momentum=0.5), ox.Adam(0.1), ox.Lion(0.05)]),
        criteria=st.sampled_from(
            [
                {"maxiter": 6},
                {"maxiter": 40, "gtol": 2.0},
                {"max_evals": 17},
                {"maxiter": 40, "xtol": 0.05},
            ]
        ),
        history=st.sampled_from([None, 3]),
        rounds=st.integers(0, 6),
    )
    def start(self, parallelism, optimizer, criteria, history, rounds):
        self.parallelism, self.criteria = parallelism, criteria
        self.engine = ox.OptEx(
            np.array([3.0, -4.0, 1.0]),
            optimizer=optimizer,
            parallelism=parallelism,
            strategy=self.strategy,
            estimator=ox.GradientEstimator(history=history),
            rng=3,
            **criteria,
        )
        self.pending = {}  # id -> candidate, asked and not told
        self.late = {}
        self.told = set()
        self.failed = 0
        self.closed_early = False
        self.folder = tempfile.TemporaryDirectory()
        for _ in range(rounds):
            self.ask()
            for id_ in list(self.pending):
                self._tell(id_)

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    # -- what users do -----------------------------------------------------------------------------

    @rule()
    def ask(self):
        asked = self.engine.ask()
        assert len(asked) <= self.parallelism
        if self.engine.stop():
            assert asked == []
            return
        assert asked
        assert not {c.id for c in asked} & (self.told | set(self.late))
        if self.pending:
            assert [c.id for c in asked] == list(self.pending)
        for c in asked:
            assert c.id == c.iteration * self.parallelism + c.slot
            assert (
                c.seed
                == np.random.SeedSequence(3, spawn_key=(c.iteration, c.slot)).generate_state(1)[0]
            )
            assert not c.x.flags.writeable
            assert np.isfinite(c.x).all()
        self.pending = {c.id: c for c in asked}
        if asked[0].slot == 0:
            np.testing.assert_array_equal(asked[0].x, self.engine.result().x)

    def _settle(self, id_):
        """The model after a candidate was told."""
        self.pending.pop(id_, None)
        self.late.pop(id_, None)
        self.told.add(id_)

    def _tell(self, id_):
        c = self.pending[id_]
        self.engine.tell(id_, gradient=gradient(c.x), value=value(c.x))
        self._settle(id_)

    @rule(data=st.data())
    def tell_some(self, data):
        if not self.pending:
            self.ask()
        for id_ in data.draw(st.permutations(list(self.pending)))[: data.draw(st.integers(1, 4))]:
            self._tell(id_)

    @rule(data=st.data())
    def tell_all(self, data):
        for _ in range(2):
            if not self.pending:
                self.ask()
            for id_ in data.draw(st.permutations(list(self.pending))):
                self._tell(id_)

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def tell_a_gradient_alone(self, data):
        id_ = data.draw(st.sampled_from(list(self.pending)))
        if self.engine.settings.strategy.needs_values:
            with pytest.raises(CapabilityError, match="needs values"):
                self.engine.tell(id_, gradient=np.ones(D))
            return
        self.engine.tell(id_, gradient=gradient(self.pending[id_].x))
        self._settle(id_)

    @precondition(lambda self: len(self.pending) > 1)
    @rule(data=st.data(), how=st.sampled_from(["error", "nan", "inf"]))
    def a_proxy_fails(self, data, how):
        proxies = [id_ for id_, c in self.pending.items() if c.slot]
        if not proxies:
            return
        id_ = data.draw(st.sampled_from(proxies))
        running = not self.engine.stop()
        if how == "error":
            self.engine.tell(id_, error=RuntimeError("flaky"))
        else:
            self.engine.tell(id_, gradient=np.full(D, float(how)), value=1.0)
        self._settle(id_)
        self.failed += 1
        # the last of a round closes it, which may end the run, but never by this failure
        if running and self.engine.stop():
            assert self.engine.status in {Status.GTOL, Status.MAXITER}

    @precondition(lambda self: self.pending)
    @rule()
    def the_iterate_fails(self):
        id_ = next(iter(self.pending))
        if self.pending[id_].slot or len(self.told) < 25:  # not too soon, or no run gets far
            return
        stopped = self.engine.stop()
        self.engine.tell(id_, error=RuntimeError("mesh"))
        self._settle(id_)
        self.failed += 1
        assert self.engine.stop() == (stopped or {"failed": True})

    @precondition(lambda self: len(self.pending) > 1)
    @rule()
    def close_without_the_stragglers(self):
        if self.engine.stop():
            return
        first = next(iter(self.pending))
        if self.pending[first].slot == 0:
            with pytest.raises(ProtocolError):
                self.engine.close_round()
            self._tell(first)
            if self.engine.stop():
                return
        nit = self.engine.state.nit
        self.engine.close_round()
        self.closed_early = True
        self.late |= self.pending
        self.pending = {}
        assert self.engine.stop() or self.engine.state.nit == nit + 1

    @precondition(lambda self: self.late)
    @rule(data=st.data(), fails=st.booleans())
    def tell_late(self, data, fails):
        id_ = data.draw(st.sampled_from(list(self.late)))
        x = self.late[id_].x
        nit, theta = self.engine.state.nit, self.engine.result().x
        if fails:
            self.engine.tell(id_, error=RuntimeError("late and lost"))
        else:
            self.engine.tell(id_, gradient=gradient(x), value=value(x))
        self._settle(id_)
        self.failed += fails
        assert self.engine.state.nit == nit
        np.testing.assert_array_equal(self.engine.result().x, theta)

    @rule(
        data=st.data(),
        wrong=st.sampled_from([None, np.ones(D + 1), np.ones(D) * 1j, "text", [[1.0], [1.0, 2.0]]]),
    )
    def tell_what_must_not_be_told(self, data, wrong):
        id_ = data.draw(st.sampled_from(sorted(self.told | {-1, 10**9})))
        njev = self.engine.state.njev
        with pytest.raises(ProtocolError, match="nothing was changed"):
            self.engine.tell(id_, gradient=np.ones(D), value=1.0)
        for id_ in list(self.pending)[:1]:
            with pytest.raises(OptexError):
                self.engine.tell(id_, gradient=wrong, value=1.0)
        assert self.engine.state.njev == njev

    @rule()
    def through_a_file(self):
        path = Path(self.folder.name) / "run"
        before = self.engine.result()
        self.engine.save(path)
        self.engine = ox.OptEx.load(path)
        after = self.engine.result()
        # a run that was ended by a failure goes on: theta is asked again
        if self.engine.stop() != before.stop:
            assert before.status is Status.FAILED
            self.failed_theta()
            return
        np.testing.assert_array_equal(before.x, after.x)
        np.testing.assert_array_equal(before.jac, after.jac)
        assert before.history == after.history
        assert (before.nit, before.nsteps, before.njev, before.nfev) == (
            after.nit,
            after.nsteps,
            after.njev,
            after.nfev,
        )

    def failed_theta(self):
        """Theta and whatever else of its round had not been told are pending again."""
        self.pending = {c.id: c for c in self.engine.ask()}
        self.told -= set(self.pending)
        self.retold = getattr(self, "retold", 0) + 1

    @precondition(lambda self: self.engine.machine.surrogate.history is not None)
    @rule(seed=st.integers(0, 9))
    def add_observations(self, seed):
        X = np.random.default_rng(seed).standard_normal((2, D))
        self.engine.add_observations(X, np.array([gradient(x) for x in X]))

    # -- what always holds -------------------------------------------------------------------------

    @invariant()
    def the_counters_are_what_was_told(self):
        if not hasattr(self, "engine"):
            return
        s = self.engine.state
        assert s.njev == len(self.told) + getattr(self, "retold", 0)
        assert s.failures == len(self.engine.failures) == self.failed
        assert s.njev + len(self.late) <= self.criteria.get("max_evals", math.inf) + getattr(
            self, "retold", 0
        )
        assert set(self.engine.machine.late) <= set(self.late) | set(self.pending)

    @invariant()
    def the_result_is_true(self):
        if not hasattr(self, "engine"):
            return
        result = self.engine.result()
        assert np.isfinite(result.x).all()
        assert bool(result.stop) == (result.status is not Status.RUNNING)
        if not np.isnan(result.jac).any():
            # data_parallel: a mean of equal gradients may differ from them in the last digit
            np.testing.assert_allclose(result.jac, gradient(result.x), rtol=1e-15)
        if not math.isnan(result.fun):
            np.testing.assert_allclose(result.fun, value(result.x), rtol=1e-15)
        if not math.isnan(result.best_fun):
            assert result.best_fun == value(result.best_x)
        assert result.deterministic != self.closed_early
        rows = result.history.iteration
        assert rows.tolist() == list(range(len(rows)))
        assert len(rows) in {result.nit, result.nit + 1}
        assert result.nsteps >= result.nit
        if "maxiter" in self.criteria:
            assert result.nit <= self.criteria["maxiter"]


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_the_protocol_holds(strategy):
    machine = type(strategy, (Protocol,), {"strategy": strategy})
    # One example is a run of up to 30 actions after up to 6 rounds.
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=30, suppress_health_check=list(HealthCheck)
        ),
    )
