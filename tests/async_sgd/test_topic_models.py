"""Topic models: the corpus, the E-step in two forms, the affine burst, the scores, and topics that
are known.
"""

from __future__ import annotations

import importlib.util
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import psi

from optex_core.async_sgd import Master, replay
from optex_core.async_sgd.models import e_step as plain
from optex_core.async_sgd.models.corpus import Corpus, tokenize
from optex_core.async_sgd.models.docstrings import docstring_corpus, docstrings, versions
from optex_core.async_sgd.models.lda import (
    LDA,
    Batches,
    natural_target,
    perplexity,
    select_e_step,
    topic_distributions,
    topic_words,
    unigram_perplexity,
)
from optex_core.async_sgd.models.seeding import clustered_start
from optex_core.async_sgd.models.synthetic import match_topics, synthetic_corpus
from optex_core.async_sgd.models.topic_model import VariationalBurst, find_topics
from optex_core.async_sgd.records import BurstContext, Push
from optex_core.errors import ArgumentError, ArgumentTypeError

TEXTS = [
    "The red apple is red.",
    "A green apple!",
    "red rose; green rose, x1 = 2",
    "fft of the signal",
]


@pytest.fixture(scope="module")
def small() -> tuple[Corpus, np.ndarray]:
    return synthetic_corpus(300, words=120, topics=4, rng=1)


@pytest.fixture(scope="module")
def quick() -> LDA:
    return LDA(topics=4, batch=16, tau0=8.0)


class TestCorpus:
    def test_words(self) -> None:
        assert tokenize("Compute the FFT's x_1 of NaN-valued arrays") == [
            "compute",
            "fft",
            "nan",
            "valued",
            "arrays",
        ]

    def test_counts_by_hand(self) -> None:
        corpus = Corpus.from_texts(TEXTS, minimum_documents=1, maximum_share=0.99)
        assert corpus.vocabulary == ("apple", "fft", "green", "red", "rose", "signal")
        assert corpus.matrix().tolist() == [
            [1, 0, 0, 2, 0, 0],
            [1, 0, 1, 0, 0, 0],
            [0, 0, 1, 1, 2, 0],
            [0, 1, 0, 0, 0, 1],
        ]
        assert (len(corpus), corpus.words, corpus.tokens) == (4, 6, 11)

    def test_rare_and_common_words_go(self) -> None:
        corpus = Corpus.from_texts(TEXTS, minimum_documents=2, maximum_share=0.5)
        assert corpus.vocabulary == ("apple", "green", "red")
        assert len(corpus) == 3  # the document about signals has no word left

    def test_select_and_document(self, small: tuple[Corpus, np.ndarray]) -> None:
        corpus = small[0]
        rows = [7, 0, 7, 299]
        np.testing.assert_array_equal(corpus.select(rows).matrix(), corpus.matrix()[rows])
        assert len(corpus.select([])) == 0

    def test_split_is_a_partition(self, small: tuple[Corpus, np.ndarray]) -> None:
        corpus = small[0]
        train, held = corpus.split(40, rng=3)
        assert (len(train), len(held)) == (260, 40)
        np.testing.assert_array_equal(
            train.matrix().sum(0) + held.matrix().sum(0), corpus.matrix().sum(0)
        )
        np.testing.assert_array_equal(corpus.split(40, rng=3)[1].ids, held.ids)

    def test_halves_add_up(self, small: tuple[Corpus, np.ndarray]) -> None:
        corpus = small[0].select(np.arange(50))
        first, second = corpus.halves(rng=5)
        assert len(first) == len(second) == 50
        np.testing.assert_array_equal(first.matrix() + second.matrix(), corpus.matrix())
        # about 5,000 tokens, each dealt with even odds
        assert 0.45 < first.tokens / corpus.tokens < 0.55

    def test_it_is_read_only_also_in_a_worker(self, small: tuple[Corpus, np.ndarray]) -> None:
        for corpus in (small[0], pickle.loads(pickle.dumps(small[0]))):
            with pytest.raises(ValueError, match="read-only"):
                corpus.counts[0] = 9.0
            np.testing.assert_array_equal(corpus.ids, small[0].ids)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (([1, 2], [0], [1.0], "a"), "indptr must be a vector that begins with 0"),
            (([0, 2, 1], [0], [1.0], "a"), "indptr must be"),
            (([0, 2], [0], [1.0], "a"), r"must have indptr\[-1\] = 2 entries"),
            (([0, 1], [1], [1.0], "a"), r"ids must be in \[0, 1\)"),
            (([0, 1], [0], [0.0], "a"), "counts must be above zero"),
            (([0, 1], [0], [math.nan], "a"), "counts must be above zero"),
            (([0, 2], [0, 0], [1.0, 1.0], "a"), "names a word twice"),
        ],
    )
    def test_bad_arrays(self, arguments: Any, message: str) -> None:
        with pytest.raises(ArgumentError, match=message):
            Corpus(*arguments)

    def test_bad_texts(self) -> None:
        with pytest.raises(ArgumentTypeError, match="one for each document, got one"):
            Corpus.from_texts("a single text")
        with pytest.raises(
            ArgumentError,
            match=r"no word of these 4 documents occurs in at least 10 and in at most 25%",
        ):
            Corpus.from_texts(TEXTS)
        with pytest.raises(
            ArgumentError,
            match="held_out must leave documents to train on: expected less than 4, got 4",
        ):
            Corpus.from_texts(TEXTS, minimum_documents=1, maximum_share=0.99).split(4)
        with pytest.raises(ArgumentError, match="needs whole counts"):
            Corpus([0, 1], [0], [0.5], ("a",)).halves()


