"""Records of the two-level scheme: pulls, pushes, receipts, results and losses of bursts, and the
table of the pushes applied.
"""

from __future__ import annotations

import enum
import math
from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from optex_core.types import Array

Figures = Mapping[str, float]


class BurstStatus(enum.StrEnum):
    """The end of a burst. A member equals its word in files and in ``master.counts``."""

    ACCEPTED = "accepted"
    LATE = "late"  # the push came more than max_delay updates late
    NOT_FINITE = "not finite"  # the push holds numbers that are not finite
    ERROR = "error"  # the burst raised an error
    WORKER = "worker"  # the worker died
    TIMEOUT = "timeout"  # the burst ran for longer than timeout
    ABANDONED = "abandoned"  # the run ended before the burst did

    @property
    def hands_out_again(self) -> bool:
        """True where the part of the burst is handed out again. False for an error and for numbers
        that are not finite, which the same samples would give again.
        """
        return self in ("late", "worker", "timeout", "abandoned")


@dataclass(frozen=True, slots=True)
class BurstContext:
    """Identity of a burst, passed to it as ``ctx``.

    Bursts that go through data in an order take the samples of `part`: a part is applied once, and
    that of a lost burst is handed out again, with another `id` and `seed`.
    """

    id: int  # serial number in the run: no two bursts share it, whatever fails
    worker: int  # 0 to parallelism - 1
    seed: int  # below 2^63; a function of the run's seed and `id` alone
    version: int  # of the parameters it starts from: updates applied when it was pulled
    burst: int = 0  # bursts that this worker was given before
    part: int = 0  # of the run's work: 0, 1, ...
    run_seed: int = 0  # the run's seed, equal for all bursts

    def to_record(self) -> dict[str, object]:
        """JSON for a file, which holds the run's seed in its header."""
        record = asdict(self)
        del record["run_seed"]
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any], run_seed: int) -> BurstContext:
        """The context that `to_record` wrote. In files of earlier versions part and id are one."""
        return cls(**{"part": record["id"], **record, "run_seed": run_seed})


@dataclass(frozen=True, slots=True)
class Pull:
    """Parameters handed to a worker, and the burst that starts from them."""

    v: Array  # shape (d,), the master's parameters, read-only; never changed later
    context: BurstContext
    evaluation: bool = False  # True: `Worker.evaluate` at `v`, whose result is not pushed

    @property
    def id(self) -> int:
        """The serial number under which the result is pushed."""
        return self.context.id

    @property
    def version(self) -> int:
        """The version of `v`."""
        return self.context.version


@dataclass(frozen=True, slots=True)
class Push:
    """Update from a burst: the map v <- a v + b, or the sum s of its steps, v <- v - s.

    Made by `Push.steps` or `Push.affine`. With an outer step eta the master applies that part of
    it: v <- v - eta s, and v <- v + eta ((a v + b) - v). For 0 <= eta <= 1 an affine map that keeps
    a convex set (positive numbers, a simplex) still keeps it.

    A burst of steps u <- (1 - rho) u + rho h composes to a = prod(1 - rho). Stochastic variational
    inference must push this and not the difference u - v, which under staleness leaves the positive
    numbers.
    """

    b: Array  # shape (d,): the sum of steps s where `a` is None, else the offset
    a: float | Array | None = None  # a number or shape (d,)
    gradients: int = 1  # evaluations (or mini-batches) that went into it
    value: float = math.nan  # mean along the burst; nan where there is none
    report: Figures = field(default_factory=dict)  # further figures; kept in the log

    @classmethod
    def steps(
        cls, s: Array, *, gradients: int = 1, value: float = math.nan, report: Figures | None = None
    ) -> Push:
        """The sum of steps `s`, shape (d,): v <- v - eta s."""
        return cls(s, None, gradients, value, dict(report or {}))

    @classmethod
    def affine(
        cls,
        a: float | Array,
        b: Array,
        *,
        gradients: int = 1,
        value: float = math.nan,
        report: Figures | None = None,
    ) -> Push:
        """The map v <- a v + b; `a` a number or shape (d,), `b` shape (d,)."""
        return cls(b, a, gradients, value, dict(report or {}))


