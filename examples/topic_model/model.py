"""A trained topic model: topics, shares of topics in new texts, file and back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from optex_core.async_sgd import LoopReport, Master
from topic_model.corpus import Corpus
from topic_model.lda import LDA, perplexity

FORMAT = "optex_core topic model 1"


@dataclass(frozen=True, slots=True, eq=False)
class TopicModel:
    """Result of `find_topics`, or of an earlier session's, loaded from a file.

    Attributes
    ----------
    settings : LDA
    vocabulary : tuple of str
    x : array, shape (words * K,)
        lambda, every entry above zero.
    report, master : LoopReport and Master
        Of the run: seconds, staleness, lost bursts; a row for each push. None after `load`.
    """

    settings: LDA
    vocabulary: tuple[str, ...]
    x: np.ndarray
    report: LoopReport | None = None
    master: Master | None = None

    @property
    def distributions(self) -> np.ndarray:
        """E[beta], shape (K, words); rows sum to one."""
        return self.settings.distributions(self.x, len(self.vocabulary))

    def words(self, number: int = 10) -> list[list[str]]:
        """The most probable words of each topic, the largest topic first."""
        weights = self.settings.matrix(self.x, len(self.vocabulary)).sum(axis=0)
        order = np.argsort(-weights, kind="stable")
        ranked = np.argsort(-self.distributions[order], axis=1, kind="stable")[:, :number]
        return [[self.vocabulary[w] for w in row] for row in ranked]

    def corpus(self, documents: Any) -> Corpus:
        """Documents over the model's vocabulary: texts, a matrix of counts, or a `Corpus`.

        Raises
        ------
        ValueError
            For a corpus of another vocabulary, or a matrix of another number of columns.
        """
        if isinstance(documents, Corpus):
            if documents.vocabulary != self.vocabulary:
                raise ValueError(
                    "corpus must have the vocabulary of the training documents; count its texts "
                    "with Corpus.from_texts(texts, vocabulary=model.vocabulary)"
                )
            return documents
        if isinstance(documents, (str, bytes)) or not hasattr(documents, "shape"):
            return Corpus.from_texts(documents, vocabulary=self.vocabulary)
        return Corpus(documents, self.vocabulary)

    def shares(self, documents: Any) -> np.ndarray:
        """E[theta], the shares of topics in each document, shape (documents, K).

        `documents` are those of `corpus`. One without a known word has equal shares.
        """
        return self.settings.shares(self.x, self.corpus(documents))

    def perplexity(self, documents: Iterable[str] | Any, rng: int = 0) -> float:
        """Perplexity of half of each document, given the other half (`lda.perplexity`)."""
        return perplexity(self.settings, self.x, *self.corpus(documents).halves(rng))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write lambda, settings and vocabulary to an .npz file, without pickle."""
        header = {"format": FORMAT, "settings": asdict(self.settings)}
        header["vocabulary"] = list(self.vocabulary)
        with open(path, "wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), x=self.x)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TopicModel:
        """The model that `save` wrote.

        Raises
        ------
        ValueError
            For a file of something else.
        """
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(str(file["header"])) if "header" in file else {}
            if header.get("format") != FORMAT:
                raise ValueError(f"{path} holds no topic model, or one of a later version")
            x = file["x"]
        model = cls(LDA(**header["settings"]), tuple(header["vocabulary"]), x)
        model.settings.matrix(x, len(model.vocabulary))  # the sizes belong together
        return model
