"""What every test shares: two tiers, reproducible examples, the backends, and a watch over skips.

``python -m pytest`` runs the fast tier: everything the package promises, once. ``pytest -m ""``
runs all tests, ``HYPOTHESIS_PROFILE=ci`` draws five times as many examples; .ci/run does both.
"""

from __future__ import annotations

import os

# Workers of pytest-xdist share the cores. The libraries read this when they are loaded.
if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    os.environ.setdefault("NUMBA_NUM_THREADS", "2")  # two, since threads are what some tests are of

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from saved_runs import X0, exact
from tiers import is_slow

import optex_core as ox
from optex_core.backends import BACKEND_NAMES, Backend, get_backend
from optex_core.testing.check_suite import CheckSkipped
from optex_core.testing.suites._backend_data import prepare_backend

# Derandomised: a red run is red again. No deadline: the first example of a compiled operation waits
# for the compiler.
for profile, examples in (("fast", 10), ("ci", 50)):
    settings.register_profile(
        profile,
        derandomize=True,
        deadline=None,
        max_examples=examples,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

# A suite that was started in the background ("nohup", "&" in a script) ignores Ctrl-C, and so would
# every program whose Ctrl-C is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: The endings of the only reasons for which a test may be skipped: missing hardware, or a missing
#: optional library.
NO_DEVICE, NOT_INSTALLED = "no CUDA device", " is not installed"


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what -m leaves out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_slow(item.nodeid):
            item.add_marker(pytest.mark.slow)


def pytest_configure(config: pytest.Config) -> None:
    # The CuPy check suite is skipped where there is no GPU: `_refuse` below says which skips are
    # welcome, the installed plugin need not.
    config.option.allow_skipped_suites = True


# Of the session, since Hypothesis refuses fixtures that would be made once for many examples.
@pytest.fixture(scope="session", params=BACKEND_NAMES)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend in turn."""
    try:
        return prepare_backend(request.param)[1]()
    except CheckSkipped as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def numba_backend() -> Backend:
    return get_backend("numba")


def _refuse(report: Any) -> None:
    """A skip fails, unless hardware or a library is missing."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not reason.endswith((NO_DEVICE, NOT_INSTALLED)) and "could not import" not in reason:
        report.outcome = "failed"
        report.longrepr = (
            f"skipped although only missing hardware or a missing optional library may "
            f"skip a test: {reason}"
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: Any = yield
    _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report: Any = yield
    _refuse(report)
    return report


@pytest.fixture
def saved_run(tmp_path):
    """A saved run and the arguments that made it."""
    keywords = dict(
        optimizer="adam",
        strategy="paper",
        parallelism=3,
        rng=4,
        checkpoint=tmp_path / "run",
        tag="mine",
        bounds=[(-3, 3)] * 4,
    )
    ox.minimize(exact, X0, maxiter=3, **keywords)
    return keywords
