"""The pytest plugin: says how many checks of which check suites ran, and fails a run in which a
suite was skipped as a whole.

A package of its own at the top level once installed, as Hypothesis' plugin is: pytest loads it in
every run of an environment, and that must not load optex_core, or NumPy, where nobody uses them.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from optex_core.testing.check_suite import Check

#: (kind, subject) -> outcome -> count
_COUNTS: dict[tuple[str, str], Counter[str]] = {}


def _check_of(item: pytest.Item) -> Check | None:
    """The check that a test case was made of by ``parametrize_with_checks``, else None."""
    if "optex_core.testing.check_suite" not in sys.modules:  # then nobody made one
        return None
    callspec = getattr(item, "callspec", None)
    return getattr(callspec.params.get("check"), "check", None) if callspec is not None else None


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option."""
    parser.getgroup("optex_core").addoption(
        "--allow-skipped-suites",
        action="store_true",
        help="a check suite that was skipped as a whole does not fail the run",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note on every case which suite and subject it belongs to: reports know it from there."""
    for item in items:
        check = _check_of(item)
        if check is not None:
            item.user_properties.append(("optex_check", f"{check.kind}\t{check.subject}"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the outcomes, those of worker processes of pytest-xdist included."""
    if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
        for name, value in report.user_properties:
            if name == "optex_check":
                kind, _, subject = str(value).partition("\t")
                _COUNTS.setdefault((kind, subject), Counter())[report.outcome] += 1


def _skipped() -> list[tuple[str, str]]:
    """Subjects none of whose checks ran."""
    return [key for key, counts in _COUNTS.items() if not set(counts) - {"skipped"}]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for every suite, and one for every subject of which nothing ran."""
    if not _COUNTS:
        return
    terminalreporter.section("optex_core check suites")
    for kind in sorted({kind for kind, _ in _COUNTS}):
        of_kind = [counts for key, counts in _COUNTS.items() if key[0] == kind]
        total = sum(of_kind, Counter())
        words = (f"{total[o]} {o}" for o in ("passed", "failed", "skipped") if total[o])
        terminalreporter.write_line(f"{kind}: {', '.join(words)} in {len(of_kind)} subjects")
    for kind, subject in _skipped():
        terminalreporter.write_line(
            f"{kind} {subject}: every check was skipped, so nothing is known about it"
        )


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A check suite that was skipped as a whole is not green."""
    allowed = session.config.getoption("allow_skipped_suites", False)
    if _skipped() and exitstatus == 0 and not allowed:
        session.exitstatus = 1
