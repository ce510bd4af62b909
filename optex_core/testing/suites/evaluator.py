"""What every evaluator definitions: each point comes back once with its own answer, failures stay with
their point, and nothing is left behind.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optex_core._validation import short_repr
from optex_core.adapters.objective import make_objective
from optex_core.errors import ArgumentTypeError, ObjectiveError, ProtocolError
from optex_core.execution.base import Evaluator, Outcome
from optex_core.execution.factory import make_evaluator
from optex_core.testing.assertions import assert_same_bits
from optex_core.testing.check_suite import CheckFailed, CheckReport, CheckSuite, require
from optex_core.testing.properties import for_all
from optex_core.types import Candidate, ObjectiveProtocol

#: No evaluation of a check takes a tenth of this; who waits longer waits for an answer that is
#: lost.
PATIENCE = 60.0


def echo_context(x: np.ndarray, *, seed: int, ctx: Any) -> tuple[float, np.ndarray]:
    """A function that tells what it was echo_context: x[0] says what happens, the gradient carries seed,
    id, attempt and slot.
    """
    what = float(x[0])
    if what == -1.0:
        raise ValueError(f"no mesh at {float(x[1])}")
    if what > 0.0:
        time.sleep(what)
    contexts = ctx if isinstance(ctx, tuple) else (ctx,)
    c = contexts[0]
    value = float(x[1]) ** 2
    x[:] = 0.0  # user code gets a copy that it may write into
    return value, np.array(
        [float(seed), float(c.id), float(c.attempt), -1.0 if c.deadline is None else c.deadline]
    )


def echo_context_rows(X: np.ndarray, *, seed: Any, ctx: Any) -> tuple[np.ndarray, np.ndarray]:
    """The same for a vectorized objective: one failing row fails its batch."""
    pairs = [echo_context(x, seed=one, ctx=c) for x, one, c in zip(X, seed, ctx, strict=True)]
    return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])


def dies_once(x: np.ndarray, folder: str) -> tuple[float, np.ndarray]:
    """Kills its process the first time that it is asked at this point."""
    mark = Path(folder) / f"{float(x[1])}"
    if x[0] == 1.0 and not mark.exists():
        mark.write_text("", encoding="utf-8")
        os.kill(os.getpid(), 9)
    return float(x[1]) ** 2, x.copy()


@dataclass(frozen=True)
class Subject:
    """How evaluators are made, and what was said about them."""

    label: str
    make: Callable[[ObjectiveProtocol], Evaluator]
    vectorized: bool
    replaces_workers: bool

    def evaluator(self, fun: Any = None, args: tuple[Any, ...] = ()) -> Evaluator:
        function = fun or (echo_context_rows if self.vectorized else echo_context)
        return self.make(
            make_objective(
                function, args=args, x0=np.zeros(4), vectorized=self.vectorized and fun is None
            )
        )


def prepare(factory: Any, *, vectorized: bool = False, replaces_workers: bool = False) -> Subject:
    """A function from objective to evaluator, or what `minimize` takes as ``workers``."""
    if factory is None or isinstance(factory, (str, int)):
        label = "this thread" if factory is None else f"workers={factory!r}"
        processes = isinstance(factory, int) or factory == "processes"
        return Subject(
            label,
            lambda objective: make_evaluator(objective, factory, parallelism=2),
            vectorized,
            replaces_workers or processes,
        )
    if not callable(factory):
        raise ArgumentTypeError(
            f"check_evaluator takes a function that makes an evaluator of an "
            f"objective, or what minimize takes as workers, got {short_repr(factory)}"
        )
    return Subject(
        getattr(factory, "__name__", type(factory).__name__), factory, vectorized, replaces_workers
    )


def _registered_subjects() -> Iterable[Any]:
    return [None, "threads", 2]


SUITE = CheckSuite("evaluator", prepare, _registered_subjects)


def check_evaluator(
    factory: Any,
    *,
    vectorized: bool = False,
    replaces_workers: bool = False,
    expected_failures: Mapping[str, str] | None = None,
) -> CheckReport:
    """Check what runs evaluations.

    Parameters
    ----------
    factory : callable, None, str or int
        ``factory(objective) -> Evaluator``; or what `minimize` takes as ``workers``: None,
        "threads", "processes", a number of processes.
    vectorized : bool, default False
        All that waits goes into one call, so that one failing point fails those beside it.
    replaces_workers : bool, default False
        Points lost with a killed worker process are asked again; known for our own processes.
    expected_failures : mapping of str to str, optional
        Check -> reason. Strict: one that passes is a failure.

    Returns
    -------
    CheckReport
        A list of `CheckResult`, true where all is well.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from optex_core.execution.factory import make_evaluator
    >>> from optex_core.testing import check_evaluator
    >>> with ThreadPoolExecutor(2) as pool:
    ...     check_evaluator(lambda objective: make_evaluator(objective, pool)).ok
    True
    """
    return SUITE.run(
        factory, expected_failures, vectorized=vectorized, replaces_workers=replaces_workers
    )


def candidate(number: int, what: float = 0.0) -> Candidate:
    """Candidate `number`, at which `echo_context` does `what`."""
    x = np.array([what, float(number), 0.0, 0.0])
    x.flags.writeable = False
    return Candidate(number, x, 1000 + number, number // 4, number % 4)


def collect(evaluator: Evaluator) -> list[Outcome]:
    """All outcomes that are pending."""
    outcomes: list[Outcome] = []
    end = time.monotonic() + PATIENCE
    while evaluator.pending:
        outcomes += evaluator.next(timeout=1.0)
        require(
            time.monotonic() < end,
            f"{evaluator.pending} evaluations did not come back within {PATIENCE:g} s",
        )
    return outcomes


def _right(outcome: Outcome, attempt: int = 0, deadline: float | None = None) -> None:
    c = outcome.candidate
    require(outcome.error is None, f"point {c.id} failed: {outcome.error!r}")
    require(
        outcome.evaluation is not None,
        f"point {c.id} came back without an answer and without an error",
    )
    assert outcome.evaluation is not None
    # Not the seed of the candidate that came back, which may be another than was submitted.
    expected = np.array(
        [float(1000 + c.id), float(c.id), float(attempt), -1.0 if deadline is None else deadline]
    )
    assert_same_bits(
        np.asarray(outcome.evaluation.gradient),
        expected,
        f"point {c.id} was echo_context another seed, id, attempt or deadline than its own",
    )
    require(
        outcome.evaluation.value == c.id**2,
        f"point {c.id} got the value {outcome.evaluation.value} of another point",
    )
    require(
        outcome.attempt == attempt,
        f"point {c.id} was submitted as attempt {attempt}, came back as {outcome.attempt}",
    )
    require(
        (outcome.nfev, outcome.njev) == (1, 1),
        f"one call was counted as {outcome.nfev} values and {outcome.njev} gradients",
    )
    require(outcome.seconds >= 0.0, f"point {c.id} took {outcome.seconds} s")


@SUITE.check()
def returns_every_point_once(s: Subject) -> None:
    """Whatever number is submitted, in whatever portions: each id once, with the value, seed, id,
    attempt and deadline of its own point.
    """
    from optex_core.testing import hypothesis_strategies as st

    with s.evaluator() as evaluator:

        def body(portions: list[int], attempt: int, deadline: float | None) -> None:
            number = 0
            outcomes: list[Outcome] = []
            for portion in portions:
                evaluator.submit(
                    [candidate(number + i) for i in range(portion)],
                    attempt=attempt,
                    deadline=deadline,
                )
                number += portion
                require(
                    evaluator.pending == number - len(outcomes),
                    f"{number - len(outcomes)} wait, pending says {evaluator.pending}",
                )
                if evaluator.pending:
                    outcomes += evaluator.next()
            outcomes += collect(evaluator)
            ids = sorted(o.candidate.id for o in outcomes)
            require(ids == list(range(number)), f"submitted were {number} points, back came {ids}")
            for outcome in outcomes:
                _right(outcome, attempt, deadline)

        for_all(
            body, portions=st.st.lists(st.st.integers(0, 4), min_size=1, max_size=3), attempt=st.st.integers(0, 2),
            deadline=st.st.sampled_from((None, 60.0)), examples=10,
        )  # fmt: skip


@SUITE.check()
def failures_stay_with_their_point(s: Subject) -> None:
    """What user code raises comes back as that point's error, with type, message and traceback; the
    points beside it are evaluated.
    """
    with s.evaluator() as evaluator:
        evaluator.submit([candidate(0), candidate(1, -1.0), candidate(2)])
        outcomes = {o.candidate.id: o for o in collect(evaluator)}
        require(
            sorted(outcomes) == [0, 1, 2],
            f"three points were submitted, back came {sorted(outcomes)}",
        )
        failed = outcomes[1]
        require(failed.evaluation is None, "a point whose function raised has an answer")
        require(isinstance(failed.error, ValueError), f"a ValueError came back as {failed.error!r}")
        require("no mesh at 1.0" in str(failed.error), f"the message is lost: {failed.error!r}")
        require(
            "no mesh at 1.0" in failed.traceback and "echo_context" in failed.traceback,
            "the traceback does not say where it was raised",
        )
        require(failed.njev == 1, f"a call that raised was counted as {failed.njev}")
        if not s.vectorized:
            _right(outcomes[0])
            _right(outcomes[2])
        evaluator.submit([candidate(3)])
        _right(collect(evaluator)[0])


@SUITE.check()
def invalid_returns_are_objective_errors(s: Subject) -> None:
    """A function that returns no pair, or a gradient of another shape, comes back as ObjectiveError
    and not as an answer.
    """
    for wrong in (_no_pair, _short):
        with s.evaluator(wrong) as evaluator:
            evaluator.submit([candidate(0)])
            (outcome,) = collect(evaluator)
            require(
                isinstance(outcome.error, ObjectiveError),
                f"an answer that cannot be came back as {outcome.error!r}",
            )


def _no_pair(x: np.ndarray) -> float:
    return float(x[0])


def _short(x: np.ndarray) -> tuple[float, np.ndarray]:
    return 1.0, x[:2]


@SUITE.check()
def waiting_without_submissions_raises(s: Subject) -> None:
    """next() without anything submitted raises ProtocolError instead of waiting for ever, at the
    start and after the last outcome.
    """
    with s.evaluator() as evaluator:
        for _ in range(2):
            try:
                evaluator.next()
            except ProtocolError:
                pass
            else:
                raise CheckFailed("next() returned although nothing was submitted")
            evaluator.submit([candidate(0)])
            collect(evaluator)


@SUITE.check(when=lambda s: not s.vectorized, why="it evaluates whole batches")
def next_waits_as_declared(s: Subject) -> None:
    """With ``asynchronous = True`` next(timeout) returns [] when nothing is ready in time; else it
    evaluates, and returns something.
    """
    with s.evaluator() as evaluator:
        evaluator.submit([candidate(0)])
        collect(evaluator)  # the workers run by now
        evaluator.submit([candidate(1, 0.5)])
        early = evaluator.next(timeout=0.01)
        require(
            bool(early) != evaluator.asynchronous,
            f"asynchronous is {evaluator.asynchronous}, and next(timeout=0.01) gave "
            f"{len(early)} of a point of 0.5 s",
        )
        for outcome in (*early, *collect(evaluator)):
            _right(outcome)


@SUITE.check()
def drain_leaves_nothing_pending(s: Subject) -> None:
    """drain() returns what ran, drops what had not started, loses and doubles nothing, and leaves
    the evaluator usable.
    """
    with s.evaluator() as evaluator:
        evaluator.submit([candidate(i, 0.05 if evaluator.asynchronous else 0.0) for i in range(8)])
        outcomes = evaluator.next()
        outcomes += evaluator.drain()
        require(evaluator.pending == 0, f"{evaluator.pending} are pending after drain()")
        ids = [o.candidate.id for o in outcomes]
        require(
            len(set(ids)) == len(ids) and set(ids) <= set(range(8)),
            f"after drain() these ids came back: {ids}",
        )
        for outcome in outcomes:
            _right(outcome)
        evaluator.submit([candidate(9)])
        _right(collect(evaluator)[0])


@SUITE.check()
def does_not_modify_points(s: Subject) -> None:
    """User code that writes into its argument does not change the candidate, and answers do not
    share memory with it or one another.
    """
    with s.evaluator() as evaluator:
        points = [candidate(i) for i in range(3)]
        evaluator.submit(points)
        outcomes = collect(evaluator)
        for c in points:
            assert_same_bits(np.asarray(c.x), candidate(c.id).x, f"point {c.id} was written into")
        gradients = [o.evaluation.gradient for o in outcomes if o.evaluation is not None]
        shared = [
            (i, j)
            for i in range(3)
            for j in range(i)
            if np.shares_memory(gradients[i], gradients[j])
        ]
        require(not shared, "two answers share one array")


@SUITE.check()
def close_releases_everything(s: Subject) -> None:
    """close() is quick, may be called twice, and after it neither a thread nor a process that the
    evaluator started is left.
    """
    threads, processes = set(threading.enumerate()), _children()
    evaluator = s.evaluator()
    evaluator.submit([candidate(i) for i in range(3)])
    collect(evaluator)
    evaluator.close()
    evaluator.close()
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:  # threads end by themselves, a little later
        left = [t.name for t in threading.enumerate() if t not in threads and not _shared(t)]
        born = _children() - processes
        if not left and not born:
            return
        time.sleep(0.02)
    raise CheckFailed(f"after close() there are still threads {left} and processes {sorted(born)}")


def _shared(thread: threading.Thread) -> bool:
    """Of the standard library or loky, one a process and not one an evaluator; or of a pool that
    the caller made.
    """
    return (
        thread.name.startswith(
            ("ThreadPoolExecutor", "Dask", "QueueFeederThread", "ExecutorManagerThread")
        )
        or "Profile" in thread.name
    )


def _children() -> set[int]:
    """Process ids of this process' children that do work; empty where the system does not tell."""
    found = set()
    for task in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        for pid in task.read_text(encoding="utf-8").split():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            # one a process, of the standard library
            if command and b"resource_tracker" not in command:
                found.add(int(pid))
    return found


@SUITE.check(when=lambda s: s.replaces_workers, why="killed workers are the caller's to replace")
def killed_workers_lose_no_point(s: Subject) -> None:
    """A worker process killed while it evaluates is replaced, and its point, and those beside it,
    come back with their answers.
    """
    with tempfile.TemporaryDirectory() as folder, s.evaluator(dies_once, (folder,)) as evaluator:
        evaluator.submit([candidate(i, 1.0 if i == 1 else 0.0) for i in range(4)])
        outcomes = collect(evaluator)
        ids = sorted(o.candidate.id for o in outcomes)
        require(
            ids == [0, 1, 2, 3],
            f"four points were submitted and one worker killed, back came {ids}",
        )
        for o in outcomes:
            require(
                o.error is None and o.evaluation is not None,
                f"point {o.candidate.id} failed with a killed worker: {o.error!r}",
            )
            require(
                o.evaluation is None or o.evaluation.value == o.candidate.id**2,
                f"point {o.candidate.id} got another value",
            )
