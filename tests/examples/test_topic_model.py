"""Topic models, an application of `async_sgd`: corpus, E-step, affine burst, known topics."""

from __future__ import annotations

import math
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fresh_python import run_python
from scipy import sparse
from scipy.special import psi

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn.utils.estimator_checks import check_estimator
from topic_model import (
    LDA,
    AsyncLDA,
    Corpus,
    TopicModel,
    VariationalBurst,
    docstring_corpus,
    find_topics,
    match_topics,
    perplexity,
    synthetic_corpus,
    unigram_perplexity,
)
from topic_model.__main__ import main
from topic_model.corpus import docstrings
from topic_model.e_step import digamma, e_step
from topic_model.lda import BatchSchedule, cluster_start, noise_start

from optex_core.async_sgd import BurstContext, LoopReport, Master, replay

TEXTS = ["The red apple is red.", "A green apple!", "red rose; green rose, x1 = 2", "fft signal"]


@pytest.fixture(scope="module")
def small() -> tuple[Corpus, np.ndarray]:
    return synthetic_corpus(300, words=120, topics=4, rng=1)


@pytest.fixture(scope="module")
def quick() -> LDA:
    return LDA(topics=4, batch=16, tau0=8.0)


def corpus_of(*documents: dict[int, float], words: int = 2) -> Corpus:
    counts = np.zeros((len(documents), words))
    for row, document in zip(counts, documents, strict=True):
        row[list(document)] = list(document.values())
    return Corpus(counts, tuple("abcdef"[:words]))  # type: ignore[arg-type]


class TestCorpus:
    def test_counts_by_hand(self) -> None:
        corpus = Corpus.from_texts(TEXTS, minimum_documents=1, maximum_share=0.99)
        assert corpus.vocabulary == ("apple", "fft", "green", "red", "rose", "signal")
        assert corpus.counts.toarray().tolist() == [
            [1, 0, 0, 2, 0, 0], [1, 0, 1, 0, 0, 0], [0, 0, 1, 1, 2, 0], [0, 1, 0, 0, 0, 1],
        ]  # fmt: skip
        assert repr(corpus) == "Corpus(4 documents, 6 words, 11 tokens)"

    def test_rare_and_common_words_go(self) -> None:
        corpus = Corpus.from_texts(TEXTS, minimum_documents=2, maximum_share=0.5)
        assert corpus.vocabulary == ("apple", "green", "red")
        assert len(corpus) == 3  # the document about signals has no word left

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("große Äpfel", ["große", "äpfel"]),
            ("naïve re\u0301sume\u0301", ["naïve", "résumé"]),  # typed in two ways
            ("красные яблоки", ["красные", "яблоки"]),
            ("東京 大学 猫", ["東京", "大学", "猫"]),
            ("हिन्दी भाषा", ["भाषा", "हिन्दी"]),
            ("ภาษาไทย ครับ", ["ครับ", "ภาษาไทย"]),
            ("العَرَبِيَّة لغة", ["العَرَبِيَّة", "لغة"]),
            ("Gauß's x_1 of 2 NaN-valued", ["gauß", "nan", "valued"]),
        ],
    )
    def test_words_of_any_script(self, text: str, words: list[str]) -> None:
        corpus = Corpus.from_texts([text, "zzz"], minimum_documents=1, maximum_share=0.5)
        assert sorted(corpus.vocabulary) == sorted([*words, "zzz"])

    @pytest.mark.parametrize("odd", [None, math.nan, b"red apples", ["red", "apples"], 3])
    def test_what_is_no_text_is_named(self, odd: Any) -> None:
        with pytest.raises(TypeError, match=r"texts\[4\] must be a string, got"):
            Corpus.from_texts([*TEXTS, odd])

    def test_bad_texts(self) -> None:
        with pytest.raises(TypeError, match="one per document, got 'a single text'"):
            Corpus.from_texts("a single text")
        for texts in (TEXTS, [], ["the", "a"]):
            with pytest.raises(ValueError, match=r"no word of these \d documents occurs in at"):
                Corpus.from_texts(texts)
        with pytest.raises(ValueError, match="no document has 9 tokens"):
            Corpus.from_texts(TEXTS, minimum_documents=1, maximum_share=0.9, minimum_tokens=9)

    def test_split_is_a_partition(self, small: tuple[Corpus, np.ndarray]) -> None:
        corpus = small[0]
        train, held = corpus.split(40, rng=3)
        assert (len(train), len(held)) == (260, 40)
        total = train.counts.sum(axis=0) + held.counts.sum(axis=0)
        np.testing.assert_array_equal(total, corpus.counts.sum(axis=0))
        with pytest.raises(ValueError, match="held_out must be from 1 to 299, got 300"):
            corpus.split(300)

    def test_halves_add_up(self, small: tuple[Corpus, np.ndarray]) -> None:
        corpus = small[0].select(np.arange(50))
        first, second = corpus.halves(rng=5)
        assert len(first) == len(second) == 50
        total = first.counts + second.counts
        np.testing.assert_array_equal(total.toarray(), corpus.counts.toarray())
        # About 5,000 tokens, each dealt with even odds.
        assert 0.45 < first.lengths.sum() / corpus.lengths.sum() < 0.55

    def test_documents_without_halves(self) -> None:
        with pytest.raises(ValueError, match="no document has two tokens to deal out"):
            corpus_of({0: 1}, {1: 1}).halves()
        with pytest.raises(ValueError, match="needs whole counts"):
            corpus_of({0: 0.5}).halves()

    def test_bad_arrays(self) -> None:
        with pytest.raises(ValueError, match="2 words for 3 columns"):
            Corpus(np.ones((1, 3)), ("a", "b"))  # type: ignore[arg-type]
        for count in (-1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match="counts must be finite and above zero"):
                corpus_of({0: count})


