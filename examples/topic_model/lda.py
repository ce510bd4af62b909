"""Latent Dirichlet allocation by stochastic variational inference: settings, starts, scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from topic_model.corpus import Corpus
from topic_model.e_step import e_step

#: exp(psi(x)) of smaller parameters underflows: exp(psi(0.005))**2 is 1e-174.
SMALLEST = 0.005


@dataclass(frozen=True, slots=True)
class LDA:
    """Settings of a topic model and of its steps.

    Document d has shares theta_d ~ Dirichlet(alpha) of K topics; topic k is a distribution beta_k ~
    Dirichlet(eta) over words. The posterior of beta is approximated by Dirichlet(lambda_k). Step t
    takes a batch S of documents (Hoffman, Blei, Bach 2010, equations 5 to 8)::

        lambda <- (1 - rho_t) lambda + rho_t (eta + D/|S| statistics(S, lambda))
        rho_t = (tau0 + t)^-kappa,  t = 1, 2, ...

    The parameters of a run are lambda as a flat vector, word by word.

    Parameters
    ----------
    topics : int, default 20
        K.
    alpha, eta : float, default 0.1 and 0.05
        At least 0.005.
    tau0, kappa : float, default 64.0 and 0.7
        kappa in (0.5, 1]: the sum of steps diverges and the sum of their squares does not.
    batch : int, default 64
        |S|, documents in a step.
    tolerance, sweeps : float and int, default 0.001 and 100
        Of `e_step`.
    documents : int, optional
        D; None: the documents at hand. A stream of documents has more than are at hand.
    """

    topics: int = 20
    alpha: float = 0.1
    eta: float = 0.05
    tau0: float = 64.0
    kappa: float = 0.7
    batch: int = 64
    tolerance: float = 1e-3
    sweeps: int = 100
    documents: int | None = None

    def __post_init__(self) -> None:
        least = {
            "topics": 1,
            "batch": 1,
            "sweeps": 1,
            "alpha": SMALLEST,
            "eta": SMALLEST,
            "tau0": 0,
        }
        for name, low in least.items():
            if not getattr(self, name) >= low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)!r}")
        if not 0.5 < self.kappa <= 1.0:
            raise ValueError(f"kappa must be above 0.5 and at most 1, got {self.kappa!r}")

    def rate(self, t: int) -> float:
        """rho of step number t, counted from 0."""
        return float((self.tau0 + t + 1.0) ** -self.kappa)

    def matrix(self, v: np.ndarray, words: int) -> np.ndarray:
        """lambda from the flat vector, shape (words, topics)."""
        if v.size != words * self.topics:
            raise ValueError(f"lambda must have {words} x {self.topics} entries, got {v.size}")
        return v.reshape(words, self.topics)

    def target(self, corpus: Corpus, rows: np.ndarray, topics: np.ndarray) -> np.ndarray:
        """lambda if all D documents were copies of `rows`, shape (words, K)."""
        _, statistics = e_step(corpus, rows, topics, self.alpha, self.tolerance, self.sweeps)
        return self.eta + (self.documents or len(corpus)) / len(rows) * statistics

    def shares(self, v: np.ndarray, corpus: Corpus) -> np.ndarray:
        """E[theta], the shares of topics in each document, shape (documents, K)."""
        rows, topics = np.arange(len(corpus)), self.matrix(v, corpus.words)
        gamma, _ = e_step(corpus, rows, topics, self.alpha, self.tolerance, self.sweeps)
        return gamma / gamma.sum(axis=1, keepdims=True)

    def distributions(self, v: np.ndarray, words: int) -> np.ndarray:
        """E[beta], shape (K, words); rows sum to one."""
        topics = self.matrix(v, words)
        return np.ascontiguousarray((topics / topics.sum(axis=0)).T)


@dataclass(frozen=True, slots=True)
class BatchSchedule:
    """The documents of step j: passes over the corpus, each in an order of its own, as a pure
    function of the seed and j, whoever takes a step and whenever.
    """

    documents: int
    size: int
    seed: int = 0

    def __getitem__(self, j: int) -> np.ndarray:
        low, n = j * self.size, self.documents
        passes = range(low // n, (low + self.size - 1) // n + 1)
        rows = [np.random.default_rng([self.seed, p]).permutation(n) for p in passes]
        begin = low - passes[0] * n
        return np.concatenate(rows)[begin : begin + self.size]


def noise_start(settings: LDA, corpus: Corpus, rng: int = 0) -> np.ndarray:
    """lambda from Gamma(100, 1/100), as in Hoffman et al.'s program, shape (words * K,)."""
    return np.random.default_rng(rng).gamma(100.0, 0.01, corpus.words * settings.topics)


