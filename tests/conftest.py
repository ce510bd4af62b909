"""What every test shares: reproducible examples, the backends, and a watch over skips."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from optex_core.backends import BACKEND_NAMES, Backend, get_backend

# Derandomised: a red run is red again. No deadline: the first example of a compiled operation waits
# for the compiler.
settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci")

# A suite that was started in the background ("nohup", "&" in a script) ignores Ctrl-C, and so would
# every program whose Ctrl-C is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

NO_CUPY = "CuPy is not installed"
NO_DEVICE = "no CUDA device"
#: The endings of the only reasons for which a test may be skipped: missing hardware, or a missing
#: optional library.
_REASONS = (NO_CUPY, NO_DEVICE, " is not installed")


def _backend(name: str) -> Backend:
    if name == "cupy":
        if importlib.util.find_spec("cupy") is None:
            pytest.skip(NO_CUPY)
        import cupy

        try:
            usable = cupy.cuda.is_available()
        except cupy.cuda.runtime.CUDARuntimeError:  # a CUDA runtime without a driver
            usable = False
        if not usable:
            pytest.skip(NO_DEVICE)
    return get_backend(name)


def pytest_configure(config: pytest.Config) -> None:
    # The CuPy check suite is skipped where there is no GPU: `_refuse` below says which skips are
    # welcome, the installed plugin need not.
    config.option.allow_skipped_suites = True


# Of the session, since Hypothesis refuses fixtures that would be made once for many examples.
@pytest.fixture(scope="session", params=BACKEND_NAMES)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend in turn."""
    return _backend(request.param)


@pytest.fixture(scope="session")
def numba_backend() -> Backend:
    return _backend("numba")


def _unwelcome(report: Any) -> str | None:
    """The reason of a skip that is not allowed, else None."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return None
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return None if reason.endswith(_REASONS) or "could not import" in reason else reason


def _refuse(report: Any) -> None:
    reason = _unwelcome(report)
    if reason is not None:
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
