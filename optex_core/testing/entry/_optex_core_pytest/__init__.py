"""The pytest plugin: says how many checks of which check suites ran, and fails a run in which a
suite was skipped as a whole.

A package of its own at the top level once installed, as Hypothesis' plugin is: pytest loads it in
every run of an environment, and that must not load optex_core, or NumPy, where nobody uses them.
"""

from __future__ import annotations

import sys
from typing import Any

#: (kind, subject) -> outcome -> count
_COUNTS: dict[tuple[str, str], dict[str, int]] = {}


def _check_of(item: Any) -> Any:
    """The check that a test case was made of by ``parametrize_with_checks``, else None."""
    if "optex_core.testing.check_suite" not in sys.modules:  # then nobody made one
        return None
    callspec = getattr(item, "callspec", None)
    return getattr(callspec.params.get("check"), "check", None) if callspec is not None else None


def pytest_addoption(parser: Any) -> None:
    """One option."""
    group = parser.getgroup("optex_core")
    group.addoption(
        "--allow-skipped-suites",
        action="store_true",
        help="a check suite that was skipped as a whole does not fail the run",
    )


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Note on every case which suite and subject it belongs to: reports know it from there."""
    for item in items:
        check = _check_of(item)
        if check is not None:
            item.user_properties.append(("optex_check", f"{check.kind}\t{check.subject}"))


def pytest_runtest_logreport(report: Any) -> None:
    """Count the outcomes, those of worker processes of pytest-xdist included."""
    if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
        for name, value in report.user_properties:
            if name == "optex_check":
                kind, _, subject = value.partition("\t")
                counts = _COUNTS.setdefault((kind, subject), {})
                counts[report.outcome] = counts.get(report.outcome, 0) + 1


def _idle() -> list[tuple[str, str]]:
    """Subjects none of whose checks ran."""
    return [key for key, counts in _COUNTS.items() if not set(counts) - {"skipped"}]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A line for every suite, and one for every subject of which nothing ran."""
    if not _COUNTS:
        return
    terminalreporter.section("optex_core check suites")
    for kind in sorted({kind for kind, _ in _COUNTS}):
        subjects = {subject: counts for (each, subject), counts in _COUNTS.items() if each == kind}
        totals = {
            outcome: sum(counts.get(outcome, 0) for counts in subjects.values())
            for outcome in ("passed", "failed", "skipped")
        }
        totals_text = ", ".join(f"{count} {outcome}" for outcome, count in totals.items() if count)
        terminalreporter.write_line(f"{kind}: {totals_text} in {len(subjects)} subjects")
    for kind, subject in _idle():
        terminalreporter.write_line(
            f"{kind} {subject}: every check was skipped, so nothing is known about it"
        )


def pytest_sessionfinish(session: Any, exitstatus: int) -> None:
    """A check suite that was skipped as a whole is not green."""
    if _idle() and exitstatus == 0 and not session.config.getoption("allow_skipped_suites", False):
        session.exitstatus = 1
