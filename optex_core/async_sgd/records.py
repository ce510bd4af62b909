"""The words of the two-level scheme: what a worker is given, what it sends back, what it is told
about it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from optex_core.types import Array


@dataclass(frozen=True, slots=True)
class BurstContext:
    """What a burst is told about itself.

    Attributes
    ----------
    id : int
        The burst's serial number in the run: no two bursts share it, whatever fails.
    worker : int
        Which worker runs it, 0 to parallelism - 1.
    seed : int
        Below 2^63; a function of the run's seed and `id` alone, so that a logged burst can be run
        again.
    version : int
        Of the parameters it starts from: updates the master had applied when it was pulled.
    burst : int
        How many bursts this worker was given before.
    """

    id: int
    worker: int
    seed: int
    version: int
    burst: int = 0


@dataclass(frozen=True, slots=True)
class Pull:
    """A pull: parameters, their version, and the burst that starts from them.

    Attributes
    ----------
    v : array, shape (d,)
        The master's parameters, read-only; never changed later, so that nobody needs a copy.
    context : Context
        Who computes what from them.
    """

    v: Array
    context: BurstContext

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
    """What a burst sends to the master: the map v <- a * v + b, or the sum s of its steps, v <- v -
    s.

    Made by `Push.steps` or `Push.affine`. With an outer step eta the master moves by that part of
    the way: v <- v - eta s, and v <- v + eta ((a v + b) - v). For 0 <= eta <= 1 an affine map that
    keeps a convex set (positive numbers, a simplex) still keeps it.

    Attributes
    ----------
    b : array, shape (d,)
        The sum of steps s where `a` is None, else the offset.
    a : None, float or array of shape (d,)
        None: `b` is a sum of steps.
    gradients : int
        Gradient evaluations (or mini-batches) that went into it.
    value : float
        Mean of the values seen on the way; nan where there are none.
    report : mapping of str to float
        Anything else that is worth a column: an episode's return, the share of lost writes. Kept in
        the log.
    """

    b: Array
    a: Any = None
    gradients: int = 1
    value: float = math.nan
    report: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def steps(
        cls,
        s: Array,
        *,
        gradients: int = 1,
        value: float = math.nan,
        report: Mapping[str, float] | None = None,
    ) -> Push:
        """The sum of steps `s`, shape (d,): v <- v - eta s."""
        return cls(s, None, gradients, value, dict(report or {}))

    @classmethod
    def affine(
        cls,
        a: Any,
        b: Array,
        *,
        gradients: int = 1,
        value: float = math.nan,
        report: Mapping[str, float] | None = None,
    ) -> Push:
        """The map v <- a * v + b; `a` a number or shape (d,), `b` shape (d,).

        A burst of steps u <- (1 - rho) u + rho h composes to a = prod(1 - rho); this, and not the
        difference u - v, is what stochastic variational inference must push: under delay a
        difference leaves the positive numbers.
        """
        return cls(b, a, gradients, value, dict(report or {}))


@dataclass(frozen=True, slots=True)
class Receipt:
    """The master's answer to a push.

    Attributes
    ----------
    accepted : bool
        True: acknowledged. It is applied, or will be with the rest of its mini-batch, and it is in
        the log if there is one.
    version : int
        Of the master now.
    delay : int
        Updates between the burst's pull and this push.
    reason : str
        Why it was refused, "" if accepted.
    """

    accepted: bool
    version: int
    delay: int
    reason: str = ""


@runtime_checkable
class Burst(Protocol):
    """What a worker does between a pull and a push: any callable of this form; `Worker` is ours.

    It may also have ``spawn(worker, seed) -> burst``: then every worker gets an object of its own,
    made where it runs, which may carry a state from burst to burst (an environment, a shard of
    data, a random stream begun with `seed`). A worker that dies loses it, and a new one is spawned
    with another seed.
    """

    def __call__(self, v: Array, version: int, seed: int, ctx: BurstContext) -> Push:
        """Work from the parameters `v`, shape (d,), read-only."""
        ...


@dataclass(frozen=True, slots=True)
class LostBurst:
    """A burst that gave nothing, or whose push was refused.

    Attributes
    ----------
    id, worker, version, seed : int
        As in `BurstContext`.
    kind : str
        "error", "worker", "timeout", "late", "not finite".
    message : str
        One sentence.
    traceback : str
        Of an error in the burst, "" otherwise.
    """

    id: int
    worker: int
    version: int
    seed: int
    kind: str
    message: str
    traceback: str = ""