class TestDocstrings:
    def test_what_is_installed(self) -> None:
        # loky is small: the whole of NumPy and SciPy takes seconds, and is read in the slow tests.
        texts = docstrings(["loky"])
        assert len(texts) == len(set(texts)) > 10
        assert all(len(text) >= 300 for text in texts)
        assert docstrings(["loky"]) == texts
        assert set(versions(["numpy"])) == {"numpy"}

    @pytest.mark.slow
    def test_numpy_and_scipy(self) -> None:
        corpus = docstring_corpus()
        assert 2_500 < len(corpus) < 5_000
        assert 200_000 < corpus.tokens < 800_000
        assert {"eigenvalues", "sparse", "polynomial", "fft"} <= set(corpus.vocabulary)

    @pytest.mark.parametrize("name", ["no_such_library", "numpy.linalg", "math"])
    def test_bad_library(self, name: str) -> None:
        with pytest.raises(ArgumentError, match=f"library '{name}' is not an installed package"):
            docstring_corpus([name])


class TestEStep:
    def test_digamma(self) -> None:
        from optex_core.async_sgd.models.e_step_numba import digamma

        x = np.concatenate([np.logspace(-3, 6, 500), [0.005, 1.0, 5.999, 6.0, 6.001]])
        # psi crosses zero near 1.46, so the error is measured against the larger of psi and 1.
        error = np.abs([digamma(v) for v in x] - psi(x)) / np.maximum(1.0, np.abs(psi(x)))
        assert error.max() < 5e-13

    @pytest.mark.parametrize("alpha", [0.005, 0.1, 2.0])
    def test_compiled_is_the_reference(
        self, small: tuple[Corpus, np.ndarray], alpha: float
    ) -> None:
        corpus, rows = small[0], np.array([5, 0, 17, 5, 299])
        topics = np.random.default_rng(0).gamma(0.3, 1.0, (corpus.words, 4)) + 0.005
        compiled = select_e_step(True)
        for tolerance, sweeps in ((0.0, 1), (0.0, 12), (1e-3, 100)):
            expected = plain.e_step(corpus, rows, topics, alpha, tolerance, sweeps)
            found = compiled(corpus, rows, topics, alpha, tolerance, sweeps)
            for one, other in zip(found, expected, strict=True):
                # Sums in another order, through up to 100 sweeps of a contraction.
                np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)

    def test_tokens_are_shared_out(self, small: tuple[Corpus, np.ndarray]) -> None:
        corpus, rows = small[0], np.arange(20)
        topics = np.random.default_rng(0).gamma(1.0, 1.0, (corpus.words, 4)) + 0.1
        gamma, statistics = select_e_step()(corpus, rows, topics, 0.3, 1e-8, 1000)
        part = corpus.select(rows)
        # Each token belongs to the topics to one: sums over topics are the counts of words, and
        # gamma - alpha the tokens of a document.
        np.testing.assert_allclose(statistics.sum(1), part.matrix().sum(0), rtol=1e-12)
        np.testing.assert_allclose((gamma - 0.3).sum(1), part.matrix().sum(1), rtol=1e-12)

    def test_read_only_topics(self, small: tuple[Corpus, np.ndarray]) -> None:
        topics = np.ones((small[0].words, 4))
        topics.flags.writeable = False
        gamma, _ = select_e_step(True)(small[0], np.array([0]), topics, 0.1, 1e-3, 10)
        assert gamma.shape == (1, 4)

    def test_no_documents(self, small: tuple[Corpus, np.ndarray]) -> None:
        for compiled in (True, False):
            gamma, statistics = select_e_step(compiled)(
                small[0], np.zeros(0, np.int64), np.ones((small[0].words, 4)), 0.1, 1e-3, 10
            )
            assert gamma.shape == (0, 4)
            assert not statistics.any()


