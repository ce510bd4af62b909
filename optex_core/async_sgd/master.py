"""The master: versioned pulls, pushes applied on arrival or in mini-batches, delays measured and
bounded. Knows no clock, thread or process.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from optex_core._validation import integer, one_of, reject_unknown_fields, short_repr
from optex_core.async_sgd.push_trace import PushTrace
from optex_core.async_sgd.records import BurstContext, LostBurst, Pull, Push, Receipt
from optex_core.async_sgd.staleness import LATE_POLICIES, keeps_bound, select_pushes
from optex_core.async_sgd.step_rules import as_step_rule, evaluate_step
from optex_core.engine.settings import as_x0, resolve_seed
from optex_core.errors import ArgumentTypeError, ObjectiveError, ProtocolError
from optex_core.types import Array

if TYPE_CHECKING:
    from optex_core.async_sgd.push_log import PushLog


@dataclass(frozen=True, slots=True)
class MasterSettings:
    """What decides a master besides the pushes; attributes as the parameters of `Master`."""

    step: Callable[[int, int], float]
    batch: int
    max_delay: int | None
    on_late: str
    seed: int
    tag: str | None


@dataclass(slots=True)
class MasterState:
    """Where a master stands: the parameters, and what was handed out.

    Attributes
    ----------
    v : array, shape (d,)
        Read-only; replaced by every update and never written.
    version : int
        Updates applied.
    issued : int
        Bursts handed out; the id of the next.
    bursts : Counter of int
        Bursts by worker.
    open : dict of int to Context
        Handed out, neither pushed nor given up.
    received : dict of int to (Context, Push)
        Acknowledged and not yet applied, in the order of arrival.
    counts : Counter of str
        "accepted", "applied", "gradients", and every `LostBurst.kind`.
    """

    v: Array
    version: int = 0
    issued: int = 0
    bursts: Counter[int] = field(default_factory=Counter)
    open: dict[int, BurstContext] = field(default_factory=dict)
    received: dict[int, tuple[BurstContext, Push]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


@reject_unknown_fields
class Master:
    """Holds the parameters v that workers pull, and applies what they push: v <- v - eta s, or v <-
    a v + b.

    Every pull carries the version t0 of the parameters; the delay of a push is tau = t - t0, the
    updates applied between the two. The outer step is eta = step(t, tau). No thread, process or
    clock: whoever drives it (`run`, or a loop of your own) calls it from one thread.

    Parameters
    ----------
    x0 : array_like, shape (d,)
        The start; integers become float64.
    step : float or callable, default 1.0
        The outer step: a number, a rule of `async_sgd.step_rules`, or any callable (version, delay)
        -> eta.
    batch : int, default 1
        M: pushes to one update. 1 applies each on arrival.
    max_delay : int or None, default None
        D: the largest delay; None measures delays and bounds nothing.
    on_late : {"reject", "damp", "wait"}, default "reject"
        What to do with a push of tau > D: refuse it; apply it with eta (D + 1) / (tau + 1); or
        "wait", which never lets it happen: pulls are answered with None, and pushes held back, as
        long as they would make another burst late (`async_sgd.staleness` has the exact condition).
    rng : int, Generator or None, default None
        The run's seed, from which every burst's seed derives.
    log : path-like or PushLog, optional
        Where every push is written before it is acknowledged, so that the run can be resumed and
        replayed exactly.
    tag : str, optional
        Names the problem in saved files; a file of another tag is refused.

    Attributes
    ----------
    settings : MasterSettings
    state : MasterState
    ledger : Ledger
        One row for each applied push: delays, steps, values.
    lost : list of Lost
        Bursts that gave nothing, and refused pushes.
    about : dict
        What the driver wants to find again in files that are begun from now on; of JSON.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For an argument that cannot work.

    References
    ----------
    Mohamad, Alamri, Bouchachia, Scaling up stochastic gradient descent for non-convex optimisation,
    Machine Learning 2022, arXiv 2210.02882 (abstract and introduction; the scheme here is a
    reconstruction). Lian, Huang, Li, Liu, NIPS 2015, for updates of M pushes.

    Examples
    --------
    >>> import numpy as np
    >>> from optex_core.async_sgd import Master, Push
    >>> master = Master([4.0, 2.0], rng=0)
    >>> first, second = master.pull(worker=0), master.pull(worker=1)
    >>> master.push(first.id, Push.steps(0.5 * first.v)).delay
    0
    >>> master.push(second.id, Push.affine(0.5, np.ones(2))).delay
    1
    >>> master.x
    array([2. , 1.5])
    """

    def __init__(
        self,
        x0: Any,
        *,
        step: Any = 1.0,
        batch: int = 1,
        max_delay: int | None = None,
        on_late: str = "reject",
        rng: Any = None,
        log: Any = None,
        tag: str | None = None,
    ) -> None:
        v = as_x0(x0)
        if not isinstance(v, np.ndarray):
            raise ArgumentTypeError(
                f"x0 must be a NumPy array or what makes one, got {type(x0).__name__}: "
                f"the master works on the CPU; pass x0.get()"
            )
        v = np.array(v)
        if tag is not None and not isinstance(tag, str):
            raise ArgumentTypeError(f"tag must be a text, got {short_repr(tag)}")
        self.settings = MasterSettings(
            as_step_rule(step),
            integer("batch", batch, low=1),
            None if max_delay is None else integer("max_delay", max_delay, low=0),
            one_of("on_late", on_late, LATE_POLICIES),
            resolve_seed(rng),
            tag,
        )
        self.state = MasterState(_readonly(v))
        self.push_trace = PushTrace()
        self.lost: list[LostBurst] = []
        self.metadata: dict[str, Any] = {}
        self._log: PushLog | None = None
        if log is not None:
            from optex_core.async_sgd.checkpoint import start_log

            self._log = start_log(self, log)

    # -- what everybody asks -----------------------------------------------------------------------

    @property
    def x(self) -> Array:
        """The parameters, shape (d,), read-only: this array never changes."""
        return self.state.v

    @property
    def version(self) -> int:
        """Updates applied."""
        return self.state.version

    @property
    def open(self) -> list[int]:
        """Ids of the bursts that are handed out."""
        return list(self.state.open)

    @property
    def counts(self) -> Counter[str]:
        """How many pushes were accepted and applied, gradients in them, and bursts lost by kind; a
        copy.
        """
        return Counter(self.state.counts)

    def can_pull(self) -> bool:
        """True if `pull` would hand out a burst now; False only under ``on_late="wait"``."""
        s = self.settings
        if s.max_delay is None or s.on_late != "wait":
            return True
        return keeps_bound(
            [*self._open_versions(), self.state.version], self.state.version, s.batch, s.max_delay
        )

    # -- pull, push, fail --------------------------------------------------------------------------

    def pull(self, worker: int = 0) -> Pull | None:
        """Hand out the parameters to a worker, which owes a push for them.

        Parameters
        ----------
        worker : int, default 0
            Whoever asks; only counted.

        Returns
        -------
        Job or None
            None under ``on_late="wait"`` when one more burst could not be applied in time: ask
            again after the next push.
        """
        worker = integer("worker", worker, low=0)
        if not self.can_pull():
            return None
        s = self.state
        context = BurstContext(
            s.issued, worker, burst_seed(self.settings.seed, s.issued), s.version, s.bursts[worker]
        )
        s.issued += 1
        s.bursts[worker] += 1
        s.open[context.id] = context
        return Pull(s.v, context)

    def push(self, job: int, push: Push) -> Receipt:
        """Take what a burst gave; accepted means: applied once, or kept for its mini-batch, and in
        the log if there is one.

        Parameters
        ----------
        job : int
            The id of the burst, from `pull`.
        push : Push
            The master keeps no reference to its arrays once it is applied.

        Returns
        -------
        Receipt
            Not accepted: numbers that are not finite, or too late under ``on_late="reject"``.

        Raises
        ------
        ProtocolError
            For an id that is not open: pushed before, given up, never pulled. Nothing changes, so
            that no push is ever applied twice.
        ObjectiveError
            For arrays of a wrong shape or type. Nothing changes.
        """
        context = self._open_context(job)
        push = _validated_push(push, self.state.v, context)
        settings, s = self.settings, self.state
        delay = s.version - context.version
        if not _is_finite(push):
            return self._reject(
                context, "not finite", f"the push of burst {job} holds numbers that are not finite"
            )
        if (
            settings.max_delay is not None
            and settings.on_late == "reject"
            and delay > settings.max_delay
        ):
            return self._reject(
                context,
                "late",
                f"the push of burst {job} came {delay} updates late, max_delay is "
                f"{settings.max_delay}",
            )
        if self._log is not None:
            # first, and on disk: if this raises, nothing has changed
            self._log.accepted(context, push)
        del s.open[job]
        s.received[job] = context, push
        s.counts["accepted"] += 1
        self.update()
        return Receipt(True, s.version, delay)

    def fail(
        self, job: int, kind: str = "error", message: str = "", traceback: str = ""
    ) -> LostBurst:
        """Give up a burst: it raised, its worker died, it took too long. A push that still comes
        for it is refused as unknown.

        Raises
        ------
        ProtocolError
            For an id that is not open.
        """
        context = self._open_context(job)
        lost = LostBurst(
            context.id,
            context.worker,
            context.version,
            context.seed,
            kind,
            message or f"burst {job} was given up",
            traceback,
        )
        self._give_up(lost)
        return lost

    def flush(self) -> int:
        """Apply what is received but waits for the rest of its mini-batch; returns how many pushes
        that were. For the end of a run.
        """
        waiting = list(self.state.received)
        if waiting:
            self._apply(waiting)
        if self._log is not None:
            self._log.commit()
        return len(waiting)

    # -- files -------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the master to a file, atomically: arrays and one JSON header, no pickle. Bursts
        that are out are not part of it.
        """
        from optex_core.async_sgd.checkpoint import save

        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **settings: Any) -> Master:
        """The master that `save` wrote; it goes on with the bits of an uninterrupted one, bursts
        that were out being lost.

        Parameters
        ----------
        path : path-like
        **settings
            `step`, where it is a callable that a file cannot hold; others only to have them
            checked.

        Raises
        ------
        CheckpointError
            For a damaged or foreign file, or one made with other settings.
        """
        from optex_core.async_sgd.checkpoint import load

        return load(path, **settings)

    @classmethod
    def resume(cls, path: str | os.PathLike[str], *, sync: bool = False, **settings: Any) -> Master:
        """The master of a log, with everything it ever acknowledged, and the log going on.

        Parameters
        ----------
        path : path-like
            A log that another master, of a process that may have been killed, has written.
        sync : bool, default False
            As in `PushLog`.
        **settings
            As in `load`.

        Raises
        ------
        CheckpointError
            For a damaged or foreign file, or one made with other settings.
        """
        from optex_core.async_sgd.checkpoint import resume

        return resume(path, sync=sync, **settings)

    def attach_log(self, log: PushLog) -> None:
        """Log from here on to a log that holds all that was before; `resume` does this. What it
        acknowledged and did not apply is applied.
        """
        self._log = log
        self.update()
        log.commit()

    def close(self) -> None:
        """Let go of the log; the master can still be read, and goes on without one."""
        if self._log is not None:
            self._log.close()
            self._log = None

    # -- how ---------------------------------------------------------------------------------------

    def _open_context(self, job: int) -> BurstContext:
        context = self.state.open.get(job)
        if context is None:
            known = isinstance(job, (int, np.integer)) and 0 <= job < self.state.issued
            raise ProtocolError(
                f"burst {job} is "
                f"{'not open any more: it was pushed or given up' if known else 'unknown: no pull gave this id'}; "
                f"open are {self.open[:10]}{'...' if len(self.open) > 10 else ''}"
            )
        return context

    def _open_versions(self) -> list[int]:
        s = self.state
        return [*(c.version for c in s.open.values()), *(c.version for c, _ in s.received.values())]

    def _reject(self, context: BurstContext, kind: str, message: str) -> Receipt:
        self._give_up(
            LostBurst(context.id, context.worker, context.version, context.seed, kind, message)
        )
        return Receipt(False, self.state.version, self.state.version - context.version, message)

    def _give_up(self, lost: LostBurst) -> None:
        del self.state.open[lost.id]
        self.state.counts[lost.kind] += 1
        self.lost.append(lost)
        if self._log is not None:
            self._log.lost(lost)
        self.update()  # what was held back for this burst need not wait any longer

    # -- what a log says ---------------------------------------------------------------------------

    def receive(self, context: BurstContext, push: Push) -> None:
        """Receive a push that a log holds, without deciding anything; for `checkpoint`."""
        s = self.state
        s.received[context.id] = context, _validated_push(push, s.v, context)
        s.counts["accepted"] += 1
        self._restore_counters(context.id, context.worker, context.burst + 1)

    def receive_lost(self, lost: LostBurst) -> None:
        """Note a lost burst that a log holds; for `checkpoint`."""
        self.state.counts[lost.kind] += 1
        self.lost.append(lost)
        self._restore_counters(lost.id, lost.worker, 0)

    def _restore_counters(self, job: int, worker: int, bursts: int) -> None:
        s = self.state
        s.issued = max(s.issued, job + 1)
        s.bursts[worker] = max(s.bursts[worker], bursts)

    def update(self) -> None:
        """Apply all updates that may be applied now; `push` and `fail` do it themselves."""
        settings, s = self.settings, self.state
        while len(s.received) >= settings.batch:
            if settings.max_delay is None or settings.on_late != "wait":
                taken: list[int] | None = list(s.received)[: settings.batch]
            else:
                received = [(number, c.version) for number, (c, _) in s.received.items()]
                outstanding = [c.version for c in s.open.values()]
                taken = select_pushes(
                    received, outstanding, s.version, settings.batch, settings.max_delay
                )
            if taken is None:
                return
            self._apply(taken)

    def _apply(self, jobs: list[int]) -> None:
        """One update from the received pushes `jobs`, in this order."""
        s = self.state
        etas = [self._eta(s.version - s.received[job][0].version) for job in jobs]
        self.apply_update(jobs, etas)
        if self._log is not None:
            self._log.applied(jobs, etas)

    def apply_update(self, jobs: list[int], etas: list[float]) -> None:
        """One update from the received pushes `jobs`, in this order, with these steps; for
        `checkpoint`, everybody else pushes.
        """
        s = self.state
        v = s.v
        for job, eta in zip(jobs, etas, strict=True):
            context, push = s.received[job]
            v = apply_push(v, push, eta)
            self.push_trace.append(context, s.version, eta, push)
            s.counts["applied"] += 1
            s.counts["gradients"] += push.gradients
            if "nfev" in push.report:
                s.counts["nfev"] += int(push.report["nfev"])
            del s.received[job]
        s.v = _readonly(v)
        s.version += 1

    def _eta(self, delay: int) -> float:
        s = self.settings
        eta = evaluate_step(s.step, self.state.version, delay)
        if s.max_delay is not None and s.on_late == "damp" and delay > s.max_delay:
            eta *= (s.max_delay + 1.0) / (delay + 1.0)
        return eta