class TestDocstrings:
    def test_installed_libraries(self) -> None:
        # loky is small: the whole of NumPy and SciPy takes seconds, and is read in the slow tests.
        texts = docstrings(["loky"])
        assert len(texts) == len(set(texts)) > 10
        assert all(len(text) >= 300 for text in texts)
        assert docstrings(["loky"]) == texts

    @pytest.mark.slow
    def test_numpy_and_scipy(self) -> None:
        corpus = docstring_corpus()
        assert 2_500 < len(corpus) < 5_000
        assert {"eigenvalues", "sparse", "polynomial", "fft"} <= set(corpus.vocabulary)

    @pytest.mark.parametrize("name", ["no_such_library", "numpy.linalg", "math"])
    def test_bad_library(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"library '{name}' is not an installed package"):
            docstring_corpus([name])


def plain_e_step(
    corpus: Corpus, rows: Any, topics: np.ndarray, alpha: float, tolerance: float, sweeps: int
) -> tuple[np.ndarray, np.ndarray]:
    """The E-step as it is written in the papers, one document after the other."""
    expected = np.exp(psi(topics) - psi(topics.sum(axis=0)))
    gammas, statistics = np.ones((len(rows), topics.shape[1])), np.zeros_like(topics)
    for gamma, row in zip(gammas, rows, strict=True):
        document = corpus.counts[[row]]
        ids, counts = document.indices, document.data
        part = expected[ids]
        for _ in range(sweeps):
            t = np.exp(psi(gamma))
            new = alpha + t * ((counts / (part @ t)) @ part)
            change = np.abs(new - gamma).mean()
            gamma[:] = new
            if change < tolerance:
                break
        t = np.exp(psi(gamma))
        statistics[ids] += (counts / (part @ t))[:, None] * t * part
    return gammas, statistics