def cluster_start(settings: LDA, corpus: Corpus, rng: int = 0) -> np.ndarray:
    """The noise, plus for each topic one cluster's word frequencies, weighing as much.

    Documents are compared by the square roots of their word frequencies, whose inner product is the
    Bhattacharyya coefficient. From noise alone, stochastic variational inference merges topics and
    never parts them again.
    """
    random, K = np.random.default_rng(rng), settings.topics
    rows = random.choice(len(corpus), min(len(corpus), 100 * K), replace=False)
    roots = corpus.counts[rows]
    roots.data = np.sqrt(roots.data / np.repeat(corpus.lengths[rows], np.diff(roots.indptr)))
    pairs = zip(roots.indptr, roots.indptr[1:], strict=False)
    different = {(roots.indices[a:b].tobytes(), roots.data[a:b].tobytes()) for a, b in pairs}
    clusters = KMeans(min(K, len(different)), n_init=10, random_state=int(random.integers(2**31)))
    with threadpool_limits(1):  # the order of sums, and the last bits, would depend on the threads
        centres = clusters.fit(roots).cluster_centers_
    # With fewer different documents than topics, some topics begin at the same.
    frequencies = np.resize(centres, (K, corpus.words)) ** 2
    frequencies /= frequencies.sum(axis=1, keepdims=True)
    noise = noise_start(settings, corpus, int(random.integers(2**31)))
    return noise + corpus.words * np.ascontiguousarray(frequencies.T).ravel()


def perplexity(settings: LDA, v: np.ndarray, observed: Corpus, scored: Corpus) -> float:
    """Document completion: shares are fitted on `observed`, and the words of `scored`, the other
    halves of the same documents (`Corpus.halves`), are predicted.

    ``exp(-sum log p(w) / tokens)`` with ``p(w) = sum_k E[theta_k] E[beta_kw]`` (Wallach et al.
    2009, section 5.1). No bound enters: values of different methods can be compared. Lower is
    better.

    Raises
    ------
    ValueError
        If the halves do not belong together, or there is no token to score.
    """
    if len(observed) != len(scored) or observed.vocabulary != scored.vocabulary:
        raise ValueError("observed and scored must be halves of the same documents: Corpus.halves")
    theta, beta = settings.shares(v, observed), settings.distributions(v, scored.words)
    owners = np.repeat(np.arange(len(scored)), np.diff(scored.counts.indptr))
    odds = np.einsum("ek,ke->e", theta[owners], beta[:, scored.counts.indices])
    return _perplexity(scored, odds)


def unigram_perplexity(training: Corpus, scored: Corpus) -> float:
    """The perplexity of words alone: every word with its frequency in the training documents, one
    count added to each.
    """
    totals = np.asarray(training.counts.sum(axis=0)).ravel() + 1.0
    return _perplexity(scored, (totals / totals.sum())[scored.counts.indices])


def _perplexity(scored: Corpus, odds: np.ndarray) -> float:
    tokens = scored.counts.sum()
    if not tokens:
        raise ValueError("there is no token to score: give documents with words of the vocabulary")
    return float(np.exp(-(scored.counts.data @ np.log(odds)) / tokens))
