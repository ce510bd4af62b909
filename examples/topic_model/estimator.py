"""The topic model as a scikit-learn transformer."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from optex_core.async_sgd import Master
from topic_model.corpus import Corpus
from topic_model.lda import LDA
from topic_model.model import TopicModel
from topic_model.training import find_topics


class AsyncLDA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Latent Dirichlet allocation by asynchronous variational inference (`find_topics`).

    Parameters have the names of ``sklearn.decomposition.LatentDirichletAllocation``. All checks of
    ``sklearn.utils.estimator_checks.check_estimator`` pass.

    Parameters
    ----------
    n_components : int, default 10
        K, the number of topics.
    doc_topic_prior, topic_word_prior : float, default 0.1 and 0.05
        alpha and eta.
    learning_decay, learning_offset : float, default 0.7 and 64.0
        kappa and tau0 of the steps.
    max_iter : int, default 10
        Passes over the documents in `fit`.
    batch_size : int, default 64
        Documents in a step.
    total_samples : int, optional
        D for `partial_fit`; None: the documents seen so far.
    n_jobs : int, optional
        Worker processes. None: this thread, where results repeat bit for bit.
    random_state : int, RandomState or None, default 0

    Attributes
    ----------
    components_ : array, shape (n_components, n_features)
        lambda: the pseudo-counts of words in topics.
    model_ : TopicModel
        With its words, its shares of texts, `save` and `load`.
    n_iter_, n_batch_iter_ : int
        Passes of the last call, and steps so far.

    Examples
    --------
    >>> import numpy as np
    >>> from topic_model import AsyncLDA
    >>> X = np.array([[5, 4, 0, 0], [4, 6, 0, 0], [0, 0, 5, 5], [0, 0, 7, 3]])
    >>> shares = AsyncLDA(n_components=2, learning_offset=4.0, batch_size=4).fit_transform(X)
    >>> labels = shares.argmax(axis=1)
    >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
    True
    """

    def __init__(
        self,
        n_components: int = 10,
        *,
        doc_topic_prior: float = 0.1,
        topic_word_prior: float = 0.05,
        learning_decay: float = 0.7,
        learning_offset: float = 64.0,
        max_iter: int = 10,
        batch_size: int = 64,
        total_samples: int | None = None,
        n_jobs: int | None = None,
        random_state: Any = 0,
    ) -> None:
        self.n_components = n_components
        self.doc_topic_prior = doc_topic_prior
        self.topic_word_prior = topic_word_prior
        self.learning_decay = learning_decay
        self.learning_offset = learning_offset
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.total_samples = total_samples
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> AsyncLDA:  # noqa: ARG002
        """Find topics in the counts `X`, sparse or dense, shape (n_samples, n_features).

        Documents without a word say nothing and are left out.
        """
        corpus = self._checked(X, reset=True)
        self._seen = len(corpus)
        return self._run(corpus, self.max_iter, None, None)

    def partial_fit(self, X: Any, y: Any = None) -> AsyncLDA:  # noqa: ARG002
        """Go on with one pass over further documents; topics begin at the first ones."""
        new = not hasattr(self, "model_")
        corpus = self._checked(X, reset=new)
        self._seen = len(corpus) + (0 if new else self._seen)
        master = None if new else self.model_.master
        return self._run(corpus, 1, master, self.total_samples or self._seen)

    def transform(self, X: Any) -> np.ndarray:
        """E[theta], the shares of topics in each document, shape (n_samples, n_components)."""
        check_is_fitted(self)
        return self.model_.shares(self._checked(X, reset=False))

    def perplexity(self, X: Any) -> float:
        """Perplexity of half of each document given the other half, `lda.perplexity`; whole counts.

        scikit-learn's class gives a bound in its place, which is not comparable.
        """
        check_is_fitted(self)
        return self.model_.perplexity(self._checked(X, reset=False), self._seed)

    def _run(
        self, corpus: Corpus, passes: int, master: Master | None, documents: int | None
    ) -> AsyncLDA:
        settings = LDA(
            topics=self.n_components, alpha=self.doc_topic_prior, eta=self.topic_word_prior,
            tau0=self.learning_offset, kappa=self.learning_decay, batch=self.batch_size,
            documents=documents,
        )  # fmt: skip
        if master is None:
            self._seed = int(check_random_state(self.random_state).randint(2**31))
        filled = corpus.select(np.flatnonzero(corpus.lengths))
        if not len(filled):
            raise ValueError(f"none of the {len(corpus)} documents of X has a word: all are zero")
        first = 0 if master is None else master.counts["gradients"]
        steps = first + -(-passes * len(filled) // self.batch_size)
        workers = {"parallelism": self.n_jobs or 1, "workers": self.n_jobs}
        self.model_: TopicModel = find_topics(
            filled, settings, steps=steps, inner_steps=1, rng=self._seed,
            master=master, first=first, **workers,
        )  # fmt: skip
        words = len(corpus.vocabulary)
        self.components_ = np.ascontiguousarray(settings.matrix(self.model_.x, words).T)
        self.n_iter_, self.n_batch_iter_ = passes, steps
        return self

    def _checked(self, X: Any, reset: bool) -> Corpus:
        whole = validate_data(
            self, X, reset=reset, accept_sparse="csr", dtype=[np.float64, np.float32],
            ensure_non_negative=True,
        )  # fmt: skip
        known = getattr(self, "feature_names_in_", None)
        return Corpus(whole, () if known is None else tuple(known))

    @property
    def _n_features_out(self) -> int:
        return int(self.components_.shape[0])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = []
        return tags