class TestBatches:
    def test_every_pass_has_every_document_once(self) -> None:
        batches = Batches(100, 16, seed=3)
        rows = np.concatenate([batches[j] for j in range(25)])  # four passes
        for p in range(4):
            assert sorted(rows[100 * p : 100 * (p + 1)]) == list(range(100))
        assert rows[:100].tolist() != rows[100:200].tolist()
        np.testing.assert_array_equal(batches[7], Batches(100, 16, seed=3)[7])

    def test_larger_than_the_corpus(self) -> None:
        rows = np.concatenate([Batches(10, 25)[j] for j in range(2)])
        assert np.bincount(rows).tolist() == [5] * 10


def context(number: int) -> BurstContext:
    return BurstContext(number, 0, 1, number)


class TestBurst:
    def test_one_worker_with_one_step_is_the_serial_algorithm(
        self, small: tuple[Corpus, np.ndarray], quick: LDA
    ) -> None:
        corpus, e_step = small[0], select_e_step()
        v = quick.start(corpus.words, 4).reshape(corpus.words, 4)
        batches = Batches(len(corpus), 16, seed=4)
        for t in range(30):
            rho = (quick.tau0 + t + 1) ** -quick.kappa
            _, statistics = e_step(
                corpus, batches[t], v.copy(), quick.alpha, quick.tolerance, quick.sweeps
            )
            v = (1 - rho) * v + rho * (quick.eta + len(corpus) / 16 * statistics)
        found = find_topics(
            corpus, quick, steps=30, parallelism=1, inner_steps=1, start="noise", rng=4
        )
        np.testing.assert_array_equal(found.x, v.ravel())
        assert found.report.max_delay == 0
        assert found.report.deterministic

    def test_a_burst_composes_its_steps(self, small: tuple[Corpus, np.ndarray], quick: LDA) -> None:
        corpus = small[0]
        burst = VariationalBurst(corpus, quick, inner_steps=5, seed=2)
        v = quick.start(corpus.words)
        push = burst(v, 0, 0, context(3))
        u = v.reshape(corpus.words, 4).copy()
        for t in range(15, 20):
            u = (1 - quick.rate(t)) * u + quick.rate(t) * natural_target(
                quick, corpus, burst.batches[t], u, select_e_step()
            )
        # Composed and stepwise differ by rounding.
        np.testing.assert_allclose(push.a * v + push.b, u.ravel(), rtol=1e-12)
        assert push.a == pytest.approx(
            math.prod(1 - quick.rate(t) for t in range(15, 20)), rel=1e-14
        )
        assert push.b.min() > 0
        assert push.gradients == 5
        assert push.report == {"documents": 80.0}

    def test_two_cores_take_the_same_steps(
        self, small: tuple[Corpus, np.ndarray], quick: LDA
    ) -> None:
        corpus = small[0]
        burst = VariationalBurst(corpus, quick, inner_steps=8, cores=2, seed=2)
        v = clustered_start(quick, corpus, 2)
        for number in range(20):
            push = burst(v, number, 0, context(number))
            # The product over the same steps in any order.
            assert push.a == pytest.approx(
                math.prod(1 - quick.rate(t) for t in range(8 * number, 8 * number + 8)), rel=1e-12
            )
            v = push.a * v + push.b
            assert v.min() > 0
        serial = find_topics(corpus, quick, steps=160, parallelism=1, inner_steps=1, rng=2)
        assert (
            match_topics(topic_distributions(quick, v, corpus.words), serial.distributions).mean
            < 0.2
        )

    def test_affine_maps_stay_positive_however_late(
        self, small: tuple[Corpus, np.ndarray], quick: LDA
    ) -> None:
        # All pushes start from version 0: the worst delay there is. The difference in their place
        # is what they would do to the sign.
        corpus = small[0]
        burst = VariationalBurst(corpus, quick, inner_steps=10, seed=0)
        v0 = quick.start(corpus.words)
        v, w = v0.copy(), v0.copy()
        for number in range(6):
            push = burst(v0, 0, 0, context(number))
            v, w = push.a * v + push.b, w + (push.a * v0 + push.b - v0)
        assert v.min() > 0
        assert w.min() < 0

    def test_it_survives_pickling(self, small: tuple[Corpus, np.ndarray], quick: LDA) -> None:
        burst = VariationalBurst(small[0], quick, seed=2)
        v = quick.start(small[0].words)
        np.testing.assert_array_equal(
            pickle.loads(pickle.dumps(burst))(v, 0, 0, context(1)).b, burst(v, 0, 0, context(1)).b
        )


