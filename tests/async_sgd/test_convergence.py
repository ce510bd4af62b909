"""Convergence theory: the stability cap, the step of a burst, the bound, the smoothness."""

from __future__ import annotations

import numpy as np
import pytest

from optex_core.async_sgd import Master, Push, convergence, run


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
                    lambda v, ctx, a=a: Push.steps(a * v),
                    parallelism=N,
                    maxiter=3000,
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
