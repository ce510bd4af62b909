"""Checks of backends: plain float64 answers, with nothing changed and nothing aliased."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np

from optex_core.backends import get_backend
from optex_core.backends.base import Backend
from optex_core.engine.optex import OptEx
from optex_core.testing.assertions import assert_same_bits, assert_within
from optex_core.testing.check_suite import require, require_equal
from optex_core.testing.suites import _backend_operations
from optex_core.testing.suites._backend_data import SUITE, check, on_device, sample_data, slot_rule
from optex_core.types import Array

__all__ = ["PARTS", "SUITE"]

#: Checks enter the suite where they are defined: here and in this module.
PARTS = (_backend_operations,)


def _on(
    b: Backend, host: SimpleNamespace, change: Callable[[Array], Array] = lambda a: a
) -> SimpleNamespace:
    """The same data on a backend, changed; weights stay on the host."""
    return SimpleNamespace(
        **{k: v if k == "w" else change(b.copy_in(v, v.dtype)) for k, v in vars(host).items()}
    )


def _every_operation(b: Backend, p: SimpleNamespace) -> dict[str, tuple[Array | float, ...]]:
    """What each operation returns, by name, as a tuple."""
    X, G, x, g, scale, w = p.X, p.G, p.x, p.g, p.scale, p.w
    pairs = np.array([[0, 1], [2, -1]])
    return {
        "dot": (b.dot(x, g),),
        "squared_distance": (b.squared_distance(x, g, scale),),
        "max_abs": (b.max_abs(x),),
        "all_finite": (b.all_finite(x),),
        "squared_distances": (b.squared_distances(X, x, scale),),
        "row_pair_distances": (b.row_pair_distances(X, [0, 2], scale),),
        "pair_products": b.pair_products(X, G, [0, 2], scale),
        "difference_products": (b.difference_products(X, pairs, G, pairs),),
        "weighted_sum": (b.weighted_sum(X, w, 1),),
        "predict": (b.predict(X, G, w, 1, x, 0.5, scale),),
        "weighted_sums": tuple(b.weighted_sums(X, w[None], G, w[None], 1, (x, g), w[None, :2])),
        "apply": b.apply(slot_rule, (x, g), (0.5,)),
        "axpy": (b.axpy(1.0, x, g),),
        "clip": (b.clip(x, -10.0, 10.0),),
        "clip arrays": (b.clip(x, g - 1, g + 1),),
        "average": (b.average((x,)),),
        "copy_in": (b.copy_in(x, x.dtype),),
    }


@check
def inputs_unchanged_outputs_unaliased(b: Backend) -> None:
    """No operation writes into its inputs or returns memory of them, at any size."""
    shares = getattr(b.xp, "shares_memory", np.shares_memory)
    for d in (7, 20_000):
        host = sample_data(d, 3, np.float64, 11)
        p = _on(b, host)
        results = _every_operation(b, p)
        for key, value in vars(host).items():
            now = value if key == "w" else b.to_host(getattr(p, key))
            assert_same_bits(now, value, f"an operation changed {key}")
        given = [v for k, v in vars(p).items() if k != "w"]
        for name, answers in results.items():
            arrays = [a for a in answers if isinstance(a, b.xp.ndarray)]
            aliased = any(shares(a, v) for a in arrays for v in given)
            require(not aliased, f"{name} returns memory that it was given")


@check
def accepts_any_memory_layout(b: Backend) -> None:
    """Read-only, strided and reversed arrays are accepted."""

    def strided(a: Array) -> Array:
        padded = b.zeros((*a.shape, 2), a.dtype)
        padded[..., 0] = a
        return padded[..., 0]

    def host(value: Array | float) -> Array | float:
        return b.to_host(value) if isinstance(value, b.xp.ndarray) else value

    layouts: dict[str, Callable[[Array], Array]] = {
        "read-only": b.read_only,
        "strided": strided,
        "reversed": lambda a: a[..., ::-1].copy()[..., ::-1],
    }
    data = sample_data(5_000, 3, np.float64, 13)
    expected = _every_operation(b, _on(b, data))
    for kind, change in layouts.items():
        found = _every_operation(b, _on(b, data, change))
        for name, answers in expected.items():
            for one, right in zip(found[name], answers, strict=True):
                # The layout may change the order of a sum in NumPy; terms are of order 10 at most,
                # 5,000 of them.
                bound = 1e-12 * (1 + np.abs(host(right)))
                assert_within(host(one), host(right), bound, f"{name} of {kind} arrays")


@check
def copies_do_not_alias(b: Backend) -> None:
    """copy_in casts and never aliases, and a read-only view cannot be written through."""
    host = np.arange(4)
    x = b.copy_in(host, np.float32)
    host[0] = 9
    require_equal(x.dtype, np.dtype(np.float32), "dtype of copy_in to float32")
    assert_within(b.to_host(x), np.arange(4.0), 0.0, "copy_in aliases what it copies:")
    (same,) = on_device(b, np.arange(4.0))
    b.copy_in(same, np.float64)[0] = 9.0
    assert_same_bits(b.to_host(same), np.arange(4.0), "copy_in aliases what it copies")
    assert_same_bits(b.to_host(b.zeros((2, 3), np.float64)), np.zeros((2, 3)), "zeros")
    require_equal(b.empty(5, np.float32).shape, (5,), "shape of empty(5)")
    (x,) = on_device(b, np.arange(3.0))
    with contextlib.suppress(ValueError):  # a library without read-only views hands out a copy
        b.read_only(x)[0] = 7.0
    assert_same_bits(b.to_host(x), np.arange(3.0), "a read_only view was written through")


@check
def is_thread_safe(b: Backend) -> None:
    """Instances have no state that influences results: two threads may call them."""
    data = sample_data(30_000, 1, np.float64, 19)
    x, g = on_device(b, data.x, data.g)
    expected = b.dot(x, g)
    with ThreadPoolExecutor(2) as pool:
        found = set(pool.map(lambda _: b.dot(x, g), range(100)))
    require_equal(found, {expected}, "results of two threads at once")


@check
def full_run_matches_numpy(b: Backend) -> None:
    """Six iterations of a run follow those of NumPy, and repeat bit for bit."""

    def run(backend: Backend) -> np.ndarray:
        (x0,) = on_device(backend, np.linspace(-1.0, 2.0, 3_000))
        h = 1.0 / (1.0 + np.arange(3_000) % 7)
        given: dict[str, Any] = {"optimizer": "adam", "strategy": "corrected", "rng": 0}
        engine = OptEx(x0, backend=backend, parallelism=3, maxiter=6, **given)
        while not engine.stop():
            for c in engine.ask():
                x = backend.to_host(c.x)
                gradient = backend.copy_in(h * x, np.float64)
                engine.tell(c.id, gradient=gradient, value=float(h @ (x * x)) / 2)
        return backend.to_host(engine.state.x)

    found = run(b)
    assert_within(found, run(get_backend("numpy")), 1e-6, "the last iterate")
    assert_same_bits(run(b), found, "the same run twice")
