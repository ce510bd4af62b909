"""What two-level asynchronous SGD was made for: topic models (stochastic variational inference) and
actor-critic, each as pure bursts.

>>> from optex_core.async_sgd.models import LDA, find_topics, match_topics, synthetic_corpus
>>> corpus, truth = synthetic_corpus(300, words=60, topics=3)
>>> found = find_topics(corpus, LDA(topics=3, batch=16), steps=40, parallelism=4, compiled=False)  # workers=4: in processes
>>> match_topics(found.distributions, truth).recovered()
3

Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optex_core.async_sgd.models.actor_critic import ActorCritic
    from optex_core.async_sgd.models.corpus import Corpus
    from optex_core.async_sgd.models.docstrings import docstring_corpus
    from optex_core.async_sgd.models.lda import LDA, perplexity
    from optex_core.async_sgd.models.policy_network import PolicyNetwork
    from optex_core.async_sgd.models.policy_training import train_policy
    from optex_core.async_sgd.models.synthetic import match_topics, synthetic_corpus
    from optex_core.async_sgd.models.topic_model import find_topics

_EXPORTS = {
    "ActorCritic": "actor_critic",
    "Corpus": "corpus",
    "LDA": "lda",
    "PolicyNetwork": "policy_network",
    "docstring_corpus": "docstrings",
    "find_topics": "topic_model",
    "match_topics": "synthetic",
    "perplexity": "lda",
    "synthetic_corpus": "synthetic",
    "train_policy": "policy_training",
}
__all__ = [
    "LDA", "ActorCritic", "Corpus", "PolicyNetwork", "docstring_corpus", "find_topics", "match_topics", "perplexity", "synthetic_corpus",
    "train_policy",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
