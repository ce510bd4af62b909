"""Check suites: named checks of one property each, run with or without pytest."""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, SupportsIndex, TypeAlias, TypeVar

from optex_core._validation import short_repr
from optex_core.errors import (
    ArgumentError,
    ArgumentTypeError,
    MissingExtraError,
    did_you_mean,
    format_traceback,
)

#: Kinds of subjects; ``optex_core.testing.suites.<kind>`` holds the `SUITE` of each.
KINDS = (
    "backend",
    "estimator",
    "evaluator",
    "history",
    "kernel",
    "optimizer",
    "problem",
    "strategy",
)

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
#: An expected failure that failed, and one that passed: the latter is not green (strict), or the
#: list of excuses would outlive its reasons.
XFAILED, XPASSED = "failed as expected", "passed unexpectedly"

T = TypeVar("T")
K = TypeVar("K", str, "str | tuple[str, str]")
#: A check, or (subject, check).
Name: TypeAlias = str | tuple[str, str]


class CheckFailed(AssertionError):
    """A check failed; the message says which, with the smallest example found."""


class CheckSkipped(Exception):  # noqa: N818  (not an error: a reason)
    """A check could not run here: missing hardware or a missing optional library."""


def require(condition: object, message: str) -> None:
    """Raise `CheckFailed` unless `condition` holds."""
    if not condition:
        raise CheckFailed(message)


def require_equal(found: object, expected: object, what: str) -> None:
    """Raise `CheckFailed` unless both are equal."""
    if found != expected:
        raise CheckFailed(f"{what}: {short_repr(found)} in place of {short_repr(expected)}")


@contextmanager
def require_raises(kind: type[Exception], what: str) -> Iterator[None]:
    """Raise `CheckFailed` unless the body raises `kind`."""
    try:
        yield
    except kind:
        return
    raise CheckFailed(f"{what}, without {kind.__name__}")


