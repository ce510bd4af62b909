"""The master: versions, delays, mini-batches, policies, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optex_core.async_sgd import (
    BurstStatus,
    DecayingStep,
    DelayAdaptiveStep,
    Master,
    Push,
    Worker,
    run,
)
from optex_core.async_sgd.staleness import keeps_bound, select_pushes
from optex_core.errors import ArgumentError, ArgumentTypeError, ObjectiveError, ProtocolError
from optex_core.testing.reference import async_sgd as reference_async


def gradient_burst(v, ctx):
    return Push.steps(0.1 * v, value=float(v @ v))


class TestPushes:
    def test_a_push_moves_by_its_steps(self) -> None:
        master = Master([4.0, -2.0], rng=0)
        job = master.pull()
        receipt = master.push(job.id, Push.steps(np.array([1.0, -1.0]), gradients=3))
        assert receipt.accepted
        assert receipt.status is BurstStatus.ACCEPTED
        assert receipt.version == 1
        assert master.x.tolist() == [3.0, -1.0]
        assert master.counts["gradients"] == 3

    def test_an_affine_push_composes_with_what_came_between(self) -> None:
        master = Master([4.0, 8.0], rng=0)
        a, b = master.pull(0), master.pull(1)
        master.push(a.id, Push.affine(0.5, np.ones(2)))
        master.push(b.id, Push.affine(np.array([0.0, 0.25]), np.ones(2)))
        assert master.x.tolist() == [1.0, 0.25 * 5.0 + 1.0]

    def test_positive_stays_positive_for_every_delay(self) -> None:
        rng = np.random.default_rng(0)
        master = Master(rng.random(50) + 0.01, step=0.7, rng=0)
        jobs = [master.pull(k) for k in range(200)]
        for job in rng.permutation(200):
            rho = rng.random()
            master.push(jobs[job].id, Push.affine(1 - rho, rho * rng.random(50)))
            assert master.x.min() > 0

    def test_handed_out_parameters_never_change(self) -> None:
        master = Master([1.0, 2.0], rng=0)
        first = master.pull(0)
        kept = first.v.copy()
        master.push(master.pull(1).id, Push.steps(np.ones(2)))
        assert np.array_equal(first.v, kept)
        with pytest.raises(ValueError, match="read-only"):
            first.v[0] = 3.0

    def test_nothing_of_the_caller_is_kept_or_changed(self) -> None:
        x0 = np.array([1.0, 2.0])
        master = Master(x0, rng=0)
        x0[:] = 9
        assert master.x.tolist() == [1.0, 2.0]
        s = np.ones(2)
        master.push(master.pull().id, Push.steps(s))
        s[:] = 7
        assert master.x.tolist() == [0.0, 1.0]

    def test_float32_stays_float32(self) -> None:
        master = Master(np.ones(3, np.float32), step=0.3, rng=0)
        master.push(master.pull().id, Push.steps(np.full(3, 0.1)))
        master.push(master.pull().id, Push.affine(0.5, np.full(3, 0.1)))
        assert master.x.dtype == np.float32

    def test_one_worker_with_one_step_is_sgd_bit_for_bit(self) -> None:
        v = x = np.random.default_rng(1).standard_normal(20)
        master = Master(v, rng=0)
        run(master, gradient_burst, parallelism=1, maxiter=50)
        for _ in range(50):
            x = x - 0.1 * x
        assert np.array_equal(master.x, x)


class TestRefusals:
    def test_no_push_is_applied_twice(self) -> None:
        master = Master([1.0], rng=0)
        job = master.pull()
        master.push(job.id, Push.steps(np.ones(1)))
        with pytest.raises(ProtocolError, match="not open any more"):
            master.push(job.id, Push.steps(np.ones(1)))
        assert master.x.tolist() == [0.0]
        assert master.counts["applied"] == 1

    def test_an_unknown_id_is_refused(self) -> None:
        with pytest.raises(ProtocolError, match="unknown"):
            Master([1.0], rng=0).push(3, Push.steps(np.ones(1)))

    def test_what_was_given_up_cannot_be_pushed(self) -> None:
        master = Master([1.0], rng=0)
        job = master.pull()
        master.fail(job.id, "worker")
        with pytest.raises(ProtocolError):
            master.push(job.id, Push.steps(np.ones(1)))
        assert master.counts["worker"] == 1

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_numbers_that_are_not_finite_are_refused_and_counted(self, bad: float) -> None:
        master = Master([1.0, 1.0], rng=0)
        for push in (
            Push.steps(np.array([0.0, bad])),
            Push.affine(bad, np.zeros(2)),
            Push.affine(np.array([bad, 1.0]), np.zeros(2)),
        ):
            receipt = master.push(master.pull().id, push)
            assert not receipt.accepted
            assert receipt.status is BurstStatus.NOT_FINITE
            assert "finite" in receipt.reason
        assert master.counts["not finite"] == 3
        assert master.x.tolist() == [1.0, 1.0]
        assert master.version == 0
        assert not master.open

    def test_large_finite_numbers_are_not_taken_for_infinite(self) -> None:
        master = Master(np.zeros(4), rng=0)
        assert master.push(master.pull().id, Push.steps(np.full(4, 1e308))).accepted

    @pytest.mark.parametrize(
        "wrong", [np.ones(3), np.ones((2, 1)), np.array(["a", "b"]), np.ones(2) * 1j, None]
    )
    def test_a_wrong_array_changes_nothing(self, wrong: object) -> None:
        master = Master([1.0, 1.0], rng=0)
        job = master.pull()
        with pytest.raises(ObjectiveError, match="shape"):
            master.push(job.id, Push.steps(wrong))
        assert master.open == [job.id]
        assert master.push(job.id, Push.steps(np.ones(2))).accepted

    def test_what_is_no_push_is_named(self) -> None:
        master = Master([1.0], rng=0)
        with pytest.raises(ObjectiveError, match="must return a Push"):
            master.push(master.pull().id, np.ones(1))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"step": -1.0}, ArgumentError, "step"),
            ({"step": "large"}, ArgumentTypeError, "step"),
            ({"step": DecayingStep}, ArgumentTypeError, "class"),
            ({"batch": 0}, ArgumentError, "batch"),
            ({"max_delay": -1}, ArgumentError, "max_delay"),
            ({"on_late": "drop"}, ArgumentError, "on_late"),
            ({"maxdelay": 3}, ArgumentTypeError, "max_delay"),
            ({"tag": 3}, ArgumentTypeError, "tag"),
        ],
    )
    def test_bad_settings_are_refused(self, options: dict, error: type, message: str) -> None:
        with pytest.raises(error, match=message):
            Master([1.0], **options)

    def test_a_rule_that_gives_no_number_is_named(self) -> None:
        master = Master([1.0], step=lambda version, delay: float("nan"), rng=0)
        with pytest.raises(ArgumentError, match="version 0 and delay 0"):
            master.push(master.pull().id, Push.steps(np.ones(1)))


class TestDelays:
    def test_delays_are_measured(self) -> None:
        master = Master(np.ones(2), rng=0)
        jobs = [master.pull(k) for k in range(4)]
        for job in (2, 0, 3, 1):
            master.push(jobs[job].id, Push.steps(np.zeros(2)))
        assert master.push_trace.delay.tolist() == [0, 1, 2, 3]
        assert master.push_trace.job.tolist() == [2, 0, 3, 1]

    def test_reject_refuses_what_is_late(self) -> None:
        master = Master(np.ones(1), max_delay=1, rng=0)
        jobs = [master.pull(k) for k in range(4)]
        accepted = [master.push(job.id, Push.steps(np.ones(1))).accepted for job in jobs]
        assert accepted == [True, True, False, False]
        assert master.counts["late"] == 2

    def test_damp_shortens_what_is_late(self) -> None:
        master = Master(np.zeros(1), max_delay=1, on_late="damp", rng=0)
        for job in [master.pull(k) for k in range(4)]:
            master.push(job.id, Push.steps(np.ones(1)))
        assert master.push_trace.eta.tolist() == [1.0, 1.0, 2 / 3, 2 / 4]

    def test_rules_see_version_and_delay(self) -> None:
        assert DecayingStep(2.0, tau0=4.0, kappa=0.5)(12, 3) == pytest.approx(1.0)
        assert DelayAdaptiveStep(2.0, rule=0.5)(9, 3) == pytest.approx(0.25)
        seen = []
        master = Master(
            np.zeros(1), step=lambda version, delay: seen.append((version, delay)) or 1.0, rng=0
        )
        for job in [master.pull(k) for k in range(2)]:
            master.push(job.id, Push.steps(np.ones(1)))
        assert seen == [(0, 0), (1, 1)]

    def test_mini_batches_are_one_update(self) -> None:
        master = Master(np.zeros(1), batch=3, rng=0)
        jobs = [master.pull(k) for k in range(5)]
        versions = [master.push(job.id, Push.steps(np.ones(1))).version for job in jobs]
        assert versions == [0, 0, 1, 1, 1]
        assert master.x.tolist() == [-3.0]
        assert master.flush() == 2
        assert master.x.tolist() == [-5.0]
        assert master.push_trace.delay.tolist() == [0, 0, 0, 1, 1]

    @given(
        st.integers(1, 4),
        st.integers(0, 6),
        st.integers(1, 12),
        st.lists(st.tuples(st.booleans(), st.integers(0, 50)), min_size=20, max_size=150),
    )
    def test_wait_never_exceeds_the_bound_and_never_stands_still(
        self, batch: int, bound: int, workers: int, moves: list
    ) -> None:
        # Pulls, pushes and losses in any order: delays stay bounded, and when everything handed out
        # has come back, less than a batch is held.
        master = Master(np.zeros(1), batch=batch, max_delay=bound, on_late="wait", rng=0)
        for lose, pick in moves:
            while len(master.open) < workers and (master.pull()) is not None:
                pass
            assert master.open, "with nothing handed out, a pull must be possible"
            job = master.open[pick % len(master.open)]
            if lose and pick % 5 == 0:
                master.fail(job)
            else:
                assert master.push(job, Push.steps(np.ones(1))).accepted
        for job in master.open:
            master.push(job, Push.steps(np.ones(1)))
        assert len(master.state.received) < batch
        master.flush()
        assert master.counts["applied"] == master.counts["accepted"] == len(master.push_trace)
        if len(master.push_trace):
            assert master.push_trace.delay.max() <= bound
        assert master.x[0] == -master.counts["applied"]

    def test_the_condition_of_waiting(self) -> None:
        assert keeps_bound([0, 0, 0], 0, 1, 2)
        assert not keeps_bound([0, 0, 0, 0], 0, 1, 2)
        assert keeps_bound([0] * 6, 0, 2, 2)
        # Burst 7 is back, but the one from version 0 has no update to spare.
        assert select_pushes([(7, 2)], [0], 2, 1, 2) is None
        assert select_pushes([(7, 2), (3, 0)], [], 2, 1, 2) == [3]


class TestAgainstTheReference:
    @pytest.mark.parametrize(
        ("step", "policy"),
        [
            (1.0, {"max_delay": 2}),
            (0.5, {"max_delay": 2, "on_late": "damp"}),
            (DecayingStep(0.9, tau0=3.0, kappa=0.7), {"batch": 3}),
            (DelayAdaptiveStep(2.0, rule=0.8), {}),
            (DelayAdaptiveStep(2.0, rule=DecayingStep()), {"max_delay": 0}),
        ],
    )
    def test_any_order_of_pulls_and_pushes_leads_where_the_formulas_lead(
        self, step, policy
    ) -> None:
        rng = np.random.default_rng(17)
        settings = {"step": step, **policy}
        master, events, points = Master(rng.random(4), **settings, rng=0), [], []
        points.append(master.x)
        refused = []
        for _ in range(60):
            if not master.open or rng.random() < 0.5:
                master.pull(int(rng.integers(3)))
                events.append("pull")
                continue
            job = int(rng.choice(master.open))
            if rng.random() < 0.5:
                pushed = rng.standard_normal(4)
                push = Push.steps(pushed)
            else:
                pushed = (
                    1.0 - rng.random() if rng.random() < 0.5 else rng.random(4),
                    rng.random(4),
                )
                push = Push.affine(*pushed)
            events.append((job, pushed))
            version = master.version
            if not master.push(job, push).accepted:
                refused.append(job)
            if master.version > version:
                points.append(master.x)
        found = reference_async.simulate_pushes(points[0], events, **settings)
        assert found.refused == refused
        assert bool(refused) == (
            policy.get("max_delay") is not None and policy.get("on_late", "reject") == "reject"
        )
        push_trace = master.push_trace
        bursts, versions, delays, etas = zip(*found.applied, strict=True)
        assert (
            push_trace.job.tolist(),
            push_trace.version.tolist(),
            push_trace.delay.tolist(),
        ) == (
            list(bursts),
            list(versions),
            list(delays),
        )
        np.testing.assert_allclose(push_trace.eta, etas, rtol=1e-15)
        assert max(delays) > 0 or policy.get("max_delay") == 0
        np.testing.assert_allclose(points, found.points, rtol=1e-13, atol=1e-15)

    def test_a_worker_pushes_the_sum_that_the_formulas_give(self) -> None:
        v = np.random.default_rng(0).standard_normal(5)

        def gradient(u, k=0):
            return np.sin(u) + 0.5 * u

        master = Master(v, rng=0)
        run(
            master,
            Worker(lambda x: (0.0, gradient(x)), rate=0.2, inner_steps=7),
            parallelism=1,
            maxiter=3,
        )
        expected = v
        for _ in range(3):
            expected = expected - reference_async.burst(expected, gradient, 0.2, 7)
        np.testing.assert_allclose(master.x, expected, rtol=1e-13, atol=1e-15)

    def test_the_reference_schedules_nothing(self) -> None:
        with pytest.raises(ArgumentError, match="has on_late='reject' and 'damp', got 'wait'"):
            reference_async.simulate_pushes([1.0], ["pull"], max_delay=1, on_late="wait")
