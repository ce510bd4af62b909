"""Lock-free bursts: gradients that Numba compiles, run by several threads without the GIL on one
vector that all of them read and write.

``prange`` is not it: ``x[i] += y`` inside it is a silent race that Numba documents, a scalar ``+=``
becomes a reduction, and neither is Hogwild. Here every core is a thread in a kernel compiled with
``nogil=True``; x86 and ARM load and store aligned 8 bytes whole, so that no number is ever torn,
but load and store are two instructions: writes get lost. Measured with two threads: 33 % of them at
d = 1, 5 % at 8, 0.04 % at 1024, nothing above; but whole sweeps over a dense u lose up to 43 % of
the burst's *direction* (d = 64). So each core sums its own steps beside u, nothing of which is
lost, and those sums are pushed: what is lost on u only moves the points at which later gradients of
the burst are taken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from optex_core._validation import integer, short_repr
from optex_core.errors import ArgumentTypeError, MissingExtraError
from optex_core.types import Array

#: A burst is handed out to its cores in so many pieces: a core that the system holds up gets fewer
#: of them. A constant, so that the samples of a burst depend on its seed alone and not on the
#: number of cores.
CHUNKS_PER_BURST = 16
SPLITMIX64_GAMMA = 0x9E3779B97F4A7C15
MASK64 = (1 << 64) - 1


@dataclass(frozen=True)
class SparseSamples:
    """f(x) = mean_i f_i(x) with compiled gradients of few entries each: Hogwild's home ground.

    Parameters
    ----------
    sample : Numba function
        ``sample(x, i, index, entry, data) -> (count, value)``: writes the positions of the nonzero
        entries of grad f_i(x) to ``index[:count]`` (int64) and the entries to ``entry[:count]``,
        and returns f_i(x) as `value`. Decorated with ``numba.njit``.
    n : int
        How many f_i there are; drawn with replacement.
    width : int
        The largest `count`.
    data : tuple, default ()
        Arrays and numbers that `sample` reads; contiguous arrays.

    References
    ----------
    Niu, Recht, Re, Wright, Hogwild!, NIPS 2011.

    Examples
    --------
    >>> import numba, numpy as np
    >>> import optex_core as ox
    >>> @numba.njit
    ... def sample(x, i, index, entry, data):  # f_i(x) = 1/2 (x_i - target_i)^2
    ...     index[0], entry[0] = i, x[i] - data[0][i]
    ...     return 1, 0.5 * entry[0] ** 2
    >>> fun = ox.async_sgd.SparseSamples(sample, n=100, width=1, data=(np.arange(100.0),))
    >>> res = ox.async_sgd.minimize(fun, np.zeros(100), rate=0.1, inner_steps=100, maxiter=200, rng=0)
    >>> bool(abs(res.x - np.arange(100.0)).max() < 1e-3)
    True
    """

    sample: Callable[..., Any]
    n: int
    width: int
    data: tuple[Any, ...] = ()
    sparse: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self)
        integer("width", self.width, low=1)


@dataclass(frozen=True)
class DenseSamples:
    """f(x) = mean_i f_i(x) with compiled dense gradients.

    Parameters
    ----------
    sample : Numba function
        ``sample(x, i, out, data) -> value``: writes grad f_i(x) to `out`, shape (d,). Decorated
        with ``numba.njit``.
    n : int
        How many f_i there are; drawn with replacement.
    data : tuple, default ()
        Arrays and numbers that `sample` reads; contiguous arrays.
    """

    sample: Callable[..., Any]
    n: int
    data: tuple[Any, ...] = ()
    sparse: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self)

    @property
    def width(self) -> int:
        """0: the gradient is as long as x."""
        return 0


Samples = SparseSamples | DenseSamples


def _check(samples: Any) -> None:
    if not hasattr(samples.sample, "py_func"):
        raise ArgumentTypeError(
            f"sample must be compiled: decorate it with numba.njit; got "
            f"{short_repr(samples.sample)}"
        )
    integer("n", samples.n, low=1)
    if not isinstance(samples.data, tuple):
        raise ArgumentTypeError(
            f"data must be a tuple of arrays and numbers, got {short_repr(samples.data)}"
        )


def hogwild_burst(
    samples: Samples, v: Array, steps: int, rate: float, seed: int, cores: int
) -> tuple[Array, float, float]:
    """`steps` lock-free updates u <- u - rate grad f_i(u) from u = v on so many cores.

    Returns
    -------
    s : array, shape (d,)
        The sum of all steps: the private sums of the cores added up.
    value : float
        The mean of the f_i(u) met.
    lost : float
        |(v - u) - s| / |s|: what racing writes have lost on u, which is not what is pushed.
    """
    kernels = _kernels()
    run = kernels.sparse if samples.sparse else kernels.dense
    u = np.array(v)
    gamma = u.dtype.type(rate)
    cores = min(cores, steps)
    sums = [np.zeros_like(u) for _ in range(cores)]
    values = [0.0] * cores
    errors: list[BaseException] = []
    size = -(-steps // CHUNKS_PER_BURST)
    pieces = iter([(start // size, min(size, steps - start)) for start in range(0, steps, size)])
    lock = threading.Lock()

    def core(which: int) -> None:
        width = samples.width or len(u)
        index, entry = np.zeros(samples.width, np.int64), np.zeros(width, u.dtype)
        try:
            while True:
                with lock:
                    number, count = next(pieces, (0, 0))
                if not count:
                    return
                stream = np.uint64(mix_seed(seed, number))
                values[which] += run(
                    samples.sample,
                    u,
                    sums[which],
                    index,
                    entry,
                    samples.n,
                    gamma,
                    count,
                    stream,
                    samples.data,
                )
        except BaseException as error:  # told by the thread that waits, below
            errors.append(error)

    others = [
        threading.Thread(target=core, args=(which,), daemon=True) for which in range(1, cores)
    ]
    for thread in others:
        thread.start()
    core(0)
    for thread in others:
        thread.join()
    if errors:
        raise errors[0]
    s = sums[0]
    for other in sums[1:]:
        s += other
    size_s = float(np.linalg.norm(s))
    lost = float(np.linalg.norm((v - u) - s)) / size_s if size_s and cores > 1 else 0.0
    return s, sum(values) / steps, lost


def full_value_and_gradient(samples: Samples, x: Array) -> tuple[float, Array]:
    """f(x) and grad f(x) over all samples, in this thread."""
    kernels = _kernels()
    run = kernels.whole_sparse if samples.sparse else kernels.whole_dense
    width = samples.width or len(x)
    total = np.zeros_like(x)
    index, entry = np.zeros(samples.width, np.int64), np.zeros(width, x.dtype)
    value = run(samples.sample, np.array(x), total, index, entry, samples.n, samples.data)
    return value / samples.n, total / x.dtype.type(samples.n)


def mix_seed(seed: int, number: int) -> int:
    """A seed of 63 bits for part `number` of what has `seed`: the finaliser of SplitMix64, a
    microsecond where a SeedSequence takes ten.
    """
    z = (seed + (number + 1) * SPLITMIX64_GAMMA) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return (z ^ (z >> 31)) >> 1


@lru_cache(maxsize=1)
def _kernels() -> SimpleNamespace:
    try:
        import numba
    except (
        ImportError
    ) as error:  # pragma: no cover  (a required dependency; here for those who leave it out)
        raise MissingExtraError.of("numba", "cli", "a compiled burst") from error
    golden, one, two = (
        np.uint64(SPLITMIX64_GAMMA),
        np.uint64(0xBF58476D1CE4E5B9),
        np.uint64(0x94D049BB133111EB),
    )
    s30, s27, s31, s11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
    unit = 1.0 / 9007199254740992.0  # 2^-53

    @numba.njit(nogil=True)
    def draw(state: Any, n: Any) -> Any:
        # SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): one addition and one mix a number, and any
        # two seeds are different streams.
        state = state + golden
        z = state
        z = (z ^ (z >> s30)) * one
        z = (z ^ (z >> s27)) * two
        z = z ^ (z >> s31)
        return state, np.int64(np.float64(z >> s11) * unit * n)

    @numba.njit(nogil=True)
    def sparse(
        sample: Any,
        u: Any,
        s: Any,
        index: Any,
        entry: Any,
        n: Any,
        gamma: Any,
        count: Any,
        state: Any,
        data: Any,
    ) -> Any:
        total = 0.0
        for _ in range(count):
            state, i = draw(state, n)
            m, value = sample(u, i, index, entry, data)
            for j in range(m):
                k = index[j]
                step = gamma * entry[j]
                u[k] -= step  # races with the other cores: no number is torn, some are lost
                s[k] += step  # this core's own
            total += value
        return total

    @numba.njit(nogil=True)
    def dense(
        sample: Any,
        u: Any,
        s: Any,
        _: Any,
        entry: Any,
        n: Any,
        gamma: Any,
        count: Any,
        state: Any,
        data: Any,
    ) -> Any:
        total = 0.0
        for _ in range(count):
            state, i = draw(state, n)
            total += sample(u, i, entry, data)
            for k in range(len(u)):
                step = gamma * entry[k]
                u[k] -= step
                s[k] += step
        return total

    @numba.njit(nogil=True)
    def whole_sparse(sample: Any, x: Any, g: Any, index: Any, entry: Any, n: Any, data: Any) -> Any:
        total = 0.0
        for i in range(n):
            m, value = sample(x, i, index, entry, data)
            for j in range(m):
                g[index[j]] += entry[j]
            total += value
        return total

    @numba.njit(nogil=True)
    def whole_dense(sample: Any, x: Any, g: Any, _: Any, entry: Any, n: Any, data: Any) -> Any:
        total = 0.0
        for i in range(n):
            total += sample(x, i, entry, data)
            for k in range(len(x)):
                g[k] += entry[k]
        return total

    return SimpleNamespace(
        sparse=sparse, dense=dense, whole_sparse=whole_sparse, whole_dense=whole_dense
    )
