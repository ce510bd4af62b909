"""What compiled walks are held to: their steps one by one, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from optex_core.backends.base import Backend, FusedSteps, PosteriorArrays, SubspaceRolloutFunction
from optex_core.model.kernels.base import get_kernel, traced_kernel
from optex_core.optimizers.sgd import SGD
from optex_core.testing.assertions import assert_within
from optex_core.testing.check_suite import require
from optex_core.testing.suites._vectors import on_device, some_data

#: kappa(s) = exp(-s / 2) and x - rate g: what is checked is the walk, not its parts.
FORMULA = traced_kernel(get_kernel("rbf"), False)
RULE, RATES = SGD(0.1).rule, [(0.1,), (0.2,), (0.1,)]


def sample_posterior(b: Backend, d: int, dtype: Any) -> tuple[PosteriorArrays, Any]:
    """An estimate over five rows with weights that depend on the distances, and a point."""
    p = some_data(d, 5, dtype, 11)
    X, G, x = on_device(b, p.X, p.G, p.x)
    assert FORMULA is not None
    first, centre, factor = (
        np.full(5, 0.2),
        np.linspace(0.1, 0.5, 5),
        np.random.default_rng(3).normal(size=(4, 5)) / 4.0,
    )
    return PosteriorArrays(
        X, G, 1, True, 0.25, None, None, FORMULA, 0.3 / d, -1.0, 0.5, first, centre, factor
    ), x


def assert_fused_steps(b: Backend, chain: FusedSteps, f: PosteriorArrays, x: Any) -> None:
    """The steps of `fused_steps` from `x` are those of `predict` and `apply`."""
    plain = SGD(0.1)
    state, eps = plain.init(x, backend=b), float(np.finfo(f.G.dtype).eps)
    for (rate,), wanted in zip(RATES, (True, False, True), strict=True):
        kappa = np.exp(-0.5 * f.inverse * b.squared_distances(f.X, x))
        w = f.base_weights + f.inverse_h0 * (
            f.eigen_factor.T @ (f.eigen_factor @ (f.center + f.sign * kappa))
        )
        mean = b.predict(f.X, f.G, w, f.anchor, x, f.curvature)
        x, _ = SGD(rate).step(x, mean, state, backend=b)
        found = chain.next(wanted)
        require(found is not None, "the chain ended among finite numbers")
        assert found is not None
        require(found.mean is not None or not wanted, "the estimate that was asked for is missing")
        assert_within(found.noise_factor, w @ w, 1e-12 * float(w @ w), "|w|^2")
        pairs = [(found.x, x), *([(found.mean, mean)] if wanted else [])]
        for got, expected in pairs:
            require(
                got.dtype == expected.dtype,
                f"vectors of dtype {got.dtype} in place of {expected.dtype}",
            )
            host = b.to_host(expected)
            assert_within(
                b.to_host(got),
                host,
                64 * eps * max(1.0, float(np.abs(host).max())),
                "a predicted step",
            )


def assert_subspace_rollout(walk: SubspaceRolloutFunction) -> None:
    """A compiled walk on coefficients does what the docstring of `Backend.subspace_rollout` says,
    with a fitted constant.
    """
    rng, n, steps = np.random.default_rng(4), 4, len(RATES)
    m, thetas, gradients = 2 * n, 2, n + 1
    A = rng.normal(size=(m, m)) / 4.0
    K, rows, ages = A @ A.T, rng.uniform(2.0, 3.0, n), rng.permutation(n)
    centre, factor = rng.normal(size=n), rng.normal(size=(n - 1, n)) / 4.0
    inverse, lever, curvature = 0.4, 0.7, 0.25
    points, means, lefts = np.zeros((steps + 1, m)), np.zeros((steps + 1, m)), np.zeros(steps + 1)
    points[0, 0] = 1.0
    expected, numbers = [points[0].copy()], np.array([inverse, lever, curvature, 1e300])
    taken = walk(
        K,
        rows,
        ages,
        thetas,
        gradients,
        centre,
        factor,
        numbers,
        np.array(RATES),
        points,
        np.zeros((steps + 1, 0, m)),
        means,
        lefts,
    )
    for j, (rate,) in enumerate(RATES):
        u = expected[j] - np.eye(m)[0]
        y, cross = K @ u, np.zeros(n)
        cross[ages[:-1]] = 2.0 * np.cumsum(y[thetas : thetas + n - 1][::-1])[::-1]
        s = np.maximum(cross + u @ y + rows, 0.0)
        w = 1.0 / n + lever * (factor.T @ (factor @ (centre - np.exp(-0.5 * inverse * s))))
        total, mean = np.cumsum(w[ages])[:-1], curvature * u + np.eye(m)[1]
        mean[thetas : thetas + n - 1] += curvature * total
        mean[gradients : gradients + n - 1] -= total
        assert_within(means[j], mean, 1e-12, "an estimate as coefficients")
        assert_within(lefts[j], w @ w, 1e-12 * float(w @ w), "|w|^2")
        expected.append(expected[j] - rate * mean)
    require(int(taken) == steps, f"{taken} steps of {steps} were taken")
    assert_within(points, np.array(expected), 1e-12, "points as coefficients")
