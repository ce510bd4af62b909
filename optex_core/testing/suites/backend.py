"""What every backend definitions: the answers of plain float64 formulas, whatever the size and layout,
with nothing changed and nothing aliased.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from optex_core.backends import get_backend
from optex_core.backends.base import Backend
from optex_core.engine.optex import OptEx
from optex_core.testing.assertions import assert_same_bits, assert_within
from optex_core.testing.check_suite import CheckReport, require
from optex_core.testing.suites import _backend_combinations, _backend_elementwise, _backend_sums
from optex_core.testing.suites._backend_subject import SUITE, Subject
from optex_core.testing.suites._vectors import (
    every_operation,
    flat,
    on_device,
    placed,
    some_data,
)

#: Checks enter the suite where they are defined: these and the manners below.
PARTS = (_backend_sums, _backend_combinations, _backend_elementwise)


def check_backend(
    backend: Any, *, expected_failures: Mapping[str, str] | None = None
) -> CheckReport:
    """Check a backend: every operation of `optex_core.backends.base.Backend`.

    Parameters
    ----------
    backend : str or Backend
        "numpy", "numba", "cupy", or an object. A library or device that is missing here skips the
        checks, and the report is not ok.
    expected_failures : mapping of str to str, optional
        Check -> reason. Strict: one that passes is a failure.

    Returns
    -------
    CheckReport
        A list of `CheckResult`, true where all is well.

    Examples
    --------
    >>> from optex_core.testing import check_backend
    >>> check_backend("numpy")["nonfinite_entries_are_detected"].ok
    True
    """
    return SUITE.run(backend, expected_failures)


@SUITE.check()
def inputs_unchanged_outputs_unaliased(s: Subject) -> None:
    """No operation writes into what it gets, and no result shares memory with it, below and above
    the size of a block.
    """
    b = s.backend
    shares = b.xp.shares_memory if hasattr(b.xp, "shares_memory") else np.shares_memory
    for d in (7, 20_000):
        host = some_data(d, 3, np.float64, 11)
        p = placed(b, host)
        results = every_operation(b, p)
        for key, value in vars(host).items():
            now = value if key == "w" else b.to_host(getattr(p, key))
            assert_same_bits(now, value, f"an operation changed {key}")
        for name, value in results.items():
            for array in flat(value):
                if isinstance(array, b.xp.ndarray):
                    require(
                        not any(shares(array, v) for k, v in vars(p).items() if k != "w"),
                        f"{name} returns memory that it was given",
                    )


@SUITE.check()
def accepts_any_memory_layout(s: Subject) -> None:
    """Read-only, strided and reversed arrays are accepted."""
    b = s.backend
    p = placed(b, some_data(5_000, 3, np.float64, 13))

    def strided(a: Any) -> Any:
        padded = b.zeros((*a.shape, 2), a.dtype)
        padded[..., 0] = a
        return padded[..., 0]

    layouts: dict[str, Callable[[Any], Any]] = {
        "read-only": b.read_only,
        "strided": strided,
        "reversed": lambda a: a[..., ::-1].copy()[..., ::-1],
    }
    expected = every_operation(b, p)
    for kind, lay in layouts.items():
        found = every_operation(
            b, SimpleNamespace(**{k: v if k == "w" else lay(v) for k, v in vars(p).items()})
        )
        for name, value in expected.items():
            for one, right in zip(flat(found[name]), flat(value), strict=True):
                one, right = (
                    np.asarray(b.to_host(v) if isinstance(v, b.xp.ndarray) else v, dtype=np.float64)
                    for v in (one, right)
                )
                # The layout may change the order of a sum in NumPy; terms are of order 10 at most,
                # 5,000 of them.
                assert_within(one, right, 1e-12 * (1 + np.abs(right)), f"{name} of {kind} arrays")


@SUITE.check()
def copies_do_not_alias(s: Subject) -> None:
    """copy_in casts and never aliases, zeros are zeros, a read-only view cannot change what it
    shows, and release takes back nothing in use.
    """
    b = s.backend
    host = np.arange(4)
    x = b.copy_in(host, np.float32)
    host[0] = 9
    require(x.dtype == np.float32, f"copy_in to float32 gave {x.dtype}")
    assert_within(b.to_host(x), np.arange(4.0), 0.0, "copy_in aliases what it copies:")
    same = on_device(b, np.arange(4.0))[0]
    alias = b.copy_in(same, np.float64)
    alias[0] = 9.0
    assert_same_bits(
        b.to_host(same), np.arange(4.0), "copy_in of the same dtype aliases what it copies"
    )
    assert_same_bits(b.to_host(b.zeros((2, 3), np.float64)), np.zeros((2, 3)), "zeros")
    require(b.empty(5, np.float32).shape == (5,), "empty(5) has another shape")
    (x,) = on_device(b, np.arange(3.0))
    view = b.read_only(x)
    with contextlib.suppress(ValueError):  # a library without read-only views hands out a copy
        view[0] = 7.0
    assert_same_bits(b.to_host(x), np.arange(3.0), "a read_only view was written through")


@SUITE.check()
def is_thread_safe(s: Subject) -> None:
    """Instances have no state that influences results: two threads may call them."""
    b = s.backend
    x, g = on_device(b, *(some_data(30_000, 1, np.float64, 19).__dict__[k] for k in ("x", "g")))
    expected, found = b.dot(x, g), []  # type: ignore[var-annotated]
    threads = [
        threading.Thread(target=lambda: found.extend(b.dot(x, g) for _ in range(50)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    require(found == [expected] * 100, "two threads at once got other results than one")


@SUITE.check()
def full_run_matches_numpy(s: Subject) -> None:
    """Six rounds of a run, with everything the engine asks of a backend, follow those of NumPy to a
    stated tolerance, and repeat bit for bit.
    """

    def run(backend: Backend) -> np.ndarray:
        (x0,) = on_device(backend, np.linspace(-1.0, 2.0, 3_000))
        h = 1.0 / (1.0 + np.arange(3_000) % 7)
        engine = OptEx(
            x0,
            optimizer="adam",
            parallelism=3,
            strategy="corrected",
            backend=backend,
            rng=0,
            maxiter=6,
        )
        while not engine.stop():
            for c in engine.ask():
                x = backend.to_host(c.x)
                engine.tell(
                    c.id, gradient=backend.copy_in(h * x, np.float64), value=float(h @ (x * x)) / 2
                )
        return backend.to_host(engine.state.x)

    found = run(s.backend)
    assert_within(found, run(get_backend("numpy")), 1e-6, "the last iterate")
    assert_same_bits(run(s.backend), found, "the same run twice")