class TestEStep:
    def test_digamma(self) -> None:
        x = np.concatenate([np.logspace(-3, 6, 500), [0.005, 1.0, 5.999, 6.0, 6.001]])
        # psi crosses zero near 1.46: the error is measured against the larger of psi and 1.
        error = np.abs([digamma(v) for v in x] - psi(x)) / np.maximum(1.0, np.abs(psi(x)))
        assert error.max() < 5e-13

    @pytest.mark.parametrize(
        ("alpha", "tolerance", "sweeps"), [(0.005, 0.0, 1), (0.1, 0.0, 12), (2.0, 1e-3, 100)]
    )
    def test_it_is_the_reference(
        self, small: tuple[Corpus, np.ndarray], alpha: float, tolerance: float, sweeps: int
    ) -> None:
        corpus, rows = small[0], np.array([5, 0, 17, 5, 299])
        topics = np.random.default_rng(0).gamma(0.3, 1.0, (corpus.words, 4)) + 0.005
        expected = plain_e_step(corpus, rows, topics, alpha, tolerance, sweeps)
        found = e_step(corpus, rows, topics, alpha, tolerance, sweeps)
        for one, other in zip(found, expected, strict=True):
            # Sums in another order, through up to 100 sweeps of a contraction.
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)

    def test_tokens_are_shared_out(self, small: tuple[Corpus, np.ndarray]) -> None:
        corpus, rows = small[0], np.arange(20)
        topics = np.random.default_rng(0).gamma(1.0, 1.0, (corpus.words, 4)) + 0.1
        gamma, statistics = e_step(corpus, rows, topics, 0.3, 1e-8, 1000)
        part = corpus.select(rows).counts
        # Each token belongs to the topics to one: sums over topics are the counts of words, and
        # gamma - alpha the tokens of a document.
        np.testing.assert_allclose(statistics.sum(1), part.sum(axis=0), rtol=1e-12)
        np.testing.assert_allclose((gamma - 0.3).sum(1), part.sum(axis=1), rtol=1e-12)

    def test_read_only_topics_and_no_documents(self, small: tuple[Corpus, np.ndarray]) -> None:
        topics = np.ones((small[0].words, 4))
        topics.flags.writeable = False
        gamma, statistics = e_step(small[0], np.zeros(0, int), topics, 0.1, 1e-3, 10)
        assert gamma.shape == (0, 4)
        assert not statistics.any()


def test_every_pass_has_every_document_once() -> None:
    batches = BatchSchedule(100, 16, seed=3)
    rows = np.concatenate([batches[j] for j in range(25)])  # four passes
    for p in range(4):
        assert sorted(rows[100 * p : 100 * (p + 1)]) == list(range(100))
    assert rows[:100].tolist() != rows[100:200].tolist()
    larger = np.concatenate([BatchSchedule(10, 25)[j] for j in range(2)])
    assert np.bincount(larger).tolist() == [5] * 10


def context(number: int) -> BurstContext:
    return BurstContext(number, 0, 1, number, part=number)


class TestBurst:
    def test_one_worker_with_one_step_is_the_serial_algorithm(
        self, small: tuple[Corpus, np.ndarray], quick: LDA
    ) -> None:
        corpus = small[0]
        v = noise_start(quick, corpus, 4).reshape(corpus.words, 4)
        batches = BatchSchedule(len(corpus), 16, seed=4)
        for t in range(30):
            rho = (quick.tau0 + t + 1) ** -quick.kappa
            v = (1 - rho) * v + rho * quick.target(corpus, batches[t], v.copy())
        found = find_topics(
            corpus, quick, steps=30, parallelism=1, inner_steps=1, start="noise", rng=4
        )
        np.testing.assert_array_equal(found.x, v.ravel())
        assert found.report.max_delay == 0
        assert found.report.deterministic

    def test_a_burst_composes_its_steps(self, small: tuple[Corpus, np.ndarray], quick: LDA) -> None:
        corpus = small[0]
        burst = VariationalBurst(corpus, quick, inner_steps=5, seed=2)
        v = noise_start(quick, corpus)
        push = burst(v, context(3))
        u = v.reshape(corpus.words, 4).copy()
        for t in range(15, 20):
            rho = quick.rate(t)
            u = (1 - rho) * u + rho * quick.target(corpus, burst.batches[t], u)
        # Composed and stepwise differ by rounding.
        np.testing.assert_allclose(push.a * v + push.b, u.ravel(), rtol=1e-12)
        assert push.a == pytest.approx(math.prod(1 - quick.rate(t) for t in range(15, 20)))
        assert push.b.min() > 0
        assert push.gradients == 5

    def test_two_cores_take_the_same_steps(
        self, small: tuple[Corpus, np.ndarray], quick: LDA
    ) -> None:
        corpus = small[0]
        burst = VariationalBurst(corpus, quick, inner_steps=8, cores=2, seed=2)
        v = cluster_start(quick, corpus, 2)
        for number in range(20):
            push = burst(v, context(number))
            steps = range(8 * number, 8 * number + 8)
            # The product over the same steps in any order.
            assert push.a == pytest.approx(math.prod(1 - quick.rate(t) for t in steps), rel=1e-12)
            v = push.a * v + push.b
            assert v.min() > 0
        serial = find_topics(corpus, quick, steps=160, parallelism=1, inner_steps=1, rng=2)
        distances = match_topics(quick.distributions(v, corpus.words), serial.distributions)[1]
        assert distances.mean() < 0.2

    def test_affine_maps_stay_positive_however_stale(
        self, small: tuple[Corpus, np.ndarray], quick: LDA
    ) -> None:
        # All pushes start from version 0. The difference in their place is what they would do to
        # the sign.
        corpus = small[0]
        burst = VariationalBurst(corpus, quick, inner_steps=10, seed=0)
        v0 = noise_start(quick, corpus)
        v, w = v0.copy(), v0.copy()
        for number in range(6):
            push = burst(v0, context(number))
            v, w = push.a * v + push.b, w + (push.a * v0 + push.b - v0)
        assert v.min() > 0
        assert w.min() < 0

    def test_it_survives_pickling(self, small: tuple[Corpus, np.ndarray], quick: LDA) -> None:
        burst = VariationalBurst(small[0], quick, seed=2)
        v, again = noise_start(quick, small[0]), pickle.loads(pickle.dumps(burst))
        np.testing.assert_array_equal(again(v, context(1)).b, burst(v, context(1)).b)


