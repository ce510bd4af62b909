"""State of a master: a record of arrays and integers, and the three events that change it.

A push is received, an update applies received pushes, a burst is lost. A master decides on events,
a log holds them, a replay applies them again: all three use the methods of this record.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optex_core._validation import integer, one_of, short_repr
from optex_core.async_sgd.records import BurstContext, BurstStatus, LostBurst, Push, PushTrace
from optex_core.async_sgd.staleness import LATE_POLICIES
from optex_core.async_sgd.step_rules import as_step_rule
from optex_core.engine.settings import resolve_seed
from optex_core.errors import ArgumentTypeError, CheckpointError, ObjectiveError
from optex_core.types import Array

#: Workers that may die over a part, or hang, before it is left out: the third is no accident.
MAX_PART_DEATHS = 3
#: More bursts than any run has at once: a log that misses more of them is damaged.
MAX_MISSING_PARTS = 1 << 20


@dataclass(frozen=True, slots=True)
class MasterSettings:
    """Settings of a master, as the parameters of `Master`."""

    step: Callable[[int, int], float]
    batch: int
    max_delay: int | None
    on_late: str
    seed: int
    tag: str | None

    @classmethod
    def checked(
        cls, step: Any, batch: Any, max_delay: Any, on_late: Any, rng: Any, tag: Any
    ) -> MasterSettings:
        """Settings from the arguments of a user, or of a file."""
        if tag is not None and not isinstance(tag, str):
            raise ArgumentTypeError(f"tag must be a text, got {short_repr(tag)}")
        return cls(
            as_step_rule(step),
            integer("batch", batch, low=1),
            None if max_delay is None else integer("max_delay", max_delay, low=0),
            one_of("on_late", on_late, LATE_POLICIES),
            resolve_seed(rng),
            tag,
        )


@dataclass(slots=True)
class MasterState:
    """Parameters of a master, and the bursts that were handed out."""

    v: Array  # shape (d,), read-only; replaced by every update and never written
    version: int = 0  # updates applied
    issued: int = 0  # bursts handed out; the id of the next
    bursts: Counter[int] = field(default_factory=Counter)  # by worker
    #: Handed out, neither pushed nor given up; not part of saved files.
    open: dict[int, BurstContext] = field(default_factory=dict)
    #: Acknowledged and not yet applied, in the order of arrival.
    received: dict[int, tuple[BurstContext, Push]] = field(default_factory=dict)
    parts: int = 0  # of the work handed out; the number of the next
    #: Parts of lost bursts, to be handed out again; ascending.
    returned: list[int] = field(default_factory=list)
    #: "accepted", "applied", "gradients", "nfev", and the status of every lost burst.
    counts: Counter[str] = field(default_factory=Counter)
    push_trace: PushTrace = field(default_factory=PushTrace)
    lost: list[LostBurst] = field(default_factory=list)
    deaths: Counter[int] = field(default_factory=Counter)  # of workers in `lost`, by part
    #: Settings of the driver that a continued run must share; of JSON.
    metadata: dict[str, object] = field(default_factory=dict)

    @property
    def gradients(self) -> int:
        """Gradients in all pushes received so far, applied or not."""
        return self.counts["gradients"] + sum(p.gradients for _, p in self.received.values())

    def hand_out(self, worker: int, run_seed: int) -> BurstContext:
        """The next burst: of a part that came back, else of a new one."""
        part = self.returned[0] if self.returned else self.parts
        seed = burst_seed(run_seed, self.issued)
        context = BurstContext(
            self.issued, worker, seed, self.version, self.bursts[worker], part, run_seed
        )
        self._take(part)
        self._issue(context.id, worker, context.burst + 1)
        self.open[context.id] = context
        return context

    def receive(self, context: BurstContext, push: Push) -> None:
        """Record a push that is acknowledged; it is not applied yet."""
        self.open.pop(context.id, None)
        self._take(context.part)
        self.received[context.id] = context, push
        self.counts["accepted"] += 1
        self._issue(context.id, context.worker, context.burst + 1)

    def apply(self, ids: Sequence[int], etas: Sequence[float]) -> None:
        """One update from the received pushes `ids`, in this order, with these steps."""
        v = self.v
        for burst_id, eta in zip(ids, etas, strict=True):
            context, push = self.received.pop(burst_id)
            v = apply_push(v, push, eta)
            self.push_trace.append(context, self.version, eta, push)
            self.counts["applied"] += 1
            self.counts["gradients"] += push.gradients
            if "nfev" in push.report:
                self.counts["nfev"] += int(push.report["nfev"])
        v.flags.writeable = False
        self.v = v
        self.version += 1

    def lose(self, lost: LostBurst) -> None:
        """Record a burst that gave nothing, or whose push was refused."""
        self.open.pop(lost.id, None)
        self._take(lost.part)
        self.counts[lost.status] += 1
        self.record_lost(lost)
        self._issue(lost.id, lost.worker, 0)
        if lost.status.hands_out_again and not self.is_left_out(lost.part):
            bisect.insort(self.returned, lost.part)

    def record_lost(self, lost: LostBurst) -> None:
        """Append to `lost`, and count the deaths over its part."""
        self.lost.append(lost)
        if lost.status in (BurstStatus.WORKER, BurstStatus.TIMEOUT):
            self.deaths[lost.part] += 1

    def is_left_out(self, part: int) -> bool:
        """True for a part over which `MAX_PART_DEATHS` workers died or hung."""
        return self.deaths[part] >= MAX_PART_DEATHS

    def _take(self, part: int) -> None:
        """A part is handed out; in a replay, those before it that no record names are missing."""
        if part < self.parts:
            if part in self.returned:
                self.returned.remove(part)
            return
        if part - self.parts > MAX_MISSING_PARTS:
            raise CheckpointError(
                f"a record holds part {part} after {self.parts} parts; start anew"
            )
        self.returned += range(self.parts, part)
        self.parts = part + 1

    def _issue(self, burst_id: int, worker: int, bursts: int) -> None:
        # Counters of a replay; those of a live master are there already.
        self.issued = max(self.issued, burst_id + 1)
        self.bursts[worker] = max(self.bursts[worker], bursts)


def apply_push(v: Array, push: Push, eta: float) -> Array:
    """The parameters after `push`, a new array of the dtype of `v`.

    With eta = 1 these are v - s and a v + b without a further rounding, so that one worker with one
    inner step is SGD bit for bit.
    """
    if push.a is None:
        return v - (push.b if eta == 1.0 else push.b * v.dtype.type(eta))
    mapped = push.a * v + push.b
    return mapped if eta == 1.0 else v + v.dtype.type(eta) * (mapped - v)


def as_push(push: object, v: Array, context: BurstContext) -> Push:
    """`push` with arrays of the dtype of `v`; ObjectiveError if it is none, or of a wrong shape."""
    if not isinstance(push, Push):
        raise ObjectiveError(
            f"a burst must return a Push (Push.steps(s) or Push.affine(a, b)), burst "
            f"{context.id} returned {short_repr(push)}"
        )
    b = _as_vector("s" if push.a is None else "b", push.b, v)
    a = push.a
    if a is not None:
        is_number = np.ndim(a) == 0 and not isinstance(a, np.ndarray)
        a = v.dtype.type(a) if is_number else _as_vector("a", a, v, scalar=True)
    gradients = integer("Push.gradients", push.gradients, low=0)
    return Push(b, a, gradients, float(push.value), push.report)


def _as_vector(name: str, array: object, v: Array, *, scalar: bool = False) -> Array:
    found = np.asarray(array)
    right_shape = found.shape == v.shape or (scalar and found.shape == ())
    if found.dtype.kind not in "fiu" or not right_shape:
        raise ObjectiveError(
            f"{name} of a push must be real numbers of shape {v.shape}, got {short_repr(found)}"
        )
    return found.astype(v.dtype, copy=False)


def is_finite(push: Push) -> bool:
    """True if no number of the push is nan or infinite."""
    for array in (push.b,) if push.a is None else (push.b, push.a):
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(np.sum(array))
        # One pass without a temporary. A sum is not finite if a term is not; only an overflow of
        # the sum needs the second look.
        if not math.isfinite(total) and not np.isfinite(array).all():
            return False
    return True


def burst_seed(run: int, burst: int) -> int:
    """The seed of a burst: 63 bits, since 32 would repeat after some ten thousand bursts."""
    sequence = np.random.SeedSequence(run, spawn_key=(burst,))
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
