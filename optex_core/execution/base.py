"""What an evaluator is: candidates in, outcomes out, in whatever order they finish."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from optex_core.errors import ProtocolError, format_traceback
from optex_core.types import (
    Array,
    CallCounts,
    Candidate,
    Context,
    Evaluation,
    ObjectiveProtocol,
    StencilCandidate,
    StencilContext,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one evaluation ended.

    Attributes
    ----------
    candidate : Candidate
        The point.
    evaluation : Evaluation or None
        None where it failed.
    error : Exception or None
        What user code raised; an `optex_core.errors.ObjectiveError` means that the run cannot go
        on.
    traceback : str
        Where it was raised, as text, since a traceback does not travel between processes; empty
        without an error.
    nfev, njev : int
        Calls made, those before a failure included.
    seconds : float
        Time the evaluation took.
    attempt : int
        As given to `Evaluator.submit`.
    value : float or None
        The value where it was found although the gradient then failed.
    """

    candidate: Candidate
    evaluation: Evaluation | None
    error: Exception | None
    traceback: str
    nfev: int
    njev: int
    seconds: float
    attempt: int
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A submitted candidate, with what `Evaluator.submit` was told about it."""

    candidate: Candidate
    attempt: int
    deadline: float | None

    @property
    def context(self) -> Context:
        """What user code is told about this evaluation."""
        c = self.candidate
        if isinstance(c, StencilCandidate):
            return StencilContext(
                c.parent_id,
                c.seed,
                c.iteration,
                c.slot,
                self.attempt,
                None,
                self.deadline,
                c.perturbation,
            )
        return Context(c.id, c.seed, c.iteration, c.slot, self.attempt, None, self.deadline)


@dataclass(frozen=True, slots=True)
class Report:
    """An outcome without its candidate: what a worker sends back. Fields as in `Outcome`."""

    evaluation: Evaluation | None
    error: Exception | None
    traceback: str
    nfev: int
    njev: int
    seconds: float
    value: float | None = None

    def outcome(self, candidate: Candidate, attempt: int) -> Outcome:
        """The report as the outcome of `candidate`."""
        return Outcome(
            candidate,
            self.evaluation,
            self.error,
            self.traceback,
            self.nfev,
            self.njev,
            self.seconds,
            attempt,
            self.value,
        )

    @classmethod
    def of(cls, evaluation: Evaluation) -> Report:
        """The report of an evaluation that returned."""
        return cls(evaluation, None, "", evaluation.nfev, evaluation.njev, evaluation.seconds)


def run_evaluation(objective: ObjectiveProtocol, x: Array, context: Context) -> Report:
    """Evaluate in this thread; every Exception becomes a report, KeyboardInterrupt and SystemExit
    pass through, with the calls made (`attach_call_counts`).
    """
    counts, start = CallCounts(), time.perf_counter()
    try:
        evaluation = objective.evaluate(x, context, counts)
    except Exception as error:
        return Report(
            None,
            error,
            format_traceback(error),
            counts.nfev,
            counts.njev,
            time.perf_counter() - start,
            counts.value,
        )
    except BaseException as interrupt:
        attach_call_counts(interrupt, counts.nfev, counts.njev)
        raise
    return Report.of(evaluation)


def attach_call_counts(interrupt: BaseException, nfev: int, njev: int) -> None:
    """Note on `interrupt`, which takes the place of outcomes, the calls whose counts are lost with
    them.
    """
    before = attached_call_counts(interrupt)
    interrupt.optex_calls = CallCounts(before.nfev + nfev, before.njev + njev)  # type: ignore[attr-defined]


def attached_call_counts(interrupt: BaseException) -> CallCounts:
    """The calls that `attach_call_counts` has noted."""
    counts = getattr(interrupt, "optex_calls", None)
    return counts if isinstance(counts, CallCounts) else CallCounts()


class Evaluator(ABC):
    """Runs the evaluations of one objective; also a context manager that closes itself.

    It knows no policy: what to retry, what to drop and when to stop is decided by whoever drives
    it.

    Attributes
    ----------
    background : bool
        True where evaluations run while `next` waits, so that `next` may return before they end;
        False where `next` itself evaluates, and nothing can be done about an evaluation until it
        ends.
    apart : bool
        True where user code is known to run in other processes, so that nothing that holds for this
        whole process (how many threads BLAS has) reaches it.
    """

    asynchronous: bool = False
    out_of_process: bool = False

    @property
    @abstractmethod
    def pending(self) -> int:
        """How many submitted candidates have not come back from `next` or `drain`."""

    @abstractmethod
    def submit(
        self, candidates: Sequence[Candidate], *, attempt: int = 0, deadline: float | None = None
    ) -> None:
        """Take candidates to be evaluated.

        Parameters
        ----------
        candidates : sequence of Candidate
            No id that is still pending.
        attempt : int
            How often these points were tried before; user code sees it in its context.
        deadline : float, optional
            Seconds an evaluation may take, told to user code in its context; nothing here enforces
            it.
        """

    @abstractmethod
    def next(self, timeout: float | None = None) -> list[Outcome]:
        """Wait until at least one evaluation has finished; return all that have, by id.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for work that runs elsewhere; an empty list when none finished in time.

        Raises
        ------
        ProtocolError
            Nothing is pending.
        EvaluationError
            The workers are lost.
        """

    def started(self) -> dict[tuple[int, int], float]:
        """Since when what runs elsewhere at this moment does so, by (id, attempt), on the clock
        `time.perf_counter`.

        Exact for our own threads and processes, whose start-up does not count. Of other pools what
        their futures say, when it was first seen: pools of processes and clusters call running what
        waits in their queue. Nothing where `next` itself evaluates.
        """
        return {}

    def pop_lost(self) -> list[Candidate]:
        """The points whose evaluation had begun and was lost with its worker, once for each loss
        since this was asked last.
        """
        return []

    def abandon(self, id: int, attempt: int) -> bool:  # noqa: A002  (as in `Candidate`)
        """Free the slot of an evaluation that takes too long.

        Returns
        -------
        bool
            True if it is ended: it is no longer pending. False if it runs on, or has just finished:
            its outcome still comes from `next`.
        """
        return False

    @abstractmethod
    def cancel(self) -> None:
        """Drop what has not started; what runs stays pending, but is not asked again if it is lost
        with a worker.
        """

    def drain(self) -> list[Outcome]:
        """Drop what has not started, wait for what runs, and return its outcomes by id; nothing is
        pending afterwards.
        """
        self.cancel()
        outcomes: list[Outcome] = []
        while self.pending:
            outcomes += self.next()
        return sorted(outcomes, key=lambda o: o.candidate.id)

    @abstractmethod
    def close(self) -> None:
        """End what was started here, at once and without waiting for running evaluations; a user's
        own pool is left as it is.
        """

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _need_pending(self) -> None:
        if not self.pending:
            raise ProtocolError("next() waits for evaluations, but none was submitted")
