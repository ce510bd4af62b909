"""The worker: bursts of Python and compiled gradients, cores with locks and without, and the front
door.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optex_core as ox
from optex_core.async_sgd import (
    DenseSamples,
    Master,
    Push,
    SparseSamples,
    Worker,
    convergence,
    minimize,
    run,
)
from optex_core.async_sgd.hogwild import full_value_and_gradient, hogwild_burst, mix_seed
from optex_core.engine.status import Status
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


@pytest.fixture(scope="module")
def sparse() -> SparseSamples:
    from optex_core.bench.async_sgd.problems import sparse_logistic

    return sparse_logistic(500, 60, 5)


@pytest.fixture(scope="module")
def dense() -> DenseSamples:
    from optex_core.bench.async_sgd.problems import dense_logistic

    return dense_logistic(300, 12)


class TestReductions:
    def test_one_worker_with_one_step_is_sgd_bit_for_bit(self) -> None:
        x0 = np.random.default_rng(0).standard_normal(30)
        plain = ox.minimize(
            square, x0, optimizer=ox.SGD(0.1), parallelism=1, strategy="sequential", maxiter=25
        )
        res = minimize(square, x0, rate=0.1, inner_steps=1, parallelism=1, maxiter=25)
        assert res.x.tobytes() == plain.x.tobytes()
        assert res.fun == plain.fun
        assert res.delays.max() == 0

    def test_a_burst_is_that_many_steps(self) -> None:
        v = np.random.default_rng(1).standard_normal(8)
        master = Master(v, rng=0)
        run(master, Worker(square, rate=0.1, inner_steps=7), parallelism=1, pushes=1)
        assert master.x == pytest.approx(v * 0.9**7, rel=1e-14)

    def test_steps_keep_the_dtype(self) -> None:
        res = minimize(square, np.ones(4, np.float32), rate=0.1, maxiter=5, parallelism=2)
        assert res.x.dtype == np.float32

    def test_two_cores_do_the_same_number_of_steps(self) -> None:
        # With a lock nothing is lost: the pushed sum is the change of u, whatever the order.
        calls = []
        barrier = threading.Barrier(2, timeout=30)

        def fun(x):
            calls.append(threading.get_ident())
            if len(calls) <= 2:
                barrier.wait()  # both cores are in the gradient at once, or this breaks
            return 0.0, np.ones_like(x)

        master = Master(np.zeros(3), rng=0)
        run(master, Worker(fun, rate=0.5, inner_steps=11, cores=2), parallelism=1, pushes=1)
        assert master.x.tolist() == [-5.5] * 3
        assert len(calls) == 11
        assert len(set(calls)) == 2

    def test_an_error_on_a_core_is_the_error_of_the_burst(self) -> None:
        def fun(x):
            raise ZeroDivisionError("here")

        with pytest.raises(ZeroDivisionError, match="here"):
            minimize(fun, np.ones(2), cores=3, maxiter=2)


class TestCompiled:
    def test_the_gradient_of_all_samples(self, sparse, dense) -> None:
        for fun, d in ((sparse, 60), (dense, 12)):
            x = np.random.default_rng(0).standard_normal(d)
            value, gradient = full_value_and_gradient(fun, x)
            e = np.random.default_rng(1).standard_normal(d)
            slope = (
                full_value_and_gradient(fun, x + 1e-5 * e)[0]
                - full_value_and_gradient(fun, x - 1e-5 * e)[0]
            ) / 2e-5
            assert gradient @ e == pytest.approx(slope, rel=1e-6)
            assert value > 0

    @pytest.mark.parametrize("cores", [1, 3])
    def test_a_burst_on_samples_of_constant_gradient_is_exact_on_any_number_of_cores(
        self, sparse, cores: int
    ) -> None:
        import numba

        @numba.njit
        def sample(x, i, index, entry, data):
            index[0], entry[0] = i, 1.0
            return 1, 2.0

        n = 8
        s, value, lost = hogwild_burst(
            SparseSamples(sample, n, 1), np.zeros(n), 40_000, 1.0, 3, cores
        )
        # private sums: no step is missing, even where writes on u were lost
        assert s.sum() == 40_000
        assert value == 2.0
        assert 0 <= lost < 1
        assert s.min() > 40_000 / n * 0.9  # drawn evenly
        again, _, _ = hogwild_burst(SparseSamples(sample, n, 1), np.zeros(n), 40_000, 1.0, 3, 1)
        assert again.tolist() == s.tolist()  # the samples of a burst are those of its seed

    def test_one_core_repeats_bit_for_bit_and_two_cores_come_close(self, sparse, dense) -> None:
        for fun, d in ((sparse, 60), (dense, 12)):
            one = [
                minimize(fun, np.zeros(d), rate=0.3, inner_steps=50, maxiter=60, rng=2)
                for _ in range(2)
            ]
            assert one[0].x.tobytes() == one[1].x.tobytes()
            assert one[0].deterministic
            two = minimize(fun, np.zeros(d), rate=0.3, inner_steps=50, maxiter=60, rng=2, cores=2)
            assert not two.deterministic
            assert two.fun == pytest.approx(one[0].fun, rel=0.03)
            assert one[0].fun < 0.95 * np.log(2)
            assert one[0].njev == 60 * 50 + fun.n

    def test_float32_samples(self, sparse) -> None:
        columns, entries, labels = sparse.data
        single = SparseSamples(
            sparse.sample, sparse.n, sparse.width, (columns, entries.astype(np.float32), labels)
        )
        res = minimize(
            single, np.zeros(60, np.float32), rate=0.3, inner_steps=50, maxiter=10, rng=0
        )
        assert res.x.dtype == np.float32

    def test_streams_of_parts_differ(self) -> None:
        assert len({mix_seed(seed, k) for seed in range(50) for k in range(50)}) == 2500
        assert all(0 <= mix_seed(seed, 1) < 2**63 for seed in (0, 2**63 - 1))

    def test_uncompiled_samples_are_refused(self) -> None:
        with pytest.raises(ArgumentTypeError, match="numba.njit"):
            SparseSamples(lambda *a: (0, 0.0), 3, 1)
        with pytest.raises(ArgumentTypeError, match="numba.njit"):
            DenseSamples(square, 3)

    def test_samples_take_no_arguments(self, sparse) -> None:
        with pytest.raises(ArgumentError, match="leave out args"):
            minimize(sparse, np.zeros(60), args=(1,))


class TestMinimize:
    def test_the_result_is_of_the_same_kind(self) -> None:
        res = minimize(noisy, np.full(5, 3.0), rate=0.02, parallelism=3, maxiter=100, rng=4)
        assert isinstance(res, ox.Result)
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
        assert "Delays: mean" in res.message

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

        res = minimize(noisy, np.ones(2), callback=callback)
        assert seen == [1, 2, 3, 4, 5]
        assert res.status is Status.CALLBACK

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
        assert "above" not in good.message
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


class TestBounds:
    def test_the_cap_is_that_of_the_recursion(self) -> None:
        # x_{t+1} = x_t - a x_{t-D}, by its largest root.
        for D in (0, 1, 3, 7, 15):
            for factor, stable in ((0.995, True), (1.005, False)):
                a = factor * convergence.stability_cap(D)
                polynomial = np.zeros(D + 2)
                polynomial[0], polynomial[1] = 1.0, -1.0
                polynomial[-1] += a
                assert (np.abs(np.roots(polynomial)).max() < 1.0) == stable

    def test_the_master_has_that_cap(self) -> None:
        for N in (1, 2, 8):
            for factor, stable in ((0.97, True), (1.03, False)):
                a = factor * convergence.stability_cap(N - 1)
                master = Master(np.ones(1), rng=0)
                run(
                    master,
                    lambda v, version, seed, ctx, a=a: Push.steps(a * v),
                    parallelism=N,
                    pushes=3000,
                )
                assert (abs(master.x[0]) < 1e-3) == stable

    def test_the_step_of_a_burst(self) -> None:
        assert convergence.effective_step(0.1, 2.0, 1) == pytest.approx(0.2)
        assert convergence.effective_step(0.01, 1.0, 10) == pytest.approx(1 - 0.99**10)
        for B in (1, 2, 5, 6):  # the largest over all curvatures up to L
            worst = max(1 - (1 - 1.6 * h) ** B for h in np.linspace(0, 1, 1001))
            assert convergence.effective_step(1.6, 1.0, B) == pytest.approx(worst, rel=1e-6)
        assert convergence.effective_step(2.0, 1.0, 3) == np.inf

    def test_measured_gradient_norms_stay_below_the_bound_and_fall_as_stated(self) -> None:
        from optex_core.bench.async_sgd.measurements import rates, slopes

        rows = rates((500, 2000, 8000), ((1, 0), (4, 1)), seeds=1)
        assert all(row["condition"] <= 1.0 for row in rows)
        assert all(row["measured"] < row["bound"] for row in rows)
        assert all(-0.58 < slope < -0.42 for slope in slopes(rows).values())
        assert np.isnan(
            convergence.gradient_bound(
                100, smoothness=1.0, variance=1.0, gap=1.0, rate=1.0, inner_steps=10, delay=5
            )
        )

    def test_the_smoothness_estimate(self) -> None:
        h = np.linspace(0.1, 3.0, 40)
        assert convergence.estimate_smoothness(
            lambda x: h * x, np.ones(40), iterations=20
        ) == pytest.approx(3.0, rel=0.05)