class TestFindTopics:
    def test_synchronous_applies_all_maps_of_one_version(
        self, small: tuple[Corpus, np.ndarray], quick: LDA
    ) -> None:
        corpus = small[0]
        burst = VariationalBurst(corpus, quick, inner_steps=2, seed=0)
        v = noise_start(quick, corpus, 0)
        for update in range(3):
            for push in [burst(v, context(4 * update + i)) for i in range(4)]:
                v = push.a * v + push.b
        found = find_topics(corpus, quick, steps=24, inner_steps=2, synchronous=True, start="noise")
        np.testing.assert_array_equal(found.x, v)
        assert (found.master.version, found.report.max_delay) == (3, 0)

    @pytest.mark.parametrize(
        "options",
        [
            {"parallelism": 1},
            {"parallelism": 8},
            {"synchronous": True, "workers": "threads"},
            {"cores": 2, "workers": "threads"},
        ],
    )
    def test_known_topics_are_found(self, options: dict[str, Any]) -> None:
        corpus, truth = synthetic_corpus(600, words=200, topics=5, rng=0)
        train, held = corpus.split(60)
        observed, scored = held.halves()
        settings = LDA(topics=5, batch=16, tau0=16.0)
        found = find_topics(train, settings, steps=160, inner_steps=4, rng=1, **options)
        assignment, distances = match_topics(found.distributions, truth)
        assert (distances < 0.2).all()
        assert sorted(assignment) == list(range(5))
        assert found.x.min() > 0
        before = perplexity(settings, noise_start(settings, train, 1), observed, scored)
        after = perplexity(settings, found.x, observed, scored)
        perfect = perplexity(settings, 1e4 * truth.T.ravel() + settings.eta, observed, scored)
        assert after < 0.6 * before
        assert after < 0.7 * unigram_perplexity(train, scored)
        assert after < 1.1 * perfect

    @pytest.mark.slow
    def test_a_dead_worker_costs_topics_nothing_but_its_steps(self) -> None:
        corpus, truth = synthetic_corpus(600, words=200, topics=5, rng=0)
        settings, processes = LDA(topics=5, batch=16, tau0=16.0), []

        class Told(VariationalBurst):
            def __call__(self, *args: Any) -> Any:
                push = super().__call__(*args)
                push.report["process"] = os.getpid()
                return push

        def kill(intermediate_result: LoopReport) -> None:
            report = intermediate_result
            processes.append(int(report.push.report["process"]))
            if report.pushes == 8:
                os.kill(processes[-1], signal.SIGKILL)

        burst = Told(corpus, settings, inner_steps=4, seed=1)
        from optex_core.async_sgd import run

        master = Master(cluster_start(settings, corpus, 1), rng=1)
        run(master, burst, parallelism=2, workers=2, maxiter=30, callback=kill)
        assert master.counts["worker"] <= 1
        assert len(set(master.push_trace.job)) == 30  # none twice
        assert master.x.min() > 0
        distances = match_topics(settings.distributions(master.x, 200), truth)[1]
        assert (distances < 0.2).all()

    def test_shares_of_documents(self) -> None:
        corpus, truth = synthetic_corpus(400, words=100, topics=3, alpha=0.05, rng=5)
        found = find_topics(corpus, LDA(topics=3, batch=16, tau0=8.0), steps=80)
        assert found.shares(corpus).shape == (400, 3)
        assignment, _ = match_topics(found.distributions, truth)
        # A document of one word that only one topic has belongs to that topic.
        for k in range(3):
            word = int(np.argmax(truth[k] - np.delete(truth, k, axis=0).max(axis=0)))
            counts = np.zeros((1, 100))
            counts[0, word] = 20.0
            shares = found.shares(Corpus(counts, corpus.vocabulary))  # type: ignore[arg-type]
            assert shares.sum() == pytest.approx(1.0, rel=1e-12)
            assert shares[0, assignment[k]] > 0.9
        with pytest.raises(ValueError, match="the vocabulary of the training documents"):
            found.shares(corpus_of({0: 1}))
        with pytest.raises(ValueError, match="100 words for 3 columns"):
            found.shares(np.ones((1, 3)))

    def test_a_stopped_run_continues_with_the_same_bits(
        self, small: tuple[Corpus, np.ndarray], quick: LDA, tmp_path: Path
    ) -> None:
        corpus, path = small[0], tmp_path / "run.log"
        options: dict[str, Any] = {"steps": 40, "parallelism": 1, "rng": 3}
        whole = find_topics(corpus, quick, **options)

        def stop(intermediate_result: LoopReport) -> bool:
            return intermediate_result.master.version == 4

        part = find_topics(corpus, quick, **options, log=path, callback=stop)
        assert part.report.pushes == 4
        part.master.close()
        rest = find_topics(corpus, quick, **options, master=Master.resume(path))
        assert rest.report.pushes == 6
        rest.master.close()
        np.testing.assert_array_equal(rest.x, whole.x)
        # Bursts are computed again from their logged versions and seeds.
        burst = VariationalBurst(corpus, quick, seed=3)
        np.testing.assert_array_equal(replay(path, burst).x, whole.x)

    def test_bad_input(self, small: tuple[Corpus, np.ndarray], quick: LDA) -> None:
        corpus = small[0]
        with pytest.raises(TypeError, match="expected a Corpus and an LDA"):
            find_topics([["a", "b"]])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="each of them words"):
            find_topics(corpus_of({}, {0: 1}))
        with pytest.raises(ValueError, match="cores must be from 1 to inner_steps=2, got 3"):
            find_topics(corpus, cores=3, inner_steps=2)
        with pytest.raises(ValueError, match="start must be 'clusters' or 'noise'"):
            find_topics(corpus, start="zero")
        master = find_topics(corpus, quick, steps=4, rng=3).master
        for settings, rng in ((LDA(topics=5), 3), (quick, 0)):
            with pytest.raises(ValueError, match="master is of another run"):
                find_topics(corpus, settings, rng=rng, master=master)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("topics", 0), ("alpha", 0.001), ("eta", -1), ("eta", math.nan), ("kappa", 0.5)],
    )
    def test_bad_settings(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=f"{name} must be"):
            LDA(**{name: value})