@dataclass(frozen=True, slots=True)
class Receipt:
    """The master's answer to a push; an accepted one is applied now or with its mini-batch."""

    status: BurstStatus  # ACCEPTED, LATE or NOT_FINITE
    version: int  # the master's version now
    delay: int  # staleness: updates between the burst's pull and this push
    reason: str = ""  # why it was refused

    @property
    def accepted(self) -> bool:
        """True if `status` is ACCEPTED."""
        return self.status is BurstStatus.ACCEPTED


@runtime_checkable
class Burst(Protocol):
    """The work of a worker between a pull and a push: any callable of this form.

    With a method ``spawn(worker, seed) -> burst``, every worker gets an object of its own, made
    where it runs, which may carry a state from burst to burst. A worker that dies loses it, and a
    new one is spawned with another seed.
    """

    def __call__(self, v: Array, ctx: BurstContext) -> Push:
        """Work from the parameters `v`, shape (d,), read-only; ``ctx.seed`` never repeats."""
        ...


@dataclass(frozen=True, slots=True)
class BurstResult:
    """End of a burst on a worker."""

    id: int
    push: Push | None = None  # as the callable returned it, not checked yet; None where it failed
    error: BaseException | None = None
    traceback: str = ""  # of `error`
    failure: BurstStatus | None = None  # ERROR, WORKER or TIMEOUT where there is no push
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LostBurst:
    """A burst without an accepted push; `id` to `part` as in `BurstContext`."""

    id: int
    worker: int
    version: int
    seed: int
    status: BurstStatus
    message: str  # one sentence
    traceback: str = ""  # of an error in the burst
    part: int = 0

    @classmethod
    def of(
        cls, context: BurstContext, status: BurstStatus, message: str, traceback: str = ""
    ) -> LostBurst:
        """The loss of the burst with this context."""
        c = context
        return cls(c.id, c.worker, c.version, c.seed, status, message, traceback, c.part)

    def to_record(self) -> dict[str, Any]:
        """JSON for a file."""
        record = asdict(self)
        record["kind"] = str(record.pop("status"))
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> LostBurst:
        """The loss that `to_record` wrote. In files of earlier versions part and id are one."""
        rest = {"part": record["id"], **record}
        return cls(status=BurstStatus(rest.pop("kind")), **rest)


#: Column of a `PushTrace` -> type code of `array.array`: int64 or float64.
PUSH_COLUMNS = {
    **dict.fromkeys(("job", "worker", "start", "version", "gradients", "part"), "q"),
    **dict.fromkeys(("eta", "value"), "d"),
}


class PushTrace:
    """Applied pushes in their order; columns are attributes, arrays of shape (pushes,)."""

    job: np.ndarray  # id of the burst, int64
    worker: np.ndarray
    start: np.ndarray  # version it was pulled at
    version: np.ndarray  # version it was applied to
    gradients: np.ndarray
    part: np.ndarray  # of the work, see `BurstContext`
    eta: np.ndarray  # outer step, float64
    value: np.ndarray  # mean of the values along the burst

    def __init__(self) -> None:
        self._columns = {name: array(code) for name, code in PUSH_COLUMNS.items()}

    def append(self, context: BurstContext, version: int, eta: float, push: Push) -> None:
        """Add the row of a push that is applied to `version` with the step `eta`."""
        c, gradients, value = context, push.gradients, push.value
        row: Any = c.id, c.worker, c.version, version, gradients, c.part, eta, value
        for column, entry in zip(self._columns.values(), row, strict=True):
            column.append(entry)

    def __len__(self) -> int:
        return len(self._columns["job"])

    def __getattr__(self, name: str) -> np.ndarray:
        if name in PUSH_COLUMNS:
            return np.array(self._columns[name], PUSH_COLUMNS[name])
        columns = ", ".join(PUSH_COLUMNS)
        raise AttributeError(
            f"a PushTrace has no attribute {name!r}; its columns are delay, {columns}"
        )

    @property
    def delay(self) -> np.ndarray:
        """Staleness: updates between pull and application, shape (pushes,), int64."""
        return self.version - self.start

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Copies of all columns by name."""
        return {name: getattr(self, name) for name in PUSH_COLUMNS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> PushTrace:
        """The table that `to_arrays` has written."""
        trace = cls()
        arrays = {"part": arrays["job"], **arrays}  # files of earlier versions have no parts
        for name, code in PUSH_COLUMNS.items():
            trace._columns[name] = array(code, np.asarray(arrays[name], code).tobytes())
        return trace