class TestFindTopics:
    def test_synchronous_applies_all_maps_of_one_version(
        self, small: tuple[Corpus, np.ndarray], quick: LDA
    ) -> None:
        corpus = small[0]
        burst = VariationalBurst(corpus, quick, inner_steps=2, seed=0)
        v = quick.start(corpus.words, 0)
        for update in range(3):
            maps = [burst(v, update, 0, context(4 * update + i)) for i in range(4)]
            for push in maps:
                v = push.a * v + push.b
        found = find_topics(
            corpus, quick, steps=24, inner_steps=2, mode="synchronous", start="noise"
        )
        np.testing.assert_array_equal(found.x, v)
        assert (found.master.version, found.report.max_delay) == (3, 0)

    @pytest.mark.parametrize(
        "options",
        [
            {"parallelism": 1},
            {"parallelism": 8},
            {"parallelism": 4, "mode": "synchronous"},
            {"cores": 2},
        ],
    )
    @pytest.mark.parametrize("workers", [None, "threads"])
    def test_known_topics_are_found(self, options: dict[str, Any], workers: Any) -> None:
        corpus, truth = synthetic_corpus(600, words=200, topics=5, rng=0)
        train, held = corpus.split(60)
        observed, scored = held.halves()
        settings = LDA(topics=5, batch=16, tau0=16.0)
        found = find_topics(
            train, settings, steps=160, inner_steps=4, workers=workers, rng=1, **options
        )
        match = match_topics(found.distributions, truth)
        assert match.recovered() == 5
        assert sorted(match.assignment) == list(range(5))
        assert found.x.min() > 0
        before = perplexity(settings, settings.start(train.words, 1), observed, scored)
        after = perplexity(settings, found.x, observed, scored)
        perfect = perplexity(settings, 1e4 * truth.T.ravel() + settings.eta, observed, scored)
        assert after < 0.6 * before
        assert after < 0.7 * unigram_perplexity(train, scored)
        assert after < 1.1 * perfect

    def test_perplexity_falls(self, small: tuple[Corpus, np.ndarray], quick: LDA) -> None:
        train, held = small[0].split(50)
        halves = held.halves()
        values = [
            perplexity(quick, find_topics(train, quick, steps=steps, rng=0).x, *halves)
            for steps in (1, 16, 80)
        ]
        assert values[0] > values[1] > values[2]

    def test_shares_of_documents(self) -> None:
        corpus, truth = synthetic_corpus(400, words=100, topics=3, alpha=0.05, rng=5)
        found = find_topics(corpus, LDA(topics=3, batch=16, tau0=8.0), steps=80)
        assert found.shares().shape == (400, 3)
        match = match_topics(found.distributions, truth)
        # A document of one word that only one topic has belongs to that topic.
        for k in range(3):
            word = int(np.argmax(truth[k] - np.delete(truth, k, axis=0).max(axis=0)))
            shares = found.shares(Corpus([0, 1], [word], [20.0], corpus.vocabulary))
            assert shares.sum() == pytest.approx(1.0, rel=1e-12)
            assert shares[0, match.assignment[k]] > 0.9
        with pytest.raises(
            ArgumentError,
            match="corpus must be a Corpus over the 100 words that the topics know, got Corpus",
        ):
            found.shares(Corpus([0, 1], [0], [1.0], ("a",)))

    def test_what_scikit_learn_counts_is_a_corpus(self) -> None:
        if importlib.util.find_spec("sklearn") is None:
            pytest.skip("scikit-learn is not installed")
        from sklearn.feature_extraction.text import CountVectorizer

        vectorizer = CountVectorizer()
        X = vectorizer.fit_transform(TEXTS)
        corpus = Corpus(X.indptr, X.indices, X.data, vectorizer.get_feature_names_out())
        np.testing.assert_array_equal(corpus.matrix(), X.toarray())
        assert repr(corpus) == f"Corpus(4 documents, {corpus.words} words, {corpus.tokens} tokens)"

    def test_steps_come_in_whole_bursts(self, small: tuple[Corpus, np.ndarray], quick: LDA) -> None:
        assert find_topics(small[0], quick, steps=10).master.counts["gradients"] == 12

    def test_bad_input(self, small: tuple[Corpus, np.ndarray]) -> None:
        corpus = small[0]
        with pytest.raises(ArgumentTypeError, match="corpus must be a Corpus"):
            find_topics([["a", "b"]])  # type: ignore[arg-type]
        with pytest.raises(ArgumentTypeError, match="settings must be an LDA"):
            find_topics(corpus, {"topics": 3})  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="each of them words"):
            find_topics(Corpus([0, 0, 1], [0], [1.0], ("a",)))
        with pytest.raises(ArgumentError, match="cores must be at most inner_steps, got 3 and 2"):
            find_topics(corpus, cores=3, inner_steps=2)
        with pytest.raises(
            ArgumentError, match="mode must be one of 'asynchronous', 'synchronous', got 'async'"
        ):
            find_topics(corpus, mode="async")
        with pytest.raises(ArgumentError, match="max_delay belongs to the asynchronous mode"):
            find_topics(corpus, mode="synchronous", max_delay=3)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"topics": 0}, "topics must be an integer >= 1"),
            ({"alpha": 0.001}, "alpha must be at least 0.005, below which exp"),
            ({"eta": -1}, "eta must be a number > 0"),
            ({"kappa": 0.5}, "kappa must be a number > 0.5 and <= 1"),
            ({"tau0": -1.0}, "tau0 must be a number >= 0"),
            ({"topic": 3}, "unknown option 'topic'; did you mean 'topics'"),
        ],
    )
    def test_bad_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
            LDA(**settings)


