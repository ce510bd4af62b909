"""Checks of evaluators: each point comes back once, failures stay with it, nothing is left."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from optex_core._validation import short_repr
from optex_core.adapters.objective import make_objective
from optex_core.errors import ArgumentTypeError, ObjectiveError, ProtocolError
from optex_core.execution.base import Evaluator
from optex_core.execution.factory import make_evaluator
from optex_core.testing import hypothesis_strategies as st
from optex_core.testing.assertions import assert_same_bits
from optex_core.testing.check_suite import (
    CheckFailed,
    CheckSuite,
    require,
    require_equal,
    require_raises,
)
from optex_core.testing.properties import for_all
from optex_core.testing.sample_objectives import (
    die_once,
    echo_after,
    echo_context,
    echo_context_rows,
    expected_answer,
    no_pair,
    short_gradient,
)
from optex_core.types import Candidate, EvaluationResult, ObjectiveProtocol

#: No evaluation of a check takes a tenth of this; who waits longer waits for an answer that is
#: lost.
PATIENCE = 60.0


@dataclass(frozen=True)
class EvaluatorSubject:
    """How evaluators are made, and what was said about them."""

    make: Callable[[ObjectiveProtocol], Evaluator]
    vectorized: bool
    replaces_workers: bool

    def evaluator(
        self, fun: Callable[..., object] | None = None, args: tuple[object, ...] = ()
    ) -> Evaluator:
        """An evaluator of `fun`, by default of `echo_context`."""
        rows = self.vectorized and fun is None
        function = fun or (echo_context_rows if rows else echo_context)
        return self.make(make_objective(function, args=args, x0=np.zeros(4), vectorized=rows))


def prepare_evaluator(
    factory: Callable[[ObjectiveProtocol], Evaluator] | str | int | None,
    *,
    vectorized: bool = False,
    replaces_workers: bool = False,
) -> tuple[str, EvaluatorSubject]:
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

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from optex_core.execution.factory import make_evaluator
    >>> from optex_core.testing import check_evaluator
    >>> with ThreadPoolExecutor(2) as pool:
    ...     check_evaluator(lambda objective: make_evaluator(objective, pool)).ok
    True
    """
    if callable(factory):
        label = getattr(factory, "__name__", type(factory).__name__)
        return label, EvaluatorSubject(factory, vectorized, replaces_workers)
    if not (factory is None or isinstance(factory, (str, int))):
        raise ArgumentTypeError(
            f"check_evaluator takes a function that makes an evaluator of an "
            f"objective, or what minimize takes as workers, got {short_repr(factory)}"
        )
    label = "this thread" if factory is None else f"workers={factory!r}"
    own = isinstance(factory, int) or factory == "processes"
    make = partial(make_evaluator, workers=factory, parallelism=2)
    return label, EvaluatorSubject(make, vectorized, replaces_workers or own)


SUITE = CheckSuite("evaluator", prepare_evaluator, lambda: [None, "threads", 2])


