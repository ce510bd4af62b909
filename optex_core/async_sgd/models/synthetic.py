"""A corpus drawn from known topics, and how well topics found in it match them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optex_core._validation import integer, positive
from optex_core.async_sgd.models.corpus import Corpus
from optex_core.errors import ArgumentError


def synthetic_corpus(
    documents: int = 2000,
    words: int = 1000,
    topics: int = 10,
    *,
    length: int = 100,
    alpha: float = 0.1,
    eta: float = 0.05,
    rng: int = 0,
) -> tuple[Corpus, np.ndarray]:
    """Draw documents from the generative model of latent Dirichlet allocation.

    Topic k is a distribution over words, beta_k ~ Dirichlet(eta); document d has shares theta_d ~
    Dirichlet(alpha) and Poisson(length) tokens (at least one), each from a topic drawn from theta_d
    (Blei, Ng, Jordan 2003, section 3).

    Parameters
    ----------
    documents : int, default 2000
    words : int, default 1000
    topics : int, default 10
    length : int, default 100
        Mean number of tokens in a document.
    alpha, eta : float, default 0.1, 0.05
        Parameters of the two symmetric Dirichlet distributions.
    rng : int, default 0
        Seed.

    Returns
    -------
    corpus : Corpus
        Its words are called w000, w001, ...
    truth : array, shape (topics, words), float64
        Rows sum to one.
    """
    documents, words = integer("documents", documents, low=1), integer("words", words, low=2)
    topics, length = integer("topics", topics, low=1), integer("length", length, low=1)
    alpha, eta = positive("alpha", alpha), positive("eta", eta)
    random = np.random.default_rng(rng)
    truth = random.dirichlet(np.full(words, eta), topics)
    shares = random.dirichlet(np.full(topics, alpha), documents)
    indptr, ids, counts = [0], [], []
    for share, n in zip(shares, np.maximum(1, random.poisson(length, documents)), strict=True):
        drawn = random.multinomial(n, share @ truth / (share @ truth).sum())
        used = np.flatnonzero(drawn)
        ids.append(used)
        counts.append(drawn[used])
        indptr.append(indptr[-1] + len(used))
    width = len(str(words - 1))
    vocabulary = tuple(f"w{i:0{width}d}" for i in range(words))
    return Corpus(
        np.array(indptr), np.concatenate(ids), np.concatenate(counts).astype(float), vocabulary
    ), truth


@dataclass(frozen=True, slots=True, eq=False)
class Recovery:
    """How found topics match true ones, after the best one-to-one assignment.

    Attributes
    ----------
    assignment : array, shape (true topics,), int64
        The found topic of each true one.
    distances : array, shape (true topics,), float64
        Total variation, half the sum of absolute differences: 0 equal, 1 no word in common.
    """

    assignment: np.ndarray
    distances: np.ndarray

    @property
    def mean(self) -> float:
        """Mean total variation."""
        return float(self.distances.mean())

    def recovered(self, within: float = 0.2) -> int:
        """How many true topics have a partner closer than `within`."""
        return int((self.distances < within).sum())


def match_topics(found: np.ndarray, truth: np.ndarray) -> Recovery:
    """Assign to each true topic a found one, so that the sum of total variations is least
    (Hungarian method).

    Parameters
    ----------
    found : array, shape (K, words)
        Topics with K at least the number of true ones; rows sum to one.
    truth : array, shape (topics, words)
        Rows sum to one.

    Returns
    -------
    Recovery

    Raises
    ------
    ArgumentError
        If the shapes do not fit.
    """
    found, truth = np.asarray(found, float), np.asarray(truth, float)
    if (
        found.ndim != 2
        or truth.ndim != 2
        or found.shape[1] != truth.shape[1]
        or len(found) < len(truth)
    ):
        raise ArgumentError(
            f"found must have as many words as truth and at least as many topics, got "
            f"shapes {found.shape} and {truth.shape}"
        )
    from scipy.optimize import linear_sum_assignment

    cost = 0.5 * np.abs(truth[:, None, :] - found[None]).sum(axis=2)
    rows, columns = linear_sum_assignment(cost)
    return Recovery(columns, cost[rows, columns])