class TestGoingOn:
    def test_a_stopped_run_goes_on_with_the_same_bits(
        self, small: tuple[Corpus, np.ndarray], quick: LDA, tmp_path: Path
    ) -> None:
        corpus, path = small[0], tmp_path / "run.log"
        whole = find_topics(corpus, quick, steps=40, parallelism=1, rng=3)
        part = find_topics(
            corpus,
            quick,
            steps=40,
            parallelism=1,
            rng=3,
            log=path,
            callback=lambda master, *_: master.version == 4,
        )
        assert part.report.pushes == 4
        part.master.close()
        rest = find_topics(
            corpus, quick, steps=40, parallelism=1, rng=3, master=Master.resume(path)
        )
        assert rest.report.pushes == 6
        rest.master.close()
        np.testing.assert_array_equal(rest.x, whole.x)

    def test_a_log_replays_every_burst(
        self, small: tuple[Corpus, np.ndarray], quick: LDA, tmp_path: Path
    ) -> None:
        corpus, path = small[0], tmp_path / "run.log"
        found = find_topics(corpus, quick, steps=40, workers="threads", log=path)
        found.master.close()
        # Bursts are computed again from their logged versions and seeds, and compared with what was
        # pushed.
        np.testing.assert_array_equal(
            replay(path, VariationalBurst(corpus, quick, seed=0)).x, found.x
        )

    def test_bad_master(self, small: tuple[Corpus, np.ndarray], quick: LDA) -> None:
        corpus = small[0]
        master = find_topics(corpus, quick, steps=4, rng=3).master
        with pytest.raises(ArgumentTypeError, match="master must be a Master"):
            find_topics(corpus, quick, master=3)  # type: ignore[arg-type]
        with pytest.raises(
            ArgumentError,
            match=r"master is of tag 'lda' with 480 parameters, this run of tag 'lda' with "
            r"600; give the corpus",
        ):
            find_topics(corpus, LDA(topics=5), rng=3, master=master)
        with pytest.raises(ArgumentError, match="master was made with rng=3, got rng=0"):
            find_topics(corpus, quick, master=master)
        with pytest.raises(ArgumentError, match="max_delay belongs to the master"):
            find_topics(corpus, quick, rng=3, master=master, max_delay=3)