class TestNewTexts:
    WORDS = ("green", "apple", "nowhere")

    def test_a_vocabulary_keeps_every_text_in_its_row(self) -> None:
        corpus = Corpus.from_texts(TEXTS, vocabulary=self.WORDS)
        assert corpus.vocabulary == self.WORDS
        assert corpus.counts.toarray().tolist() == [[0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]]
        own = Corpus.from_texts(TEXTS, minimum_documents=1, maximum_share=0.99)
        again = Corpus.from_texts(TEXTS, vocabulary=own.vocabulary)
        np.testing.assert_array_equal(again.counts.toarray(), own.counts.toarray())
        with pytest.raises(ValueError, match="Duplicate term in vocabulary: 'red'"):
            Corpus.from_texts(TEXTS, vocabulary=["red", "red"])

    def test_counts_of_any_sparse_format(self) -> None:
        dense = np.array([[1.0, 2, 0], [0, 1, 3]])
        for counts in (
            sparse.csr_matrix(dense),
            sparse.csr_array(dense),
            sparse.csc_array(dense),
            sparse.coo_matrix(dense.astype(int)),
            dense,
        ):
            corpus = Corpus(counts)
            assert isinstance(corpus.counts, sparse.csr_array)
            assert corpus.vocabulary == ("x0", "x1", "x2")
            np.testing.assert_array_equal(corpus.counts.toarray(), dense)
            found = find_topics(counts, LDA(topics=2, batch=2), steps=4, parallelism=1)
            assert found.shares(counts).shape == (2, 2)

    def test_another_session_scores_texts_by_the_same_model(self, tmp_path: Path) -> None:
        texts = ["red apples and green apples", "green pears", "fast cars", "red fast trains"] * 50
        corpus = Corpus.from_texts(texts, minimum_documents=1, maximum_share=0.9)
        settings = LDA(topics=2, batch=16, alpha=0.2)
        found = find_topics(corpus, settings, steps=20, parallelism=1)
        found.save(tmp_path / "topics.npz")
        run_python(
            "import numpy as np\n"
            "from topic_model import TopicModel\n"
            f"model = TopicModel.load({str(tmp_path / 'topics.npz')!r})\n"
            f"np.save({str(tmp_path / 'shares.npy')!r},"
            " model.shares(['green apples', 'fast trains', 'none']))\n"
        )
        shares = np.load(tmp_path / "shares.npy")
        new = Corpus.from_texts(
            ["green apples", "fast trains", "none"], vocabulary=corpus.vocabulary
        )
        np.testing.assert_array_equal(shares, found.shares(new))
        np.testing.assert_array_equal(shares, found.shares(new.counts))
        assert shares[2].tolist() == [0.5, 0.5]
        assert shares[0].argmax() != shares[1].argmax()
        model = TopicModel.load(tmp_path / "topics.npz")
        assert (model.settings, model.words()) == (settings, found.words())
        np.testing.assert_array_equal(model.x, found.x)
        assert model.perplexity(texts[:40]) == found.perplexity(texts[:40]) > 1.0

    def test_other_files_and_texts_are_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", x=np.ones(3))
        with pytest.raises(ValueError, match="holds no topic model"):
            TopicModel.load(tmp_path / "a.npz")
        with pytest.raises(TypeError, match=r"count texts with Corpus\.from_texts"):
            find_topics(TEXTS)


