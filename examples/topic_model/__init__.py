"""Topic models: latent Dirichlet allocation by two-level asynchronous SGD, on `ox.async_sgd`.

Run it in the folder above (needs scikit-learn)::

    python -m topic_model --quick      known topics, found by two worker processes; half a minute
    python -m topic_model              20 topics in the docstrings of the installed NumPy and SciPy
    python -m topic_model --compare    serial, synchronous, asynchronous, two-level, scikit-learn

Your own texts, one string for each document, in any script:

>>> from topic_model import LDA, Corpus, find_topics, match_topics, synthetic_corpus
>>> texts = ["red apple", "green apple", "red rose"]
>>> Corpus.from_texts(texts, minimum_documents=1, maximum_share=0.99)
Corpus(3 documents, 4 words, 6 tokens)

Known topics are found again; ``workers=4`` would take four processes:

>>> corpus, truth = synthetic_corpus(300, words=60, topics=3)
>>> found = find_topics(corpus, LDA(topics=3, batch=16, tau0=4.0), steps=60, parallelism=4)
>>> assignment, distances = match_topics(found.distributions, truth)
>>> int((distances < 0.2).sum()), bool(found.x.min() > 0)
(3, True)

A model is saved, and scores the texts of another session, given as strings, as SciPy's sparse
matrices of counts or as a `Corpus`; `AsyncLDA` is the same as a scikit-learn transformer:

>>> import tempfile
>>> from topic_model import TopicModel
>>> path = tempfile.mkdtemp() + "/topics.npz"
>>> found.save(path)
>>> TopicModel.load(path).shares(["w0 w0 w7", "no known word"]).shape
(2, 3)

How it uses `ox.async_sgd`:

* ``training.py``: a burst is B steps on a local copy of lambda, pushed as one affine map v <- a v +
  b, so that lambda stays positive under any staleness. `find_topics` hands bursts to
  `async_sgd.run`, which does the rest: processes, threads or a cluster, bounded staleness, lost
  workers, the push log.
* ``lda.py``, ``e_step.py``: the model. ``corpus.py``: bags of words, docstrings, known topics.

Notes
-----
Measured on two cores, 1,000 steps of 64 docstrings, held-out perplexity over five seeds: 560.5 +-
2.1 serial, 553.0 +- 1.9 with eight asynchronous threads (staleness 6.4 on average), 549 to 556 with
eight processes (three seeds), 596 for scikit-learn's online method, 610 from noise instead of
clusters.
"""

from topic_model.corpus import Corpus, docstring_corpus, match_topics, synthetic_corpus
from topic_model.estimator import AsyncLDA
from topic_model.lda import LDA, perplexity, unigram_perplexity
from topic_model.model import TopicModel
from topic_model.training import VariationalBurst, find_topics

__all__ = [
    "LDA", "AsyncLDA", "Corpus", "TopicModel", "VariationalBurst", "docstring_corpus",
    "find_topics", "match_topics", "perplexity", "synthetic_corpus", "unigram_perplexity",
]  # fmt: skip
