"""Bags of words: a corpus as three flat arrays, made from texts by a small deterministic tokeniser,
split for held-out scores.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from optex_core._validation import integer, short_repr, unit_interval
from optex_core.errors import ArgumentError, ArgumentTypeError

#: Runs of three or more letters, of lower-cased text: numbers, operators and one-letter variables
#: say nothing about the topic.
WORD = re.compile(r"[a-z]{3,}")

#: Words of grammar. Words that merely occur everywhere are removed by `maximum_share`, which needs
#: no list.
STOP_WORDS = frozenset(
    """
    about above after again all also and any are because been before being below between both but can cannot could did does doing done down
    during each either else etc few for from further had has have having her here hers him his how however into its itself just may might more
    most must neither nor not now off once one only other our ours out over own same shall she should since some such than that the their theirs
    them then there therefore these they this those though through thus too two under until upon use used uses using very via was were what when
    where whether which while who whom whose why will with within without would you your yours
    """.split()  # noqa: SIM905 (122 quoted words are harder to read)
)


def tokenize(text: str) -> list[str]:
    """Words of `text` in order: lower case, three letters or more, no words of grammar.

    >>> tokenize("The FFT of x[0] is computed with 2 FFTs.")
    ['fft', 'computed', 'ffts']
    """
    return [word for word in WORD.findall(text.lower()) if word not in STOP_WORDS]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Corpus:
    """Documents as bags of words, in the layout of a sparse matrix by rows.

    Document i holds the words ``ids[indptr[i]:indptr[i + 1]]``, each once, with their ``counts``.
    What scikit-learn's CountVectorizer gives fits as it is: ``Corpus(X.indptr, X.indices, X.data,
    vectorizer.get_feature_names_out())``.

    Parameters
    ----------
    indptr : array, shape (documents + 1,), int64
        Where each document begins.
    ids : array, shape (entries,), int32
        Numbers of words, in [0, words).
    counts : array, shape (entries,), float64
        How often each occurs; above zero.
    vocabulary : tuple of str
        The words; its length is the number of words.

    Raises
    ------
    ArgumentError
        The arrays do not belong together.

    Examples
    --------
    >>> corpus = Corpus.from_texts(["red apple", "green apple", "red rose"], minimum_documents=1, maximum_share=0.99)
    >>> corpus
    Corpus(3 documents, 4 words, 6 tokens)
    """

    indptr: np.ndarray
    ids: np.ndarray
    counts: np.ndarray
    vocabulary: tuple[str, ...]

    def __post_init__(self) -> None:
        indptr, ids = np.asarray(self.indptr, np.int64), np.asarray(self.ids, np.int32)
        counts, vocabulary = np.asarray(self.counts, np.float64), tuple(self.vocabulary)
        if indptr.ndim != 1 or len(indptr) < 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any():
            raise ArgumentError(
                "indptr must be a vector that begins with 0 and does not fall: where "
                "each document begins"
            )
        if ids.shape != (indptr[-1],) or counts.shape != ids.shape:
            raise ArgumentError(
                f"ids and counts must have indptr[-1] = {indptr[-1]} entries, got "
                f"shapes {ids.shape} and {counts.shape}"
            )
        if ids.size and (ids.min() < 0 or ids.max() >= len(vocabulary)):
            raise ArgumentError(
                f"ids must be in [0, {len(vocabulary)}), the vocabulary's length; got "
                f"{ids.min()} to {ids.max()}"
            )
        if not (np.isfinite(counts).all() and (counts > 0).all()):
            raise ArgumentError(
                "counts must be above zero and finite: leave out words that do not occur"
            )
        owners = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        if len(np.unique(owners * max(1, len(vocabulary)) + ids)) != len(ids):
            raise ArgumentError("a document names a word twice: add up the counts of equal words")
        for name, value in (("indptr", indptr), ("ids", ids), ("counts", counts)):
            value = value.view()
            value.flags.writeable = False
            object.__setattr__(self, name, value)
        object.__setattr__(self, "vocabulary", vocabulary)

    def __repr__(self) -> str:
        return f"Corpus({len(self)} documents, {self.words} words, {self.tokens} tokens)"

    def __reduce__(self) -> tuple[object, ...]:
        # Through the constructor: a worker process gets read-only arrays too, for which the same
        # compiled code is good.
        return type(self), (self.indptr, self.ids, self.counts, self.vocabulary)

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.indptr) - 1

    @property
    def words(self) -> int:
        """The number of words known."""
        return len(self.vocabulary)

    @property
    def tokens(self) -> int:
        """The number of words in all documents, repetitions counted."""
        return int(self.counts.sum())

    def document(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, counts) of document i."""
        part = slice(self.indptr[i], self.indptr[i + 1])
        return self.ids[part], self.counts[part]

    def select(self, rows: Sequence[int] | np.ndarray) -> Corpus:
        """The documents `rows`, in that order, over the same vocabulary."""
        rows = np.asarray(rows, np.int64)
        lengths = np.diff(self.indptr)[rows]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        entries = np.repeat(self.indptr[rows] - indptr[:-1], lengths) + np.arange(indptr[-1])
        return Corpus(indptr, self.ids[entries], self.counts[entries], self.vocabulary)

    def matrix(self) -> np.ndarray:
        """Counts as a dense (documents, words) array, float64: for small corpora and other
        libraries.
        """
        dense = np.zeros((len(self), self.words))
        np.add.at(
            dense, (np.repeat(np.arange(len(self)), np.diff(self.indptr)), self.ids), self.counts
        )
        return dense

    def split(self, held_out: int, rng: int | np.random.Generator = 0) -> tuple[Corpus, Corpus]:
        """(training, held-out) documents: `held_out` of them drawn by `rng`, both in their old
        order.

        Raises
        ------
        ArgumentError
            If nothing would be left to train on.
        """
        held_out = integer("held_out", held_out, low=1)
        if held_out >= len(self):
            raise ArgumentError(
                f"held_out must leave documents to train on: expected less than "
                f"{len(self)}, got {held_out}"
            )
        out = np.zeros(len(self), bool)
        out[np.random.default_rng(rng).choice(len(self), held_out, replace=False)] = True
        return self.select(np.flatnonzero(~out)), self.select(np.flatnonzero(out))

    def halves(self, rng: int | np.random.Generator = 0) -> tuple[Corpus, Corpus]:
        """Each document in two: every token goes to the first or the second with even odds.

        Documents of which either half would be empty are left out of both. Counts must be whole
        numbers.
        """
        whole = self.counts.astype(np.int64)
        if (whole != self.counts).any():
            raise ArgumentError("halves needs whole counts: tokens are dealt out one by one")
        first = np.random.default_rng(rng).binomial(whole, 0.5).astype(np.float64)
        owners, rest = np.repeat(np.arange(len(self)), np.diff(self.indptr)), self.counts - first
        used = [np.bincount(owners, part, len(self)) > 0 for part in (first, rest)]
        rows = np.flatnonzero(used[0] & used[1])
        return self._with(first).select(rows), self._with(rest).select(rows)

    def _with(self, counts: np.ndarray) -> Corpus:
        """Other counts, entries of zero left out."""
        kept = counts > 0
        indptr = np.concatenate([[0], np.cumsum(kept)])[self.indptr]
        return Corpus(indptr, self.ids[kept], counts[kept], self.vocabulary)

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        *,
        minimum_documents: int = 10,
        maximum_share: float = 0.25,
        minimum_tokens: int = 1,
    ) -> Corpus:
        """Tokenise `texts`, keep the words that are neither rare nor everywhere, and count them.

        Parameters
        ----------
        texts : iterable of str
            One document each.
        minimum_documents : int, default 10
            A word must occur in so many documents.
        maximum_share : float, default 0.25
            And in no more than this share of them.
        minimum_tokens : int, default 1
            Shorter documents, counted after that, are left out.

        Returns
        -------
        Corpus
            Its vocabulary in alphabetical order, so that equal texts give equal arrays.

        Raises
        ------
        ArgumentError
            If no word is left.
        ArgumentTypeError
            If `texts` is one string.
        """
        if isinstance(texts, str):
            raise ArgumentTypeError(
                f"texts must be several strings, one for each document, got one: "
                f"{short_repr(texts, 40)}"
            )
        minimum_documents = integer("minimum_documents", minimum_documents, low=1)
        maximum_share = unit_interval("maximum_share", maximum_share)
        bags = [Counter(tokenize(text)) for text in texts]
        spread = Counter(word for bag in bags for word in bag)
        vocabulary = tuple(
            sorted(
                w for w, n in spread.items() if minimum_documents <= n <= maximum_share * len(bags)
            )
        )
        if not vocabulary:
            raise ArgumentError(
                f"no word of these {len(bags)} documents occurs in at least "
                f"{minimum_documents} and in at most {maximum_share:.0%} of them; "
                "lower minimum_documents or raise maximum_share"
            )
        number = {word: i for i, word in enumerate(vocabulary)}
        indptr, ids, counts = [0], [], []
        for bag in bags:
            known = sorted((number[word], n) for word, n in bag.items() if word in number)
            if sum(n for _, n in known) < max(1, minimum_tokens):
                continue
            ids += [i for i, _ in known]
            counts += [float(n) for _, n in known]
            indptr.append(len(ids))
        return cls(np.array(indptr), np.array(ids, np.int32), np.array(counts), vocabulary)
