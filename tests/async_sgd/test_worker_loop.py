"""The loop: seeds, states of workers, failures, limits, callbacks, evaluations."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest
from clocks import Clock, only_these_bursts_take_too_long

from optex_core.async_sgd import BurstStatus, LoopReport, Master, Push, run
from optex_core.errors import ArgumentError
from optex_core.execution.workers.evaluation_workers import Workers


def gradient_burst(v, ctx):
    return Push.steps(0.1 * v, value=float(v @ v))


class TestRun:
    def test_serial_runs_repeat_bit_for_bit(self) -> None:
        def burst(v, ctx):
            return Push.steps(0.05 * (v + np.random.default_rng(ctx.seed).standard_normal(v.shape)))

        ends = []
        for _ in range(2):
            master = Master(np.ones(5), rng=3)
            report = run(master, burst, parallelism=4, maxiter=60)
            assert report.deterministic
            ends.append(master.x)
        assert np.array_equal(*ends)
        assert master.push_trace.delay[3:].tolist() == [3] * 57

    def test_seeds_never_repeat_and_follow_the_run(self) -> None:
        seeds: dict[int, list[int]] = {0: [], 1: []}
        for rng in (0, 1):

            def burst(v, ctx, rng=rng):
                seeds[rng].append(ctx.seed)
                assert ctx.run_seed == rng
                return Push.steps(0 * v)

            run(Master(np.ones(1), rng=rng), burst, parallelism=3, maxiter=50)
        assert len({*seeds[0], *seeds[1]}) == 100

    @pytest.mark.parametrize("workers", [None, "threads"])
    def test_every_worker_has_its_own_state(self, workers: str | None) -> None:
        class Counting:
            def spawn(self, worker, seed):
                made = Counting()
                made.worker, made.calls, made.seed = worker, 0, seed
                return made

            def __call__(self, v, ctx):
                assert ctx.worker == self.worker
                assert ctx.burst == self.calls
                self.calls += 1
                return Push.steps(0 * v, report={"spawned": float(self.seed)})

        found = []
        master = Master(np.ones(1), rng=0)
        run(
            master,
            Counting(),
            parallelism=3,
            workers=workers,
            maxiter=60,
            callback=lambda result: found.append(result.push.report["spawned"]),
        )
        assert len(found) == 60
        assert len(set(found)) <= 3

    def test_an_error_ends_the_run_or_is_dropped(self) -> None:
        def burst(v, ctx):
            if ctx.id == 7:
                raise ZeroDivisionError("seven")
            return Push.steps(0.1 * v)

        master = Master(np.ones(1), rng=0)
        with pytest.raises(ZeroDivisionError, match="seven"):
            run(master, burst, maxiter=20)
        assert master.counts["accepted"] == 7
        assert not master.open
        master = Master(np.ones(1), rng=0)
        report = run(master, burst, maxiter=20, on_error="drop")
        assert report.pushes == 20
        assert report.lost == 1
        assert master.lost[0].id == 7
        assert "ZeroDivisionError" in master.lost[0].traceback

    def test_a_burst_that_only_fails_ends_the_run(self) -> None:
        def burst(v, ctx):
            return Push.steps(np.full(1, np.nan))

        report = run(Master(np.ones(1), rng=0), burst, parallelism=2, maxiter=20)
        assert report.status.name == "DIVERGED"
        assert report.lost == 20

    def test_a_run_without_an_end_is_refused(self) -> None:
        with pytest.raises(ArgumentError, match="never end"):
            run(Master(np.ones(1), rng=0), gradient_burst)

    def test_a_callback_stops(self) -> None:
        master = Master(np.ones(1), rng=0)
        seen = []

        def callback(intermediate_result: LoopReport) -> bool:
            report = intermediate_result
            seen.append((report.status.name, report.pushes, report.receipt.version))
            return report.master.version >= 5

        report = run(master, gradient_burst, callback=callback)
        assert seen == [("RUNNING", n, n) for n in range(1, 6)]
        assert report.status.name == "CALLBACK"
        assert report.push is None
        assert report.abandoned == 3
        assert master.version == 5
        assert not master.open

    def test_waiting_workers_and_few_of_them(self) -> None:
        master = Master(np.ones(1), max_delay=2, on_late="wait", rng=0)
        run(master, gradient_burst, parallelism=8, maxiter=40)
        assert master.push_trace.delay.max() == 2
        assert master.counts["accepted"] == 40

    def test_a_gradient_budget_is_not_exceeded_by_more_than_a_burst(self) -> None:
        def burst(v, ctx):
            return Push.steps(0.01 * v, gradients=7)

        master = Master(np.ones(1), rng=0)
        run(master, burst, parallelism=4, max_evals=100)
        assert 100 <= master.counts["gradients"] < 107

    def test_a_hanging_thread_is_replaced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gate, hung = threading.Event(), []
        only_these_bursts_take_too_long(monkeypatch, lambda burst: burst in hung)

        def burst(v, ctx):
            if ctx.id == 2:
                hung.append(2)
                gate.wait(60)
            return Push.steps(0.1 * v)

        master = Master(np.ones(1), rng=0)
        try:
            report = run(master, burst, parallelism=2, workers="threads", maxiter=30, timeout=0.5)
        finally:
            gate.set()
        assert report.pushes == 30
        assert master.counts["timeout"] == 1
        assert master.counts["applied"] == 30

    def test_a_burst_that_is_done_while_a_callback_takes_its_time_is_not_overdue(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock, ends = Clock(monkeypatch), [threading.Event() for _ in range(4)]
        submitted: list[Any] = []
        start = Workers.submit

        def noted(self: Workers, *args: Any, **pin: Any) -> Any:
            submitted.append(start(self, *args, **pin))
            return submitted[-1]

        def burst(v, ctx):
            ends[ctx.id].wait(60)
            return Push.steps(0.1 * v)

        def callback(result: LoopReport) -> None:
            if result.pushes == 1:  # of burst 0: burst 1 ends now, and the callback later
                ends[1].set()
                submitted[1].result(60)
                clock.advance(100.0)
                ends[2].set()
                ends[3].set()

        monkeypatch.setattr(Workers, "submit", noted)
        ends[0].set()
        master = Master(np.ones(1), rng=0)
        options: dict[str, Any] = {"maxiter": 3, "timeout": 50.0, "callback": callback}
        report = run(master, burst, parallelism=2, workers="threads", **options)
        assert (report.pushes, report.lost) == (3, 0)


class Abort(BaseException):
    """An exception of the user that is no Exception."""


class Silent(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("str raises")


class TestUserExceptions:
    @pytest.mark.parametrize("workers", [None, "threads", "processes"])
    @pytest.mark.parametrize("error", [SystemExit(2), Abort("licence lost")])
    def test_what_is_no_exception_ends_the_run_as_what_it_was(
        self, workers: Any, error: BaseException
    ) -> None:
        def burst(v, ctx):
            if ctx.id == 5:
                raise error
            return Push.steps(0.1 * v)

        master = Master(np.ones(1), rng=0)
        with pytest.raises(type(error)) as caught:
            run(master, burst, parallelism=2, workers=workers, maxiter=20, on_error="drop")
        assert caught.value.args == error.args
        assert not master.open
        assert [lost.id for lost in master.lost if lost.status is BurstStatus.ERROR] == [5]

    @pytest.mark.parametrize("workers", [None, "threads", "processes"])
    def test_an_error_without_a_text_is_dropped_like_any_other(self, workers: Any) -> None:
        def burst(v, ctx):
            if ctx.id == 3:
                raise Silent
            return Push.steps(0.1 * v)

        master = Master(np.ones(1), rng=0)
        report = run(master, burst, parallelism=2, workers=workers, maxiter=12, on_error="drop")
        assert report.pushes == 12
        assert "Silent" in master.lost[0].message

    def test_an_exit_in_spawn_ends_the_run(self) -> None:
        class Exits:
            def spawn(self, worker, seed):
                sys.exit(3)

        with pytest.raises(SystemExit):
            run(Master(np.ones(1), rng=0), Exits(), workers="threads", maxiter=3)