def describe_error(error: Exception) -> str:
    """The message, after the name of its class where that is not `CheckFailed`."""
    return str(error) if isinstance(error, CheckFailed) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """One named check of one subject; calling it raises unless the property holds."""

    kind: str  # such as "optimizer"
    name: str  # such as "preserves_dtype"
    subject: str  # what is checked, in words
    description: str  # what must hold, one sentence
    body: Callable[[], object] = field(repr=False)

    def __call__(self) -> None:
        """Run it; raise `CheckFailed`, `CheckSkipped`, or what the subject raises."""
        self.body()

    @property
    def id(self) -> str:
        """For test reports: ``adam-preserves_dtype``."""
        return f"{self.subject}-{self.name}"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How one check ended; `kind`, `subject`, `name` and `description` are those of the `Check`."""

    kind: str
    subject: str
    name: str
    description: str
    status: str  # "passed", "failed", "skipped", "failed as expected" or "passed unexpectedly"
    message: str = ""  # why it failed or was skipped
    traceback: str = field(default="", repr=False)  # where it failed, as text
    seconds: float = 0.0  # time it took

    @property
    def ok(self) -> bool:
        """Passed, or failed as expected."""
        return self.status in (PASSED, XFAILED)


class CheckReport(list[CheckResult]):
    """The results of a check suite, in the order of the checks; ``print(report)`` shows them.

    True where all is well, so that ``assert check_optimizer(MyOptimizer)`` says what one means:
    something ran, nothing failed, nothing was skipped, and every expected failure still fails.
    `not_applicable` maps checks that were left out to the capability that the subject does not
    declare.
    """

    def __init__(
        self, results: Iterable[CheckResult] = (), not_applicable: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(results)
        self.not_applicable = dict(not_applicable or {})

    def _of(self, *status: str) -> list[CheckResult]:
        return [r for r in self if r.status in status]

    @property
    def ran(self) -> int:
        """Checks that ran to an end."""
        return len(self) - len(self.skipped)

    @property
    def failed(self) -> list[CheckResult]:
        """Checks that failed, and expected failures that pass."""
        return self._of(FAILED, XPASSED)

    @property
    def skipped(self) -> list[CheckResult]:
        """Checks that could not run here."""
        return self._of(SKIPPED)

    @property
    def ok(self) -> bool:
        """At least one check ran, none failed, none was skipped."""
        return self.ran > 0 and not self.failed and not self.skipped

    def __bool__(self) -> bool:
        return self.ok

    def __getitem__(self, index: SupportsIndex | slice | str) -> Any:
        """A result by its place or by the name of its check."""
        if not isinstance(index, str):
            return super().__getitem__(index)
        for result in self:
            if result.name == index:
                return result
        names = [r.name for r in self]
        raise ArgumentError(f"no check {index!r} in this report{did_you_mean(index, names)}")

    def __str__(self) -> str:
        if not len(self):  # not `not self`: that asks whether all is well
            return "no check ran: NOT OK"
        statuses = (PASSED, FAILED, XPASSED, XFAILED, SKIPPED)
        counts = ", ".join(f"{len(self._of(s))} {s}" for s in statuses if self._of(s))
        seconds = sum(r.seconds for r in self)
        verdict = "ok" if self.ok else "NOT OK"
        lines = [f"{self[0].kind} {self[0].subject}: {verdict} ({counts}; {seconds:.1f} s)"]
        for r in self:
            lines.append(f"  {' ' if r.ok else '*'} {r.name}: {r.status}")
            if r.status != PASSED:
                lines += [f"      {line}" for line in (r.description, *r.message.splitlines())]
        lines += [f"    {name}: not applicable, {why}" for name, why in self.not_applicable.items()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} results, {'ok' if self.ok else 'not ok'}>"


@dataclass(frozen=True, slots=True)
class Definition(Generic[T]):
    """A check without its subject."""

    function: Callable[[T], None]  # takes the prepared subject
    when: Callable[[T], bool] | None  # reads from it whether the check applies
    why: str  # not, if it does not

    @property
    def description(self) -> str:
        """The first paragraph of the docstring, on one line."""
        text = inspect.getdoc(self.function) or self.function.__name__
        return " ".join(text.split("\n\n")[0].split())


class CheckSuite(Generic[T]):
    """The checks of one kind of subject: functions that take the prepared subject, each decorated
    with `check`.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    prepare : callable
        ``prepare(subject, **options)`` returns a label and what every check gets; it raises
        `ArgumentError` for what is no such subject. Its docstring is that of ``check_<kind>``.
    registered : callable
        Names of all registered subjects of this kind.
    """

    def __init__(
        self,
        kind: str,
        prepare: Callable[..., tuple[str, T]],
        registered: Callable[[], Iterable[object]] = tuple,
    ) -> None:
        self.kind, self.prepare, self.registered = kind, prepare, registered
        self.definitions: dict[str, Definition[T]] = {}

    def check(
        self, *, when: Callable[[T], bool] | None = None, why: str = ""
    ) -> Callable[[Callable[[T], None]], Callable[[T], None]]:
        """Decorate a check; `when` reads a capability that it needs, `why` names it."""

        def add(function: Callable[[T], None]) -> Callable[[T], None]:
            self.definitions[function.__name__] = Definition(function, when, why)
            return function

        return add

    def checks(self, label: str, prepared: T) -> list[Check]:
        """The checks that apply to what `prepare` returned."""
        return [
            Check(self.kind, name, label, one.description, partial(one.function, prepared))
            for name, one in self.definitions.items()
            if one.when is None or one.when(prepared)
        ]

    def run(
        self, label: str, prepared: T, expected_failures: Mapping[str, str] | None = None
    ) -> CheckReport:
        """Run all checks that apply."""
        checks = self.checks(label, prepared)
        names = {check.name for check in checks}
        left_out = {name: one.why for name, one in self.definitions.items() if name not in names}
        return run_checks(checks, expected_failures, left_out)

    def function(self) -> Callable[..., CheckReport]:
        """``check_<kind>``: arguments and docstring of `prepare`, with `expected_failures`."""

        def check(
            *subject: object,
            expected_failures: Mapping[str, str] | None = None,
            **options: object,
        ) -> CheckReport:
            return self.run(*self.prepare(*subject, **options), expected_failures)

        signature = inspect.signature(self.prepare)
        *others, last = signature.parameters.values()
        expected = inspect.Parameter(
            "expected_failures", inspect.Parameter.KEYWORD_ONLY, default=None
        )
        tail = [expected, last] if last.kind is last.VAR_KEYWORD else [last, expected]
        check.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*others, *tail], return_annotation=CheckReport
        )
        check.__name__ = check.__qualname__ = f"check_{self.kind}"
        text, _, examples = (inspect.getdoc(self.prepare) or "").partition("Examples\n--------\n")
        check.__doc__ = f"{text}{_EXPECTED}{examples}"
        return check


_EXPECTED = """expected_failures : mapping of str to str, optional
    Check -> reason. Strict: one that passes is a failure.

Returns
-------
CheckReport
    A list of `CheckResult`, true where all is well; ``print`` it.

