"""Latent Dirichlet allocation by stochastic variational inference: settings, the affine burst of a
worker, held-out perplexity, topics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from optex_core._validation import integer, positive, real, reject_unknown_fields, short_repr
from optex_core.async_sgd.models.corpus import Corpus
from optex_core.errors import ArgumentError, ArgumentTypeError, BackendError

#: exp(psi(x)) of smaller parameters underflows, and words would get the norm 0/0:
#: exp(psi(0.005))**2 is 1e-174.
SMALLEST = 0.005

EStep = Callable[[Corpus, np.ndarray, np.ndarray, float, float, int], tuple[np.ndarray, np.ndarray]]


@reject_unknown_fields
@dataclass(frozen=True, slots=True)
class LDA:
    """Settings of a topic model and of its steps.

    Every document d has shares theta_d ~ Dirichlet(alpha) of K topics, every topic is a
    distribution beta_k ~ Dirichlet(eta) over words. The posterior of beta is approximated by
    Dirichlet(lambda_k). Step t takes a batch S of documents and moves along the natural gradient
    (Hoffman, Blei, Bach 2010, equations 5 to 8)::

        lambda <- (1 - rho_t) lambda + rho_t (eta + D/|S| statistics(S, lambda)),    rho_t = (tau0 + t)^-kappa,    t = 1, 2, ...

    Parameters are the flat vector of lambda with shape (words, K): word by word, as the inner loop
    reads it.

    Parameters
    ----------
    topics : int, default 20
        K.
    alpha : float, default 0.1
        Of the shares; at least 0.005.
    eta : float, default 0.05
        Of the topics; at least 0.005.
    tau0 : float, default 64.0
        Slows the first steps.
    kappa : float, default 0.7
        In (0.5, 1]: the sum of steps diverges and the sum of their squares does not.
    batch : int, default 64
        |S|, documents in a step.
    tolerance : float, default 0.001
        Mean change of gamma at which a document's shares are found.
    sweeps : int, default 100
        At most so many updates of gamma.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If a setting cannot work.
    """

    topics: int = 20
    alpha: float = 0.1
    eta: float = 0.05
    tau0: float = 64.0
    kappa: float = 0.7
    batch: int = 64
    tolerance: float = 1e-3
    sweeps: int = 100

    def __post_init__(self) -> None:
        integer("topics", self.topics, low=1)
        integer("batch", self.batch, low=1)
        integer("sweeps", self.sweeps, low=1)
        for name in ("alpha", "eta"):
            if positive(name, getattr(self, name)) < SMALLEST:
                raise ArgumentError(
                    f"{name} must be at least {SMALLEST}, below which exp(psi({name})) "
                    f"underflows; got {getattr(self, name)!r}"
                )
        real("tau0", self.tau0, low=0.0)
        real("kappa", self.kappa, low=0.5, high=1.0, open_low=True)
        real("tolerance", self.tolerance, low=0.0)

    def rate(self, t: int) -> float:
        """rho of the step number t, counted from 0: at most one."""
        return float((self.tau0 + t + 1.0) ** -self.kappa)

    def start(self, words: int, rng: int | np.random.Generator = 0) -> np.ndarray:
        """lambda drawn from Gamma(100, 1/100) as in Hoffman et al.'s program, shape (words *
        topics,), float64.
        """
        return np.random.default_rng(rng).gamma(100.0, 0.01, words * self.topics)

    def matrix(self, v: np.ndarray, words: int) -> np.ndarray:
        """The flat vector as (words, topics)."""
        v = np.asarray(v, float)
        if v.size != words * self.topics:
            raise ArgumentError(
                f"lambda must have words x topics = {words} x {self.topics} = "
                f"{words * self.topics} entries, got {short_repr(v)}"
            )
        return v.reshape(words, self.topics)


def select_e_step(compiled: bool | None = None) -> EStep:
    """The compiled E-step, the NumPy one, or (None) the compiled one where Numba works.

    Raises
    ------
    BackendError
        If the compiled one is asked for and Numba cannot be imported.
    """
    if compiled is not False:
        try:
            from optex_core.async_sgd.models.e_step_numba import e_step
        except BackendError:
            if compiled:
                raise
        else:
            return e_step
    from optex_core.async_sgd.models.e_step import e_step as plain

    return plain


@dataclass(frozen=True, slots=True, eq=False)
class Batches:
    """The documents of step j, for every j: passes over the corpus, each in an order of its own; a
    pure function of the seed and j.

    Serial, synchronous and asynchronous runs so see the same documents, whoever takes a step and
    whenever.

    Parameters
    ----------
    documents : int
        How many there are.
    size : int
        Documents in a batch; the last of a pass goes on in the next pass.
    seed : int
    """

    documents: int
    size: int
    seed: int = 0

    def __getitem__(self, j: int) -> np.ndarray:
        """Rows of batch j, shape (size,), int64."""
        low = j * self.size
        passes = range(low // self.documents, (low + self.size - 1) // self.documents + 1)
        rows = np.concatenate(
            [np.random.default_rng([self.seed, p]).permutation(self.documents) for p in passes]
        )
        begin = low - passes[0] * self.documents
        return rows[begin : begin + self.size]


def natural_target(
    settings: LDA, corpus: Corpus, rows: np.ndarray, topics: np.ndarray, e_step: EStep
) -> np.ndarray:
    """lambda_hat, where the whole corpus would lead if it were copies of documents `rows`; shape
    (words, K), at least eta everywhere.
    """
    _, statistics = e_step(
        corpus, rows, topics, settings.alpha, settings.tolerance, settings.sweeps
    )
    statistics *= len(corpus) / len(rows)
    statistics += settings.eta
    return statistics


def perplexity(
    settings: LDA, v: np.ndarray, observed: Corpus, scored: Corpus, *, e_step: EStep | None = None
) -> float:
    """Document completion: shares are fitted on one half of each held-out document, and the words
    of the other half are predicted.

    ``exp(-sum log p(w) / tokens)`` with ``p(w) = sum_k E[theta_k] E[beta_kw]`` over the tokens of
    `scored` (Wallach et al. 2009, section 5.1, with the means of the variational distributions). No
    bound enters: values of different methods can be compared. Lower is better; a vocabulary of V
    words drawn evenly has V.

    Parameters
    ----------
    settings : LDA
    v : array, shape (words * K,)
        lambda.
    observed, scored : Corpus
        The two halves of the same documents (`Corpus.halves`).
    e_step : callable, optional
        Another E-step than the compiled one.

    Returns
    -------
    float

    Raises
    ------
    ArgumentError
        If the halves do not belong together.
    """
    if len(observed) != len(scored) or observed.vocabulary != scored.vocabulary:
        raise ArgumentError(
            "observed and scored must be two halves of the same documents over one "
            "vocabulary: use Corpus.halves"
        )
    topics = settings.matrix(v, scored.words)
    fit = e_step if e_step is not None else select_e_step()
    gamma, _ = fit(
        observed,
        np.arange(len(observed)),
        topics,
        settings.alpha,
        settings.tolerance,
        settings.sweeps,
    )
    theta = gamma / gamma.sum(axis=1, keepdims=True)
    beta = topics / topics.sum(axis=0)
    owners = np.repeat(np.arange(len(scored)), np.diff(scored.indptr))
    chance = np.einsum("ek,ek->e", theta[owners], beta[scored.ids])
    return float(np.exp(-(scored.counts @ np.log(chance)) / scored.counts.sum()))


def unigram_perplexity(training: Corpus, scored: Corpus) -> float:
    """What a model without topics has: every word with its frequency in the training documents (one
    count added to each).
    """
    totals = np.bincount(training.ids, training.counts, training.words) + 1.0
    return float(
        np.exp(-(scored.counts @ np.log(totals[scored.ids] / totals.sum())) / scored.counts.sum())
    )


def topic_words(settings: LDA, v: np.ndarray, corpus: Corpus, number: int = 10) -> list[list[str]]:
    """The most probable words of each topic; topics with the most tokens first."""
    if not isinstance(corpus, Corpus):
        raise ArgumentTypeError(
            f"corpus must be the Corpus that the topics were found in, got {short_repr(corpus)}"
        )
    topics = settings.matrix(v, corpus.words)
    order = np.argsort(-topics.sum(axis=0), kind="stable")
    return [
        [
            corpus.vocabulary[w]
            for w in np.argsort(-topics[:, k], kind="stable")[: integer("number", number, low=1)]
        ]
        for k in order
    ]


def topic_distributions(settings: LDA, v: np.ndarray, words: int) -> np.ndarray:
    """E[beta], shape (K, words); rows sum to one."""
    topics = settings.matrix(v, words)
    return np.ascontiguousarray((topics / topics.sum(axis=0)).T)
