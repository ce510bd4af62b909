"""Parameter server: versioned pulls, pushes, bounded staleness."""

from __future__ import annotations

import logging
import os
from collections import Counter

import numpy as np

from optex_core._validation import integer, one_of, reject_unknown_fields
from optex_core.async_sgd import checkpoint
from optex_core.async_sgd.push_log import PushLog
from optex_core.async_sgd.records import (
    BurstContext,
    BurstStatus,
    LostBurst,
    Pull,
    Push,
    PushTrace,
    Receipt,
)
from optex_core.async_sgd.staleness import keeps_bound, select_pushes
from optex_core.async_sgd.state import (
    MAX_PART_DEATHS,
    MasterSettings,
    MasterState,
    as_push,
    is_finite,
)
from optex_core.async_sgd.step_rules import evaluate_step
from optex_core.engine.settings import as_x0
from optex_core.errors import ArgumentTypeError, ProtocolError
from optex_core.types import Array

logger = logging.getLogger("optex_core")


@reject_unknown_fields
class Master:
    """Parameter server: v <- v - eta s, or v <- a v + b, for every push.

    Every pull carries the version t0 of the parameters. The staleness (delay) of a push is tau = t
    - t0, the updates between the two. The outer step is eta = step(t, tau). A master has no thread,
    process or clock: its driver (`run`, or a loop of your own) calls it from one thread.

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
        D: the staleness from which `on_late` acts; None measures it and bounds nothing.
    on_late : {"reject", "damp", "wait"}, default "reject"
        What to do with a push of tau > D. "reject" refuses it. "damp" applies it with eta (D + 1) /
        (tau + 1). "wait" never lets it happen: pulls are answered with None, and pushes held back,
        as long as they would make another burst late (`async_sgd.staleness` has the condition).
    rng : int, Generator or None, default None
        The run's seed, from which every burst's seed derives.
    log : path-like or PushLog, optional
        File that every push is written to before it is acknowledged, so that the run can be resumed
        and replayed exactly.
    tag : str, optional
        Names the problem in saved files; a file of another tag is refused.

    References
    ----------
    Mohamad, Alamri, Bouchachia, Machine Learning 2022, arXiv 2210.02882 (a reconstruction from its
    abstract and introduction). Lian, Huang, Li, Liu, NIPS 2015, for updates of M pushes.

    Examples
    --------
    >>> import numpy as np
    >>> from optex_core.async_sgd import Master, Push
    >>> master = Master([4.0, 2.0], rng=0)
    >>> first, second = master.pull(worker=0), master.pull(worker=1)
    >>> one = master.push(first.id, Push.steps(0.5 * first.v))
    >>> two = master.push(second.id, Push.affine(0.5, np.ones(2)))
    >>> one.delay, two.delay, master.x.tolist()
    (0, 1, [2.0, 1.5])
    """

    def __init__(
        self,
        x0: object,
        *,
        step: object = 1.0,
        batch: int = 1,
        max_delay: int | None = None,
        on_late: str = "reject",
        rng: object = None,
        log: str | os.PathLike[str] | PushLog | None = None,
        tag: str | None = None,
    ) -> None:
        v = as_x0(x0)
        if not isinstance(v, np.ndarray):
            raise ArgumentTypeError(
                f"x0 must be a NumPy array or convertible to one, got {type(x0).__name__}: the "
                "master works on the CPU; pass x0.get()"
            )
        v = np.array(v)
        v.flags.writeable = False
        self.settings = MasterSettings.checked(step, batch, max_delay, on_late, rng, tag)
        self.state = MasterState(v)
        self._log: PushLog | None = None
        if log is not None:
            self.start_log(log)

    @property
    def x(self) -> Array:
        """The parameters, shape (d,), read-only: this array never changes."""
        return self.state.v

    @property
    def version(self) -> int:
        """Updates applied."""
        return self.state.version

    @property
    def push_trace(self) -> PushTrace:
        """One row for each applied push: delays, steps, values."""
        return self.state.push_trace

    @property
    def lost(self) -> list[LostBurst]:
        """Bursts without an accepted push; the list grows."""
        return self.state.lost

    @property
    def open(self) -> list[int]:
        """Ids of the bursts that are handed out."""
        return list(self.state.open)

    @property
    def counts(self) -> Counter[str]:
        """Pushes accepted and applied, gradients in them, and lost bursts by status; a copy."""
        return Counter(self.state.counts)

    def pull(self, worker: int = 0) -> Pull | None:
        """Hand out the parameters to a worker, which owes a push for them.

        None under ``on_late="wait"`` when one more burst could not be applied in time: ask again
        after the next push.
        """
        worker = integer("worker", worker, low=0)
        settings, s = self.settings, self.state
        if settings.max_delay is not None and settings.on_late == "wait":
            versions = [c.version for c in s.open.values()]
            versions += [s.version, *(c.version for c, _ in s.received.values())]
            if not keeps_bound(versions, s.version, settings.batch, settings.max_delay):
                return None
        return Pull(s.v, s.hand_out(worker, settings.seed))

    def push(self, burst_id: int, push: Push) -> Receipt:
        """Receive the push of the burst with this id.

        An accepted push is applied once, now or with the rest of its mini-batch, and it is in the
        log if there is one. Refused are numbers that are not finite, and late pushes under
        ``on_late="reject"``. Nothing changes after a ProtocolError, for an id that is not open
        (pushed before, given up, never pulled), or ObjectiveError, for arrays of a wrong shape or
        type.
        """
        context, settings, s = self._open_context(burst_id), self.settings, self.state
        push = as_push(push, s.v, context)
        delay = s.version - context.version
        late = settings.max_delay is not None and delay > settings.max_delay
        status = BurstStatus.ACCEPTED
        if not is_finite(push):
            status, why = BurstStatus.NOT_FINITE, "holds numbers that are not finite"
        elif late and settings.on_late == "reject":
            why = f"came {delay} updates late, max_delay is {settings.max_delay}"
            status = BurstStatus.LATE
        if status is not BurstStatus.ACCEPTED:
            reason = f"the push of burst {burst_id} {why}"
            self._lose(LostBurst.of(context, status, reason))
            return Receipt(status, s.version, delay, reason)
        if self._log is not None:
            # First, and on disk: if this raises, nothing has changed.
            self._log.write_push(context, push)
        s.receive(context, push)
        self.update()
        return Receipt(status, s.version, delay)

    def fail(
        self,
        burst_id: int,
        status: BurstStatus | str = BurstStatus.ERROR,
        message: str = "",
        traceback: str = "",
    ) -> LostBurst:
        """Give up a burst: it raised, its worker died, it took too long. Its part is handed out
        again where `BurstStatus.hands_out_again`; three deaths or timeouts leave it out.

        A push that still comes for it is refused: ProtocolError, as here for an id that is not
        open.
        """
        given_up = [str(end) for end in BurstStatus if end is not BurstStatus.ACCEPTED]
        end = BurstStatus(one_of("status", status, given_up))
        message = message or f"burst {burst_id} was given up"
        lost = LostBurst.of(self._open_context(burst_id), end, message, traceback)
        self._lose(lost)
        return lost

    def update(self) -> None:
        """Apply all updates that may be applied now; `push` and `fail` do it themselves."""
        settings, s = self.settings, self.state
        while len(s.received) >= settings.batch:
            ids: list[int] | None = list(s.received)[: settings.batch]
            if settings.max_delay is not None and settings.on_late == "wait":
                received = [(burst_id, c.version) for burst_id, (c, _) in s.received.items()]
                outstanding = [c.version for c in s.open.values()]
                ids = select_pushes(
                    received, outstanding, s.version, settings.batch, settings.max_delay
                )
            if ids is None:
                return
            self._apply(ids)

    def flush(self) -> int:
        """Apply the pushes that wait for the rest of their mini-batch; returns their number."""
        waiting = list(self.state.received)
        if waiting:
            self._apply(waiting)
        if self._log is not None:
            self._log.commit()
        return len(waiting)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the master to a file, atomically; bursts that are handed out are not part of it."""
        checkpoint.save_state(path, self.settings, self.state)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **settings: object) -> Master:
        """The master that `save` wrote; bursts that were handed out are lost.

        Of `settings` pass `step` where it is a callable that a file cannot hold; others only to
        have them checked. CheckpointError for a damaged or foreign file, or other settings.
        """
        return cls.restore(checkpoint.load_state(path), settings)

    @classmethod
    def resume(
        cls, path: str | os.PathLike[str], *, sync: bool = False, **settings: object
    ) -> Master:
        """The master of a log, with everything it ever acknowledged, and the log continued.

        `sync` is as in `PushLog`, `settings` as in `load`. CheckpointError as in `load`, and for a
        log that another process writes to.
        """
        log = PushLog(path, sync=sync)
        try:
            with log.reopen() as reader:
                saved = checkpoint.logged_start(reader)
                checkpoint.apply_records(saved, reader)
                master = cls.restore(saved, settings)
        except BaseException:
            log.close()
            raise
        master._log = log
        master.update()
        log.commit()
        return master

    @classmethod
    def restore(
        cls, saved: checkpoint.SavedMaster, settings: dict[str, object], *, check: bool = True
    ) -> Master:
        """The master of a saved state; `settings` are those that the caller insists on."""
        master = cls(saved.state.v, rng=saved.seed, **saved.arguments(settings))
        if check:
            saved.check_settings(master.settings)
        master.state = saved.state
        return master

    def start_log(self, log: str | os.PathLike[str] | PushLog) -> None:
        """Log from here on to a new file. The master must not have been used before."""
        log = log if isinstance(log, PushLog) else PushLog(log)
        log.create(checkpoint.log_header(self.settings, self.state), self.x)
        self._log = log

    def close(self) -> None:
        """Close the log; the master can still be read, and continues without one."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def __enter__(self) -> Master:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_context(self, burst_id: int) -> BurstContext:
        context = self.state.open.get(burst_id)
        if context is None:
            ids = self.open
            known = isinstance(burst_id, (int, np.integer)) and 0 <= burst_id < self.state.issued
            why = "not open any more: it was pushed or given up"
            why, more = why if known else "unknown: no pull gave it", "..." if len(ids) > 10 else ""
            raise ProtocolError(f"burst {burst_id} is {why}; open are {ids[:10]}{more}")
        return context

    def _lose(self, lost: LostBurst) -> None:
        self.state.lose(lost)
        if lost.status.hands_out_again and self.state.is_left_out(lost.part):
            logger.warning(
                "%d workers died or hung over part %d of the work, which is left out",
                MAX_PART_DEATHS,
                lost.part,
            )
        if self._log is not None:
            self._log.write_loss(lost)
        self.update()  # what was held back for this burst need not wait any longer

    def _apply(self, ids: list[int]) -> None:
        s = self.state
        etas = [self._eta(s.version - s.received[burst_id][0].version) for burst_id in ids]
        s.apply(ids, etas)
        if self._log is not None:
            self._log.write_update(ids, etas)

    def _eta(self, delay: int) -> float:
        s = self.settings
        eta = evaluate_step(s.step, self.state.version, delay)
        if s.max_delay is not None and s.on_late == "damp" and delay > s.max_delay:
            eta *= (s.max_delay + 1.0) / (delay + 1.0)
        return eta
