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

from optex_core._validation import integer, short_repr
from optex_core.errors import ArgumentTypeError
from optex_core.types import Array

#: Chunks of a burst that are handed out to its cores: a core that the system holds up gets fewer. A
#: constant, so that the samples of a burst depend on its seed and not on the number of cores.
CHUNKS_PER_BURST = 16
SPLITMIX64_GAMMA = 0x9E3779B97F4A7C15
SPLITMIX64_FACTORS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
MASK64 = (1 << 64) - 1


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
        The number of f_i; drawn with replacement.
    width : int
        The largest `count`.
    data : tuple, default ()
        Contiguous arrays and numbers that `sample` reads.

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
    samples: Samples, v: Array, steps: int, rate: float, seed: int, cores: int
) -> tuple[Array, float, float]:
    """`steps` lock-free updates u <- u - rate grad f_i(u) from u = v on this number of cores.

    Returns (s, value, lost): the sum of all steps, shape (d,); the mean of f_i(u) over the steps;
    |(v - u) - s| / |s|, the share that racing writes lost on u, which is not pushed.
    """
    kernel, u = _kernel(isinstance(samples, SparseSamples), False), np.array(v)
    gamma = u.dtype.type(rate)
    cores = min(cores, steps)
    sums = [np.zeros_like(u) for _ in range(cores)]
    values = [0.0] * cores
    size = -(-steps // CHUNKS_PER_BURST)
    chunks = iter([(start // size, min(size, steps - start)) for start in range(0, steps, size)])
    lock = threading.Lock()

    def work(core: int) -> None:
        index, entry = _buffers(samples, u)
        while True:
            with lock:
                number, count = next(chunks, (0, 0))
            if not count:
                return
            stream = np.uint64(mix_seed(seed, number))
            options = samples.n, gamma, count, stream, samples.data
            values[core] += kernel(samples.sample, u, sums[core], index, entry, *options)

    run_on_cores(work, cores)
    s = sums[0]
    for other in sums[1:]:
        s += other
    norm = float(np.linalg.norm(s))
    lost = float(np.linalg.norm((v - u) - s)) / norm if norm and cores > 1 else 0.0
    return s, sum(values) / steps, lost


def full_value_and_gradient(samples: Samples, x: Array) -> tuple[float, Array]:
    """f(x) and grad f(x) over all samples, in this thread."""
    kernel, n = _kernel(isinstance(samples, SparseSamples), True), samples.n
    total, (index, entry) = np.zeros_like(x), _buffers(samples, x)
    options = n, x.dtype.type(1.0), n, np.uint64(0), samples.data
    value = kernel(samples.sample, np.array(x), total, index, entry, *options)
    return value / n, total / x.dtype.type(n)


def _buffers(samples: Samples, x: Array) -> tuple[np.ndarray, np.ndarray]:
    width = samples.width if isinstance(samples, SparseSamples) else 0
    return np.zeros(width, np.int64), np.zeros(width or len(x), x.dtype)


def mix_seed(seed: int, number: int) -> int:
    """A seed of 63 bits for part `number` of what has `seed`: the finaliser of SplitMix64, a
    microsecond where a SeedSequence takes ten.
    """
    one, two = SPLITMIX64_FACTORS
    z = (seed + (number + 1) * SPLITMIX64_GAMMA) & MASK64
    z = ((z ^ (z >> 30)) * one) & MASK64
    z = ((z ^ (z >> 27)) * two) & MASK64
    return (z ^ (z >> 31)) >> 1


@cache
def _kernel(is_sparse: bool, in_order: bool) -> Any:
    """A compiled loop over `count` samples: steps at drawn ones, or the sum over all, in order."""
    import numba

    golden = np.uint64(SPLITMIX64_GAMMA)
    one, two = (np.uint64(factor) for factor in SPLITMIX64_FACTORS)
    s30, s27, s31, s11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
    unit = 1.0 / 9007199254740992.0  # 2^-53

    @numba.njit(nogil=True)
    def draw(state, n):  # type: ignore[no-untyped-def]
        # SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): one addition and one mix a number, and any
        # two seeds are different streams.
        state = state + golden
        z = state
        z = (z ^ (z >> s30)) * one
        z = (z ^ (z >> s27)) * two
        z = z ^ (z >> s31)
        return state, np.int64(np.float64(z >> s11) * unit * n)

    @numba.njit(nogil=True)
    def sparse(sample, u, s, index, entry, n, gamma, count, state, data):  # type: ignore[no-untyped-def]
        total = 0.0
        for i in range(count):
            if not in_order:
                state, i = draw(state, n)
            m, value = sample(u, i, index, entry, data)
            for j in range(m):
                k = index[j]
                step = gamma * entry[j]
                if not in_order:
                    u[k] -= step  # races with the other cores: no number is torn, some are lost
                s[k] += step  # this core's own
            total += value
        return total

    @numba.njit(nogil=True)
    def dense(sample, u, s, _, entry, n, gamma, count, state, data):  # type: ignore[no-untyped-def]
        total = 0.0
        for i in range(count):
            if not in_order:
                state, i = draw(state, n)
            total += sample(u, i, entry, data)
            for k in range(len(u)):
                step = gamma * entry[k]
                if not in_order:
                    u[k] -= step
                s[k] += step
        return total

    return sparse if is_sparse else dense
