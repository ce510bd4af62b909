"""The local step of topic models compiled: no interpreter lock is held, so the cores of a worker
run it side by side in threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from optex_core.async_sgd.models.corpus import Corpus
from optex_core.errors import BackendError

try:
    import numba
except Exception as reason:
    # a Numba too old for its NumPy fails with other types than ImportError, too
    raise BackendError(
        f"the compiled E-step needs Numba, which is not usable here ({reason}); run: "
        f"python -m pip install --upgrade numba, or use compiled=False"
    ) from reason

#: No loops in parallel: the threads are the worker's own. Tests for nan survive this subset of
#: fastmath.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "fastmath": {"reassoc", "contract", "arcp", "nsz", "afn"},
    "error_model": "numpy",
}


def _kernel(function: Any) -> Any:
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # no folder to keep it in: compiled once in each process
        return numba.njit(**_OPTIONS)(function)


@_kernel
def digamma(x: float) -> float:
    """psi(x) for x > 0: the recurrence psi(x) = psi(x + 1) - 1/x up to 6, then the asymptotic
    series (Abramowitz, Stegun 6.3.18).
    """
    shift = 0.0
    while x < 6.0:
        shift += 1.0 / x
        x += 1.0
    inverse = 1.0 / x
    q = inverse * inverse
    series = q * (
        1 / 12
        - q
        * (
            1 / 120
            - q * (1 / 252 - q * (1 / 240 - q * (1 / 132 - q * (691 / 32760 - q * (1 / 12)))))
        )
    )
    return math.log(x) - 0.5 * inverse - series - shift


@_kernel
def _run(indptr, ids, counts, rows, topics, alpha, tolerance, sweeps, gammas, statistics):  # type: ignore[no-untyped-def]
    words, K = topics.shape
    totals = np.zeros(K)
    for w in range(words):
        for k in range(K):
            totals[k] += topics[w, k]
    for k in range(K):
        totals[k] = digamma(totals[k])
    # Exponentials are taken of the words that occur, on their first occurrence: half of all in a
    # batch of 64.
    expected, known = np.empty((words, K)), np.zeros(words, np.bool_)
    longest = 0
    for i in range(rows.size):
        longest = max(longest, indptr[rows[i] + 1] - indptr[rows[i]])
    part, t, new = np.empty((longest, K)), np.empty(K), np.empty(K)
    for i in range(rows.size):
        low = indptr[rows[i]]
        n = indptr[rows[i] + 1] - low
        for j in range(n):
            w = ids[low + j]
            if not known[w]:
                known[w] = True
                for k in range(K):
                    expected[w, k] = math.exp(digamma(topics[w, k]) - totals[k])
            for k in range(K):
                part[j, k] = expected[w, k]
        gamma = gammas[i]
        for k in range(K):
            gamma[k] = 1.0
        for _ in range(sweeps):
            for k in range(K):
                t[k] = math.exp(digamma(gamma[k]))
                new[k] = 0.0
            for j in range(n):
                norm = 0.0
                for k in range(K):
                    norm += t[k] * part[j, k]
                ratio = counts[low + j] / norm
                for k in range(K):
                    new[k] += ratio * part[j, k]
            change = 0.0
            for k in range(K):
                value = alpha + t[k] * new[k]
                change += abs(value - gamma[k])
                gamma[k] = value
            if change < tolerance * K:
                break
        for k in range(K):
            t[k] = math.exp(digamma(gamma[k]))
        for j in range(n):
            norm = 0.0
            for k in range(K):
                norm += t[k] * part[j, k]
            ratio = counts[low + j] / norm
            w = ids[low + j]
            for k in range(K):
                statistics[w, k] += ratio * t[k] * part[j, k]


def e_step(
    corpus: Corpus,
    rows: np.ndarray,
    topics: np.ndarray,
    alpha: float,
    tolerance: float,
    sweeps: int,
) -> tuple[np.ndarray, np.ndarray]:
    """As `optex_core.async_sgd.models.e_step.e_step`; sums are taken in another order.

    Compiled at the first call (2.5 s, kept on disk). `topics` may change under the reader's eyes:
    any mixture of positive numbers works.
    """
    gammas, statistics = np.empty((len(rows), topics.shape[1])), np.zeros(topics.shape)
    rows = np.array(rows, np.int64)
    if not (topics.flags.c_contiguous and topics.flags.writeable):
        # one form, one compilation; a worker's own copy, which its cores share, passes as it is
        topics = np.array(topics, order="C")
    _run(
        corpus.indptr,
        corpus.ids,
        corpus.counts,
        rows,
        topics,
        alpha,
        tolerance,
        sweeps,
        gammas,
        statistics,
    )
    return gammas, statistics
