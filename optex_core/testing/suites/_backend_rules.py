"""Elementwise rules: every entry of every block, the steps of an optimizer, and fused steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from optex_core.backends import get_backend
from optex_core.backends.base import Backend, FusedSteps, PosteriorArrays, SubspaceRolloutFunction
from optex_core.model.kernels.base import get_kernel, traced_kernel
from optex_core.optimizers.base import get_optimizer
from optex_core.optimizers.sgd import SGD
from optex_core.testing import hypothesis_strategies as st
from optex_core.testing.assertions import assert_same_bits, assert_within
from optex_core.testing.check_suite import require
from optex_core.testing.suites._backend_data import (
    assert_weighted_sum,
    check,
    for_sizes,
    in_float64,
    on_device,
    sample_data,
    slot_rule,
)
from optex_core.types import Array


@check
def axpy_clip_and_mean(b: Backend) -> None:
    """axpy rounds three times at most, clip is exact and lets nan through, mean is a float64 mean
    and that of equal vectors is the vector.
    """

    def body(d: int, dtype: type, seed: int, a: float) -> None:
        p = sample_data(d, 3, dtype, seed)
        x, y, *rows = on_device(b, p.x, p.g, *p.X)
        wx, wy, X = in_float64(p.x, p.g, p.X)
        found = b.axpy(a, x, y)
        require(found.dtype == dtype, f"axpy of {np.dtype(dtype)} gave {found.dtype}")
        info = np.finfo(dtype)
        bound = 3 * float(info.eps) * (np.abs(a * wx) + np.abs(wy)) + float(info.tiny)
        assert_within(b.to_host(found), a * wx + wy, bound, "axpy")
        clipped = np.clip(p.x, np.asarray(-0.5, dtype), np.asarray(0.25, dtype))
        assert_same_bits(b.to_host(b.clip(x, -0.5, 0.25)), clipped, "clip to numbers")
        above = b.to_host(b.clip(x, y, np.inf))
        assert_same_bits(above, np.maximum(p.x, p.g), "clip to a vector")
        assert_weighted_sum(
            b, b.average(rows), X.mean(axis=0), np.abs(X).max(axis=0), dtype, "mean"
        )
        assert_same_bits(b.to_host(b.average([x, x, x])), p.x, "the mean of equal vectors")

    for_sizes(body, a=st.sampled_from((0.0, 1.0, -0.1, 1e3)))
    (x,) = on_device(b, np.array([np.nan, -3.0, 3.0, np.inf]))
    expected = np.array([np.nan, -1.0, 2.0, 2.0])
    found = b.to_host(b.clip(x, -1.0, 2.0))
    assert_within(found, expected, 0.0, "clip of nan, -3, 3, inf to [-1, 2]")


def _quotient_rule(_xp: object) -> Callable[..., tuple[Array, ...]]:
    return lambda x, y: (x / y,)


@check
def overflow_and_division_by_zero_are_silent(b: Backend) -> None:
    """They give inf and nan without a warning or an error: a run that blows up is the engine's to
    notice.
    """
    x, zero, huge = on_device(b, np.array([1.0, -1.0, 0.0]), np.zeros(3), np.full((2, 3), 1e300))
    found = b.to_host(b.apply(_quotient_rule, (x, zero), ())[0])
    assert_within(found, np.array([np.inf, -np.inf, np.nan]), 0.0, "1/0, -1/0, 0/0")
    with b.ignore_fp_warnings():
        distance = b.squared_distances(huge, -huge[0])[0]
    require(distance == np.inf, "an overflowing distance is not infinite")
    pair, weight = np.array([[0, -1]]), np.full((1, 1), 1e10)
    product = b.difference_products(huge, pair, huge, pair)[0, 0]
    require(product == np.inf, "an overflowing product is not infinite")
    total = b.to_host(b.weighted_sums(None, weight, huge, weight, 0, [huge[0]], weight)[0])
    assert_within(total, np.full(3, np.inf), 0.0, "an overflowing sum")


@check
def rules_apply_to_every_entry(b: Backend) -> None:
    """apply runs the rule on every entry of every block, keeps the dtype, casts scalars once, and
    copies what the rule hands through.
    """

    def body(d: int, dtype: type, seed: int) -> None:
        p = sample_data(d, 1, dtype, seed)
        new, kept = b.apply(slot_rule, on_device(b, p.x, p.g), (0.1,))
        same = new.dtype == kept.dtype == dtype
        require(same, f"apply turned {np.dtype(dtype)} into {new.dtype}")
        rate, (wx, wg) = float(np.asarray(0.1, dtype)), in_float64(p.x, p.g)
        bound = 3 * float(np.finfo(dtype).eps) * (np.abs(wx) + np.abs(rate * wg))
        assert_within(b.to_host(new), wx - rate * wg, bound, "x - rate g")
        assert_same_bits(b.to_host(kept), p.g, "a slot that is handed through")

    for_sizes(body)


@check
def optimizer_steps_match_numpy(b: Backend) -> None:
    """Five steps of an optimizer with two moments are NumPy's to rounding, in both dtypes."""
    optimizer: Any = get_optimizer("adam")
    for dtype, d in ((np.float32, 3_000), (np.float64, 40_000)):
        p, results = sample_data(d, 3, dtype, 7), []
        for one in (get_backend("numpy"), b):
            (x,) = on_device(one, p.x)
            state = optimizer.init(x, backend=one)
            for g in (*p.X, p.g, p.x):
                x, state = optimizer.step(x, *on_device(one, g), state, backend=one)
            results.append([one.to_host(a) for a in (x, *state.slots)])
        for expected, found in zip(*results, strict=True):
            same = found.dtype == expected.dtype
            require(same, f"state of dtype {found.dtype} in place of {expected.dtype}")
            bound = 64 * float(np.finfo(dtype).eps) * max(1.0, float(np.abs(expected).max()))
            assert_within(found, expected, bound, "an optimizer's step")


