"""Bags of words as a sparse matrix: from texts, from installed docstrings, from known topics."""

from __future__ import annotations

import ast
import importlib.util
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.feature_extraction.text import CountVectorizer

#: Folders without documentation of a library: its tests, and copies of other libraries.
SKIPPED_FOLDERS = {"tests", "testing", "_lib"}
#: Shorter docstrings say nothing about their topic.
SHORTEST_DOCSTRING = 300


@cache
def token_pattern() -> str:
    """Words of any script: two or more letters with their combining marks, or one ideograph.

    `re` takes marks (vowel signs of Hindi or Thai, Arabic vowels) and joiners for no part of a word
    and would cut words there.
    """
    characters = map(chr, range(sys.maxunicode + 1))
    marks = "".join(c for c in characters if unicodedata.category(c) in ("Mn", "Mc"))
    ideographs = "\u3400-\u9fff\U00020000-\U0003ffff"
    return rf"[^\W\d_](?:[^\W\d_]|[{marks}\u200c\u200d])+|[{ideographs}]"


def normalize(text: str) -> str:
    """Lower case with composed characters: an accented letter is one however it was typed."""
    return unicodedata.normalize("NFC", text.lower())


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Corpus:
    """Documents as bags of words.

    Parameters
    ----------
    counts : sparse matrix or array of any format, or dense array, shape (documents, words)
        How often each document has each word, as scikit-learn's CountVectorizer gives it. Kept as
        a ``scipy.sparse.csr_array`` of float64 without zeros.
    vocabulary : sequence of str, optional
        The words; "x0", "x1", ... where they are not given.
    """

    counts: sparse.csr_array
    vocabulary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counts = sparse.csr_array(self.counts, dtype=float)
        counts.sum_duplicates()
        counts.eliminate_zeros()
        if not len(self.vocabulary):
            object.__setattr__(self, "vocabulary", [f"x{i}" for i in range(counts.shape[1])])
        if counts.shape[1] != len(self.vocabulary):
            raise ValueError(
                f"{len(self.vocabulary)} words for {counts.shape[1]} columns of counts"
            )
        if not (np.isfinite(counts.data).all() and (counts.data > 0).all()):
            raise ValueError("counts must be finite and above zero; leave out other entries")
        object.__setattr__(self, "counts", counts)
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))

    def __repr__(self) -> str:
        tokens = int(self.counts.sum())
        return f"Corpus({len(self)} documents, {self.words} words, {tokens} tokens)"

    def __len__(self) -> int:
        return int(self.counts.shape[0])

    @property
    def words(self) -> int:
        """The number of different words."""
        return len(self.vocabulary)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, shape (documents,)."""
        return np.asarray(self.counts.sum(axis=1)).ravel()

    def select(self, rows: Any) -> Corpus:
        """The documents `rows`, in that order, over the same vocabulary."""
        return Corpus(self.counts[np.asarray(rows, np.int64)], self.vocabulary)

    def split(self, held_out: int, rng: int = 0) -> tuple[Corpus, Corpus]:
        """(training, held-out) documents: `held_out` drawn by `rng`, both in their old order."""
        if not 1 <= held_out < len(self):
            raise ValueError(f"held_out must be from 1 to {len(self) - 1}, got {held_out}")
        out = np.zeros(len(self), bool)
        out[np.random.default_rng(rng).choice(len(self), held_out, replace=False)] = True
        return self.select(np.flatnonzero(~out)), self.select(np.flatnonzero(out))

    def halves(self, rng: int = 0) -> tuple[Corpus, Corpus]:
        """Each document in two: every token goes to the first or the second with even odds.

        Documents of which either half would be empty are left out of both.
        """
        whole = self.counts.data.astype(np.int64)
        if (whole != self.counts.data).any():
            raise ValueError("halves needs whole counts: tokens are dealt out one by one")
        first, second = self.counts.copy(), self.counts.copy()
        first.data = np.random.default_rng(rng).binomial(whole, 0.5).astype(float)
        second.data = self.counts.data - first.data
        rows = np.flatnonzero((first.sum(axis=1) > 0) & (second.sum(axis=1) > 0))
        if not len(rows):
            raise ValueError("no document has two tokens to deal out; give longer documents")
        for half in (first, second):
            half.eliminate_zeros()
        return Corpus(first[rows], self.vocabulary), Corpus(second[rows], self.vocabulary)

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        *,
        vocabulary: Sequence[str] | None = None,
        minimum_documents: int = 10,
        maximum_share: float = 0.25,
        minimum_tokens: int = 1,
        stop_words: Any = "english",
    ) -> Corpus:
        """Count the words of `texts`: those of a vocabulary, or those neither rare nor everywhere.

        Parameters
        ----------
        texts : iterable of str
            One document each. Scripts without spaces need words separated by spaces.
        vocabulary : sequence of str, optional
            The words to count, such as those of a trained model. Row i is then text i, also where
            it has none of them, and the arguments below are not used.
        minimum_documents, maximum_share : int and float, default 10 and 0.25
            A word must occur in this many documents, and in no more than this share of them.
        minimum_tokens : int, default 1
            Documents that are shorter, counted after that, are left out.
        stop_words : "english", list of str or None, default "english"
            Words that are left out, as for `CountVectorizer`.

        Raises
        ------
        TypeError
            If `texts` is one string, or a text is no string; its index is named.
        ValueError
            If no word or no document is left, or a word stands twice in `vocabulary`.
        """
        if isinstance(texts, (str, bytes)):
            raise TypeError(f"texts must be several strings, one per document, got {texts!r:.60}")
        texts = list(texts)
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                kind = type(text).__name__
                raise TypeError(f"texts[{i}] must be a string, got {text!r:.60} of type {kind}")
        if vocabulary is not None:
            vectorizer = CountVectorizer(
                preprocessor=normalize, token_pattern=token_pattern(), vocabulary=list(vocabulary)
            )
            return cls(vectorizer.transform(texts), tuple(vocabulary))
        vectorizer = CountVectorizer(
            preprocessor=normalize,
            token_pattern=token_pattern(),
            stop_words=stop_words,
            min_df=minimum_documents,
            max_df=float(maximum_share),
        )
        try:
            counts = vectorizer.fit_transform(texts)
        except ValueError as error:
            raise ValueError(
                f"no word of these {len(texts)} documents occurs in at least {minimum_documents} "
                f"and in at most {maximum_share:.0%} of them ({error})"
            ) from error
        corpus = cls(counts, vectorizer.get_feature_names_out())
        corpus = corpus.select(np.flatnonzero(corpus.lengths >= max(1, minimum_tokens)))
        if not len(corpus):
            raise ValueError(f"no document has {minimum_tokens} tokens; lower minimum_tokens")
        return corpus


def docstring_corpus(libraries: Sequence[str] = ("numpy", "scipy"), **options: Any) -> Corpus:
    """The docstrings of installed libraries, a corpus that needs no download.

    Sources are parsed and nothing is imported. `options` are those of `Corpus.from_texts`.
    """
    return Corpus.from_texts(docstrings(libraries), **{"minimum_tokens": 20, **options})


def docstrings(libraries: Sequence[str]) -> list[str]:
    """Different docstrings of at least 300 characters, in the order of the files."""
    found: dict[str, None] = {}
    for library in libraries:
        spec = importlib.util.find_spec(library) if library.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"library {library!r} is not an installed package")
        root = Path(next(iter(spec.submodule_search_locations)))
        for path in sorted(root.rglob("*.py")):
            is_test = path.name.startswith(("test_", "conftest"))
            if not is_test and not SKIPPED_FOLDERS & set(path.relative_to(root).parts):
                texts = (t for t in _docstrings_in(path) if len(t) >= SHORTEST_DOCSTRING)
                found.update(dict.fromkeys(texts))
    return list(found)


def _docstrings_in(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError:  # a template of a source file: nothing to read in it
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            yield (ast.get_docstring(node, clean=False) or "").strip()
        elif isinstance(node, ast.Call):
            # NumPy and SciPy attach the docstrings of compiled functions with these calls.
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in ("add_newdoc", "add_docstring"):
                strings = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
                yield from (s.strip() for s in strings if isinstance(s, str))


def synthetic_corpus(
    documents: int = 2000, words: int = 1000, topics: int = 10, *, alpha: float = 0.1, rng: int = 0
) -> tuple[Corpus, np.ndarray]:
    """A corpus drawn from the model (Blei, Ng, Jordan 2003, section 3), and its topics.

    Topic k is a distribution over words, beta_k ~ Dirichlet(0.05). Document d has shares theta_d ~
    Dirichlet(alpha) and Poisson(100) tokens, at least one, each from a topic drawn from theta_d.
    The topics have shape (topics, words); rows sum to one.
    """
    random = np.random.default_rng(rng)
    truth = random.dirichlet(np.full(words, 0.05), topics)
    shares = random.dirichlet(np.full(topics, alpha), documents)
    lengths = np.maximum(1, random.poisson(100, documents))
    counts = sparse.lil_array((documents, words))
    for d, odds in enumerate(shares @ truth):
        counts[[d], :] = random.multinomial(lengths[d], odds / odds.sum())
    return Corpus(counts.tocsr(), tuple(f"w{i}" for i in range(words))), truth


def match_topics(found: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The found topic of each true one, and their distances (total variation, 0 to 1), in the
    assignment of the least sum; below 0.2 a topic counts as recovered.
    """
    cost = 0.5 * np.abs(truth[:, None, :] - found[None]).sum(axis=2)
    rows, columns = linear_sum_assignment(cost)
    return columns, cost[rows, columns]