class TestEstimator:
    #: Checks that may be left out, with the reason; all others apply.
    LEFT_OUT = {"check_array_api_input": "runs only with SCIPY_ARRAY_API=1, and passes then"}

    def test_the_checks_of_scikit_learn(self) -> None:
        results = check_estimator(AsyncLDA(n_components=2, max_iter=2), on_skip=None)
        assert len(results) > 40
        left_out = {r["check_name"] for r in results if r["status"] != "passed"}
        assert left_out <= set(self.LEFT_OUT)

    def test_it_is_find_topics(self, small: tuple[Corpus, np.ndarray]) -> None:
        corpus, truth = small
        model = AsyncLDA(4, batch_size=16, learning_offset=8.0, max_iter=6).fit(corpus.counts)
        again = AsyncLDA(4, batch_size=16, learning_offset=8.0, max_iter=6).fit(corpus.counts)
        np.testing.assert_array_equal(model.components_, again.components_)
        assert (match_topics(model.model_.distributions, truth)[1] < 0.2).all()
        assert model.n_batch_iter_ == -(-6 * 300 // 16)
        shares = model.transform(corpus.counts)
        np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-12)
        assert model.get_feature_names_out().tolist() == [f"asynclda{k}" for k in range(4)]
        assert model.perplexity(corpus.counts) < 100  # of 120 words

    def test_documents_in_sets(self, small: tuple[Corpus, np.ndarray]) -> None:
        corpus, truth = small
        model = AsyncLDA(4, batch_size=16, learning_offset=8.0, total_samples=300)
        for part in range(6):
            for rows in np.array_split(np.arange(300), 3):
                model.partial_fit(corpus.counts[rows])
            assert model.n_batch_iter_ == 3 * 7 * (part + 1)
        assert (match_topics(model.model_.distributions, truth)[1] < 0.2).all()

    def test_worker_processes(self, small: tuple[Corpus, np.ndarray]) -> None:
        corpus, truth = small
        model = AsyncLDA(4, batch_size=16, learning_offset=8.0, max_iter=6, n_jobs=2)
        model.fit(corpus.counts)
        assert (match_topics(model.model_.distributions, truth)[1] < 0.2).all()

    def test_documents_without_a_word(self, small: tuple[Corpus, np.ndarray]) -> None:
        counts = sparse.vstack([small[0].counts[:20], sparse.csr_array((2, 120))]).tocsr()
        shares = AsyncLDA(3, max_iter=1).fit_transform(counts)
        np.testing.assert_allclose(shares[20:], 1 / 3)
        with pytest.raises(ValueError, match="none of the 2 documents of X has a word"):
            AsyncLDA(3).fit(np.zeros((2, 5)))


