"""Local step of variational inference, compiled: threads of a worker run it without the GIL."""

from __future__ import annotations

import math

import numba
import numpy as np

from topic_model.corpus import Corpus

#: No parallel loops: the threads are the worker's. Tests for nan survive this subset of fastmath.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz", "afn"}
_jit = numba.njit(nogil=True, cache=True, fastmath=_FASTMATH, error_model="numpy")


@_jit
def digamma(x: float) -> float:
    """psi(x) for x > 0: psi(x) = psi(x + 1) - 1/x up to 6, then the asymptotic series (Abramowitz,
    Stegun 6.3.18).
    """
    shift = 0.0
    while x < 6.0:
        shift += 1.0 / x
        x += 1.0
    inverse = 1.0 / x
    q = inverse * inverse
    series = 1 / 252 - q * (1 / 240 - q * (1 / 132 - q * (691 / 32760 - q / 12)))
    series = q * (1 / 12 - q * (1 / 120 - q * series))
    return math.log(x) - 0.5 * inverse - series - shift


@_jit
def _fit(indptr, ids, counts, rows, topics, alpha, tolerance, sweeps, gammas, statistics):
    words, K = topics.shape
    totals = np.zeros(K)
    for w in range(words):
        totals += topics[w]
    for k in range(K):
        totals[k] = digamma(totals[k])
    # Exponentials are taken of the words that occur, on their first occurrence.
    expected, known = np.empty((words, K)), np.zeros(words, np.bool_)
    t, new = np.empty(K), np.empty(K)
    for i in range(rows.size):
        low, high = indptr[rows[i]], indptr[rows[i] + 1]
        for j in range(low, high):
            w = ids[j]
            if not known[w]:
                known[w] = True
                for k in range(K):
                    expected[w, k] = math.exp(digamma(topics[w, k]) - totals[k])
        gamma = gammas[i]
        gamma[:] = 1.0
        change = math.inf
        for sweep in range(sweeps + 1):  # the last one, with gamma as it ends, collects statistics
            last = sweep == sweeps or change < tolerance * K
            for k in range(K):
                t[k] = math.exp(digamma(gamma[k]))
                new[k] = 0.0
            for j in range(low, high):
                w = ids[j]
                norm = 0.0
                for k in range(K):
                    norm += t[k] * expected[w, k]
                ratio = counts[j] / norm
                if last:
                    for k in range(K):
                        statistics[w, k] += ratio * t[k] * expected[w, k]
                else:
                    for k in range(K):
                        new[k] += ratio * expected[w, k]
            if last:
                break
            change = 0.0
            for k in range(K):
                value = alpha + t[k] * new[k]
                change += abs(value - gamma[k])
                gamma[k] = value


def e_step(
    corpus: Corpus,
    rows: np.ndarray,
    topics: np.ndarray,
    alpha: float,
    tolerance: float,
    sweeps: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Topic shares of documents `rows`, and the sum of their statistics (Hoffman et al. 2010,
    algorithm 1).

    For each document with words w and counts c_w, from gamma = 1, until gamma changes by less than
    `tolerance` on average, at most `sweeps` times::

        gamma_k <- alpha + t_k sum_w c_w E_wk / n_w,  n_w = sum_k t_k E_wk,  t_k = exp(psi(gamma_k))

    with E_wk = exp(psi(lambda_wk) - psi(sum_w lambda_wk)). The factor exp(-psi(sum gamma)) of t
    cancels. All documents start from the same gamma, where the papers draw one.

    Parameters
    ----------
    topics : array, shape (words, K)
        lambda, above zero. May change meanwhile: any mixture of positive numbers works.

    Returns
    -------
    gamma : array, shape (len(rows), K)
    statistics : array, shape (words, K)
        Expected tokens of word w from topic k.
    """
    gammas, statistics = np.empty((len(rows), topics.shape[1])), np.zeros(topics.shape)
    if not (topics.flags.c_contiguous and topics.flags.writeable):
        topics = np.array(topics, order="C")  # one form, one compilation
    c = corpus.counts
    indptr, ids = c.indptr.astype(np.int64), c.indices.astype(np.int32, copy=False)
    rows = np.asarray(rows, np.int64)
    _fit(indptr, ids, c.data, rows, topics, alpha, tolerance, sweeps, gammas, statistics)
    return gammas, statistics