class TestStart:
    def test_clusters_are_topics_already(self) -> None:
        corpus, truth = synthetic_corpus(500, words=200, topics=5, rng=3)
        settings = LDA(topics=5)
        v = clustered_start(settings, corpus, 1)
        assert v.shape == (1000,)
        assert v.min() > 0
        np.testing.assert_array_equal(clustered_start(settings, corpus, 1), v)
        near = match_topics(topic_distributions(settings, v, 200), truth).mean
        far = match_topics(topic_distributions(settings, settings.start(200, 1), 200), truth).mean
        # Half of lambda is noise, and so are half of the words' probabilities.
        assert near < 0.65 * far

    @pytest.mark.parametrize("rows", [[0], [0, 0, 0], [0, 1, 0]])
    def test_more_topics_than_documents(
        self, small: tuple[Corpus, np.ndarray], rows: list[int]
    ) -> None:
        found = find_topics(small[0].select(rows), LDA(topics=6, batch=2), steps=4)
        assert found.x.min() > 0
        assert len(found.words()) == 6


class TestScores:
    def test_perplexity_by_hand(self) -> None:
        # Two words, two topics that are certain of one word each; a document that was seen to hold
        # the first word.
        settings = LDA(topics=2, alpha=0.5)
        v = np.array([[1e6, 0.01], [0.01, 1e6]]).ravel()
        observed, scored = (
            Corpus([0, 1], [0], [3.0], ("a", "b")),
            Corpus([0, 2], [0, 1], [1.0, 1.0], ("a", "b")),
        )
        theta = np.array([3.5, 0.5]) / 4
        assert perplexity(settings, v, observed, scored) == pytest.approx(
            math.exp(-np.log(theta).sum() / 2), rel=1e-6
        )
        assert perplexity(settings, np.ones(4), observed, scored) == pytest.approx(2.0, rel=1e-12)

    def test_unigram(self) -> None:
        corpus = Corpus([0, 2], [0, 1], [3.0, 1.0], ("a", "b", "c"))
        assert unigram_perplexity(
            corpus, Corpus([0, 1], [2], [2.0], ("a", "b", "c"))
        ) == pytest.approx(7.0, rel=1e-12)

    def test_words_of_topics(self) -> None:
        corpus = Corpus([0, 1], [0], [1.0], ("a", "b", "c"))
        v = np.array([[1.0, 9.0], [2.0, 5.0], [3.0, 1.0]]).ravel()
        assert topic_words(LDA(topics=2), v, corpus, 2) == [["a", "b"], ["c", "b"]]
        np.testing.assert_allclose(
            topic_distributions(LDA(topics=2), v, 3)[1], [9 / 15, 5 / 15, 1 / 15]
        )

    def test_matching(self) -> None:
        truth = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
        found = np.array([[0.0, 0.1, 0.9], [0.4, 0.6, 0.0], [1.0, 0.0, 0.0]])
        match = match_topics(found, truth)
        assert match.assignment.tolist() == [1, 0]
        np.testing.assert_allclose(match.distances, 0.1)
        assert match.recovered(0.11) == 2
        with pytest.raises(ArgumentError, match="at least as many topics"):
            match_topics(found[:1], truth)

    def test_bad_input(self, small: tuple[Corpus, np.ndarray]) -> None:
        with pytest.raises(ArgumentError, match="two halves of the same documents"):
            perplexity(LDA(), np.ones(1), small[0], small[0].select([0]))
        with pytest.raises(
            ArgumentError, match="lambda must have words x topics = 120 x 20 = 2400 entries"
        ):
            topic_distributions(LDA(), np.ones(3), 120)
        with pytest.raises(ArgumentTypeError, match="corpus must be the Corpus"):
            topic_words(LDA(), np.ones(3), "corpus")  # type: ignore[arg-type]


def test_threads_may_compile_at_once(small: tuple[Corpus, np.ndarray], quick: LDA) -> None:
    burst = VariationalBurst(small[0], quick, seed=2)
    v = quick.start(small[0].words)
    with ThreadPoolExecutor(4) as pool:
        pushes: list[Push] = list(pool.map(lambda i: burst(v, 0, 0, context(i % 2)), range(8)))
    for i in range(8):
        np.testing.assert_array_equal(pushes[i].b, pushes[i % 2].b)
