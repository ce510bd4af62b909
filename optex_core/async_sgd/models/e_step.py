"""The local step of variational inference for topic models in plain NumPy: what the compiled one is
held to.
"""

from __future__ import annotations

import numpy as np

from optex_core.async_sgd.models.corpus import Corpus


def expected_topics(topics: np.ndarray) -> np.ndarray:
    """Exponentials of E[log beta] under Dirichlet(lambda): ``exp(psi(lambda_wk) - psi(sum_w
    lambda_wk))``, shape (words, K), as `topics`.
    """
    from scipy.special import psi

    return np.exp(psi(topics) - psi(topics.sum(axis=0)))


def e_step(
    corpus: Corpus,
    rows: np.ndarray,
    topics: np.ndarray,
    alpha: float,
    tolerance: float,
    sweeps: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the topic shares of documents `rows` and sum their statistics (Hoffman et al. 2010,
    algorithm 1; 2013, figure 6).

    For each document with words w and counts c_w, from gamma = 1, until gamma changes by less than
    `tolerance` on average::

        gamma_k <- alpha + t_k sum_w c_w E_wk / n_w,    n_w = sum_k t_k E_wk,    t_k = exp(psi(gamma_k))

    with E = `expected_topics`. The factor exp(-psi(sum gamma)) of t cancels and is left out. The
    start is the same for all documents, where the papers draw one: a burst then depends on the seed
    through its documents alone.

    Parameters
    ----------
    corpus : Corpus
    rows : array of int64
        Which documents.
    topics : array, shape (words, K), float64
        The variational parameters lambda, above zero.
    alpha : float
        Of the Dirichlet distribution of the shares.
    tolerance : float
        Mean change of gamma at which a document is done.
    sweeps : int
        At most so many.

    Returns
    -------
    gamma : array, shape (len(rows), K)
    statistics : array, shape (words, K)
        ``sum_d c_dw phi_dwk``: expected tokens of word w from topic k.
    """
    from scipy.special import psi

    expected = expected_topics(topics)
    gammas, statistics = np.ones((len(rows), topics.shape[1])), np.zeros_like(topics)
    for gamma, row in zip(gammas, rows, strict=True):
        ids, counts = corpus.document(row)
        part = expected[ids]
        for _ in range(sweeps):
            t = np.exp(psi(gamma))
            new = alpha + t * ((counts / (part @ t)) @ part)
            change = np.abs(new - gamma).mean()
            gamma[:] = new
            if change < tolerance:
                break
        t = np.exp(psi(gamma))
        statistics[ids] += (counts / (part @ t))[:, None] * t * part
    return gammas, statistics
