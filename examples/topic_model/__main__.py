"""Topics in docstrings, found by worker processes that push to one master when they are ready."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from optex_core.async_sgd import LoopReport
from topic_model import (
    LDA,
    Corpus,
    docstring_corpus,
    find_topics,
    match_topics,
    perplexity,
    synthetic_corpus,
    unigram_perplexity,
)
from topic_model.lda import BatchSchedule


def compare(
    training: Corpus, halves: tuple[Corpus, Corpus], settings: LDA, steps: int, workers: int
) -> None:
    """Print held-out perplexity and staleness of all methods, on the same documents."""
    bound = {"max_delay": 2 * workers, "on_late": "wait"}
    many: dict[str, Any] = {"parallelism": workers, "workers": workers}
    methods: dict[str, dict[str, Any]] = {
        "serial": {"parallelism": 1, "inner_steps": 1},
        "synchronous": {**many, "synchronous": True},
        "asynchronous": {**many, **bound},
        "two levels": {**many, **bound, "cores": 2},
        "serial from noise": {"parallelism": 1, "inner_steps": 1, "start": "noise"},
    }
    for name, arguments in methods.items():
        found = find_topics(training, settings, steps=steps, **arguments)
        score, report = perplexity(settings, found.x, *halves), found.report
        print(
            f"{name:20} perplexity {score:7.1f}  staleness {report.mean_delay:5.1f}, at most "
            f"{report.max_delay:3}  {report.seconds:6.1f} s",
            flush=True,
        )
    score = perplexity(settings, scikit_learn_topics(training, settings, steps), *halves)
    print(f"{'scikit-learn online':20} perplexity {score:7.1f}")


def scikit_learn_topics(corpus: Corpus, settings: LDA, steps: int) -> np.ndarray:
    """lambda by scikit-learn's online method, on the documents of `find_topics`."""
    from sklearn.decomposition import LatentDirichletAllocation

    s = settings
    model = LatentDirichletAllocation(
        s.topics, doc_topic_prior=s.alpha, topic_word_prior=s.eta, learning_decay=s.kappa,
        learning_offset=s.tau0 + 1.0, total_samples=len(corpus), batch_size=s.batch,
        mean_change_tol=s.tolerance, max_doc_update_iter=s.sweeps, random_state=0,
    )  # fmt: skip
    batches = BatchSchedule(len(corpus), s.batch)
    for t in range(steps):
        model.partial_fit(corpus.counts[batches[t]])
    return np.ascontiguousarray(model.components_.T).ravel()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example; see ``python -m topic_model --help``."""
    parser = argparse.ArgumentParser(prog="python -m topic_model", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small corpus of known topics")
    parser.add_argument("--compare", action="store_true", help="a table of all methods")
    parser.add_argument("--steps", type=int, help="mini-batches (default 600, with --quick 60)")
    parser.add_argument("--workers", type=int, help="processes (default 4, with --quick 2)")
    args = parser.parse_args(argv)
    workers = args.workers or (2 if args.quick else 4)
    steps = args.steps or (60 if args.quick else 600)
    if args.quick:
        settings = LDA(topics=4, batch=16, tau0=8.0)
        corpus, truth = synthetic_corpus(300, words=120, topics=4, rng=1)
    else:
        settings, corpus, truth = LDA(), docstring_corpus(), None
    training, held = corpus.split(len(corpus) // 10)
    halves = held.halves()
    words_alone = unigram_perplexity(training, halves[1])
    print(f"{training}; held-out perplexity of words alone: {words_alone:.0f}")
    if args.compare:
        compare(training, halves, settings, steps, workers)
        return

    def watch(intermediate_result: LoopReport) -> None:
        master = intermediate_result.master
        if master.version % max(1, steps // 40) == 0:
            seen, score = (
                4 * settings.batch * master.version,
                perplexity(settings, master.x, *halves),
            )
            print(f"\r{seen} documents seen, held-out perplexity {score:.0f}", end="", flush=True)

    found = find_topics(
        training,
        settings,
        steps=steps,
        parallelism=workers,
        workers=workers,
        max_delay=2 * workers,
        on_late="wait",
        callback=watch,
    )
    report = found.report
    print(f"\n{report.pushes} pushes of 4 steps in {report.seconds:.1f} s; ", end="")
    print(f"staleness {report.mean_delay:.1f} on average\n")
    for words in found.words(9):
        print("  " + " ".join(words))
    if truth is not None:
        distances = match_topics(found.distributions, truth)[1]
        print(f"{(distances < 0.2).sum()} of {len(truth)} known topics found")


if __name__ == "__main__":
    main()