def candidate(number: int, action: float = 0.0) -> Candidate:
    """Candidate `number`, at which `echo_context` does `action`."""
    x = np.array([action, float(number), 0.0, 0.0])
    x.flags.writeable = False
    return Candidate(number, x, 1000 + number, number // 4, number % 4)


def collect(evaluator: Evaluator) -> list[EvaluationResult]:
    """All outcomes that are pending."""
    outcomes: list[EvaluationResult] = []
    end = time.monotonic() + PATIENCE
    while evaluator.pending:
        outcomes += evaluator.next(timeout=1.0)
        require(time.monotonic() < end, f"{evaluator.pending} evaluations did not come back")
    return outcomes


def assert_answered(o: EvaluationResult, attempt: int = 0, deadline: float | None = None) -> None:
    """Raise `CheckFailed` unless `o` is the answer of its own point."""
    number, answer = o.candidate.id, o.gradient
    require(o.error is None, f"point {number} failed: {o.error!r}")
    require(answer is not None, f"point {number} came back without an answer and without an error")
    # Not the seed of the candidate that came back, which may be another than was submitted.
    expected = expected_answer(number, 1000 + number, attempt, deadline)
    assert_same_bits(np.asarray(answer), expected, f"seed, id, attempt, deadline of {number}")
    require_equal(o.value, number**2, f"value of point {number}")
    require_equal(o.attempt, attempt, f"attempt of point {number}")
    require_equal((o.nfev, o.njev), (1, 1), "counts of values and gradients in one call")
    require(o.seconds >= 0.0, f"point {number} took {o.seconds} s")


@SUITE.check()
def returns_every_point_once(s: EvaluatorSubject) -> None:
    """Whatever is submitted comes back once, with the answer of its own point."""
    with s.evaluator() as evaluator:

        def body(portions: list[int], attempt: int, deadline: float | None) -> None:
            number, outcomes = 0, list[EvaluationResult]()
            for portion in portions:
                points = [candidate(number + i) for i in range(portion)]
                evaluator.submit(points, attempt=attempt, deadline=deadline)
                number += portion
                require_equal(evaluator.pending, number - len(outcomes), "pending")
                if evaluator.pending:
                    outcomes += evaluator.next()
            outcomes += collect(evaluator)
            ids = sorted(o.candidate.id for o in outcomes)
            require_equal(ids, list(range(number)), "ids that came back")
            for outcome in outcomes:
                assert_answered(outcome, attempt, deadline)

        for_all(
            body,
            portions=st.lists(st.integers(0, 4), min_size=1, max_size=3),
            attempt=st.integers(0, 2),
            deadline=st.sampled_from((None, 60.0)),
            examples=10,
        )


@SUITE.check()
def failures_stay_with_their_point(s: EvaluatorSubject) -> None:
    """What user code raises comes back as that point's error, with message and traceback."""
    with s.evaluator() as evaluator:
        evaluator.submit([candidate(0), candidate(1, -1.0), candidate(2)])
        outcomes = {o.candidate.id: o for o in collect(evaluator)}
        require_equal(sorted(outcomes), [0, 1, 2], "ids that came back")
        failed, error = outcomes[1], outcomes[1].error
        require(failed.gradient is None, "a point whose function raised has an answer")
        require(isinstance(error, ValueError), f"a ValueError came back as {error!r}")
        require("no mesh at 1.0" in str(error), f"the message is lost: {error!r}")
        located = "no mesh at 1.0" in failed.traceback and "echo_context" in failed.traceback
        require(located, "the traceback does not say where it was raised")
        require_equal(failed.njev, 1, "count of a call that raised")
        evaluator.submit([candidate(3)])
        others = [] if s.vectorized else [outcomes[0], outcomes[2]]
        for outcome in (*others, *collect(evaluator)):
            assert_answered(outcome)


@SUITE.check()
def invalid_returns_are_objective_errors(s: EvaluatorSubject) -> None:
    """A return that is no pair, or of another shape, comes back as ObjectiveError."""
    for wrong in (no_pair, short_gradient):
        with s.evaluator(wrong) as evaluator:
            evaluator.submit([candidate(0)])
            (error,) = (outcome.error for outcome in collect(evaluator))
            require(isinstance(error, ObjectiveError), f"a wrong answer came back as {error!r}")


@SUITE.check()
def waiting_without_submissions_raises(s: EvaluatorSubject) -> None:
    """next() without anything submitted raises ProtocolError instead of waiting for ever."""
    with s.evaluator() as evaluator:
        for _ in range(2):
            with require_raises(ProtocolError, "next() returned although nothing was submitted"):
                evaluator.next()
            evaluator.submit([candidate(0)])
            collect(evaluator)


@SUITE.check(when=lambda s: not s.vectorized, why="it evaluates whole batches")
def next_waits_as_declared(s: EvaluatorSubject) -> None:
    """next(timeout) returns [] where nothing is ready, if `asynchronous`; else it evaluates."""
    with s.evaluator() as evaluator:
        declared = evaluator.asynchronous
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder, "mark")
        with s.evaluator(echo_after, (str(mark), PATIENCE / 2 if declared else 0.5)) as evaluator:
            mark.touch()
            evaluator.submit([candidate(0)])
            collect(evaluator)  # the workers run by now
            mark.unlink()
            evaluator.submit([candidate(1)])
            early = evaluator.next(timeout=0.01)
            mark.touch()
            text = f"asynchronous is {declared}, next(0.01) gave {len(early)} of a waiting point"
            require(bool(early) != declared, text)
            for outcome in (*early, *collect(evaluator)):
                assert_answered(outcome)


