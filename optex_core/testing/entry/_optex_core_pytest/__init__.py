"""The pytest plugin: says how many checks of which batteries ran, and fails a run in which a
battery was skipped as a whole.

A package of its own at the top level once installed, as Hypothesis' plugin is: pytest loads it in
every run of an environment, and that must not load optex_core, or NumPy, where nobody uses them.
"""

from __future__ import annotations

import sys
from typing import Any

#: (battery, subject) -> outcome -> count
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
        "--allow-skipped-batteries",
        action="store_true",
        help="a battery that was skipped as a whole does not fail the run",
    )


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Note on every case which battery and subject it belongs to: reports know it from there."""
    for item in items:
        check = _check_of(item)
        if check is not None:
            item.user_properties.append(("optex_check", f"{check.battery}\t{check.subject}"))


def pytest_runtest_logreport(report: Any) -> None:
    """Count the outcomes, those of worker processes of pytest-xdist included."""
    if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
        for name, value in report.user_properties:
            if name == "optex_check":
                battery, _, subject = value.partition("\t")
                counts = _COUNTS.setdefault((battery, subject), {})
                counts[report.outcome] = counts.get(report.outcome, 0) + 1


def _idle() -> list[tuple[str, str]]:
    """Subjects none of whose checks ran."""
    return [key for key, counts in _COUNTS.items() if not set(counts) - {"skipped"}]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A line for every battery, and one for every subject of which nothing ran."""
    if not _COUNTS:
        return
    terminalreporter.section("optex_core batteries")
    for battery in sorted({battery for battery, _ in _COUNTS}):
        subjects = {
            subject: counts for (kind, subject), counts in _COUNTS.items() if kind == battery
        }
        totals = {
            outcome: sum(counts.get(outcome, 0) for counts in subjects.values())
            for outcome in ("passed", "failed", "skipped")
        }
        told = ", ".join(f"{count} {outcome}" for outcome, count in totals.items() if count)
        terminalreporter.write_line(f"{battery}: {told} in {len(subjects)} subjects")
    for battery, subject in _idle():
        terminalreporter.write_line(
            f"{battery} {subject}: every check was skipped, so nothing is known about it"
        )


def pytest_sessionfinish(session: Any, exitstatus: int) -> None:
    """A battery that was skipped as a whole is not green."""
    if (
        _idle()
        and exitstatus == 0
        and not session.config.getoption("allow_skipped_batteries", False)
    ):
        session.exitstatus = 1
