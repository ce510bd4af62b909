"""Reference implementation of asynchronous SGD: a list of pulls and pushes, and the master's
parameters after each, in 50 decimal digits.

The two levels as they are written: a worker pulls (v, version), takes steps on a copy u of its own,
and pushes their sum, or the affine map that they compose to; the master applies pushes in whatever
order they come. Nothing is sent, scheduled or saved here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np
from numpy.typing import ArrayLike

from optex_core.errors import ArgumentError
from optex_core.testing.reference.digits import exact, in_digits, rounded


@dataclass(frozen=True, slots=True)
class PushSequence:
    """What a list of events leads to."""

    points: list[np.ndarray]  # shape (d,), float64: v after 0, 1, ... updates.
    #: In the order of application; the version before the update.
    applied: list[tuple[int, int, int, float]] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)  # bursts that came too late


@in_digits
def burst(
    v: np.ndarray, gradient: Callable[[np.ndarray, int], ArrayLike], rate: float, steps: int
) -> np.ndarray:
    """The sum of the steps rate g(u_k), u_0 = v, u_{k+1} = u_k - rate g(u_k), k = 0 ... steps - 1:
    what a worker pushes. float64, shape (d,).

    ``gradient(u, k)`` is the gradient on the k-th mini-batch.
    """
    u, total = exact(v), exact(np.zeros(len(v)))
    for k in range(steps):
        step = Decimal(rate) * exact(gradient(rounded(u), k))
        u, total = u - step, total + step
    return rounded(total)


@in_digits
def simulate_pushes(
    x0: ArrayLike,
    events: Sequence[str | tuple[int, ArrayLike | tuple[ArrayLike, ArrayLike]]],
    *,
    step: float | Callable[[int, int], float] = 1.0,
    batch: int = 1,
    max_delay: int | None = None,
    on_late: str = "reject",
) -> PushSequence:
    """The parameters after every update.

    With t updates applied and t0 of them at the burst's pull, tau = t - t0 and eta = step(t, tau):
    v <- v - eta s for a sum of steps s, and v <- v + eta ((a v + b) - v) for an affine map. `batch`
    pushes make one update, applied one after the other with the tau and eta of its beginning.
    "reject": a push of tau > D on arrival is refused. "damp": its eta is multiplied by (D + 1) /
    (tau + 1).

    An event is "pull" (bursts are numbered 0, 1, ... in this order), ``(burst, s)`` or ``(burst,
    (a, b))``. The rest is as in `async_sgd.Master`, without "wait", which only says who may pull.

    References
    ----------
    Mohamad, Alamri, Bouchachia 2022, arXiv 2210.02882 (a reconstruction, as `async_sgd.Master`
    says).
    """
    if on_late not in ("reject", "damp"):
        raise ArgumentError(f"the reference has on_late='reject' and 'damp', got {on_late!r}")
    v, version, pulled, waiting = exact(x0), 0, [], []
    found = PushSequence([rounded(v)])
    for event in events:
        if isinstance(event, str):
            pulled.append(version)
            continue
        number, push = event
        late = max_delay is not None and version - pulled[number] > max_delay
        if late and on_late == "reject":
            found.refused.append(number)
            continue
        waiting.append((number, push))
        if len(waiting) < batch:
            continue
        for one, pushed in waiting:
            delay = version - pulled[one]
            eta = Decimal(float(step(version, delay) if callable(step) else step))
            if max_delay is not None and delay > max_delay:
                eta = eta * (max_delay + 1) / (delay + 1)
            if isinstance(pushed, tuple):
                a, b = pushed
                there = exact(np.broadcast_to(a, v.shape)) * v + exact(b)
                v = v + eta * (there - v)
            else:
                v = v - eta * exact(pushed)
            found.applied.append((one, version, delay, float(eta)))
        waiting = []
        version += 1
        found.points.append(rounded(v))
    return found