@SUITE.check()
def drain_leaves_nothing_pending(s: EvaluatorSubject) -> None:
    """drain() returns what ran, drops the rest, and leaves the evaluator usable."""
    with s.evaluator() as evaluator:
        evaluator.submit([candidate(i, 0.05 if evaluator.asynchronous else 0.0) for i in range(8)])
        outcomes = evaluator.next()
        outcomes += evaluator.drain()
        require_equal(evaluator.pending, 0, "pending after drain()")
        ids = [o.candidate.id for o in outcomes]
        once = len(set(ids)) == len(ids) and set(ids) <= set(range(8))
        require(once, f"after drain() these ids came back: {ids}")
        evaluator.submit([candidate(9)])
        for outcome in (*outcomes, *collect(evaluator)):
            assert_answered(outcome)


@SUITE.check()
def does_not_modify_points(s: EvaluatorSubject) -> None:
    """User code that writes into its argument changes no candidate; answers share no memory."""
    with s.evaluator() as evaluator:
        points = [candidate(i) for i in range(3)]
        evaluator.submit(points)
        answers = [o.gradient for o in collect(evaluator)]
        for c in points:
            assert_same_bits(np.asarray(c.x), candidate(c.id).x, f"point {c.id} was written into")
        arrays = [answer for answer in answers if answer is not None]
        shared = any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
        require(not shared, "two answers share one array")


@SUITE.check()
def close_releases_everything(s: EvaluatorSubject) -> None:
    """After close() no thread or process that the evaluator started is left."""
    threads, processes = set(threading.enumerate()), _children()
    evaluator = s.evaluator()
    evaluator.submit([candidate(i) for i in range(3)])
    collect(evaluator)
    evaluator.close()
    evaluator.close()
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:  # threads end by themselves, a little later
        left = [t.name for t in threading.enumerate() if t not in threads and not _is_shared(t)]
        born = _children() - processes
        if not left and not born:
            return
        time.sleep(0.02)
    raise CheckFailed(f"after close() there are still threads {left} and processes {sorted(born)}")


def _is_shared(thread: threading.Thread) -> bool:
    """Of the standard library, loky or the caller, and not of one evaluator."""
    shared = ("ThreadPoolExecutor", "Dask", "QueueFeederThread", "ExecutorManagerThread")
    return thread.name.startswith(shared) or "Profile" in thread.name


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
def killed_workers_lose_no_point(s: EvaluatorSubject) -> None:
    """A worker killed while it evaluates is replaced, and no point is lost."""
    with tempfile.TemporaryDirectory() as folder, s.evaluator(die_once, (folder,)) as evaluator:
        evaluator.submit([candidate(i, 1.0 if i == 1 else 0.0) for i in range(4)])
        found = {o.candidate.id: o for o in collect(evaluator)}
    require_equal(sorted(found), [0, 1, 2, 3], "ids that came back from a killed worker")
    for number, o in found.items():
        require(o.error is None, f"point {number} failed with a killed worker: {o.error!r}")
        require_equal(o.value, number**2, f"value of point {number}")