def apply_push(v: Array, push: Push, eta: float) -> Array:
    """The parameters after `push`, a new array of the dtype of `v`.

    With eta = 1 these are v - s and a v + b without a further rounding, so that one worker with one
    inner step is SGD bit for bit.
    """
    if push.a is None:
        return v - (push.b if eta == 1.0 else push.b * v.dtype.type(eta))
    there = push.a * v + push.b
    return there if eta == 1.0 else v + v.dtype.type(eta) * (there - v)


def burst_seed(run: int, burst: int) -> int:
    """The seed of a burst: 63 bits, since 32 would repeat after some ten thousand bursts."""
    return int(np.random.SeedSequence(run, spawn_key=(burst,)).generate_state(1, np.uint64)[0] >> 1)


def _readonly(v: Array) -> Array:
    v.flags.writeable = False
    return v


def _validated_push(push: Any, v: Array, context: BurstContext) -> Push:
    if not isinstance(push, Push):
        raise ObjectiveError(
            f"a burst must return a Push (Push.steps(s) or Push.affine(a, b)), burst "
            f"{context.id} returned {short_repr(push)}"
        )
    b = _array("s" if push.a is None else "b", push.b, v)
    a = push.a
    if a is not None:
        a = (
            v.dtype.type(a)
            if np.ndim(a) == 0 and not isinstance(a, np.ndarray)
            else _array("a", a, v, scalar=True)
        )
    gradients = integer("Push.gradients", push.gradients, low=0)
    return Push(b, a, gradients, float(push.value), push.report)


def _array(name: str, array: Any, v: Array, *, scalar: bool = False) -> Array:
    found = np.asarray(array)
    if found.dtype.kind not in "fiu" or not (
        found.shape == v.shape or (scalar and found.shape == ())
    ):
        raise ObjectiveError(
            f"{name} of a push must be real numbers of shape {v.shape}, got {short_repr(found)}"
        )
    return found.astype(v.dtype, copy=False)


def _is_finite(push: Push) -> bool:
    return all(part is None or all_finite(part) for part in (push.b, push.a))


def all_finite(array: Array) -> bool:
    """True if no entry is nan or infinite; one pass over memory without a temporary, where
    `numpy.isfinite` makes one.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(np.sum(array))
    # A sum is not finite if a term is not; only an overflow of the sum itself needs the second
    # look.
    return math.isfinite(total) or bool(np.isfinite(array).all())
