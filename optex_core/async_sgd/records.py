"""Records of the two-level scheme: pulls, pushes, receipts, results and losses of bursts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from optex_core.types import Array

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class BurstContext:
    """Identity of a burst, passed to it as ``ctx``."""

    id: int  # serial number in the run: no two bursts share it, whatever fails
    worker: int  # 0 to parallelism - 1
    seed: int  # below 2^63; a function of the run's seed and `id` alone
    version: int  # of the parameters it starts from: updates applied when it was pulled
    burst: int = 0  # bursts that this worker was given before


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

    Attributes
    ----------
    b : array, shape (d,)
        The sum of steps s where `a` is None, else the offset.
    a : None, float or array of shape (d,)
        None: `b` is a sum of steps.
    gradients : int
        Gradient evaluations (or mini-batches) that went into it.
    value : float
        Mean of the values along the burst; nan where there are none.
    report : mapping of str to float
        Further figures, such as the return of an episode. Kept in the log.

    Notes
    -----
    A burst of steps u <- (1 - rho) u + rho h composes to a = prod(1 - rho). Stochastic variational
    inference must push this and not the difference u - v, which under staleness leaves the positive
    numbers.
    """

    b: Array
    a: float | Array | None = None
    gradients: int = 1
    value: float = math.nan
    report: Figures = field(default_factory=dict)

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
    """The master's answer to a push.

    Accepted: applied, or soon with the rest of its mini-batch, and in the log if there is one.
    """

    status: Literal["accepted", "late", "not finite"]
    version: int  # the master's version now
    delay: int  # staleness: updates between the burst's pull and this push
    reason: str = ""  # why it was refused

    @property
    def accepted(self) -> bool:
        """True if `status` is "accepted"."""
        return self.status == "accepted"


@runtime_checkable
class Burst(Protocol):
    """The work of a worker between a pull and a push: any callable of this form.

    With a method ``spawn(worker, seed) -> burst``, every worker gets an object of its own, made
    where it runs, which may carry a state from burst to burst. A worker that dies loses it, and a
    new one is spawned with another seed.
    """

    def __call__(self, v: Array, version: int, seed: int, ctx: BurstContext) -> Push:
        """Work from the parameters `v`, shape (d,), read-only."""
        ...


@dataclass(frozen=True, slots=True)
class BurstResult:
    """End of a burst on a worker."""

    id: int
    push: Push | None = None  # as the callable returned it, not checked yet; None where it failed
    error: BaseException | None = None
    traceback: str = ""  # of `error`
    lost: bool = False  # True where the worker died
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LostBurst:
    """A burst without an accepted push; `id`, `worker`, `version`, `seed` as in `BurstContext`."""

    id: int
    worker: int
    version: int
    seed: int
    kind: str  # "error", "worker", "timeout", "late", "not finite" or "abandoned"
    message: str  # one sentence
    traceback: str = ""  # of an error in the burst

    @classmethod
    def of(cls, context: BurstContext, kind: str, message: str, traceback: str = "") -> LostBurst:
        """The loss of the burst with this context."""
        c = context
        return cls(c.id, c.worker, c.version, c.seed, kind, message, traceback)