class TestStart:
    def test_clusters_are_topics_already(self) -> None:
        corpus, truth = synthetic_corpus(500, words=200, topics=5, rng=3)
        settings = LDA(topics=5)
        v = cluster_start(settings, corpus, 1)
        assert v.shape == (1000,)
        assert v.min() > 0
        np.testing.assert_array_equal(cluster_start(settings, corpus, 1), v)
        near = match_topics(settings.distributions(v, 200), truth)[1].mean()
        noise = noise_start(settings, corpus, 1)
        far = match_topics(settings.distributions(noise, 200), truth)[1].mean()
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
        v = np.array([1e6, 0.01, 0.01, 1e6])
        observed, scored = corpus_of({0: 3.0}), corpus_of({0: 1.0, 1: 1.0})
        expected = math.exp(-np.log(np.array([3.5, 0.5]) / 4).sum() / 2)
        assert perplexity(settings, v, observed, scored) == pytest.approx(expected, rel=1e-6)
        assert perplexity(settings, np.ones(4), observed, scored) == pytest.approx(2.0, rel=1e-12)

    def test_unigram(self) -> None:
        training = corpus_of({0: 3.0, 1: 1.0}, words=3)
        score = unigram_perplexity(training, corpus_of({2: 2.0}, words=3))
        assert score == pytest.approx(7.0, rel=1e-12)

    def test_no_score_without_a_token(self) -> None:
        empty = corpus_of({})
        with pytest.raises(ValueError, match="there is no token to score"):
            perplexity(LDA(topics=2), np.ones(4), corpus_of({0: 3.0}), empty)
        with pytest.raises(ValueError, match="there is no token to score"):
            unigram_perplexity(corpus_of({0: 3.0}), empty)

    def test_bad_input(self) -> None:
        two = corpus_of({0: 1.0}, {1: 1.0})
        with pytest.raises(ValueError, match="halves of the same documents"):
            perplexity(LDA(topics=2), np.ones(4), two, two.select([0]))
        with pytest.raises(ValueError, match="lambda must have 2 x 2 entries, got 3"):
            perplexity(LDA(topics=2), np.ones(3), two, two)

    def test_matching(self) -> None:
        truth = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
        found = np.array([[0.0, 0.1, 0.9], [0.4, 0.6, 0.0], [1.0, 0.0, 0.0]])
        assignment, distances = match_topics(found, truth)
        assert assignment.tolist() == [1, 0]
        np.testing.assert_allclose(distances, 0.1)


@pytest.mark.parametrize(
    "extra", [[], pytest.param(["--compare", "--steps", "16"], marks=pytest.mark.slow)]
)
def test_the_script_runs(extra: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", *extra])
    out = capsys.readouterr().out
    assert ("scikit-learn online" if extra else "4 of 4 known topics found") in out


@pytest.mark.slow
def test_perplexity_of_eight_processes_is_that_of_one() -> None:
    training, held = docstring_corpus().split(300)
    halves, values = held.halves(), {}
    bound: dict[str, Any] = {"workers": 8, "max_delay": 16, "on_late": "wait"}
    for N, options in ((1, {"inner_steps": 1}), (8, bound)):
        scores = []
        for seed in range(3):
            found = find_topics(training, LDA(), steps=1000, parallelism=N, rng=seed, **options)
            assert found.x.min() > 0
            scores.append(perplexity(LDA(), found.x, *halves))
        values[N] = np.mean(scores)
    # 2 % is what was set; a seed spreads by 0.7 %.
    assert values[8] < 1.02 * values[1]
