"""Lock-free bursts: compiled gradients, run by several threads without the GIL on one vector that
all of them read and write.

Each core sums its own steps beside u. Those sums are pushed, so that no step is lost; writes lost
on u only move the points at which later gradients of the burst are taken.

Notes
-----
x86 and ARM load and store aligned 8 bytes whole: no number is torn, but writes get lost. Measured
with two threads: 33 % of them at d = 1, 5 % at 8, 0.04 % at 1024, nothing above. Sweeps over a
dense u lose up to 43 % of the burst's direction (d = 64). Numba's ``prange`` is no alternative:
``x[i] += y`` inside it is a documented race, and a scalar ``+=`` becomes a reduction.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from optex_core._validation import integer, one_of, short_repr
from optex_core.async_sgd.sample_order import ORDERS
from optex_core.errors import ArgumentTypeError
from optex_core.types import Array

#: Chunks of a burst that are handed out to its cores: a core that the system holds up gets fewer.
CHUNKS_PER_BURST = 16


@dataclass(frozen=True)
class SparseSamples:
    """f(x) = mean_i f_i(x) with compiled gradients of few entries each (Niu, Recht, Re, Wright,
    Hogwild!, NIPS 2011).

    Parameters
    ----------
    sample : Numba function
        ``sample(x, i, index, entry, data) -> (count, value)``: writes the positions of the nonzero
        entries of grad f_i(x) to ``index[:count]`` (int64) and the entries to ``entry[:count]``,
        and returns f_i(x) as `value`. Decorated with ``numba.njit``.
    n : int
        The number of f_i.
    width : int
        The largest `count`.
    data : tuple, default ()
        Contiguous arrays and numbers that `sample` reads.
    order : {"shuffle", "replacement"}, default "shuffle"
        "shuffle": every epoch of n steps takes every f_i once, in an order of its own that all
        workers share. "replacement": every step draws from all f_i. See `async_sgd.sample_order`.

    Examples
    --------
    >>> import numba, numpy as np
    >>> import optex_core as ox
    >>> @numba.njit
    ... def sample(x, i, index, entry, data):  # f_i(x) = 1/2 (x_i - target_i)^2
    ...     index[0], entry[0] = i, x[i] - data[0][i]
    ...     return 1, 0.5 * entry[0] ** 2
    >>> fun = ox.async_sgd.SparseSamples(sample, n=100, width=1, data=(np.arange(100.0),))
    >>> res = ox.async_sgd.minimize(fun, np.zeros(100), rate=0.1, inner_steps=100, rng=0)
    >>> bool(abs(res.x - np.arange(100.0)).max() < 1e-3)
    True
    """

    sample: Callable[..., Any]
    n: int
    width: int
    data: tuple[Any, ...] = ()
    order: str = "shuffle"

    def __post_init__(self) -> None:
        _check(self)
        integer("width", self.width, low=1)


@dataclass(frozen=True)
class DenseSamples:
    """f(x) = mean_i f_i(x) with compiled dense gradients.

    `sample` is ``sample(x, i, out, data) -> value``, which writes grad f_i(x) to `out`, shape (d,);
    the rest as in `SparseSamples`.
    """

    sample: Callable[..., Any]
    n: int
    data: tuple[Any, ...] = ()
    order: str = "shuffle"

    def __post_init__(self) -> None:
        _check(self)


Samples = SparseSamples | DenseSamples


def _check(samples: Any) -> None:
    if not hasattr(samples.sample, "py_func"):
        found = short_repr(samples.sample)
        raise ArgumentTypeError(
            f"sample must be compiled: decorate it with numba.njit; got {found}"
        )
    integer("n", samples.n, low=1)
    one_of("order", samples.order, ORDERS)
    if not isinstance(samples.data, tuple):
        found = short_repr(samples.data)
        raise ArgumentTypeError(f"data must be a tuple of arrays and numbers, got {found}")


def run_on_cores(work: Callable[[int], None], cores: int) -> None:
    """Call ``work(0)``, ..., ``work(cores - 1)`` at once, the first in this thread; raise the first
    error when all have ended.
    """
    errors: list[BaseException] = []

    def guarded(core: int) -> None:
        try:
            work(core)
        except BaseException as error:  # raised below, by the thread that waits
            errors.append(error)

    others = [
        threading.Thread(target=guarded, args=(core,), daemon=True) for core in range(1, cores)
    ]
    for thread in others:
        thread.start()
    guarded(0)
    for thread in others:
        thread.join()
    if errors:
        raise errors[0]


def hogwild_burst(
    samples: Samples, v: Array, order: np.ndarray, rate: float, cores: int
) -> tuple[Array, float, float]:
    """Lock-free updates u <- u - rate grad f_i(u) from u = v on this number of cores, for i in
    `order`, int64.

    Returns (s, value, lost): the sum of all steps, shape (d,); the mean of f_i(u) over the steps;
    |(v - u) - s| / |s|, the share that racing writes lost on u, which is not pushed.
    """
    kernel, u = _kernel(isinstance(samples, SparseSamples), True), np.array(v)
    gamma, steps = u.dtype.type(rate), len(order)
    cores = min(cores, steps)
    sums = [np.zeros_like(u) for _ in range(cores)]
    values = [0.0] * cores
    size = steps if cores == 1 else -(-steps // CHUNKS_PER_BURST)
    chunks = iter([order[start : start + size] for start in range(0, steps, size)])
    lock = threading.Lock()

    def work(core: int) -> None:
        buffers = _buffers(samples, u)
        while True:
            with lock:
                chunk = next(chunks, None)
            if chunk is None:
                return
            values[core] += kernel(
                samples.sample, u, sums[core], *buffers, gamma, chunk, samples.data
            )

    run_on_cores(work, cores)
    s = sums[0]
    for other in sums[1:]:
        s += other
    norm = float(np.linalg.norm(s)) if cores > 1 else 0.0
    lost = float(np.linalg.norm((v - u) - s)) / norm if norm else 0.0
    return s, sum(values) / steps, lost


def full_value_and_gradient(samples: Samples, x: Array) -> tuple[float, Array]:
    """f(x) and grad f(x) over all samples, in this thread."""
    kernel, n = _kernel(isinstance(samples, SparseSamples), False), samples.n
    total, one, every = np.zeros_like(x), x.dtype.type(1.0), np.arange(n)
    buffers = _buffers(samples, x)
    value = kernel(samples.sample, np.array(x), total, *buffers, one, every, samples.data)
    return value / n, total / x.dtype.type(n)


def _buffers(samples: Samples, x: Array) -> tuple[np.ndarray, np.ndarray]:
    width = samples.width if isinstance(samples, SparseSamples) else 0
    return np.zeros(width, np.int64), np.zeros(width or len(x), x.dtype)


@cache
def _kernel(is_sparse: bool, moves: bool) -> Any:
    """A compiled loop over samples: steps at each, or the sum of their gradients."""
    import numba

    @numba.njit(nogil=True)
    def sparse(sample, u, s, index, entry, gamma, order, data):  # type: ignore[no-untyped-def]
        total = 0.0
        for i in order:
            m, value = sample(u, i, index, entry, data)
            for j in range(m):
                k = index[j]
                step = gamma * entry[j]
                if moves:
                    u[k] -= step  # races with the other cores: no number is torn, some are lost
                s[k] += step  # this core's own
            total += value
        return total

    @numba.njit(nogil=True)
    def dense(sample, u, s, _, entry, gamma, order, data):  # type: ignore[no-untyped-def]
        total = 0.0
        for i in order:
            total += sample(u, i, entry, data)
            for k in range(len(u)):
                step = gamma * entry[k]
                if moves:
                    u[k] -= step
                s[k] += step
        return total

    return sparse if is_sparse else dense