Examples
--------
"""


def run_checks(
    checks: Iterable[Check],
    expected_failures: Mapping[str, str] | None = None,
    not_applicable: Mapping[str, str] | None = None,
) -> CheckReport:
    """Run checks one by one; what a check raises becomes its result.

    `expected_failures` maps checks to reasons. One that passes is reported as such, and the report
    is not ok; one that is not among the checks is an error.
    """
    checks = list(checks)
    reasons = _reasons(expected_failures, [check.name for check in checks])
    results = [_result(check, reasons.get(check.name)) for check in checks]
    return CheckReport(results, not_applicable)


def _reasons(expected_failures: Mapping[K, str] | None, names: Sequence[Name]) -> dict[K, str]:
    given: Mapping[K, str] = {} if expected_failures is None else expected_failures
    if not isinstance(given, Mapping):
        raise ArgumentTypeError(
            f"expected_failures must map names of checks to reasons, got {short_repr(given)}"
        )
    for name, reason in given.items():
        if name not in names:
            hint = did_you_mean(str(name), map(str, names))
            raise ArgumentError(f"expected_failures names {name!r}, which is no check here{hint}")
        if not isinstance(reason, str) or not reason:
            raise ArgumentTypeError(
                f"expected_failures must give a reason for {name!r}, a non-empty "
                f"string, got {short_repr(reason)}"
            )
    return dict(given)


def _result(check: Check, expected: str | None) -> CheckResult:
    start, status, message, place = time.perf_counter(), PASSED, "", ""
    try:
        check()
    except CheckSkipped as reason:
        status, message = SKIPPED, str(reason)
    except MissingExtraError:
        raise  # the caller's environment, not the subject's fault
    except Exception as error:
        status, message, place = FAILED, describe_error(error), format_traceback(error)
    if expected is not None and status == PASSED:
        status = XPASSED
        message = f"expected to fail ({expected}), but it passes: take it off the list"
    elif expected is not None and status == FAILED:
        status, message = XFAILED, f"{expected}\n{message}"
    who = check.kind, check.subject, check.name, check.description
    return CheckResult(*who, status, message, place, time.perf_counter() - start)


def get_suite(kind: str) -> CheckSuite[Any]:
    """The check suite of a kind of subject."""
    if kind not in KINDS:
        raise ArgumentError(f"unknown kind of check {kind!r}{did_you_mean(kind, KINDS)}")
    try:
        suite: CheckSuite[Any] = importlib.import_module(f"optex_core.testing.suites.{kind}").SUITE
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        raise MissingExtraError.of("hypothesis", "testing", f"checking a {kind}") from error
    return suite


def checks(
    kind: str, subjects: Iterable[object] | None = None, **options: object
) -> Iterator[Check]:
    """The checks of `subjects`, or of everything registered.

    Parameters
    ----------
    kind : str
        "optimizer", "kernel", "backend", "strategy", "problem", "history", "estimator" or
        "evaluator".
    subjects : iterable, optional
        What the function ``check_<kind>`` takes. None: the whole registry, read when asked, so that
        a new file is checked without a list.
    **options
        Those of ``check_<kind>``.

    Examples
    --------
    >>> [check.id for check in checks("kernel", ["rbf"])][:2]
    ['rbf-is_one_at_zero', 'rbf-decreases_from_one_to_zero']
    """
    suite = get_suite(kind)
    for subject in suite.registered() if subjects is None else subjects:
        yield from suite.checks(*suite.prepare(subject, **options))


def parametrize_with_checks(
    kind: str,
    subjects: Iterable[object] | None = None,
    *,
    expected_failures: Mapping[Name, str] | None = None,
    **options: object,
) -> Any:
    """Decorate a test with one case per check: ``@parametrize_with_checks("optimizer",
    [MyOptimizer()])`` over ``def test_it(check): check()``.

    Parameters
    ----------
    kind : str
        As in `checks`.
    subjects : iterable, optional
        As in `checks`; an iterable that gives nothing is an error and not a skipped test.
    expected_failures : mapping, optional
        Check, or (subject, check) -> reason: a strict ``xfail``.
    **options
        Those of ``check_<kind>``.
    """
    try:
        import pytest
    except ImportError as error:
        raise MissingExtraError.of("pytest", "testing", "parametrize_with_checks") from error
    found = list(checks(kind, subjects, **options))
    if not found:
        raise ArgumentError(f"no {kind} was given, so nothing would be checked")
    known = [key for check in found for key in (check.name, (check.subject, check.name))]
    reasons = _reasons(expected_failures, known)

    def case(check: Check) -> Any:
        def run() -> None:
            try:
                check()
            except CheckSkipped as reason:
                pytest.skip(str(reason))

        run.check = check  # type: ignore[attr-defined]  # the plugin counts by it
        reason = reasons.get((check.subject, check.name), reasons.get(check.name))
        marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
        return pytest.param(run, id=check.id, marks=marks)

    return pytest.mark.parametrize("check", list(map(case, found)))