#: Of fused steps: kappa(s) = exp(-s / 2) and x - rate g. What is checked is the rollout, not its
#: parts.
FORMULA = traced_kernel(get_kernel("rbf"), False)
RULE, RATES = SGD(0.1).rule, [(0.1,), (0.2,), (0.1,)]


@check
def fused_steps_match_single_steps(b: Backend) -> None:
    """fused_steps, where there are any, are those of predict and apply; a subspace_rollout is that
    on coefficients. None says that there is none.
    """
    assert FORMULA is not None
    for dtype, d in ((np.float32, 3_000), (np.float64, 40)):
        posterior, x = _sample_posterior(b, d, dtype)
        steps = b.fused_steps(RULE, posterior, x, (), RATES)
        if steps is not None:
            _assert_fused_steps(b, steps, posterior, x)
    rollout = b.subspace_rollout(FORMULA.lines, FORMULA.result, True, RULE, 0, 1)
    if rollout is not None:
        _assert_subspace_rollout(rollout)


def _sample_posterior(b: Backend, d: int, dtype: type) -> tuple[PosteriorArrays, Array]:
    """An estimate over five rows with weights that depend on the distances, and a point."""
    p = sample_data(d, 5, dtype, 11)
    X, G, x = on_device(b, p.X, p.G, p.x)
    assert FORMULA is not None
    base, centre = np.full(5, 0.2), np.linspace(0.1, 0.5, 5)
    factor = np.random.default_rng(3).normal(size=(4, 5)) / 4.0
    arrays = (X, G, 1, True, 0.25, None, None, FORMULA, 0.3 / d, -1.0, 0.5, base, centre, factor)
    return PosteriorArrays(*arrays), x


def _assert_fused_steps(b: Backend, steps: FusedSteps, f: PosteriorArrays, x: Array) -> None:
    plain = SGD(0.1)
    state, eps = plain.init(x, backend=b), float(np.finfo(f.G.dtype).eps)
    for (rate,), wanted in zip(RATES, (True, False, True), strict=True):
        kappa = np.exp(-0.5 * f.inverse * b.squared_distances(f.X, x))
        spectral = f.eigen_factor.T @ (f.eigen_factor @ (f.center + f.sign * kappa))
        w = f.base_weights + f.inverse_h0 * spectral
        mean = b.predict(f.X, f.G, w, f.anchor, x, f.curvature)
        x, _ = SGD(rate).step(x, mean, state, backend=b)
        found = steps.next(wanted)
        require(found is not None, "the steps ended among finite numbers")
        assert found is not None
        require(found.mean is not None or not wanted, "the estimate that was asked for is missing")
        assert_within(found.noise_factor, w @ w, 1e-12 * float(w @ w), "|w|^2")
        pairs = [(found.x, x)] + ([(found.mean, mean)] if found.mean is not None and wanted else [])
        for got, expected in pairs:
            same = got.dtype == expected.dtype
            require(same, f"vectors of dtype {got.dtype} in place of {expected.dtype}")
            host = b.to_host(expected)
            bound = 64 * eps * max(1.0, float(np.abs(host).max()))
            assert_within(b.to_host(got), host, bound, "a predicted step")


def _assert_subspace_rollout(rollout: SubspaceRolloutFunction) -> None:
    """The rollout is what the docstring of `Backend.subspace_rollout` says, with a fitted
    constant.
    """
    rng, n, steps = np.random.default_rng(4), 4, len(RATES)
    m, thetas, gradients = 2 * n, 2, n + 1
    A = rng.normal(size=(m, m)) / 4.0
    K, rows, ages = A @ A.T, rng.uniform(2.0, 3.0, n), rng.permutation(n)
    centre, factor = rng.normal(size=n), rng.normal(size=(n - 1, n)) / 4.0
    inverse, lever, curvature = 0.4, 0.7, 0.25
    numbers, rates = np.array([inverse, lever, curvature, 1e300]), np.array(RATES)
    points, means, norms = np.zeros((steps + 1, m)), np.zeros((steps + 1, m)), np.zeros(steps + 1)
    points[0, 0] = 1.0
    expected, slots = [points[0].copy()], np.zeros((steps + 1, 0, m))
    given = (K, rows, ages, thetas, gradients, centre, factor, numbers, rates)
    taken = rollout(*given, points, slots, means, norms)
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
        assert_within(norms[j], w @ w, 1e-12 * float(w @ w), "|w|^2")
        expected.append(expected[j] - rate * mean)
    require(int(taken) == steps, f"{taken} steps of {steps} were taken")
    assert_within(points, np.array(expected), 1e-12, "points as coefficients")
