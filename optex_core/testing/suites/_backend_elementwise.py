"""Elementwise rules: every entry of every block, the bits of an optimizer, and the steps of a
chain.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from optex_core.backends import get_backend
from optex_core.optimizers.base import get_optimizer
from optex_core.testing.assertions import assert_same_bits, assert_within
from optex_core.testing.check_suite import require
from optex_core.testing.suites._backend_subject import SUITE, Subject
from optex_core.testing.suites._chains import (
    RATES,
    RULE,
    assert_fused_steps,
    assert_subspace_rollout,
    sample_posterior,
)
from optex_core.testing.suites._vectors import (
    assert_weighted_sum,
    draw_one,
    for_sizes,
    in_float64,
    on_device,
    slot_rule,
    some_data,
)


@SUITE.check()
def axpy_clip_and_mean(s: Subject) -> None:
    """axpy rounds three times at most, clip is exact and lets nan through, mean is a float64 mean
    and that of equal vectors is the vector.
    """
    b = s.backend

    def body(d: int, dtype: Any, seed: int, a: float) -> None:
        p = some_data(d, 3, dtype, seed)
        x, y = on_device(b, p.x, p.g)
        wx, wy, eps = *in_float64(p.x, p.g), float(np.finfo(dtype).eps)
        found = b.axpy(a, x, y)
        require(found.dtype == dtype, f"axpy of {np.dtype(dtype)} gave {found.dtype}")
        bound = 3 * eps * (np.abs(a * wx) + np.abs(wy)) + float(np.finfo(dtype).tiny)
        assert_within(b.to_host(found), a * wx + wy, bound, "axpy")
        assert_same_bits(
            b.to_host(b.clip(x, -0.5, 0.25)),
            np.clip(p.x, np.asarray(-0.5, dtype), np.asarray(0.25, dtype)),
            "clip to numbers",
        )
        assert_same_bits(b.to_host(b.clip(x, y, np.inf)), np.maximum(p.x, p.g), "clip to a vector")
        assert_weighted_sum(
            b,
            b.mean(on_device(b, *p.X)),
            in_float64(p.X)[0].mean(axis=0),
            np.abs(p.X).max(axis=0).astype(np.float64),
            dtype,
            "mean",
        )
        assert_same_bits(b.to_host(b.mean([x, x, x])), p.x, "the mean of equal vectors")

    for_sizes(body, a=draw_one(0.0, 1.0, -0.1, 1e3))
    (x,) = on_device(b, np.array([np.nan, -3.0, 3.0, np.inf]))
    assert_within(
        b.to_host(b.clip(x, -1.0, 2.0)),
        np.array([np.nan, -1.0, 2.0, 2.0]),
        0.0,
        "clip of nan, -3, 3, inf to [-1, 2]",
    )


def _quotient_rule(_xp: Any) -> Any:
    return lambda x, y: (x / y,)


@SUITE.check()
def overflow_and_division_by_zero_are_silent(s: Subject) -> None:
    """They give inf and nan without a warning or an error: a run that blows up is the engine's to
    notice.
    """
    b = s.backend
    x, zero = on_device(b, np.array([1.0, -1.0, 0.0]), np.zeros(3))
    assert_within(
        b.to_host(b.apply(_quotient_rule, (x, zero), ())[0]),
        np.array([np.inf, -np.inf, np.nan]),
        0.0,
        "1/0, -1/0, 0/0",
    )
    (huge,) = on_device(b, np.full((2, 3), 1e300))
    with b.ignore_fp_warnings():
        require(
            b.squared_distances(huge, -huge[0])[0] == np.inf,
            "an overflowing distance is not infinite",
        )
    pair, weight = np.array([[0, -1]]), np.full((1, 1), 1e10)
    require(
        b.difference_products(huge, pair, huge, pair)[0, 0] == np.inf,
        "an overflowing product is not infinite",
    )
    assert_within(
        b.to_host(b.weighted_sums(None, weight, huge, weight, 0, [huge[0]], weight)[0]),
        np.full(3, np.inf),
        0.0,
        "an overflowing sum",
    )


@SUITE.check()
def rules_apply_to_every_entry(s: Subject) -> None:
    """apply runs the rule on every entry of every block, keeps the dtype, casts scalars once, and
    copies what the rule hands through.
    """
    b = s.backend

    def body(d: int, dtype: Any, seed: int) -> None:
        p = some_data(d, 1, dtype, seed)
        x, g = on_device(b, p.x, p.g)
        new, kept = b.apply(slot_rule, (x, g), (0.1,))
        require(
            new.dtype == kept.dtype == dtype, f"apply turned {np.dtype(dtype)} into {new.dtype}"
        )
        rate = np.asarray(0.1, dtype)
        bound = 3 * float(np.finfo(dtype).eps) * (np.abs(p.x) + np.abs(rate * p.g))
        assert_within(
            b.to_host(new),
            in_float64(p.x)[0] - float(rate) * in_float64(p.g)[0],
            bound,
            "x - rate g",
        )
        assert_same_bits(b.to_host(kept), p.g, "a slot that is handed through")

    for_sizes(body)


@SUITE.check()
def optimizer_steps_match_numpy(s: Subject) -> None:
    """Five steps of an optimizer with two moments are NumPy's to rounding, in both dtypes."""
    optimizer: Any = get_optimizer("adam")
    for dtype, d in ((np.float32, 3_000), (np.float64, 40_000)):
        results = []
        for b in (get_backend("numpy"), s.backend):
            p = some_data(d, 3, dtype, 7)
            (x,) = on_device(b, p.x)
            state = optimizer.init(x, backend=b)
            for g in (*p.X, p.g, p.x):
                x, state = optimizer.step(x, *on_device(b, g), state, backend=b)
            results.append([b.to_host(a) for a in (x, *state.slots)])
        for found, expected in zip(results[1], results[0], strict=True):
            require(
                found.dtype == expected.dtype,
                f"state of dtype {found.dtype} in place of {expected.dtype}",
            )
            bound = 64 * float(np.finfo(dtype).eps) * max(1.0, float(np.abs(expected).max()))
            assert_within(found, expected, bound, "an optimizer's step")


@SUITE.check()
def fused_steps_match_single_steps(s: Subject) -> None:
    """chain, where there is one, takes the steps of predict and apply; coefficient_chain those on
    coefficients. None says that there is none.
    """
    for dtype, d in ((np.float32, 3_000), (np.float64, 40)):
        posterior, x = sample_posterior(s.backend, d, dtype)
        chain = s.backend.fused_steps(RULE, posterior, x, (), RATES)
        if chain is not None:
            assert_fused_steps(s.backend, chain, posterior, x)
    walk = s.backend.subspace_rollout(
        posterior.formula.lines, posterior.formula.result, True, RULE, 0, 1
    )
    if walk is not None:
        assert_subspace_rollout(walk)
