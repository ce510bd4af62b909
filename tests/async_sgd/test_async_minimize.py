"""`async_sgd.minimize`: results, limits, saved runs, the smoothness check, errors."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clocks import only_these_bursts_take_too_long
from scipy import optimize

import optex_core as ox
from optex_core.async_sgd import BurstStatus, Worker, convergence, minimize
from optex_core.engine.stopping import Status
from optex_core.errors import (
    ArgumentError,
    ArgumentTypeError,
    CapabilityError,
    CheckpointError,
    ObjectiveError,
)
from optex_core.optimizers import schedules


def square(x):
    return 0.5 * x @ x, x


def noisy(x, *, seed):
    return 0.5 * x @ x, x + 0.1 * np.random.default_rng(seed).standard_normal(x.shape)


class TestMinimize:
    def test_the_result_is_of_the_same_kind(self) -> None:
        res = minimize(noisy, np.full(5, 3.0), rate=0.02, parallelism=3, maxiter=100, rng=4)
        assert isinstance(res, optimize.OptimizeResult)
        assert set(ox.minimize(square, np.ones(2), maxiter=1)) < set(res)
        assert res.status is Status.MAXITER
        assert not res.success
        assert res.nit == 100
        assert res.nsteps == 1000
        assert res.njev == 1001
        assert res.nfev == 1001
        assert res.stop == {"maxiter": 100}
        assert len(res.history) == 100
        assert res.history.value[-1] < res.history.value[0]
        assert res.seed == 4
        assert res.deterministic
        assert res.delays[2:].tolist() == [2] * 98
        assert res.closing is BurstStatus.ACCEPTED
        assert "Delays: mean" in res.message

    def test_iterations_are_updates_whatever_the_pushes_to_each(self) -> None:
        for N in (1, 4):
            res = minimize(square, np.ones(2), batch=3, maxiter=7, parallelism=N)
            assert (res.nit, len(res.push_trace), res.stop) == (7, 21, {"maxiter": 7})
            assert res.nsteps == 21 * 10

    def test_max_evals_is_in_gradients(self) -> None:
        res = minimize(noisy, np.ones(2), inner_steps=8, max_evals=100)
        assert res.nsteps == 104
        assert res.stop == {"max_evals": 100}
        assert res.status is Status.MAX_EVALS
        assert minimize(noisy, np.ones(2), inner_steps=8, max_evals=100, maxiter=2).stop == {
            "maxiter": 2
        }
        assert minimize(noisy, np.ones(2), inner_steps=8, max_evals=1).nsteps == 8
        with pytest.raises(ArgumentError, match="max_evals must be an integer >= 1, got 0"):
            minimize(noisy, np.ones(2), max_evals=0)

    @pytest.mark.parametrize("kind", ["log", "checkpoint"])
    def test_a_resumed_run_has_the_rate_it_was_begun_with(self, tmp_path: Path, kind: str) -> None:
        def falling(version: int) -> float:
            return 0.01 / (1 + version)

        for rate, name in ((0.02, "a"), (falling, "b"), (np.float32(0.02), "c")):
            kept: Any = {kind: tmp_path / name, "rng": 0, "parallelism": 1}
            first = minimize(noisy, np.ones(2), rate=rate, maxiter=5, **kept)
            for other in (0.03, lambda version: 0.02):
                with pytest.raises(
                    CheckpointError, match=r"was made with rate=.*, here it is .*; pass the same"
                ):
                    minimize(noisy, np.ones(2), rate=other, maxiter=9, resume=True, **kept)
            second = minimize(noisy, np.ones(2), rate=rate, maxiter=9, resume=True, **kept)
            assert second.nfev == second.njev == first.njev + 4 * 10
            assert np.array_equal(
                second.x, minimize(noisy, np.ones(2), rate=rate, maxiter=9, rng=0, parallelism=1).x
            )

    def test_target_ends(self) -> None:
        res = minimize(noisy, np.full(5, 3.0), rate=0.02, maxiter=1000, target=0.1, rng=0)
        assert res.success
        assert res.status is Status.TARGET
        assert res.nit < 1000

    def test_a_callback_sees_results_and_stops(self) -> None:
        seen = []

        def callback(intermediate_result):
            seen.append(intermediate_result.nit)
            if len(seen) == 5:
                raise StopIteration
            return "not True"  # as in optex_core.minimize, only True stops

        res = minimize(noisy, np.ones(2), callback=callback)
        assert seen == [1, 2, 3, 4, 5]
        assert res.status is Status.CALLBACK

    def test_true_of_numpy_stops(self) -> None:
        res = minimize(noisy, np.ones(2), maxiter=50, callback=lambda r: np.bool_(r.nit >= 3))
        assert res.status is Status.CALLBACK
        assert res.nit == 3

    def test_schedules_count_versions(self) -> None:
        worker = Worker(square, rate=schedules.Exponential(0.1, decay=0.5), inner_steps=1)
        assert worker.gamma(0) == 0.1
        assert worker.gamma(2) == pytest.approx(0.025)

    def test_a_step_above_the_cap_says_so_with_the_cap(self, caplog) -> None:
        h = np.linspace(0.1, 1.0, 10)
        res = minimize(
            lambda x: (0.5 * (h * x) @ x, h * x),
            np.ones(10),
            rate=0.5,
            inner_steps=1,
            parallelism=8,
            maxiter=200,
            smoothness=1.0,
        )
        assert res.fun > 1e3
        assert res.step == pytest.approx(0.5)
        assert res.stable_step == pytest.approx(convergence.stability_cap(res.delays.mean()))
        assert res.stable is False
        assert f"= {res.stable_step:.3g}; lower rate" in res.message
        assert "above the largest that is stable" in caplog.text
        good = minimize(
            lambda x: (0.5 * (h * x) @ x, h * x),
            np.ones(10),
            rate=0.15,
            inner_steps=1,
            parallelism=8,
            maxiter=400,
            smoothness="estimate",
        )
        assert good.fun < 1e-3
        assert good.stable is True
        assert "above" not in good.message
        assert minimize(square, np.ones(2), maxiter=1).stable is None
        assert good.step == pytest.approx(0.15, rel=0.1)
        assert good.njev == 400 + 9 + 1

    def test_divergence_is_a_status(self) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            res = minimize(
                lambda x: (x @ x, 2 * x), np.ones(2), rate=10.0, maxiter=5000, parallelism=2
            )
        assert res.status is Status.DIVERGED
        assert "smoothness" in res.message
        assert np.isfinite(res.x).all()
        assert res.lost

    def test_partial_result_comes_with_an_error(self) -> None:
        calls = []

        def fun(x):
            calls.append(0)
            if len(calls) > 30:
                raise OSError("no licence")
            return square(x)

        with pytest.raises(OSError, match="no licence") as caught:
            minimize(fun, np.ones(2), rate=0.1)
        assert caught.value.partial_result.nit == 3  # type: ignore[attr-defined]

    def test_a_saved_run_goes_on_with_the_same_bits(self, tmp_path) -> None:
        options = {"rate": 0.02, "parallelism": 1, "rng": 0}
        whole_run = minimize(noisy, np.ones(4), maxiter=60, **options)
        for files in ({"checkpoint": tmp_path / "a.npz"}, {"log": tmp_path / "a.log"}):
            minimize(noisy, np.ones(4), maxiter=25, **options, **files)
            rest = minimize(noisy, np.ones(4), maxiter=60, **options, **files, resume=True)
            assert rest.x.tobytes() == whole_run.x.tobytes()
            assert rest.nit == 60
            with pytest.raises(CheckpointError, match="resume=True"):
                minimize(noisy, np.ones(4), maxiter=60, **options, **files)
            with pytest.raises(CheckpointError, match="rng"):
                minimize(
                    noisy,
                    np.ones(4),
                    maxiter=60,
                    rate=0.02,
                    parallelism=1,
                    rng=9,
                    **files,
                    resume=True,
                )
            with pytest.raises(CheckpointError, match="parameters"):
                minimize(noisy, np.ones(5), maxiter=60, **options, **files, resume=True)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"rate": 0}, ArgumentError, "rate"),
            ({"rate": "fast"}, ArgumentTypeError, "rate"),
            ({"rate": schedules.Cosine}, ArgumentTypeError, "class"),
            ({"inner_steps": 0}, ArgumentError, "inner_steps"),
            ({"cores": 20}, ArgumentError, "cores must be at most inner_steps"),
            ({"parallelism": 0}, ArgumentError, "parallelism"),
            ({"workers": 0}, ArgumentError, "at least 1 process"),
            ({"workers": "thread"}, ArgumentError, "did you mean 'threads'"),
            ({"workers": object()}, ArgumentTypeError, "workers must be"),
            ({"workers": dict}, ArgumentTypeError, "class dict"),
            ({"timeout": 1.0}, CapabilityError, "background"),
            ({"max_delays": 3}, ArgumentTypeError, "did you mean 'max_delay'"),
            ({"on_error": "retry"}, ArgumentError, "on_error"),
            ({"smoothness": "guess"}, ArgumentError, "estimate"),
            ({"smoothness": -1.0}, ArgumentError, "smoothness"),
            ({"resume": True}, ArgumentError, "needs log="),
            ({"checkpoint_every": 3}, ArgumentError, "checkpoint"),
            ({"log": 3}, ArgumentTypeError, "log"),
            ({"progress": 3}, ArgumentTypeError, "progress"),
        ],
    )
    def test_bad_arguments_are_refused(self, options: dict, error: type, message: str) -> None:
        with pytest.raises(error, match=message):
            minimize(noisy, np.ones(3), **{"maxiter": 3, **options})

    def test_a_wrong_gradient_ends_the_run_whatever_on_error_says(self) -> None:
        with pytest.raises(ObjectiveError):
            minimize(lambda x: (1.0, np.ones(7)), np.ones(3), maxiter=5, on_error="drop")

    def test_values_are_needed_for_a_target(self) -> None:
        with pytest.raises(CapabilityError, match="target needs values"):
            minimize(None, np.ones(3), jac=lambda x: x, target=1.0)
        assert np.isnan(minimize(None, np.ones(3), jac=lambda x: x, maxiter=3).fun)


class TestClosingEvaluation:
    """It runs where all evaluations run, under the same timeout."""

    @pytest.mark.parametrize("end", ["exit", "hang"])
    def test_what_costs_a_burst_does_not_end_the_program(
        self, end: str, caplog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        only_these_bursts_take_too_long(
            monkeypatch, lambda burst: burst < 0 and (tmp_path / "hangs").exists()
        )

        def fun(x, *, seed):
            if seed == 0:  # the final evaluation's, with rng=0
                if end == "exit":
                    os._exit(1)
                (tmp_path / "hangs").touch()
                time.sleep(1000)
            return 0.5 * x @ x, x

        res = minimize(
            fun, np.ones(4), rate=0.05, parallelism=2, maxiter=6, workers=2, timeout=0.5, rng=0
        )
        assert res.nit == 6
        assert np.isnan(res.fun)
        assert np.isnan(res.jac).all()
        assert res.closing is (BurstStatus.WORKER if end == "exit" else BurstStatus.TIMEOUT)
        why = "its worker died" if end == "exit" else "it ran for more than 0.5 s"
        assert f"The final evaluation failed: EvaluationError: {why}" in res.message
        assert why in caplog.text

    def test_no_success_without_a_closing_value(self) -> None:
        def fun(x, *, seed):
            return (np.nan, x) if seed == 0 else (0.5 * x @ x, x)

        res = minimize(fun, np.ones(4), rate=0.05, target=1e-3, rng=0)
        assert res.status is Status.TARGET
        assert not res.success

    @pytest.mark.parametrize("on_error", ["raise", "drop"])
    def test_an_error_in_it_is_that_of_a_burst(self, on_error: str) -> None:
        def fun(x, *, seed):
            if seed == 0:
                raise OSError("no licence")
            return 0.5 * x @ x, x

        options: dict[str, Any] = {"maxiter": 5, "rng": 0, "on_error": on_error}
        if on_error == "drop":
            res = minimize(fun, np.ones(4), **options)
            assert res.closing is BurstStatus.ERROR
            assert "The final evaluation failed: OSError: no licence." in res.message
            return
        with pytest.raises(OSError, match="no licence") as caught:
            minimize(fun, np.ones(4), **options)
        assert caught.value.partial_result.nit == 5  # type: ignore[attr-defined]

    def test_the_smoothness_estimate_and_it_run_in_workers(self, tmp_path: Path) -> None:
        def fun(x, *, seed):
            (tmp_path / f"{os.getpid()}").touch()
            return 0.5 * x @ x, x

        options: dict[str, Any] = {"rate": 0.05, "maxiter": 4, "smoothness": "estimate", "rng": 0}
        res = minimize(fun, np.ones(4), **options, workers=2)
        assert not (tmp_path / f"{os.getpid()}").exists()
        here = minimize(fun, np.ones(4), **options)
        assert res.step == here.step
        assert res.njev == here.njev == 4 * 10 + 9 + 1

    def test_nothing_is_left_behind_by_a_refused_run(self, tmp_path: Path) -> None:
        for options in ({"progress": 3}, {"timeout": 1.0}, {"workers": "thread"}, {"target": "x"}):
            with pytest.raises((ArgumentError, ArgumentTypeError, CapabilityError)):
                minimize(noisy, np.ones(3), maxiter=3, log=tmp_path / "a.log", **options)
        assert not list(tmp_path.iterdir())
